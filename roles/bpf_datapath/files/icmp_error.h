// SPDX-License-Identifier: GPL-2.0-only
/*
 * ICMP errors. An error about a packet of a known connection passes, as netfilter's RELATED, if it
 * goes to the sender of that packet. It is translated as that packet was, so that the receiver can
 * match it to its own packet.
 */
#ifndef PODNET_ICMP_ERROR_H
#define PODNET_ICMP_ERROR_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "config.h"
#include "ct.h"
#include "l4.h"
#include "metrics.h"
#include "nat.h"

/* Return whether a packet is an ICMP error, or may be one behind what parse_packet() parsed. */
static __always_inline bool icmp_error_is_candidate(const struct packet *p)
{
	__u8 type = bpf_ntohs(p->flow.dport) >> 8;

	if (packet_is_partial(p))
		return true;
	if (p->flow.family == AF_INET6)
		return p->flow.proto == IPPROTO_ICMPV6 && type < ICMPV6_INFORMATIONAL;
	return p->flow.proto == IPPROTO_ICMP &&
	       (type == ICMP_REDIRECT || l4_is_icmp_error(AF_INET, IPPROTO_ICMP, type));
}

/*
 * Return whether a host may find an ICMP error behind extension headers that cannot be parsed:
 * there are too many. It does not if they are truncated, or without a security association.
 */
static __always_inline bool icmp_error_is_hidden(struct __sk_buff *skb, const struct ip_info *ip)
{
	struct ipv6_rt_hdr header;

	if (!l4_load(skb, ip->offset, &header, sizeof(header), ip->end))
		return false;
	return ip->proto == IPPROTO_ROUTING ? !header.segments_left :
					      ip->proto != IPPROTO_AH && ip->proto != IPPROTO_MH;
}

/*
 * Check a Pod's packet: drop an ICMP error about a packet that was not to the Pod. Only routers
 * send these. The receiver would learn an MTU, or end a connection: the node, for all Pods.
 */
__noinline enum reason icmp_error_check(struct __sk_buff *skb, const struct packet *p)
{
	struct ip_info ip = {};
	bool foreign;
	__be32 dst[4];
	__u8 type;

	if (!p)
		return REASON_DROP_UNSUPPORTED;
	/* that of a packet with options is unknown */
	ip.end = p->ip_len ? packet_end(p) : skb->len;
	if (p->flow.family == AF_INET) {
		struct iphdr header;

		/* also of a packet with options */
		if (bpf_skb_load_bytes(skb, L3_OFFSET, &header, sizeof(header)))
			return REASON_NONE;
		ip.proto = header.protocol;
		ip.offset = L3_OFFSET + header.ihl * 4;
		ip.fragmented = header.frag_off & bpf_htons(IPV4_FRAGMENT);
		ip.later = header.frag_off & bpf_htons(IPV4_OFFSET);
	} else {
		if (bpf_skb_load_bytes(skb, L3_OFFSET + offsetof(struct ipv6hdr, nexthdr),
				       &ip.proto, sizeof(ip.proto)))
			return REASON_NONE;
		ip.offset = L3_OFFSET + sizeof(struct ipv6hdr);
		if (!ipv6_skip_exthdrs(skb, &ip))
			return icmp_error_is_hidden(skb, &ip) ? REASON_DROP_UNSUPPORTED :
								REASON_NONE;
	}
	if (ip.later || !proto_is_icmp(p->flow.family, ip.proto))
		return REASON_NONE;
	if (!l4_load(skb, ip.offset, &type, sizeof(type), ip.end))
		return REASON_NONE;
	if (p->flow.family == AF_INET ?
	    type != ICMP_REDIRECT && !l4_is_icmp_error(AF_INET, ip.proto, type) :
	    type >= ICMPV6_INFORMATIONAL)
		return REASON_NONE;
	/* it has at most the minimum MTU */
	if (ip.fragmented)
		return REASON_DROP_ICMP_ERROR;
	if (p->flow.family == AF_INET)
		foreign = l4_load(skb, ip.offset + ICMP_HEADER + offsetof(struct iphdr, daddr), dst,
				  sizeof(*dst), ip.end) &&
			  dst[0] != p->flow.src4;
	else
		foreign = l4_load(skb, ip.offset + ICMP_HEADER + offsetof(struct ipv6hdr, daddr),
				  dst, sizeof(dst), ip.end) &&
			  !address_equal(dst, p->flow.src6);
	return foreign ? REASON_DROP_ICMP_ERROR : REASON_NONE;
}

struct icmp_error_nat {
	struct addr_port src;	/* of the inner packet, before translation */
	struct addr_port dst;
	bool translated;
};

/* Look up the connection of the inner packet, and its addresses before translation. */
static __noinline bool icmp_error_match(const struct tuple *inner, const struct config *cfg,
					struct icmp_error_nat *nat)
{
	struct connection *c;
	bool reply;
	__u32 place;

	c = ct_lookup(inner, CT_REPLY, &place, &reply);
	if (c && !reply) {
		/* to the client, about its packet as the server sees it */
		nat->src = c->client;
		nat->dst = c->flags & CT_DNAT ? c->service : c->server;
		nat->translated = true;
	}
	if (!c) {
		c = ct_lookup(inner, CT_ORIGINAL, &place, &reply);
		if (c && reply && c->flags & (CT_DNAT | CT_SNAT)) {
			/* to the server, about its packet as the client sees it */
			nat->src = c->server;
			nat->dst = c->flags & CT_SNAT ? c->source : c->client;
			nat->translated = true;
		}
	}
	return c && c->verdict.generation == cfg->generation && c->verdict.reason == REASON_NONE;
}

/*
 * Translate an ICMP error. Return REASON_MAX if it belongs to no known connection. Routers send
 * errors too, so only one from a Pod has to be from the packet's destination.
 */
__noinline enum reason icmp_error_translate(struct __sk_buff *skb, const struct packet *p,
					    struct l4_info *l4, const struct config *cfg,
					    bool from_pod)
{
	struct tuple inner = {};
	struct icmp_error_nat nat = {};
	bool from_target;

	if (!p || !l4 || !cfg)
		return REASON_DROP_UNSUPPORTED;
	inner.family = l4->tuple.family;
	if (!l4_parse_inner(skb, p, l4, &inner))
		return REASON_MAX;
	from_target = address_equal(inner.dst, l4->tuple.src);
	if (!address_equal(inner.src, l4->tuple.dst) || (from_pod && !from_target) ||
	    !icmp_error_match(&inner, cfg, &nat))
		return REASON_MAX;
	if (!nat.translated)
		return REASON_NONE;
	if (!nat_rewrite_inner(skb, l4, &inner, true, &nat.src) ||
	    !nat_rewrite_inner(skb, l4, &inner, false, &nat.dst) ||
	    !nat_rewrite_outer(skb, l4, false, &nat.src) ||
	    (from_target && !nat_rewrite_outer(skb, l4, true, &nat.dst)))
		return REASON_DROP_NAT_FAILED;
	return REASON_NONE;
}

#endif
