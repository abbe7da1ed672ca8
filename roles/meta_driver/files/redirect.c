// SPDX-License-Identifier: GPL-2.0-only
/*
 * Carries out bpf_redirect(), bpf_redirect_neigh() and bpf_redirect_peer(), as
 * skb_do_redirect() does for tc and netkit. That function is not exported to
 * modules, and it supports bpf_redirect_peer() at tc ingress only.
 *
 * transmit.c includes this file, so that the compiler inlines meta_redirect()
 * into meta_xmit().
 */

#include <linux/if_arp.h>
#include <linux/indirect_call_wrapper.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/netfilter_netdev.h>

#include <net/dst.h>
#include <net/ip.h>
#include <net/ip6_fib.h>
#include <net/ip6_route.h>
#include <net/ipv6.h>
#include <net/neighbour.h>
#include <net/route.h>
#include <net/sock.h>

#include "forward.h"
#include "headers.h"
#include "meta.h"

/* Values of bpf_redirect_info::flags, private to net/core/filter.c. */
#define META_REDIRECT_INGRESS	BIT(0)
#define META_REDIRECT_EGRESS	BIT(1)
#define META_REDIRECT_NEIGH	BIT(16)
#define META_REDIRECT_PEER	BIT(17)
#define META_REDIRECT_NEXTHOP	BIT(18)

static void meta_prep_xmit(struct sk_buff *skb, struct net_device *dev)
{
	skb->dev = dev;
	skb_clear_tstamp(skb);
	/* A tc redirect skips the netfilter egress hook as well. */
	nf_skip_egress(skb, true);
}

static int meta_redirect_plain(struct sk_buff *skb, struct net_device *dev,
			       u32 flags)
{
	bool has_mac = dev_is_mac_header_xmit(dev);

	if (!has_mac) {
		int offset;

		/* The program may have changed the packet. */
		meta_reset_network_header(skb);
		offset = skb_network_offset(skb);
		if (unlikely(skb->len <= offset || !pskb_may_pull(skb, offset)))
			return meta_drop_skb(skb, SKB_DROP_REASON_PKT_TOO_SMALL);
		skb_pull_rcsum(skb, offset);
		skb_pop_mac_header(skb);
		skb_reset_mac_len(skb);
	}

	if (!(flags & META_REDIRECT_INGRESS)) {
		meta_prep_xmit(skb, dev);
		return dev_queue_xmit(skb);
	}

	skb_scrub_packet(skb, false);
	skb->priority = 0;
	if (has_mac) {
		eth_skb_pkt_type(skb, dev);
		meta_pull_mac_header(skb);
	}
	return meta_receive_skb(skb, dev);
}

static noinline_for_stack int meta_route_output_v4(struct sk_buff *skb,
						   struct net_device *dev)
{
	const struct iphdr *ip = ip_hdr(skb);
	struct flowi4 fl = {
		.flowi4_flags	= FLOWI_FLAG_ANYSRC,
		.flowi4_mark	= skb->mark,
		.flowi4_oif	= dev->ifindex,
		.flowi4_proto	= ip->protocol,
		.daddr		= ip->daddr,
		.saddr		= ip->saddr,
#ifdef META_HAVE_FLOWI4_DSCP
		.flowi4_dscp	= ip4h_dscp(ip),
#else
		.flowi4_tos	= RT_TOS(ip->tos),
#endif
	};
	struct rtable *rt = ip_route_output_flow(dev_net(dev), &fl, NULL);

	if (IS_ERR(rt))
		return PTR_ERR(rt);
	if (rt->rt_type != RTN_UNICAST && rt->rt_type != RTN_LOCAL) {
		ip_rt_put(rt);
		return -ENETUNREACH;
	}
	skb_dst_drop(skb);
	skb_dst_set(skb, &rt->dst);
	return 0;
}

static noinline_for_stack int meta_route_output_v6(struct sk_buff *skb,
						   struct net_device *dev)
{
#if IS_ENABLED(CONFIG_IPV6)
	const struct ipv6hdr *ip = ipv6_hdr(skb);
	struct flowi6 fl = {
		.flowi6_flags	= FLOWI_FLAG_ANYSRC,
		.flowi6_mark	= skb->mark,
		.flowi6_oif	= dev->ifindex,
		.flowi6_proto	= ip->nexthdr,
		.flowlabel	= ip6_flowinfo(ip),
		.daddr		= ip->daddr,
		.saddr		= ip->saddr,
	};
	struct dst_entry *dst = ip6_dst_lookup_flow(dev_net(dev), NULL, &fl,
						    NULL);

	if (IS_ERR(dst))
		return PTR_ERR(dst);
	skb_dst_drop(skb);
	skb_dst_set(skb, dst);
	return 0;
#else
	return -EAFNOSUPPORT;
#endif
}

/* Return the neighbour of the next hop nh, or of the route if nh is NULL. */
static struct neighbour *meta_get_neigh(struct sk_buff *skb,
					struct net_device *dev,
					struct bpf_nh_params *nh)
{
	bool v6 = skb->protocol == htons(ETH_P_IPV6);
	const struct rt6_info *rt;
	bool is_v6gw;

