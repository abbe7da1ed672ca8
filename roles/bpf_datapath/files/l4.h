// SPDX-License-Identifier: GPL-2.0-only
/*
 * Transport headers as connection tracking needs them: ports after IPv6 extension headers and of
 * fragments, ICMP identifiers, and the inner packet of an ICMP error.
 */
#ifndef PODNET_L4_H
#define PODNET_L4_H

#include <linux/bpf.h>
#include <linux/icmpv6.h>
#include <bpf/bpf_helpers.h>

#include "fragments.h"
#include "parse.h"
#include "metrics.h"
#include "tuple.h"

#define IPV6_EXTHDRS_MAX 6	/* extension headers that are parsed */

#define IPV4_OFFSET 0x1fff
/* BPF programs cannot include linux/icmp.h */
#define ICMP_ECHOREPLY 0
#define ICMP_DEST_UNREACH 3
#define ICMP_SOURCE_QUENCH 4
#define ICMP_ECHO 8
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETERPROB 12
#define ICMP_TIMESTAMP 13
#define ICMP_TIMESTAMPREPLY 14

#define TCP_FLAGS 13		/* offset of the flags byte */
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

/* Transport header of a packet. */
struct l4_info {
	struct tuple tuple;
	__be16 policy_port;	/* destination port, or ICMP type and code */
	__u16 offset;		/* of the transport header; 0: in another fragment */
	__u8 tcp_flags;
	__u8 icmp_error;
	__u8 unfragmented;
	__u8 pad;
};

static __always_inline bool l4_is_icmp_error(__u8 proto, __u8 type)
{
	if (proto == IPPROTO_ICMP)
		return type == ICMP_DEST_UNREACH || type == ICMP_TIME_EXCEEDED ||
		       type == ICMP_PARAMETERPROB || type == ICMP_SOURCE_QUENCH;
	return proto == IPPROTO_ICMPV6 && type >= ICMPV6_DEST_UNREACH && type <= ICMPV6_PARAMPROB;
}

/* Return the request's type for a query with an identifier or its response, else -1. */
static __always_inline int icmp_request_of(__u8 proto, __u8 type)
{
	if (proto == IPPROTO_ICMPV6)
		return type == ICMPV6_ECHO_REQUEST || type == ICMPV6_ECHO_REPLY ?
			       ICMPV6_ECHO_REQUEST : -1;
	switch (type) {
	case ICMP_ECHO:
	case ICMP_ECHOREPLY:
		return ICMP_ECHO;
	case ICMP_TIMESTAMP:
	case ICMP_TIMESTAMPREPLY:
		return ICMP_TIMESTAMP;
	default:
		return -1;
	}
}

/*
 * Load the ports at `offset`. For ICMP queries the identifier is the requester's port and the
 * request's type the responder's, so that a reply has the reverse tuple. Return false if truncated.
 */
static __always_inline bool l4_load_ports(struct __sk_buff *skb, __u32 offset, struct tuple *t,
					  __be16 *policy_port)
{
	struct {
		__be16 first;
		__be16 second;
		__be16 id;
		__be16 sequence;
	} head = {};
	int request;
	__u8 type;

	switch (t->proto) {
	case IPPROTO_TCP:
	case IPPROTO_UDP:
	case IPPROTO_SCTP:
		if (bpf_skb_load_bytes(skb, offset, &head, 4))
			return false;
		t->sport = head.first;
		t->dport = head.second;
		*policy_port = head.second;
		return true;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		if (bpf_skb_load_bytes(skb, offset, &head, sizeof(head)))
			return false;
		*policy_port = head.first;
		type = bpf_ntohs(head.first) >> 8;
		request = icmp_request_of(t->proto, type);
		if (request < 0) {
			t->dport = head.first;
		} else if (request == type) {
			t->icmp = TUPLE_ICMP_REQUEST;
			t->sport = head.id;
			t->dport = head.first;
		} else {
			t->icmp = TUPLE_ICMP_RESPONSE;
			t->sport = bpf_htons(request << 8);
			t->dport = head.id;
		}
		return true;
	default:
		return true;
	}
}

