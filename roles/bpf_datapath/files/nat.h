// SPDX-License-Identifier: GPL-2.0-only
/*
 * Rewriting of addresses and ports, with all sums that cover them. The helpers look after
 * CHECKSUM_PARTIAL and, but for IPv6 addresses, CHECKSUM_COMPLETE: their change and that of the
 * transport's sum make up for each other, while bpf_l4_csum_replace() takes only the latter into
 * account, so the former is stored with BPF_F_RECOMPUTE_CSUM.
 */
#ifndef PODNET_NAT_H
#define PODNET_NAT_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "parse.h"
#include "transport.h"
#include "tuple.h"

#define ICMP_ID 4	/* offset of an echo's identifier */
#define ICMP_HEADER 8	/* bytes before the packet that an error is about */

/* Offset of the transport's sum in its header; 0: there is none that could be followed. */
static __always_inline __u32 sum_of(__u8 proto)
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
 * One address of the IP header at `l3`. `sum`: where the transport's sum is, 0: nowhere.
 * `flags`: for bpf_l4_csum_replace(); BPF_F_PSEUDO_HDR where the header is the packet's own and
 * not data.
 */
static __always_inline bool set_address(struct __sk_buff *skb, const struct tuple *t, __u32 l3,
					bool source, const __be32 *to, __u32 sum, __u64 flags)
{
	const __be32 *from = source ? t->src : t->dst;
	__s64 difference;
	__u32 at;

	if (t->family == AF_INET) {
		at = l3 + (source ? offsetof(struct iphdr, saddr) : offsetof(struct iphdr, daddr));
		/* as data it is made up for by the header's own sum */
		if (sum && flags & BPF_F_PSEUDO_HDR &&
		    bpf_l4_csum_replace(skb, sum, *from, *to, flags | sizeof(*to)))
			return false;
		return !bpf_l3_csum_replace(skb, l3 + offsetof(struct iphdr, check), *from, *to,
					    sizeof(*to)) &&
		       !bpf_skb_store_bytes(skb, at, to, sizeof(*to), 0);
	}
	at = l3 + (source ? offsetof(struct ipv6hdr, saddr) : offsetof(struct ipv6hdr, daddr));
	difference = bpf_csum_diff((__be32 *)from, 16, (__be32 *)to, 16, 0);
	if (difference < 0 || (sum && bpf_l4_csum_replace(skb, sum, 0, difference, flags)))
		return false;
	return !bpf_skb_store_bytes(skb, at, to, 16,
				    flags & BPF_F_PSEUDO_HDR ? BPF_F_RECOMPUTE_CSUM : 0);
}

static __always_inline bool set_port(struct __sk_buff *skb, __u32 at, __be16 from, __be16 to,
				     __u32 sum, __u64 flags)
{
	return !bpf_l4_csum_replace(skb, sum, from, to, flags | sizeof(to)) &&
	       !bpf_skb_store_bytes(skb, at, &to, sizeof(to), 0);
}

static __always_inline __u32 port_at(const struct tuple *t, __u32 l4, bool source)
{
	if (t->proto == IPPROTO_ICMP || t->proto == IPPROTO_ICMPV6)
		return l4 + ICMP_ID;
	return l4 + (source ? 0 : 2);
}

/*
 * Put another place into one end of a packet, and of its tuple. Only the first fragment has
 * ports.
 */
__noinline bool rewrite(struct __sk_buff *skb, struct segment *s, bool source,
			const struct place *to)
{
	__u64 flags, pseudo;
	struct tuple *t;
	__be16 *port;
	__u32 sum;

	if (!s || !to)
		return false;
	t = &s->tuple;
	flags = t->proto == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;
	pseudo = t->proto == IPPROTO_ICMP ? 0 : BPF_F_PSEUDO_HDR;
	port = source ? &t->sport : &t->dport;
	sum = s->l4 ? s->l4 + sum_of(t->proto) : 0;
	if (!sum_of(t->proto))
		return false;
	if (!set_address(skb, t, L3_OFFSET, source, to->address, sum, flags | pseudo))
		return false;
	if (sum && *port != to->port &&
	    !set_port(skb, port_at(t, s->l4, source), *port, to->port, sum, flags))
		return false;
	__builtin_memcpy(source ? t->src : t->dst, to->address, sizeof(to->address));
	*port = to->port;
	return true;
}

/* Put another place into the packet that an ICMP error is about, `t`, whose header is at `l3`. */
__noinline bool rewrite_inner(struct __sk_buff *skb, const struct segment *s, const struct tuple *t,
			      bool source, const struct place *to)
{
	__u32 sum, l3, l4;

	if (!s || !t || !to)
		return false;
	sum = s->l4 + sum_of(s->tuple.proto);
	l3 = s->l4 + ICMP_HEADER;
	l4 = l3 + (t->family == AF_INET ? sizeof(struct iphdr) : sizeof(struct ipv6hdr));
	return set_address(skb, t, l3, source, to->address, sum, 0) &&
	       set_port(skb, port_at(t, l4, source), source ? t->sport : t->dport, to->port, sum,
			0);
}

/* Put another address into one end of an ICMP error itself. */
__noinline bool rewrite_outer(struct __sk_buff *skb, struct segment *s, bool source,
			      const struct place *to)
{
	__u32 sum;

	if (!s || !to)
		return false;
	sum = s->l4 + sum_of(s->tuple.proto);
	if (!set_address(skb, &s->tuple, L3_OFFSET, source, to->address, sum,
			 s->tuple.family == AF_INET ? 0 : BPF_F_PSEUDO_HDR))
		return false;
	__builtin_memcpy(source ? s->tuple.src : s->tuple.dst, to->address, sizeof(to->address));
	return true;
}

#endif
