// SPDX-License-Identifier: GPL-2.0-only
/* Parsing of the headers that forwarding depends on, and the TTL. */
#ifndef PODNET_PARSE_H
#define PODNET_PARSE_H

#include <stdbool.h>
#include <stddef.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "metrics.h"

/* BPF programs cannot include sys/socket.h, linux/icmp.h and linux/if_vlan.h */
#define AF_UNSPEC 0
#define AF_INET 2
#define AF_INET6 10
#define VLAN_VID_MASK 0x0fff

/* Every hook has an Ethernet header; that of L3 devices has zero MAC addresses. */
#define L3_OFFSET ETH_HLEN

#define IPV4_NO_OPTIONS 0x45	/* version 4, five words */
#define TCP_DATA_OFFSET 12	/* offset of the byte with the data offset, in its upper half */
#define IPV4_DF 0x4000
#define IPV4_FRAGMENT 0x3fff	/* IP_MF | IP_OFFSET */

/*
 * Neighbour discovery, RFC 4861: router solicitation (133) to redirect (137). Only a hop limit of
 * 255 is valid: packets that a router forwarded must not bypass policy.
 */
#define NDP_FIRST 133
#define NDP_ROUTER_SOLICIT 133
#define NDP_ROUTER_ADVERT 134
#define NDP_LAST 137
#define NDP_HOP_LIMIT 255

#define VLAN_TAGS_MAX 2		/* priority tags that are removed from a frame */

#define FROM_POD 0
#define FROM_WIRE 1
#define FROM_HOST 2

/* 64-bit words of struct flow that each family uses */
#define FLOW4_WORDS 3
#define FLOW6_WORDS 6

/*
 * The flow has no ports, because the packet is a fragment or has extension headers. The flow cache
 * does not contain such flows.
 */
#define FLOW_PARTIAL bpf_htonl(0x80000000)

/* Key of the flow cache: all fields that routes, rules and multipath hashes can depend on. */
struct flow {
	union {
		struct {
			__u32 ifindex;		/* ingress device */
			__be32 flowinfo;	/* IPv6: traffic class, flow label; FLOW_PARTIAL */
			union {
				struct {
					__be16 sport;	/* 0: no ports, or in another fragment */
					__be16 dport;	/* ICMP: type and code */
				};
				__be32 ports;
			};
			__u8 family;
			__u8 tos;		/* IPv4 */
			__u8 proto;
			__u8 origin;		/* FROM_POD, FROM_WIRE or FROM_HOST */
			union {
				struct {
					__be32 src4;
					__be32 dst4;
				};
				struct {
					__be32 src6[4];
					__be32 dst6[4];
				};
			};
		};
		__u64 words[FLOW6_WORDS];
	};
};

struct packet {
	struct flow flow;
	__u32 wire_len;		/* of the largest IP packet after segmentation; 0: unknown */
	__u16 ip_len;		/* nothing is parsed beyond it: the IP packet's length, or 64 KiB */
	__u8 l4_offset;		/* of the header after the IP header */
	__u8 ttl;		/* or hop limit */
};

/*
 * IPv6 BIG TCP before Linux 7.0: a hop-by-hop header with one jumbo option (include/net/ipv6.h,
 * struct hop_jumbo_hdr). The kernel removes it before the wire.
 */
struct hop_jumbo {
	__u8 nexthdr;
	__u8 hdrlen;
	__u8 tlv_type;
	__u8 tlv_len;
	__be32 payload_len;
};

#define TLV_JUMBO 194

/* Return whether the bytes up to `data` are linear. volatile: clang would truncate the end.  */
static __always_inline bool parse_is_linear(struct __sk_buff *skb, const void *data)
{
	return data <= (void *)(long)*(volatile __u32 *)&skb->data_end;
}

static __always_inline bool packet_is_partial(const struct packet *p)
{
	return p->flow.flowinfo & FLOW_PARTIAL;
}

static __always_inline __u32 packet_end(const struct packet *p)
{
	return L3_OFFSET + p->ip_len;
}

/* Make the first `len` bytes linear, and set `data` to them. Invalidates packet pointers. */
static __always_inline bool parse_pull(struct __sk_buff *skb, __u32 len, void **data)
{
	*data = (void *)(long)skb->data;
	if (parse_is_linear(skb, *data + len))
		return true;
	if (bpf_skb_pull_data(skb, len))
		return false;
	*data = (void *)(long)skb->data;
	return parse_is_linear(skb, *data + len);
}

