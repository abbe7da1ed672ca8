// SPDX-License-Identifier: GPL-2.0-only
/*
 * A frame's way: what a transmit makes of it, the program's verdict, and what
 * bpf_redirect(), bpf_redirect_neigh() and bpf_redirect_peer() asked for. The
 * kernel's own skb_do_redirect() is not exported, and it refuses
 * bpf_redirect_peer() anywhere but at tc ingress.
 *
 * All of it runs under rcu_read_lock() and with softirqs off: skb->data is at
 * the MAC header, which skb->csum covers where ip_summed is CHECKSUM_COMPLETE.
 */

#include <linux/bpf.h>
#include <linux/if_arp.h>
#include <linux/indirect_call_wrapper.h>
#include <linux/interrupt.h>
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

#include "meta.h"

/* What the helpers leave in bpf_redirect_info::flags, see net/core/filter.c. */
#define REDIRECT_INGRESS	BIT(0)
#define REDIRECT_EGRESS		BIT(1)
#define REDIRECT_NEIGH		BIT(16)
#define REDIRECT_PEER		BIT(17)
#define REDIRECT_NEXTHOP	BIT(18)

static int drop(struct sk_buff *skb, enum skb_drop_reason reason)
{
	kfree_skb_reason(skb, reason);
	return NET_XMIT_DROP;
}

/*
 * Whether the receiving stack may run here and now, as its softirq would when
 * the transmit ends: the sender is a task, nobody but dev_queue_xmit() keeps
 * softirqs off, so no lock is held that the receiver may want; no packet waits
 * that this one would overtake; and half of the stack is free. Saves the way
 * over the backlog and its softirq.
 */
static bool may_receive_now(void)
{
	return !IS_ENABLED(CONFIG_PREEMPT_RT) &&
	       softirq_count() == SOFTIRQ_DISABLE_OFFSET &&
	       !local_softirq_pending() &&
	       (current_stack_pointer & (THREAD_SIZE - 1)) > THREAD_SIZE / 2;
}

static __always_inline int receive(struct sk_buff *skb, struct net_device *dev)
{
	skb->dev = dev;
	if (may_receive_now()) {
		netif_receive_skb(skb);
		return NET_XMIT_SUCCESS;
	}
	return __netif_rx(skb) == NET_RX_SUCCESS ? NET_XMIT_SUCCESS :
						   NET_XMIT_DROP;
}

static __always_inline void pull_mac_header(struct sk_buff *skb)
{
	skb_reset_mac_header(skb);
	__skb_pull(skb, ETH_HLEN);
	skb_postpull_rcsum(skb, eth_hdr(skb), ETH_HLEN);
}

/* Hands a frame to an end of a pair, whose statistics are tstats. */
static __always_inline int deliver(struct sk_buff *skb, struct net_device *dev)
{
	unsigned int len = skb->len;
	int ret;

	pull_mac_header(skb);
	ret = receive(skb, dev);
	if (likely(ret == NET_XMIT_SUCCESS))
		dev_sw_netstats_rx_add(dev, len);
	return ret;
}

static void prepare_transmit(struct sk_buff *skb, struct net_device *dev)
{
	skb->dev = dev;
	skb_clear_tstamp(skb);
	/* As for tc's redirect: no netfilter egress hook on the way. */
	nf_skip_egress(skb, true);
}

static int redirect_plain(struct sk_buff *skb, struct net_device *dev,
			  u32 flags)
{
	bool has_mac = dev_is_mac_header_xmit(dev);
	int offset = skb_network_offset(skb);

	if (unlikely(offset <= 0))
		return drop(skb, SKB_DROP_REASON_DEV_HDR);

	if (!has_mac) {
		if (unlikely(skb->len <= offset || !pskb_may_pull(skb, offset)))
			return drop(skb, SKB_DROP_REASON_PKT_TOO_SMALL);
		skb_pull_rcsum(skb, offset);
		skb_pop_mac_header(skb);
		skb_reset_mac_len(skb);
	}

	if (!(flags & REDIRECT_INGRESS)) {
		prepare_transmit(skb, dev);
		return dev_queue_xmit(skb);
	}

	skb_scrub_packet(skb, false);
	skb->priority = 0;
	if (has_mac) {
		eth_skb_pkt_type(skb, dev);
		pull_mac_header(skb);
	}
	return receive(skb, dev);
}

