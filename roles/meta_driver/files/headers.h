/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Header and checksum offsets. A sender can set them to any value, so they are
 * derived from the packet itself. skb->data is at the MAC header.
 */
#ifndef _META_HEADERS_H
#define _META_HEADERS_H

#include <linux/etherdevice.h>
#include <linux/if_vlan.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/sctp.h>
#include <linux/skbuff.h>
#include <linux/tcp.h>
#include <linux/udp.h>

#include <net/ip.h>
#include <net/ipv6.h>

#define META_MAX_VLAN_TAGS	8

/* Skip VLAN tags in the packet. Return the network header's offset. */
static noinline int meta_skip_vlan_tags(const struct sk_buff *skb,
					__be16 *proto)
{
	int i, offset = ETH_HLEN;

	for (i = 0; eth_type_vlan(*proto) && i < META_MAX_VLAN_TAGS; i++) {
		const struct vlan_hdr *tag;
		struct vlan_hdr copy;

		tag = skb_header_pointer(skb, offset, sizeof(copy), &copy);
		if (!tag)
			break;
		*proto = tag->h_vlan_encapsulated_proto;
		offset += VLAN_HLEN;
	}
	return offset;
}

static __always_inline int meta_network_offset(const struct sk_buff *skb,
					       __be16 *proto)
{
	*proto = ((const struct ethhdr *)skb->data)->h_proto;
	if (unlikely(eth_type_vlan(*proto)))
		return meta_skip_vlan_tags(skb, proto);
	return ETH_HLEN;
}

static __always_inline void meta_reset_network_header(struct sk_buff *skb)
{
	__be16 proto;

	skb_set_network_header(skb, meta_network_offset(skb, &proto));
	skb_reset_mac_len(skb);
	if (unlikely(!skb_transport_header_was_set(skb)))
		skb->transport_header = skb->network_header;
}

static noinline int meta_skip_exthdrs(const struct sk_buff *skb, int offset,
				      u8 *proto)
{
	__be16 frag_off;

	offset = ipv6_skip_exthdr(skb, offset, proto, &frag_off);
	return frag_off ? -1 : offset;
}

/*
 * Tell whether the checksum that CHECKSUM_PARTIAL requests is that of the
 * packet's transport header. Any other would be written over fields that the
 * program has already checked.
 */
static __always_inline bool meta_csum_is_transport(struct sk_buff *skb)
{
	int start = skb_checksum_start_offset(skb);
	int offset;
	__be16 proto;
	u8 transport;

	offset = meta_network_offset(skb, &proto);
	/* The headers up to start are linear. */
	if (unlikely(start > (int)skb_headlen(skb)))
		return false;
	if (proto == htons(ETH_P_IP)) {
		const struct iphdr *ip = (const void *)skb->data + offset;

		if (unlikely(start < offset + (int)sizeof(*ip)))
			return false;
		if (unlikely(ip_is_fragment(ip)))
			return false;
		offset += ip->ihl * 4;
		transport = ip->protocol;
	} else if (proto == htons(ETH_P_IPV6)) {
		const struct ipv6hdr *ip = (const void *)skb->data + offset;

		offset += sizeof(*ip);
		if (unlikely(start < offset))
			return false;
		transport = ip->nexthdr;
		if (unlikely(start != offset))
			offset = meta_skip_exthdrs(skb, offset, &transport);
	} else {
		return false;
	}
	if (unlikely(start != offset))
		return false;
	switch (transport) {
	case IPPROTO_TCP:
		return skb->csum_offset == offsetof(struct tcphdr, check);
	case IPPROTO_UDP:
		return skb->csum_offset == offsetof(struct udphdr, check);
	case IPPROTO_SCTP:
		return skb->csum_offset == offsetof(struct sctphdr, checksum) &&
		       skb_csum_is_sctp(skb);
	default:
		return false;
	}
}

#endif /* _META_HEADERS_H */
