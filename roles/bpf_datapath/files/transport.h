// SPDX-License-Identifier: GPL-2.0-only
/*
 * What routing need not know and connections are known by: the ports behind IPv6 extension
 * headers and of fragments, ICMP's identifiers, and the packet that an ICMP error is about.
 */
#ifndef PODNET_TRANSPORT_H
#define PODNET_TRANSPORT_H

#include <linux/bpf.h>
#include <linux/icmpv6.h>
#include <bpf/bpf_helpers.h>

#include "fragments.h"
#include "parse.h"
#include "reasons.h"
#include "tuple.h"

#define EXTENSIONS_MAX 6	/* headers that are looked through */

#define IPV4_OFFSET 0x1fff
/* linux/icmp.h is not for BPF programs either */
#define ICMP_ECHOREPLY 0
#define ICMP_DEST_UNREACH 3
#define ICMP_SOURCE_QUENCH 4
#define ICMP_ECHO 8
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETERPROB 12

#define TCP_FLAGS 13		/* offset of the byte of flags */
#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

struct fragment_header6 {
	__u8 nexthdr;
	__u8 reserved;
	__be16 offset_flags;
	__be32 id;
};

#define FRAGMENT6_OFFSET 0xfff8
#define FRAGMENT6_MORE 0x0001

/* What a packet is in a connection. */
struct segment {
	struct tuple tuple;
	__be16 asked;		/* for policy: the target's port, or ICMP's type and code */
	__u16 l4;		/* 0: the transport header is in another fragment */
	__u8 tcp_flags;
	__u8 error;		/* an ICMP error: it is judged by the packet it is about */
	__u8 whole;		/* no fragment */
	__u8 pad;
	struct place served;	/* what was asked for before translation; port 0: no service */
};

static __always_inline bool is_error(__u8 proto, __u8 type)
{
	if (proto == IPPROTO_ICMP)
		return type == ICMP_DEST_UNREACH || type == ICMP_TIME_EXCEEDED ||
		       type == ICMP_PARAMETERPROB || type == ICMP_SOURCE_QUENCH;
	return proto == IPPROTO_ICMPV6 && type >= ICMPV6_DEST_UNREACH && type <= ICMPV6_PARAMPROB;
}

/*
 * Ports of the header at `l4`. An echo's identifier stands for the sender's port and its
 * request's type for the target's, so a reply's are those of the request, turned round. False:
 * cut off.
 */
static __always_inline bool load_ports(struct __sk_buff *skb, __u32 l4, struct tuple *t,
				       __be16 *asked)
{
	struct {
		__be16 first;
		__be16 second;
		__be16 id;
		__be16 sequence;
	} head = {};
	__u8 type;

	switch (t->proto) {
	case IPPROTO_TCP:
	case IPPROTO_UDP:
	case IPPROTO_SCTP:
		if (bpf_skb_load_bytes(skb, l4, &head, 4))
			return false;
		t->sport = head.first;
		t->dport = head.second;
		*asked = head.second;
		return true;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		if (bpf_skb_load_bytes(skb, l4, &head, sizeof(head)))
			return false;
		*asked = head.first;
		type = bpf_ntohs(head.first) >> 8;
		if (type == (t->proto == IPPROTO_ICMP ? ICMP_ECHO : ICMPV6_ECHO_REQUEST)) {
			t->sport = head.id;
			t->dport = head.first;
		} else if (t->proto == IPPROTO_ICMP ? type == ICMP_ECHOREPLY :
						      type == ICMPV6_ECHO_REPLY) {
			t->sport = bpf_htons((t->proto == IPPROTO_ICMP ? ICMP_ECHO :
							ICMPV6_ECHO_REQUEST) << 8);
			t->dport = head.id;
		} else {
			t->dport = head.first;
		}
		return true;
	default:
		return true;
	}
}

/* Ports of a fragment: kept of the first one, looked up for the others. */
static __always_inline enum reason fragment_ports(struct __sk_buff *skb, struct segment *s,
						  __u32 l4, bool first, __be32 id)
{
	struct tuple *t = &s->tuple;
	struct fragment_key key = {
		.id = id,
		.proto = t->proto,
		.family = t->family,
	};
	__u32 now = bpf_ktime_get_coarse_ns() / 1000000000;
	struct fragment *known;

	__builtin_memcpy(key.src, t->src, sizeof(key.src));
	__builtin_memcpy(key.dst, t->dst, sizeof(key.dst));
	if (first) {
		struct fragment ports = { .seen = now };

		if (!load_ports(skb, l4, t, &s->asked))
			return REASON_DROP_FRAGMENT;
		ports.sport = t->sport;
		ports.dport = t->dport;
		ports.asked = s->asked;
		if (bpf_map_update_elem(&fragments, &key, &ports, BPF_ANY))
			return REASON_DROP_FRAGMENT;
		s->l4 = l4;
		return REASON_NONE;
	}
	known = bpf_map_lookup_elem(&fragments, &key);
	if (!known || now - known->seen > FRAGMENT_SECONDS)
		return REASON_DROP_FRAGMENT;
	t->sport = known->sport;
	t->dport = known->dport;
	s->asked = known->asked;
	return REASON_NONE;
}