/* Copy bytes of the IP packet; call a helper only for bytes outside the linear part. */
static __always_inline bool parse_load(struct __sk_buff *skb, const struct packet *p, __u32 offset,
				       void *to, __u32 len)
{
	void *from = (void *)(long)skb->data + offset;

	if (offset - L3_OFFSET + len > p->ip_len)
		return false;
	if (!parse_is_linear(skb, from + len))
		return !bpf_skb_load_bytes(skb, offset, to, len);
	/* NET_IP_ALIGN aligns the headers after the MAC header to 4 bytes. */
	__builtin_memcpy(to, __builtin_assume_aligned(from, 4), len);
	return true;
}

/* ICMP only in IPv4, ICMPv6 only in IPv6 */
static __always_inline bool proto_is_icmp(__u8 family, __u8 proto)
{
	return proto == (family == AF_INET ? IPPROTO_ICMP : IPPROTO_ICMPV6);
}

static __always_inline bool proto_has_ports(__u8 proto)
{
	return proto == IPPROTO_TCP || proto == IPPROTO_UDP || proto == IPPROTO_SCTP;
}

static __always_inline bool proto_is_exthdr(__u8 proto)
{
	return proto == IPPROTO_HOPOPTS || proto == IPPROTO_ROUTING || proto == IPPROTO_FRAGMENT ||
	       proto == IPPROTO_DSTOPTS || proto == IPPROTO_AH || proto == IPPROTO_MH;
}

static __always_inline __u32 parse_limit_len(__u32 len)
{
	return len < 0xffff ? len : 0xffff;
}

/* Parse the ports and set wire_len. `l4`: offset of the transport header */
static __always_inline void parse_l4(struct __sk_buff *skb, struct packet *p, __u32 l4,
				     __u32 l3_len)
{
	bool partial;
	__u8 words;

	p->l4_offset = l4;
	if (!proto_has_ports(p->flow.proto)) {
		if (proto_is_icmp(p->flow.family, p->flow.proto))
			partial = !parse_load(skb, p, l4, &p->flow.dport, sizeof(p->flow.dport));
		else
			partial = p->flow.family == AF_INET6 && proto_is_exthdr(p->flow.proto);
		if (partial)
			p->flow.flowinfo |= FLOW_PARTIAL;
		return;
	}
	if (!parse_load(skb, p, l4, &p->flow.ports, sizeof(p->flow.ports))) {
		p->flow.flowinfo |= FLOW_PARTIAL;
		return;
	}

	/* Each TCP segment repeats the headers. For other GSO types the length is unknown. */
	if (skb->gso_size && p->flow.proto == IPPROTO_TCP &&
	    parse_load(skb, p, l4 + TCP_DATA_OFFSET, &words, sizeof(words)))
		p->wire_len = l3_len + (words >> 4) * 4 + skb->gso_size;
}

/*
 * Return whether the Ethernet type is that of skb->protocol. A raw socket of a Pod on netkit sets
 * them independently, and a frame that leaves with another type is another packet.
 */
static __always_inline bool eth_proto_matches(const void *eth, __u16 proto)
{
	return *(const __be16 *)(eth + offsetof(struct ethhdr, h_proto)) == bpf_htons(proto);
}

/* Return whether an address is multicast, broadcast, loopback or reserved: 0/8, 127/8, 224/3. */
static __always_inline bool ipv4_is_link_scope(__be32 address)
{
	__u8 first = bpf_ntohl(address) >> 24;

	return (__u8)(first - 1) >= 223 || first == 127;
}

static __always_inline bool ipv4_is_loopback(__be32 address)
{
	return bpf_ntohl(address) >> 24 == 127;
}

/* Return whether the stack forwards an address of link scope like unicast: 0/8 and 240/4. */
static __always_inline bool ipv4_is_reserved(__be32 address)
{
	__u8 first = bpf_ntohl(address) >> 24;

	return (!first && address) || (first >= 240 && ~address);
}

