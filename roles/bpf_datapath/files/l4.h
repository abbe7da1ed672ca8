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
#define ICMP_REDIRECT 5
#define ICMP_ECHO 8
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETERPROB 12
#define ICMP_TIMESTAMP 13
#define ICMP_TIMESTAMPREPLY 14

#define ICMP_HEADER 8		/* length of the header before the inner packet of an error */
#define ICMPV6_INFORMATIONAL 128	/* types below it are errors */
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
	__u8 inner_len;		/* ICMP error: of the inner packet's headers before the transport */
};

static __always_inline bool l4_is_icmp_error(__u8 family, __u8 proto, __u8 type)
{
	if (!proto_is_icmp(family, proto))
		return false;
	if (proto == IPPROTO_ICMP)
		return type == ICMP_DEST_UNREACH || type == ICMP_TIME_EXCEEDED ||
		       type == ICMP_PARAMETERPROB || type == ICMP_SOURCE_QUENCH;
	return type >= ICMPV6_DEST_UNREACH && type <= ICMPV6_PARAMPROB;
}

/* Copy bytes of an IP packet that ends at `end`, not those of a frame's padding. */
static __always_inline bool l4_load(struct __sk_buff *skb, __u32 offset, void *to, __u32 len,
				    __u32 end)
{
	return offset + len <= end && !bpf_skb_load_bytes(skb, offset, to, len);
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
 * request's type the responder's, so that a reply has the reverse tuple. Return false if truncated,
 * or for ICMP of the other family.
 */
static __always_inline bool l4_load_ports(struct __sk_buff *skb, __u32 offset, __u32 end,
					  struct tuple *t, __be16 *policy_port)
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
		if (!l4_load(skb, offset, &head, 4, end))
			return false;
		t->sport = head.first;
		t->dport = head.second;
		*policy_port = head.second;
		return true;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		if (!proto_is_icmp(t->family, t->proto) ||
		    !l4_load(skb, offset, &head, sizeof(head), end))
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
			t->sport = bpf_htons(request << 8 | (bpf_ntohs(head.first) & 0xff));
			t->dport = head.id;
		}
		return true;
	default:
		return true;
	}
}

/* Where the IP header and the extension headers end. */
struct ip_info {
	__u32 offset;		/* of the transport header */
	__u32 end;		/* of the IP packet */
	__be32 id;		/* of a fragment */
	__u8 proto;
	bool fragmented;
	bool later;		/* not the first fragment */
};

/*
 * Store protocol and ports of a first fragment; look them up for the following fragments. IPv6
 * fragments are identified without the protocol: that of the following fragments is ignored
 * (RFC 8200, 4.5).
 */
static __always_inline enum reason l4_fragment_ports(struct __sk_buff *skb, struct l4_info *l4,
						     const struct ip_info *ip)
{
	struct tuple *t = &l4->tuple;
	struct fragment_key key = {
		.id = ip->id,
		.proto = t->family == AF_INET ? t->proto : 0,
		.family = t->family,
	};
	__u32 now = bpf_ktime_get_coarse_ns() / 1000000000;
	struct fragment *known;

	__builtin_memcpy(key.src, t->src, sizeof(key.src));
	__builtin_memcpy(key.dst, t->dst, sizeof(key.dst));
	if (!ip->later) {
		struct fragment ports = { .last_seen = now };

		if (!l4_load_ports(skb, ip->offset, ip->end, t, &l4->policy_port))
			return REASON_DROP_FRAG_NOT_FOUND;
		/* RFC 1858: the flags of TCP must not be in another fragment */
		if (t->proto == IPPROTO_TCP && !l4_load(skb, ip->offset + TCP_FLAGS, &l4->tcp_flags,
							sizeof(l4->tcp_flags), ip->end))
			return REASON_DROP_FRAG_NOT_FOUND;
		ports.sport = t->sport;
		ports.dport = t->dport;
		ports.policy_port = l4->policy_port;
		ports.proto = t->proto;
		if (bpf_map_update_elem(&fragments, &key, &ports, BPF_ANY))
			return REASON_DROP_FRAG_NOT_FOUND;
		l4->offset = ip->offset;
		return REASON_NONE;
	}
	known = bpf_map_lookup_elem(&fragments, &key);
	if (!known || now - known->last_seen > FRAGMENT_TIMEOUT)
		return REASON_DROP_FRAG_NOT_FOUND;
	t->sport = known->sport;
	t->dport = known->dport;
	t->proto = known->proto;
	l4->policy_port = known->policy_port;
	return REASON_NONE;
}