static noinline_for_stack int route_v4(struct sk_buff *skb,
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

static noinline_for_stack int route_v6(struct sk_buff *skb,
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

/* The neighbour to send to: the next hop given, else the route's. */
static struct neighbour *find_neighbour(struct sk_buff *skb,
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

static int redirect_neigh(struct sk_buff *skb, struct net_device *dev,
			  struct bpf_nh_params *nh)
{
	bool v6 = skb->protocol == htons(ETH_P_IPV6);
	struct neighbour *neigh;
	int headroom;

	if (unlikely(!v6 && skb->protocol != htons(ETH_P_IP)))
		return drop(skb, SKB_DROP_REASON_UNHANDLED_PROTO);
	if (unlikely((v6 || (nh && nh->nh_family == AF_INET6)) &&
		     !ipv6_mod_enabled()))
		return drop(skb, SKB_DROP_REASON_IPV6DISABLED);
	if (unlikely(!pskb_may_pull(skb, ETH_HLEN +
				    (v6 ? sizeof(struct ipv6hdr) :
					  sizeof(struct iphdr)))))
		return drop(skb, SKB_DROP_REASON_HDR_TRUNC);
	if (unlikely(is_multicast_ether_addr(eth_hdr(skb)->h_dest)))
		return drop(skb,
				 SKB_DROP_REASON_UNICAST_IN_L2_MULTICAST);

	/* The neighbour puts its own header there, which no sum covers. */
	skb_pull_rcsum(skb, ETH_HLEN);
	skb_forward_csum(skb);
	skb_unset_mac_header(skb);
	skb_reset_network_header(skb);

	if (!nh && unlikely(v6 ? route_v6(skb, dev) : route_v4(skb, dev)))
		return drop(skb, SKB_DROP_REASON_IP_OUTNOROUTES);

	headroom = LL_RESERVED_SPACE(dev);
	if (unlikely(skb_headroom(skb) < headroom && dev->header_ops)) {
		skb = skb_expand_head(skb, headroom);
		if (!skb)
			return NET_XMIT_DROP;
	}

	neigh = find_neighbour(skb, dev, nh);
	if (IS_ERR(neigh))
		return drop(skb, SKB_DROP_REASON_NEIGH_CREATEFAIL);

	prepare_transmit(skb, dev);
	sock_confirm_neigh(skb, neigh);
	/* A header cached for IPv6 does not fit an IPv4 packet sent that way. */
	return neigh_output(neigh, skb,
			    !v6 && neigh->tbl->family == AF_INET6);
}

/*
 * Called under rcu_read_lock(), also by bpf_redirect_peer() at tc ingress. From
 * the Pod's end that would be a way to the host past the program.
 */
struct net_device *meta_get_peer_dev(struct net_device *dev)
{
	struct meta *meta = netdev_priv(dev);

	return meta->primary ? rcu_dereference(meta->peer) : NULL;
}

static int redirect_peer(struct sk_buff *skb, struct net_device *dev,
			 u32 flags)
{
	const struct net_device_ops *ops = dev->netdev_ops;
	struct net_device *peer = NULL;

	if (ops->ndo_get_peer_dev)
		peer = INDIRECT_CALL_1(ops->ndo_get_peer_dev,
				       meta_get_peer_dev, dev);
	/* Within one namespace it would be a way past the peer's own hooks. */
	if (unlikely(!peer || net_eq(dev_net(dev), dev_net(peer))))
		return drop(skb, META_REASON_NO_TARGET);
	if (unlikely(!(peer->flags & IFF_UP)))
		return drop(skb, SKB_DROP_REASON_DEV_READY);

	/* All else was scrubbed before the program, which may have set these. */
	skb_dst_drop(skb);
	skb->pkt_type = PACKET_HOST;
	if (flags & REDIRECT_EGRESS)
		return redirect_plain(skb, peer, 0);
	return deliver(skb, peer);
}

/* Acts on the helper's wish; skb->dev gives the namespace of the ifindex. */
static int redirect(struct sk_buff *skb)
{
	struct bpf_redirect_info *ri = bpf_net_ctx_get_ri();
	struct net_device *dev;
	u32 flags = ri->flags;

	dev = dev_get_by_index_rcu(dev_net(skb->dev), ri->tgt_index);
	ri->tgt_index = 0;
	ri->flags = 0;

	if (unlikely(!dev))
		return drop(skb, META_REASON_NO_TARGET);
	if (flags & REDIRECT_PEER)
		return redirect_peer(skb, dev, flags);
	if (unlikely(!(dev->flags & IFF_UP)))
		return drop(skb, SKB_DROP_REASON_DEV_READY);
	if (flags & REDIRECT_NEIGH)
		return redirect_neigh(skb, dev, flags & REDIRECT_NEXTHOP ?
					   &ri->nh : NULL);
	return redirect_plain(skb, dev, flags);
}

/*
 * Makes a frame one that is about to enter the other end: nothing of the
 * sender's namespace is left on it, and what the program is told of it comes
 * from the frame and not from the sender, who may have had a raw socket.
 */
static void prepare(struct sk_buff *skb, const struct meta *meta,
		    const struct net_device *dev,
		    const struct net_device *peer)
{
	const struct ethhdr *eth;

	skb_reset_mac_header(skb);
	skb_scrub_packet(skb, false);
	if (!net_eq(dev_net(dev), dev_net(peer))) {
		skb_clear_tstamp(skb);
		if (meta->scrub != META_SCRUB_NONE) {
			skb->mark = 0;
			skb->priority = 0;
		}
	}

	eth = eth_hdr(skb);
	skb->protocol = eth_proto_is_802_3(eth->h_proto) ? eth->h_proto :
							   htons(ETH_P_802_2);
	if (unlikely(skb_network_offset(skb) <= 0))
		skb_set_network_header(skb, ETH_HLEN);
	/* MAC addresses say nothing in L3 mode, but for groups. */
	if (meta->mode == META_L2 || is_multicast_ether_addr(eth->h_dest))
		eth_skb_pkt_type(skb, peer);
}

netdev_tx_t meta_xmit(struct sk_buff *skb, struct net_device *dev)
{
	/* The core clears of it what it uses, when it does. */
	struct bpf_net_context net_ctx __uninitialized, *old_ctx;
	struct meta *meta = netdev_priv(dev);
	const struct bpf_prog *prog;
	enum skb_drop_reason reason;
	struct net_device *peer;
	int len = skb->len;
	int verdict, ret;

	old_ctx = bpf_net_ctx_set(&net_ctx);
	rcu_read_lock();

	/*
	 * Program, redirect and the next device's transmit nest on one stack,
	 * of which this takes a level more than dev_queue_xmit() has counted.
	 */
	dev_xmit_recursion_inc();
	reason = META_REASON_RECURSION;
	if (unlikely(dev_xmit_recursion()))
		goto drop;
	reason = SKB_DROP_REASON_DEV_READY;
	peer = rcu_dereference(meta->peer);
	if (unlikely(!peer || !(peer->flags & IFF_UP)))
		goto drop;
	reason = SKB_DROP_REASON_HDR_TRUNC;
	if (unlikely(!pskb_may_pull(skb, ETH_HLEN)))
		goto drop;
	reason = SKB_DROP_REASON_SKB_UCOPY_FAULT;
	if (unlikely(skb_orphan_frags(skb, GFP_ATOMIC)))
		goto drop;

	prepare(skb, meta, dev, peer);

	/* The host's end on both ways, so that its ifindexes hold. */
	skb->dev = meta->primary ? dev : peer;
	prog = rcu_dereference(meta->prog);
	if (likely(prog)) {
		bpf_compute_data_pointers(skb);
		verdict = bpf_prog_run(prog, skb);
		reason = SKB_DROP_REASON_TC_EGRESS;
	} else {
		verdict = READ_ONCE(meta->policy);
		reason = SKB_DROP_REASON_TC_CHAIN_NOTFOUND;
	}

	switch (verdict) {
	case META_NEXT:
	case META_PASS:
		ret = deliver(skb, peer);
		break;
	case META_REDIRECT:
		ret = redirect(skb);
		break;
	default:
drop:
		ret = drop(skb, reason);
		break;
	}

	if (likely(ret == NET_XMIT_SUCCESS || ret == NET_XMIT_CN))
		dev_sw_netstats_tx_add(dev, 1, len);
	else
		dev_core_stats_tx_dropped_inc(dev);

	dev_xmit_recursion_dec();
	rcu_read_unlock();
	bpf_net_ctx_clear(old_ctx);
	return ret;
}
