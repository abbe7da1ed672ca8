// SPDX-License-Identifier: GPL-2.0-only
/* The way to everything that is not a Pod of this node: the host's routes and neighbours. */
#ifndef PODNET_FIB_H
#define PODNET_FIB_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

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
 * Route the packet out of the node as the host would, its netfilter and queues aside.
 * The neighbour is the kernel's business (bpf_redirect_neigh): it resolves, probes and ages it,
 * which a program that writes MAC addresses itself would have to do on its own.
 */
static __always_inline int forward(struct __sk_buff *skb, const struct packet *p)
{
	struct bpf_fib_lookup fib = {
		.family = p->family,
		.l4_protocol = p->proto,
		.sport = p->sport,
		.dport = p->dport,
		.tot_len = p->wire_len,
		.ifindex = skb->ifindex,
	};
	struct bpf_redir_neigh nh = {};
	long result;

	if (p->ttl <= 1)
		return to_stack(REASON_STACK_TTL);

	if (p->family == AF_INET) {
		fib.tos = p->tos;
		fib.ipv4_src = p->src4;
		fib.ipv4_dst = p->dst4;
	} else {
		fib.flowinfo = p->flowinfo;
		__builtin_memcpy(fib.ipv6_src, p->src6, sizeof(fib.ipv6_src));
		__builtin_memcpy(fib.ipv6_dst, p->dst6, sizeof(fib.ipv6_dst));
	}
	result = bpf_fib_lookup(skb, &fib, sizeof(fib), 0);
	if (result != BPF_FIB_LKUP_RET_SUCCESS && result != BPF_FIB_LKUP_RET_NO_NEIGH)
		return to_stack(fib_refusal(result));

	/* Without a length the look-up saw no MTU. */
	if (!p->wire_len) {
		enum reason refusal = check_mtu(skb, p, fib.ifindex);

		if (refusal != REASON_NONE)
			return to_stack(refusal);
	}
	if (!decrease_ttl(skb, p))
		return to_stack(REASON_STACK_MALFORMED);
	count(REASON_REMOTE);

	/* The look-up left the next hop in dst, and its family: a v4 route may have a v6 one. */
	nh.nh_family = fib.family;
	__builtin_memcpy(nh.ipv6_nh, fib.ipv6_dst, sizeof(nh.ipv6_nh));
	return bpf_redirect_neigh(fib.ifindex, &nh, sizeof(nh), 0);
}

#endif