/* Store the ports of a first fragment; look them up for the following fragments. */
static __always_inline enum reason l4_fragment_ports(struct __sk_buff *skb, struct l4_info *l4,
						     __u32 offset, bool first, __be32 id)
{
	struct tuple *t = &l4->tuple;
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
		struct fragment ports = { .last_seen = now };

		if (!l4_load_ports(skb, offset, t, &l4->policy_port))
			return REASON_DROP_FRAG_NOT_FOUND;
		ports.sport = t->sport;
		ports.dport = t->dport;
		ports.policy_port = l4->policy_port;
		if (bpf_map_update_elem(&fragments, &key, &ports, BPF_ANY))
			return REASON_DROP_FRAG_NOT_FOUND;
		l4->offset = offset;
		return REASON_NONE;
	}
	known = bpf_map_lookup_elem(&fragments, &key);
	if (!known || now - known->last_seen > FRAGMENT_TIMEOUT)
		return REASON_DROP_FRAG_NOT_FOUND;
	t->sport = known->sport;
	t->dport = known->dport;
	l4->policy_port = known->policy_port;
	return REASON_NONE;
}

/* Skip extension headers; store the fragment header, if there is one, in `fragment`. */
static __always_inline bool ipv6_skip_exthdrs(struct __sk_buff *skb, __u8 *proto, __u32 *offset,
					      struct fragment_header6 *fragment,
					      bool *fragmented)
{
	struct {
		__u8 nexthdr;
		__u8 length;
		__u8 type;
		__u8 segments_left;
	} header;

	for (int i = 0; i < IPV6_EXTHDRS_MAX; i++) {
		switch (*proto) {
		case IPPROTO_ROUTING:
		case IPPROTO_HOPOPTS:
		case IPPROTO_DSTOPTS:
			if (bpf_skb_load_bytes(skb, *offset, &header, sizeof(header)))
				return false;
			/* source routing: the final destination is in the header */
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
 * Parse the transport header into `l4`, which the caller has zeroed. Return the reason for a drop
 * if policy and translation cannot be applied.
 */
__noinline enum reason l4_parse(struct __sk_buff *skb, const struct packet *p, struct l4_info *l4)
{
	struct fragment_header6 fragment = {};
	bool fragmented = false, later;
	struct tuple *t;
	__be32 id;
	__u32 offset;

	if (!p || !l4)
		return REASON_DROP_UNSUPPORTED;
	t = &l4->tuple;
	offset = p->l4_offset;
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
			return REASON_DROP_UNSUPPORTED;
		offset = L3_OFFSET + sizeof(struct iphdr);
		fragmented = frag_off & bpf_htons(IPV4_FRAGMENT);
		later = frag_off & bpf_htons(IPV4_OFFSET);
		id = ip_id;
	} else {
		__builtin_memcpy(t->src, p->flow.src6, sizeof(t->src));
		__builtin_memcpy(t->dst, p->flow.dst6, sizeof(t->dst));
		if (!ipv6_skip_exthdrs(skb, &t->proto, &offset, &fragment, &fragmented))
			return REASON_DROP_UNSUPPORTED;
		later = fragment.offset_flags & bpf_htons(FRAGMENT6_OFFSET);
		/* an atomic fragment (RFC 6946) is a complete datagram */
		if (!(fragment.offset_flags & bpf_htons(FRAGMENT6_OFFSET | FRAGMENT6_MORE)))
			fragmented = false;
		id = fragment.id;
	}
	if (fragmented)
		return l4_fragment_ports(skb, l4, offset, !later, id);
	if (!l4_load_ports(skb, offset, t, &l4->policy_port))
		return REASON_DROP_UNSUPPORTED;
	l4->offset = offset;
	l4->unfragmented = 1;
	l4->icmp_error = l4_is_icmp_error(t->proto, bpf_ntohs(l4->policy_port) >> 8);
	if (t->proto == IPPROTO_TCP &&
	    bpf_skb_load_bytes(skb, offset + TCP_FLAGS, &l4->tcp_flags, sizeof(l4->tcp_flags)))
		return REASON_DROP_UNSUPPORTED;
	return REASON_NONE;
}

/* Parse the tuple of an ICMP error's inner packet, whose IP header is at `offset`. */
static __noinline bool l4_parse_inner(struct __sk_buff *skb, __u32 offset, struct tuple *t)
{
	__be16 policy_port;
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
	return l4_load_ports(skb, l4, t, &policy_port);
}

#endif