/* Step over extension headers; the first part of a fragment header met is left in `fragment`. */
static __always_inline bool skip_extensions(struct __sk_buff *skb, __u8 *proto, __u32 *offset,
					    struct fragment_header6 *fragment, bool *fragmented)
{
	struct {
		__u8 nexthdr;
		__u8 length;
		__u8 type;
		__u8 segments_left;
	} header;

	for (int i = 0; i < EXTENSIONS_MAX; i++) {
		switch (*proto) {
		case IPPROTO_ROUTING:
		case IPPROTO_HOPOPTS:
		case IPPROTO_DSTOPTS:
			if (bpf_skb_load_bytes(skb, *offset, &header, sizeof(header)))
				return false;
			/* it is for somebody else than it says */
			if (*proto == IPPROTO_ROUTING && header.segments_left)
				return false;
			*proto = header.nexthdr;
			*offset += (header.length + 1) * 8;
			break;
		case IPPROTO_FRAGMENT:
			if (*fragmented ||
			    bpf_skb_load_bytes(skb, *offset, fragment, sizeof(*fragment)))
				return false;
			*proto = fragment->nexthdr;
			*offset += sizeof(*fragment);
			*fragmented = true;
			if (fragment->offset_flags & bpf_htons(FRAGMENT6_OFFSET))
				return true;
			break;
		case IPPROTO_AH:
		case IPPROTO_MH:
			return false;
		default:
			return true;
		}
	}
	return false;
}

/*
 * Fill `s`, zeroed before, with what the packet is in a connection. REASON_NONE: all of it is
 * known. Anything else: why nothing of policy or translation may let it pass.
 */
__noinline enum reason resolve(struct __sk_buff *skb, const struct packet *p, struct segment *s)
{
	struct fragment_header6 fragment = {};
	bool fragmented = false, later;
	struct tuple *t;
	__be32 id;
	__u32 l4;

	if (!p || !s)
		return REASON_DROP_UNKNOWN;
	t = &s->tuple;
	l4 = p->l4;
	t->family = p->flow.family;
	t->proto = p->flow.proto;
	if (t->family == AF_INET) {
		__u16 ip_id, frag_off;

		t->src[0] = p->flow.src4;
		t->dst[0] = p->flow.dst4;
		if (bpf_skb_load_bytes(skb, L3_OFFSET + offsetof(struct iphdr, frag_off), &frag_off,
				       sizeof(frag_off)) ||
		    bpf_skb_load_bytes(skb, L3_OFFSET + offsetof(struct iphdr, id), &ip_id,
				       sizeof(ip_id)))
			return REASON_DROP_UNKNOWN;
		l4 = L3_OFFSET + sizeof(struct iphdr);
		fragmented = frag_off & bpf_htons(IPV4_FRAGMENT);
		later = frag_off & bpf_htons(IPV4_OFFSET);
		id = ip_id;
	} else {
		__builtin_memcpy(t->src, p->flow.src6, sizeof(t->src));
		__builtin_memcpy(t->dst, p->flow.dst6, sizeof(t->dst));
		if (!skip_extensions(skb, &t->proto, &l4, &fragment, &fragmented))
			return REASON_DROP_UNKNOWN;
		later = fragment.offset_flags & bpf_htons(FRAGMENT6_OFFSET);
		/* a datagram in one piece may say so */
		if (!(fragment.offset_flags & bpf_htons(FRAGMENT6_OFFSET | FRAGMENT6_MORE)))
			fragmented = false;
		id = fragment.id;
	}
	if (fragmented)
		return fragment_ports(skb, s, l4, !later, id);
	if (!load_ports(skb, l4, t, &s->asked))
		return REASON_DROP_UNKNOWN;
	s->l4 = l4;
	s->whole = 1;
	s->error = is_error(t->proto, bpf_ntohs(s->asked) >> 8);
	if (t->proto == IPPROTO_TCP &&
	    bpf_skb_load_bytes(skb, l4 + TCP_FLAGS, &s->tcp_flags, sizeof(s->tcp_flags)))
		return REASON_DROP_UNKNOWN;
	return REASON_NONE;
}

/* The tuple of the packet that an ICMP error is about, whose IP header is at `offset`. */
static __noinline bool resolve_inner(struct __sk_buff *skb, __u32 offset, struct tuple *t)
{
	__be16 asked;
	__u32 l4;

	if (t->family == AF_INET) {
		struct iphdr ip;

		if (bpf_skb_load_bytes(skb, offset, &ip, sizeof(ip)) ||
		    *(__u8 *)&ip != IPV4_NO_OPTIONS || ip.frag_off & bpf_htons(IPV4_OFFSET))
			return false;
		t->src[0] = ip.saddr;
		t->dst[0] = ip.daddr;
		t->proto = ip.protocol;
		l4 = offset + sizeof(ip);
	} else {
		struct ipv6hdr ip;

		if (bpf_skb_load_bytes(skb, offset, &ip, sizeof(ip)) || ip.version != 6)
			return false;
		__builtin_memcpy(t->src, &ip.saddr, sizeof(t->src));
		__builtin_memcpy(t->dst, &ip.daddr, sizeof(t->dst));
		t->proto = ip.nexthdr;
		l4 = offset + sizeof(ip);
	}
	return load_ports(skb, l4, t, &asked);
}

#endif
