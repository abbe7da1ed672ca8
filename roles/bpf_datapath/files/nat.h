// SPDX-License-Identifier: GPL-2.0-only
/*
 * Rewriting of addresses and ports, and of all checksums that cover them. The helpers keep
 * CHECKSUM_PARTIAL and CHECKSUM_COMPLETE valid but for IPv6 addresses: an address and the
 * transport's checksum change by opposite amounts, and bpf_l4_csum_replace() accounts only for the
 * latter. IPv6 addresses are therefore stored with BPF_F_RECOMPUTE_CSUM.
 */
#ifndef PODNET_NAT_H
#define PODNET_NAT_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "l4.h"
#include "parse.h"
#include "tuple.h"

#define ICMP_ID 4	/* offset of an echo's identifier */

/* Return the checksum's offset in the transport header; 0: the protocol is not supported. */
static __always_inline __u32 nat_csum_offset(__u8 proto)
{
	switch (proto) {
	case IPPROTO_TCP:
		return 16;
	case IPPROTO_UDP:
		return 6;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		return 2;
	default:
		return 0;
	}
}

/*
 * Rewrite one address of the IP header at `l3`. `csum`: offset of the transport's checksum; 0:
 * none. `flags`: for bpf_l4_csum_replace(), with BPF_F_PSEUDO_HDR unless the IP header is the
 * inner one of an ICMP error.
 */
static __always_inline bool nat_set_address(struct __sk_buff *skb, const struct tuple *t, __u32 l3,
					    bool source, const __be32 *to, __u32 csum, __u64 flags)
{
	const __be32 *from = source ? t->src : t->dst;
	__s64 difference;
	__u32 at;

	if (t->family == AF_INET) {
		at = l3 + (source ? offsetof(struct iphdr, saddr) : offsetof(struct iphdr, daddr));
		/* inner header: its checksum offsets the change, the ICMP checksum stays valid */
		if (csum && flags & BPF_F_PSEUDO_HDR &&
		    bpf_l4_csum_replace(skb, csum, *from, *to, flags | sizeof(*to)))
			return false;
		return !bpf_l3_csum_replace(skb, l3 + offsetof(struct iphdr, check), *from, *to,
					    sizeof(*to)) &&
		       !bpf_skb_store_bytes(skb, at, to, sizeof(*to), 0);
	}
	at = l3 + (source ? offsetof(struct ipv6hdr, saddr) : offsetof(struct ipv6hdr, daddr));
	difference = bpf_csum_diff((__be32 *)from, 16, (__be32 *)to, 16, 0);
	if (difference < 0 || (csum && bpf_l4_csum_replace(skb, csum, 0, difference, flags)))
		return false;
	return !bpf_skb_store_bytes(skb, at, to, 16,
				    flags & BPF_F_PSEUDO_HDR ? BPF_F_RECOMPUTE_CSUM : 0);
}

static __always_inline bool nat_set_port(struct __sk_buff *skb, __u32 at, __be16 from, __be16 to,
					 __u32 csum, __u64 flags)
{
	return !bpf_l4_csum_replace(skb, csum, from, to, flags | sizeof(to)) &&
	       !bpf_skb_store_bytes(skb, at, &to, sizeof(to), 0);
}

/* Return the offset of a port, or of an echo's identifier. */
static __always_inline __u32 nat_port_offset(const struct tuple *t, __u32 l4_offset, bool source)
{
	if (t->proto == IPPROTO_ICMP || t->proto == IPPROTO_ICMPV6)
		return l4_offset + ICMP_ID;
	return l4_offset + (source ? 0 : 2);
}

/* Rewrite source or destination of a packet and of its tuple. Only a first fragment has ports. */
__noinline bool nat_rewrite(struct __sk_buff *skb, struct l4_info *l4, bool source,
			    const struct addr_port *to)
{
	__u64 flags, pseudo;
	struct tuple *t;
	__be16 *port;
	__u32 csum, offset;

	if (!l4 || !to)
		return false;
	t = &l4->tuple;
	flags = t->proto == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;
	pseudo = t->proto == IPPROTO_ICMP ? 0 : BPF_F_PSEUDO_HDR;
	port = source ? &t->sport : &t->dport;
	offset = nat_csum_offset(t->proto);
	/* the checksum of SCTP does not include addresses; with another port it would be wrong */
	if (!offset && (t->proto != IPPROTO_SCTP || *port != to->port))
		return false;
	csum = offset && l4->offset ? l4->offset + offset : 0;
	if (!nat_set_address(skb, t, L3_OFFSET, source, to->address, csum, flags | pseudo))
		return false;
	if (csum && *port != to->port &&
	    !nat_set_port(skb, nat_port_offset(t, l4->offset, source), *port, to->port, csum,
			  flags))
		return false;
	__builtin_memcpy(source ? t->src : t->dst, to->address, sizeof(to->address));
	*port = to->port;
	return true;
}

/* Rewrite source or destination of an ICMP error's inner packet, whose tuple is `t`. */
__noinline bool nat_rewrite_inner(struct __sk_buff *skb, const struct l4_info *l4,
				  const struct tuple *t, bool source, const struct addr_port *to)
{
	__u32 csum, inner_l3;
	__be16 port;

	if (!l4 || !t || !to)
		return false;
	port = source ? t->sport : t->dport;
	csum = l4->offset + nat_csum_offset(l4->tuple.proto);
	inner_l3 = l4->offset + ICMP_HEADER;
	if (!nat_set_address(skb, t, inner_l3, source, to->address, csum, 0))
		return false;
	/* an echo's identifier is the port of the requester only */
	return port == to->port ||
	       nat_set_port(skb, nat_port_offset(t, inner_l3 + l4->inner_len, source), port,
			    to->port, csum, 0);
}

/* Rewrite source or destination address of an ICMP error itself. */
__noinline bool nat_rewrite_outer(struct __sk_buff *skb, struct l4_info *l4, bool source,
				  const struct addr_port *to)
{
	__u32 csum;

	if (!l4 || !to)
		return false;
	csum = l4->offset + nat_csum_offset(l4->tuple.proto);
	if (!nat_set_address(skb, &l4->tuple, L3_OFFSET, source, to->address, csum,
			     l4->tuple.family == AF_INET ? 0 : BPF_F_PSEUDO_HDR))
		return false;
	__builtin_memcpy(source ? l4->tuple.src : l4->tuple.dst, to->address, sizeof(to->address));
	return true;
}

#endif
