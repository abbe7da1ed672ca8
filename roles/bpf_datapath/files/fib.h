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
 * Look up the way of a packet that leaves the node, as the host would, its netfilter and queues
 * aside. REASON_NONE: `fib` has it, with the MTU, and its MAC addresses are known if `resolved`.
 */
static __noinline enum reason route(struct __sk_buff *skb, const struct packet *p,
				    struct bpf_fib_lookup *fib, bool *resolved)
{
	bool ports = p->flow.proto != IPPROTO_ICMP && p->flow.proto != IPPROTO_ICMPV6;
	long result;

	fib->family = p->flow.family;
	fib->l4_protocol = p->flow.proto;
	fib->sport = p->flow.sport;
	fib->dport = ports ? p->flow.dport : 0;
	fib->tot_len = p->wire_len;
	fib->ifindex = p->flow.ifindex;
	if (p->flow.family == AF_INET) {
		fib->tos = p->flow.tos;
		fib->ipv4_src = p->flow.src4;
		fib->ipv4_dst = p->flow.dst4;
	} else {
		fib->flowinfo = p->flow.flowinfo;
		__builtin_memcpy(fib->ipv6_src, p->flow.src6, sizeof(fib->ipv6_src));
		__builtin_memcpy(fib->ipv6_dst, p->flow.dst6, sizeof(fib->ipv6_dst));
	}
	result = bpf_fib_lookup(skb, fib, sizeof(*fib), 0);
	if (result != BPF_FIB_LKUP_RET_SUCCESS && result != BPF_FIB_LKUP_RET_NO_NEIGH)
		return fib_refusal(result);
	*resolved = result == BPF_FIB_LKUP_RET_SUCCESS;
	/* Without a length the look-up saw no MTU. */
	if (!p->wire_len) {
		__u32 mtu;

		return check_mtu(skb, p, fib->ifindex, &mtu);
	}
	return REASON_NONE;
}

/*
 * The packet goes by bpf_redirect_neigh: the kernel resolves, probes and ages the neighbour, and
 * where it is resolved, the flow's next packets get its MAC address from the decision.
 */
static __noinline int to_wire(const struct bpf_fib_lookup *fib)
{
	struct bpf_redir_neigh nh = {};

	/* The look-up left the next hop in dst, and its family: a v4 route may have a v6 one. */
	nh.nh_family = fib->family;
	__builtin_memcpy(nh.ipv6_nh, fib->ipv6_dst, sizeof(nh.ipv6_nh));
	return bpf_redirect_neigh(fib->ifindex, &nh, sizeof(nh), 0);
}

#endif
