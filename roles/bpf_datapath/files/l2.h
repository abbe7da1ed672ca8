// SPDX-License-Identifier: GPL-2.0-only
/*
 * Pods whose devices have MAC addresses ask for those of others. All are reached by way of the
 * node, so the answer to each is the host's end of the Pod's own device.
 */
#ifndef PODNET_L2_H
#define PODNET_L2_H

#include <linux/bpf.h>
#include <linux/icmpv6.h>
#include <linux/if_ether.h>
#include <bpf/bpf_helpers.h>

#include "endpoints.h"
#include "parse.h"
#include "reasons.h"

#define ARP_ETHERNET 1
#define ARP_REQUEST 1
#define ARP_REPLY 2
#define ND_SOLICITATION 135
#define ND_ADVERTISEMENT 136
#define ND_ROUTER_SOLICITED_OVERRIDE 0xe0000000
#define ND_SOURCE_ADDRESS 1	/* options, of one word of 8 bytes */
#define ND_TARGET_ADDRESS 2
#define ND_HOP_LIMIT 255

struct arp {
	__be16 hardware;
	__be16 protocol;
	__u8 hardware_len;
	__u8 protocol_len;
	__be16 operation;
	__u8 sender_mac[ETH_ALEN];
	__u8 sender[4];
	__u8 target_mac[ETH_ALEN];
	__u8 target[4];
};

struct nd {
	__u8 type;
	__u8 code;
	__be16 sum;
	__be32 flags;
	__be32 target[4];
	__u8 option;
	__u8 option_len;
	__u8 mac[ETH_ALEN];
};

static __always_inline bool store_macs(struct __sk_buff *skb, const __u8 *to, const __u8 *from)
{
	return !bpf_skb_store_bytes(skb, 0, to, ETH_ALEN, 0) &&
	       !bpf_skb_store_bytes(skb, ETH_ALEN, from, ETH_ALEN, 0);
}

/* Make an ARP request its own answer. False: it is none, or not ours to answer. */
static __noinline bool answer_arp(struct __sk_buff *skb, const struct pod *pod)
{
	struct arp arp, answer = {};
	struct endpoint *ep;
	__be32 target;

	if (bpf_skb_load_bytes(skb, L3_OFFSET, &arp, sizeof(arp)) ||
	    arp.hardware != bpf_htons(ARP_ETHERNET) || arp.protocol != bpf_htons(ETH_P_IP) ||
	    arp.hardware_len != ETH_ALEN || arp.protocol_len != 4 ||
	    arp.operation != bpf_htons(ARP_REQUEST))
		return false;
	/* without an address of its own the Pod only wants to know whether one is taken */
	if (!(arp.sender[0] | arp.sender[1] | arp.sender[2] | arp.sender[3]))
		return false;
	__builtin_memcpy(&target, arp.target, sizeof(target));
	ep = bpf_map_lookup_elem(&endpoints4, &target);
	if (ep && ep->ifindex == skb->ifindex)
		return false;
	answer = arp;
	answer.operation = bpf_htons(ARP_REPLY);
	__builtin_memcpy(answer.sender_mac, pod->mac, ETH_ALEN);
	__builtin_memcpy(answer.sender, arp.target, 4);
	__builtin_memcpy(answer.target_mac, arp.sender_mac, ETH_ALEN);
	__builtin_memcpy(answer.target, arp.sender, 4);
	return store_macs(skb, arp.sender_mac, pod->mac) &&
	       !bpf_skb_store_bytes(skb, L3_OFFSET, &answer, sizeof(answer), 0);
}

/* The same for a neighbour solicitation. */
static __noinline bool answer_ndp(struct __sk_buff *skb, const struct pod *pod)
{
	__u32 l4 = L3_OFFSET + sizeof(struct ipv6hdr);
	__u8 mac[ETH_ALEN];
	struct ipv6hdr ip;
	struct nd nd;
	struct endpoint *ep;
	struct {
		__be32 src[4];
		__be32 dst[4];
		__be32 len;
		__be32 nexthdr;
	} pseudo = {};
	__s64 sum;

	if (bpf_skb_load_bytes(skb, L3_OFFSET, &ip, sizeof(ip)) ||
	    bpf_skb_load_bytes(skb, l4, &nd, sizeof(nd)) || ip.version != 6 ||
	    ip.nexthdr != IPPROTO_ICMPV6 || ip.hop_limit != ND_HOP_LIMIT ||
	    ip.payload_len != bpf_htons(sizeof(nd)) || nd.type != ND_SOLICITATION || nd.code ||
	    nd.option != ND_SOURCE_ADDRESS || nd.option_len != 1)
		return false;
	__builtin_memcpy(pseudo.src, nd.target, sizeof(pseudo.src));
	ep = bpf_map_lookup_elem(&endpoints6, pseudo.src);
	if (ep && ep->ifindex == skb->ifindex)
		return false;
	__builtin_memcpy(pseudo.dst, &ip.saddr, sizeof(pseudo.dst));
	pseudo.len = bpf_htonl(sizeof(nd));
	pseudo.nexthdr = bpf_htonl(IPPROTO_ICMPV6);
	__builtin_memcpy(mac, nd.mac, sizeof(mac));
	nd.type = ND_ADVERTISEMENT;
	nd.sum = 0;
	nd.flags = bpf_htonl(ND_ROUTER_SOLICITED_OVERRIDE);
	nd.option = ND_TARGET_ADDRESS;
	__builtin_memcpy(nd.mac, pod->mac, sizeof(nd.mac));
	sum = bpf_csum_diff(NULL, 0, (__be32 *)&pseudo, sizeof(pseudo), 0);
	sum = bpf_csum_diff(NULL, 0, (__be32 *)&nd, sizeof(nd), sum);
	sum = (sum & 0xffff) + ((sum >> 16) & 0xffff);
	sum = (sum & 0xffff) + (sum >> 16);
	nd.sum = ~sum;
	return store_macs(skb, mac, pod->mac) &&
	       !bpf_skb_store_bytes(skb, L3_OFFSET + offsetof(struct ipv6hdr, saddr), pseudo.src,
				    2 * sizeof(pseudo.src), 0) &&
	       !bpf_skb_store_bytes(skb, l4, &nd, sizeof(nd), 0);
}

#endif