static __always_inline enum reason parse_ipv4(struct __sk_buff *skb, struct packet *p)
{
	struct iphdr *ip;
	__u32 tot_len;
	void *data;

	if (!parse_pull(skb, L3_OFFSET + sizeof(*ip), &data))
		return REASON_STACK_MALFORMED;
	ip = data + L3_OFFSET;

	p->flow.family = AF_INET;
	p->flow.src4 = ip->saddr;
	p->flow.dst4 = ip->daddr;
	if (!eth_proto_matches(data, ETH_P_IP))
		return REASON_STACK_MALFORMED;
	if (*(__u8 *)ip != IPV4_NO_OPTIONS)
		return ip->version == 4 && ip->ihl > 5 ? REASON_STACK_IP_OPTIONS :
							 REASON_STACK_MALFORMED;

	/* IPv4 BIG TCP (Linux 6.3): a GSO packet beyond 64 KiB has length 0 */
	tot_len = bpf_ntohs(ip->tot_len);
	if (tot_len < sizeof(*ip)) {
		if (tot_len || !skb->gso_size)
			return REASON_STACK_MALFORMED;
		tot_len = parse_limit_len(skb->len - L3_OFFSET);
	}
	/* An Ethernet frame may have padding. */
	if (tot_len > skb->len - L3_OFFSET)
		return REASON_STACK_MALFORMED;
	p->ip_len = tot_len;
	p->flow.tos = ip->tos;
	p->flow.proto = ip->protocol;
	p->ttl = ip->ttl;
	p->wire_len = skb->gso_size ? 0 : skb->len - L3_OFFSET;
	if (ip->frag_off & bpf_htons(IPV4_FRAGMENT))
		p->flow.flowinfo |= FLOW_PARTIAL;
	else
		parse_l4(skb, p, L3_OFFSET + sizeof(*ip), sizeof(*ip));
	return REASON_NONE;
}

