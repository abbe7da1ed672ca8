// SPDX-License-Identifier: GPL-2.0-only
/* The way to everything that is not a Pod of this node: the host's routes and neighbours. */
#ifndef PODNET_FIB_H
#define PODNET_FIB_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "cache.h"
#include "mtu.h"
#include "parse.h"
#include "reasons.h"

static __always_inline enum reason fib_refusal(long result)
{
	switch (result) {
	case BPF_FIB_LKUP_RET_NOT_FWDED:
		return REASON_STACK_NOT_FORWARDED;
	case BPF_FIB_LKUP_RET_BLACKHOLE:
	case BPF_FIB_LKUP_RET_UNREACHABLE:
	case BPF_FIB_LKUP_RET_PROHIBIT:
		return REASON_STACK_NO_ROUTE;
	case BPF_FIB_LKUP_RET_FWD_DISABLED:
		return REASON_STACK_FORWARDING_OFF;
	case BPF_FIB_LKUP_RET_FRAG_NEEDED:
		return REASON_STACK_MTU;
	default:
		return REASON_STACK_FIB;
	}
}

/*
 * Decide on a packet that leaves the node, as the host would, its netfilter and queues aside.
 * This packet goes by bpf_redirect_neigh: the kernel resolves, probes and ages the neighbour, and
 * where it is resolved, the flow's next packets get its MAC address from the decision.
 */
static __always_inline int forward(struct __sk_buff *skb, const struct packet *p,
				   struct decision *d, struct config now)
{
	struct bpf_fib_lookup fib = {
		.family = p->flow.family,
		.l4_protocol = p->flow.proto,
		.sport = p->flow.sport,
		.dport = p->flow.dport,
		.tot_len = p->wire_len,
		.ifindex = p->flow.ifindex,
	};
	struct bpf_redir_neigh nh = {};
	__u32 mtu;
	long result;

	if (p->ttl <= 1)
		return to_stack(0, REASON_STACK_TTL);

	if (p->flow.family == AF_INET) {
		fib.tos = p->flow.tos;
		fib.ipv4_src = p->flow.src4;
		fib.ipv4_dst = p->flow.dst4;
	} else {
		fib.flowinfo = p->flow.flowinfo;
		__builtin_memcpy(fib.ipv6_src, p->flow.src6, sizeof(fib.ipv6_src));
		__builtin_memcpy(fib.ipv6_dst, p->flow.dst6, sizeof(fib.ipv6_dst));
	}
	result = bpf_fib_lookup(skb, &fib, sizeof(fib), 0);
	if (result != BPF_FIB_LKUP_RET_SUCCESS && result != BPF_FIB_LKUP_RET_NO_NEIGH)
		return to_stack(0, fib_refusal(result));

	mtu = fib.mtu_result;
	/* Without a length the look-up saw no MTU. */
	if (!p->wire_len) {
		enum reason refusal = check_mtu(skb, p, fib.ifindex, &mtu);

		if (refusal != REASON_NONE)
			return to_stack(0, refusal);
	}
	if (!decrease_ttl(skb, p))
		return to_stack(0, REASON_STACK_MALFORMED);
	count(0, REASON_REMOTE);
	if (d && result == BPF_FIB_LKUP_RET_SUCCESS) {
		remember(d, p, now, fib.ifindex, mtu, REASON_REMOTE);
		__builtin_memcpy(d->macs, fib.dmac, ETH_ALEN);
		__builtin_memcpy(d->macs + ETH_ALEN, fib.smac, ETH_ALEN);
	}

	/* The look-up left the next hop in dst, and its family: a v4 route may have a v6 one. */
	nh.nh_family = fib.family;
	__builtin_memcpy(nh.ipv6_nh, fib.ipv6_dst, sizeof(nh.ipv6_nh));
	return bpf_redirect_neigh(fib.ifindex, &nh, sizeof(nh), 0);
}

#endif