/* Skip extension headers. Return false if they cannot be parsed. */
static __always_inline bool ipv6_skip_exthdrs(struct __sk_buff *skb, struct ip_info *ip)
{
	struct fragment_header6 fragment;
	bool has_fragment_header = false;
	struct {
		__u8 nexthdr;
		__u8 length;
		__u8 type;
		__u8 segments_left;
	} header;

	for (int i = 0; i < IPV6_EXTHDRS_MAX; i++) {
		switch (ip->proto) {
		case IPPROTO_ROUTING:
		case IPPROTO_HOPOPTS:
		case IPPROTO_DSTOPTS:
			if (!l4_load(skb, ip->offset, &header, sizeof(header), ip->end))
				return false;
			/* source routing: the final destination is in the header */
			if (ip->proto == IPPROTO_ROUTING && header.segments_left)
				return false;
			ip->proto = header.nexthdr;
			ip->offset += (header.length + 1) * 8;
			break;
		case IPPROTO_FRAGMENT:
			if (has_fragment_header ||
			    !l4_load(skb, ip->offset, &fragment, sizeof(fragment), ip->end))
				return false;
			has_fragment_header = true;
			ip->proto = fragment.nexthdr;
			ip->offset += sizeof(fragment);
			ip->id = fragment.id;
			ip->later = fragment.offset_flags & bpf_htons(FRAGMENT6_OFFSET);
			/* an atomic fragment (RFC 6946) is a complete datagram */
			ip->fragmented = fragment.offset_flags &
					 bpf_htons(FRAGMENT6_OFFSET | FRAGMENT6_MORE);
			if (ip->later)
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
	struct ip_info ip = {};
	struct tuple *t;

	if (!p || !l4)
		return REASON_DROP_UNSUPPORTED;
	t = &l4->tuple;
	if (!packet_is_partial(p) && proto_has_ports(p->flow.proto)) {
		/* parse_packet() has loaded the ports */
		t->family = p->flow.family;
		t->proto = p->flow.proto;
		t->sport = p->flow.sport;
		t->dport = p->flow.dport;
		t->src[0] = p->flow.src4;
		t->dst[0] = p->flow.dst4;
		if (t->family == AF_INET6) {
			__builtin_memcpy(t->src, p->flow.src6, sizeof(t->src));
			__builtin_memcpy(t->dst, p->flow.dst6, sizeof(t->dst));
		}
		l4->policy_port = p->flow.dport;
		l4->offset = p->l4_offset;
		l4->unfragmented = 1;
		return t->proto != IPPROTO_TCP ||
		       l4_load(skb, l4->offset + TCP_FLAGS, &l4->tcp_flags, sizeof(l4->tcp_flags),
			       packet_end(p)) ? REASON_NONE : REASON_DROP_UNSUPPORTED;
	}
	ip.end = packet_end(p);
	ip.offset = p->l4_offset;
	ip.proto = p->flow.proto;
	t->family = p->flow.family;
	if (t->family == AF_INET) {
		__u16 id, frag_off;

		t->src[0] = p->flow.src4;
		t->dst[0] = p->flow.dst4;
		if (bpf_skb_load_bytes(skb, L3_OFFSET + offsetof(struct iphdr, frag_off), &frag_off,
				       sizeof(frag_off)) ||
		    bpf_skb_load_bytes(skb, L3_OFFSET + offsetof(struct iphdr, id), &id,
				       sizeof(id)))
			return REASON_DROP_UNSUPPORTED;
		ip.offset = L3_OFFSET + sizeof(struct iphdr);
		ip.fragmented = frag_off & bpf_htons(IPV4_FRAGMENT);
		ip.later = frag_off & bpf_htons(IPV4_OFFSET);
		ip.id = id;
	} else {
		__builtin_memcpy(t->src, p->flow.src6, sizeof(t->src));
		__builtin_memcpy(t->dst, p->flow.dst6, sizeof(t->dst));
		if (!ipv6_skip_exthdrs(skb, &ip))
			return REASON_DROP_UNSUPPORTED;
	}
	t->proto = ip.proto;
	if (ip.fragmented)
		return l4_fragment_ports(skb, l4, &ip);
	if (!l4_load_ports(skb, ip.offset, ip.end, t, &l4->policy_port))
		return REASON_DROP_UNSUPPORTED;
	l4->offset = ip.offset;
	l4->unfragmented = 1;
	l4->icmp_error = l4_is_icmp_error(t->family, t->proto, bpf_ntohs(l4->policy_port) >> 8);
	if (t->proto == IPPROTO_TCP && !l4_load(skb, ip.offset + TCP_FLAGS, &l4->tcp_flags,
						sizeof(l4->tcp_flags), ip.end))
		return REASON_DROP_UNSUPPORTED;
	return REASON_NONE;
}

/*
 * Parse the tuple of an ICMP error's inner packet as l4_parse() does that of a packet. The inner
 * packet is cut off where the error ends, but its own length is that of the original packet.
 */
static __noinline bool l4_parse_inner(struct __sk_buff *skb, const struct packet *p,
				      struct l4_info *l4, struct tuple *t)
{
	__u32 offset = l4->offset + ICMP_HEADER, length;
	struct ip_info info = {};
	__be16 policy_port;

	info.end = packet_end(p);
	if (t->family == AF_INET) {
		struct iphdr ip;

		if (!l4_load(skb, offset, &ip, sizeof(ip), info.end) || ip.version != 4 ||
		    ip.ihl < 5 || ip.frag_off & bpf_htons(IPV4_OFFSET))
			return false;
		t->src[0] = ip.saddr;
		t->dst[0] = ip.daddr;
		info.proto = ip.protocol;
		info.offset = offset + ip.ihl * 4;
		length = bpf_ntohs(ip.tot_len);
	} else {
		struct {
			__u8 version;
			__u8 flow[3];
			__be16 payload_len;
			__u8 nexthdr;
			__u8 hop_limit;
		} ip;

		info.offset = offset + sizeof(struct ipv6hdr);
		if (info.offset > info.end || bpf_skb_load_bytes(skb, offset, &ip, sizeof(ip)) ||
		    bpf_skb_load_bytes(skb, offset + sizeof(ip), t->src, sizeof(t->src)) ||
		    bpf_skb_load_bytes(skb, offset + sizeof(ip) + sizeof(t->src), t->dst,
				       sizeof(t->dst)) ||
		    ip.version >> 4 != 6)
			return false;
		info.proto = ip.nexthdr;
		length = bpf_ntohs(ip.payload_len);
		if (length)
			length += sizeof(struct ipv6hdr);
	}
	/* 0: about a BIG TCP packet of this node */
	if (length && offset + length < info.end)
		info.end = offset + length;
	if (t->family == AF_INET6 && (!ipv6_skip_exthdrs(skb, &info) || info.later))
		return false;
	t->proto = info.proto;
	l4->inner_len = info.offset - offset;
	if (l4->inner_len != info.offset - offset)
		return false;
	return l4_load_ports(skb, info.offset, info.end, t, &policy_port);
}

#endif
