// SPDX-License-Identifier: GPL-2.0-only
/* Routes to all destinations but Pods of this node, from the host's FIB and neighbour tables. */
#ifndef PODNET_FIB_H
#define PODNET_FIB_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "endpoints.h"
#include "metrics.h"
#include "mtu.h"
#include "parse.h"

static __always_inline enum reason fib_reason(long result)
{
	switch (result) {
	case BPF_FIB_LKUP_RET_NOT_FWDED:
		return REASON_STACK_NOT_FORWARDED;
	case BPF_FIB_LKUP_RET_BLACKHOLE:
	case BPF_FIB_LKUP_RET_UNREACHABLE:
	case BPF_FIB_LKUP_RET_PROHIBIT:
		return REASON_STACK_NO_ROUTE;
	case BPF_FIB_LKUP_RET_FWD_DISABLED:
		return REASON_STACK_FWD_DISABLED;
	case BPF_FIB_LKUP_RET_FRAG_NEEDED:
		return REASON_STACK_MTU;
	default:
		return REASON_STACK_FIB_UNSUPPORTED;
	}
}

static __always_inline void fib_init(const struct packet *p, struct bpf_fib_lookup *fib)
{
	bool ports = p->flow.proto != IPPROTO_ICMP && p->flow.proto != IPPROTO_ICMPV6;

	fib->family = p->flow.family;
	fib->l4_protocol = p->flow.proto;
	fib->sport = p->flow.sport;
	fib->dport = ports ? p->flow.dport : 0;
	fib->ifindex = p->flow.ifindex;
	if (p->flow.family == AF_INET) {
		fib->tos = p->flow.tos;
		fib->ipv4_src = p->flow.src4;
		fib->ipv4_dst = p->flow.dst4;
	} else {
		fib->flowinfo = p->flow.flowinfo & ~FLOW_PARTIAL;
		__builtin_memcpy(fib->ipv6_src, p->flow.src6, sizeof(fib->ipv6_src));
		__builtin_memcpy(fib->ipv6_dst, p->flow.dst6, sizeof(fib->ipv6_dst));
	}
}

/*
 * Look up the route of a packet that leaves the node, as the host would forward it, but without
 * netfilter and qdiscs. On REASON_NONE `fib` has the next hop and the MTU, and, if
 * fib_is_resolved(), the MAC addresses; h_vlan_TCI is set if they must be resolved. With `path_mtu`
 * the MTU is that of the path, of which the node may have learned by ICMP, else that of the device.
 */
static __noinline enum reason fib_lookup(struct __sk_buff *skb, const struct packet *p,
					 struct bpf_fib_lookup *fib, bool path_mtu)
{
	/* The segment size that a raw socket requests may exceed 16 bits with its headers. */
	bool check_mtu = path_mtu && p->wire_len && p->wire_len <= 0xffff;
	long result;

	fib_init(p, fib);
	fib->tot_len = check_mtu ? p->wire_len : 0;
	result = bpf_fib_lookup(skb, fib, sizeof(*fib), 0);
	if (result != BPF_FIB_LKUP_RET_SUCCESS && result != BPF_FIB_LKUP_RET_NO_NEIGH)
		return fib_reason(result);
	/* a tunnel has no MAC addresses to resolve */
	fib->h_vlan_TCI = result == BPF_FIB_LKUP_RET_NO_NEIGH;
	/* Without tot_len the lookup does not check the MTU. */
	if (!check_mtu) {
		enum reason reason;
		__u32 mtu;

		reason = mtu_check(skb, p, fib->ifindex, &mtu);
		fib->mtu_result = parse_limit_len(mtu);
		return reason;
	}
	return REASON_NONE;
}

/* Return whether a router that exceeds the MTU must not fragment the packet. */
static __always_inline bool fib_dont_fragment(struct __sk_buff *skb, const struct packet *p)
{
	__be16 frag_off = 0;

	return p->flow.family == AF_INET6 ||
	       (!bpf_skb_load_bytes(skb, L3_OFFSET + offsetof(struct iphdr, frag_off), &frag_off,
				    sizeof(frag_off)) &&
		frag_off & bpf_htons(IPV4_DF));
}

/*
 * Return whether the stack would forward a Pod's packet, which passes to it for `reason`, to the
 * wire: not to the node itself or a Pod, nor answer or drop it.
 */
static __noinline bool fib_stack_forwards(struct __sk_buff *skb, const struct packet *p,
					  enum reason reason)
{
	struct bpf_fib_lookup fib = {};
	bool too_big;
	long result;
	__u32 mtu;

	/* Devices on top of the Pod's may forward other protocols: VLAN, MPLS. */
	if (!p->flow.family)
		return skb->protocol != bpf_htons(ETH_P_ARP);
	if (reason == REASON_STACK_TTL || reason == REASON_STACK_NO_ROUTE)
		return false;
	if (p->flow.family == AF_INET ?
	    ipv4_is_link_scope(p->flow.dst4) && !ipv4_is_reserved(p->flow.dst4) :
	    ipv6_is_link_scope(p->flow.src6) || ipv6_is_link_scope(p->flow.dst6))
		return false;
	fib_init(p, &fib);
	/* by the device: what exceeds only an MTU that the node learned, the stack forwards */
	too_big = reason == REASON_STACK_MTU && fib_dont_fragment(skb, p);
	result = bpf_fib_lookup(skb, &fib, sizeof(fib), 0);
	switch (result) {
	case BPF_FIB_LKUP_RET_NOT_FWDED:
	case BPF_FIB_LKUP_RET_FWD_DISABLED:
		return false;
	case BPF_FIB_LKUP_RET_SUCCESS:
	case BPF_FIB_LKUP_RET_NO_NEIGH:
	case BPF_FIB_LKUP_RET_FRAG_NEEDED:
		if (bpf_map_lookup_elem(&pods, &fib.ifindex))
			return false;
		return !too_big || mtu_check(skb, p, fib.ifindex, &mtu) == REASON_NONE;
	default:
		return true;
	}
}

/* Return whether the last lookup found the neighbour's MAC address. */
static __always_inline bool fib_is_resolved(const struct bpf_fib_lookup *fib)
{
	const __u16 *mac = (const __u16 *)fib->dmac;

	return mac[0] | mac[1] | mac[2];
}

/*
 * Redirect by bpf_redirect_neigh, so that the kernel resolves, probes and ages the neighbour. For
 * a resolved neighbour the flow cache supplies the MAC address to the following packets.
 */
static __noinline int fib_redirect(const struct bpf_fib_lookup *fib)
{
	struct bpf_redir_neigh nh = {};

	/* The lookup stored the next hop in dst. Its family may differ: RFC 5549. */
	nh.nh_family = fib->family;
	__builtin_memcpy(nh.ipv6_nh, fib->ipv6_dst, sizeof(nh.ipv6_nh));
	return bpf_redirect_neigh(fib->ifindex, &nh, sizeof(nh), 0);
}

#endif