/* Return whether an address is link-local: fe80::/10. */
static __always_inline bool ipv6_is_link_local(const __be32 *address)
{
	return (address[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
}

/* Return whether an address is multicast (ff00::/8) or link-local. */
static __always_inline bool ipv6_is_link_scope(const __be32 *address)
{
	return (address[0] & bpf_htonl(0xff000000)) == bpf_htonl(0xff000000) ||
	       ipv6_is_link_local(address);
}

/* Return whether a packet's addresses are of link scope, or reserved: it is not forwarded. */
static __always_inline bool flow_is_link_scope(const struct flow *flow)
{
	if (flow->family == AF_INET)
		return ipv4_is_link_scope(flow->dst4);
	/* ::/32 has the loopback, unspecified and mapped addresses */
	return ipv6_is_link_scope(flow->dst6) || ipv6_is_link_scope(flow->src6) ||
	       !flow->dst6[0] || !flow->src6[0];
}

static __always_inline enum reason parse_ipv6(struct __sk_buff *skb, struct packet *p)
{
	__u32 l4 = L3_OFFSET + sizeof(struct ipv6hdr);
	struct ipv6hdr *ip;
	__u32 payload_len;
	void *data;

	if (!parse_pull(skb, l4, &data))
		return REASON_STACK_MALFORMED;
	ip = data + L3_OFFSET;

	p->flow.family = AF_INET6;
	__builtin_memcpy(p->flow.src6, &ip->saddr, sizeof(p->flow.src6));
	__builtin_memcpy(p->flow.dst6, &ip->daddr, sizeof(p->flow.dst6));
	p->flow.proto = ip->nexthdr;
	p->ttl = ip->hop_limit;

	/* BIG TCP: payload_len is 0; since Linux 7.0 there is no jumbo option */
	payload_len = bpf_ntohs(ip->payload_len);
	if (!payload_len && skb->gso_size)
		payload_len = skb->len - l4;
	if (!eth_proto_matches(data, ETH_P_IPV6) || ip->version != 6 || payload_len > skb->len - l4)
		return REASON_STACK_MALFORMED;
	p->ip_len = parse_limit_len(sizeof(*ip) + payload_len);
	if (!proto_has_ports(p->flow.proto) && flow_is_link_scope(&p->flow))
		return REASON_STACK_LINK_SCOPE;
	p->flow.flowinfo = *(__be32 *)ip & bpf_htonl(0x0fffffff);

	p->wire_len = skb->gso_size ? 0 : skb->len - L3_OFFSET;

	if (p->flow.proto == IPPROTO_HOPOPTS) {
		struct hop_jumbo hop;

		if (!payload_len) /* a jumbogram */
			return REASON_STACK_IP_OPTIONS;
		if (!parse_load(skb, p, l4, &hop, sizeof(hop)))
			return REASON_STACK_MALFORMED;
		if (!skb->gso_size || hop.hdrlen || hop.tlv_type != TLV_JUMBO)
			return REASON_STACK_IP_OPTIONS;
		p->flow.proto = hop.nexthdr;
		l4 += sizeof(hop);
	}
	if (p->flow.proto == IPPROTO_ICMPV6) {
		__u8 type;

		if (!parse_load(skb, p, l4, &type, sizeof(type)))
			return REASON_STACK_MALFORMED;
		if (type >= NDP_FIRST && type <= NDP_LAST && p->ttl == NDP_HOP_LIMIT)
			return REASON_STACK_LINK_SCOPE;
	}
	parse_l4(skb, p, l4, sizeof(struct ipv6hdr));
	return REASON_NONE;
}

/* Return whether a frame has a VLAN tag, in its metadata or before the protocol. */
static __always_inline bool vlan_is_tagged(struct __sk_buff *skb)
{
	return skb->vlan_present || skb->protocol == bpf_htons(ETH_P_8021Q) ||
	       skb->protocol == bpf_htons(ETH_P_8021AD);
}

/*
 * Remove the priority tags (VLAN 0) of a tagged frame, as the stack would, so that it is processed
 * as untagged. Else return the reason to pass it on or to drop it.
 */
static __noinline enum reason vlan_pop_priority(struct __sk_buff *skb)
{
	for (int i = 0; i < VLAN_TAGS_MAX; i++) {
		__be16 tci;

		if (!vlan_is_tagged(skb))
			return REASON_NONE;
		if (skb->vlan_present)
			tci = bpf_htons(skb->vlan_tci);
		else if (bpf_skb_load_bytes(skb, ETH_HLEN, &tci, sizeof(tci)))
			return REASON_STACK_MALFORMED;
		if (tci & bpf_htons(VLAN_VID_MASK))
			return REASON_STACK_VLAN;
		if (bpf_skb_vlan_pop(skb))
			return REASON_DROP_VLAN;
	}
	return vlan_is_tagged(skb) ? REASON_DROP_VLAN : REASON_NONE;
}

/*
 * Parse the packet into `p`, which the caller has zeroed. Else return the REASON_STACK_*. The
 * caller has to check the addresses of flows that are not in the flow cache: parse_scope().
 */
static __always_inline enum reason parse_packet(struct __sk_buff *skb, struct packet *p)
{
	p->flow.ifindex = skb->ifindex;
	if (skb->vlan_present)
		return REASON_STACK_VLAN;
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return parse_ipv4(skb, p);
	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		return parse_ipv6(skb, p);
	return vlan_is_tagged(skb) ? REASON_STACK_VLAN : REASON_STACK_PROTOCOL;
}

/* Return whether a parsed packet may be forwarded to its address. */
static __always_inline enum reason parse_scope(const struct packet *p, enum reason reason)
{
	if (reason == REASON_NONE && flow_is_link_scope(&p->flow))
		return REASON_STACK_LINK_SCOPE;
	return reason;
}

/* Decrement the TTL, which the caller has checked to be greater than 1. */
static __always_inline void ipv4_decrease_ttl(struct iphdr *ip, __u8 ttl)
{
	/* RFC 1141. The sum over the header stays 0: CHECKSUM_COMPLETE stays valid. */
	__u32 check = ip->check + bpf_htons(0x0100);

	ip->check = check + ((check + 1) >> 16);
	ip->ttl = ttl - 1;
}

/* Decrement the TTL or hop limit, which the caller has checked to be greater than 1. */
static __always_inline bool ip_decrease_ttl(struct __sk_buff *skb, const struct packet *p)
{
	__u8 hop_limit = p->ttl - 1;

	if (p->flow.family == AF_INET) {
		struct iphdr *ip = (void *)(long)skb->data + L3_OFFSET;

		if ((void *)(ip + 1) > (void *)(long)skb->data_end)
			return false;
		ipv4_decrease_ttl(ip, p->ttl);
		return true;
	}
	/* The IPv6 header has no checksum: update CHECKSUM_COMPLETE. */
	return !bpf_skb_store_bytes(skb, L3_OFFSET + offsetof(struct ipv6hdr, hop_limit),
				    &hop_limit, sizeof(hop_limit), BPF_F_RECOMPUTE_CSUM);
}

#endif