	if (nh) {
		if (nh->nh_family == AF_INET6)
			return ip_neigh_gw6(dev, &nh->ipv6_nh);
		if (nh->nh_family != AF_INET || v6)
			return ERR_PTR(-EAFNOSUPPORT);
		return ip_neigh_gw4(dev, (__force __be32)nh->ipv4_nh);
	}
	if (!v6)
		return ip_neigh_for_gw(skb_rtable(skb), skb, &is_v6gw);
	rt = container_of(skb_dst(skb), struct rt6_info, dst);
	return ip_neigh_gw6(dev, rt6_nexthop(rt, &ipv6_hdr(skb)->daddr));
}

static int meta_redirect_neigh(struct sk_buff *skb, struct net_device *dev,
			       struct bpf_nh_params *nh)
{
	bool v6 = skb->protocol == htons(ETH_P_IPV6);
	struct neighbour *neigh;
	int headroom;

	if (unlikely(!v6 && skb->protocol != htons(ETH_P_IP)))
		return meta_drop_skb(skb, SKB_DROP_REASON_UNHANDLED_PROTO);
	if (unlikely((v6 || (nh && nh->nh_family == AF_INET6)) &&
		     !ipv6_mod_enabled()))
		return meta_drop_skb(skb, SKB_DROP_REASON_IPV6DISABLED);
	if (unlikely(!pskb_may_pull(skb, ETH_HLEN +
				    (v6 ? sizeof(struct ipv6hdr) :
					  sizeof(struct iphdr)))))
		return meta_drop_skb(skb, SKB_DROP_REASON_HDR_TRUNC);
	if (unlikely(is_multicast_ether_addr(eth_hdr(skb)->h_dest)))
		return meta_drop_skb(skb,
				     SKB_DROP_REASON_UNICAST_IN_L2_MULTICAST);

	/* neigh_output() writes another header there, outside of skb->csum. */
	skb_pull_rcsum(skb, ETH_HLEN);
	skb_forward_csum(skb);
	skb_unset_mac_header(skb);
	skb_reset_network_header(skb);

	if (!nh && unlikely(v6 ? meta_route_output_v6(skb, dev) :
				 meta_route_output_v4(skb, dev)))
		return meta_drop_skb(skb, SKB_DROP_REASON_IP_OUTNOROUTES);

	headroom = LL_RESERVED_SPACE(dev);
	if (unlikely(skb_headroom(skb) < headroom && dev->header_ops)) {
		skb = skb_expand_head(skb, headroom);
		if (!skb)
			return NET_XMIT_DROP;
	}

	neigh = meta_get_neigh(skb, dev, nh);
	if (IS_ERR(neigh))
		return meta_drop_skb(skb, SKB_DROP_REASON_NEIGH_CREATEFAIL);

	meta_prep_xmit(skb, dev);
	sock_confirm_neigh(skb, neigh);
	/* The header cached by an IPv6 neighbour has the EtherType of IPv6. */
	return neigh_output(neigh, skb,
			    !v6 && neigh->tbl->family == AF_INET6);
}

/*
 * Called under rcu_read_lock(), also by bpf_redirect_peer() at tc ingress. NULL
 * for the peer: a redirect from the Pod to the primary would bypass the program.
 */
struct net_device *meta_get_peer_dev(struct net_device *dev)
{
	struct meta *meta = netdev_priv(dev);

	return meta->primary ? rcu_dereference(meta->peer) : NULL;
}

static int meta_redirect_peer(struct sk_buff *skb, struct net_device *dev,
			      u32 flags)
{
	const struct net_device_ops *ops = dev->netdev_ops;
	struct net_device *peer = NULL;

	if (ops->ndo_get_peer_dev)
		peer = INDIRECT_CALL_1(ops->ndo_get_peer_dev,
				       meta_get_peer_dev, dev);
	/* Within one namespace a redirect would bypass the peer's own hooks. */
	if (unlikely(!peer || net_eq(dev_net(dev), dev_net(peer))))
		return meta_drop_skb(skb, META_REASON_NO_TARGET);
	if (unlikely(!(peer->flags & IFF_UP)))
		return meta_drop_skb(skb, SKB_DROP_REASON_DEV_READY);

	/* The program may have set these after meta_prep_forward() scrubbed. */
	skb_dst_drop(skb);
	skb->pkt_type = PACKET_HOST;
	if (flags & META_REDIRECT_EGRESS)
		return meta_redirect_plain(skb, peer, 0);
	return meta_forward_skb(skb, peer);
}

/* The target's ifindex belongs to the network namespace of skb->dev. */
static int meta_redirect(struct sk_buff *skb)
{
	struct bpf_redirect_info *ri = bpf_net_ctx_get_ri();
	struct net_device *dev;
	u32 flags = ri->flags;

	dev = dev_get_by_index_rcu(dev_net(skb->dev), ri->tgt_index);
	ri->tgt_index = 0;
	ri->flags = 0;

	if (unlikely(!dev))
		return meta_drop_skb(skb, META_REASON_NO_TARGET);
	if (flags & META_REDIRECT_PEER)
		return meta_redirect_peer(skb, dev, flags);
	if (unlikely(!(dev->flags & IFF_UP)))
		return meta_drop_skb(skb, SKB_DROP_REASON_DEV_READY);
	if (flags & META_REDIRECT_NEIGH)
		return meta_redirect_neigh(skb, dev,
					   flags & META_REDIRECT_NEXTHOP ?
						   &ri->nh : NULL);
	return meta_redirect_plain(skb, dev, flags);
}
