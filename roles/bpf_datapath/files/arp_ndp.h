// SPDX-License-Identifier: GPL-2.0-only
/*
 * ARP and NDP replies to Pods in L2 mode. The node routes all traffic of a Pod, so every reply has
 * the MAC address of the host end of the Pod's device.
 */
#ifndef PODNET_ARP_NDP_H
#define PODNET_ARP_NDP_H

#include <linux/bpf.h>
#include <linux/icmpv6.h>
#include <linux/if_ether.h>
#include <bpf/bpf_helpers.h>

#include "endpoints.h"
#include "parse.h"
#include "metrics.h"

#define ARP_ETHERNET 1
#define ARP_REQUEST 1
#define ARP_REPLY 2
#define ND_SOLICITATION 135
#define ND_ADVERTISEMENT 136
#define ND_ROUTER_SOLICITED_OVERRIDE 0xe0000000
#define ND_SOURCE_ADDRESS 1	/* options, each of 8 bytes */
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

static __always_inline bool eth_store_addrs(struct __sk_buff *skb, const __u8 *to, const __u8 *from)
{
	return !bpf_skb_store_bytes(skb, 0, to, ETH_ALEN, 0) &&
	       !bpf_skb_store_bytes(skb, ETH_ALEN, from, ETH_ALEN, 0);
}

/* Turn an ARP request into its reply. Return false for all other packets, and for probes. */
static __noinline bool arp_reply(struct __sk_buff *skb, const struct pod *pod)
{
	struct arp arp, reply = {};
	struct endpoint *ep;
	__be32 target;

	if (bpf_skb_load_bytes(skb, L3_OFFSET, &arp, sizeof(arp)) ||
	    arp.hardware != bpf_htons(ARP_ETHERNET) || arp.protocol != bpf_htons(ETH_P_IP) ||
	    arp.hardware_len != ETH_ALEN || arp.protocol_len != 4 ||
	    arp.operation != bpf_htons(ARP_REQUEST))
		return false;
	/* ARP probe (RFC 5227): a reply would signal an address conflict */
	if (!(arp.sender[0] | arp.sender[1] | arp.sender[2] | arp.sender[3]))
		return false;
	__builtin_memcpy(&target, arp.target, sizeof(target));
	ep = bpf_map_lookup_elem(&endpoints4, &target);
	if (ep && ep->ifindex == skb->ifindex)
		return false;
	reply = arp;
	reply.operation = bpf_htons(ARP_REPLY);
	__builtin_memcpy(reply.sender_mac, pod->mac, ETH_ALEN);
	__builtin_memcpy(reply.sender, arp.target, 4);
	__builtin_memcpy(reply.target_mac, arp.sender_mac, ETH_ALEN);
	__builtin_memcpy(reply.target, arp.sender, 4);
	return eth_store_addrs(skb, arp.sender_mac, pod->mac) &&
	       !bpf_skb_store_bytes(skb, L3_OFFSET, &reply, sizeof(reply), 0);
}

/*
 * Return whether the stack must not get an ARP packet: it stores the sender of any request that is
 * to an address of the node. It ignores other messages than replies.
 */
static __noinline bool arp_is_denied(struct __sk_buff *skb)
{
	__be16 operation;

	return bpf_skb_load_bytes(skb, L3_OFFSET + offsetof(struct arp, operation), &operation,
				  sizeof(operation)) ||
	       operation != bpf_htons(ARP_REPLY);
}

/* Turn a neighbour solicitation into its advertisement, likewise. */

static __noinline bool ndp_reply(struct __sk_buff *skb, const struct pod *pod)
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
	return eth_store_addrs(skb, mac, pod->mac) &&
	       !bpf_skb_store_bytes(skb, L3_OFFSET + offsetof(struct ipv6hdr, saddr), pseudo.src,
				    2 * sizeof(pseudo.src), 0) &&
	       !bpf_skb_store_bytes(skb, l4, &nd, sizeof(nd), 0);
}

#endif
