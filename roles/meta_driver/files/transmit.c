// SPDX-License-Identifier: GPL-2.0-only
/*
 * Transmits a packet: scrubs it, runs the program, carries out the verdict.
 *
 * Here and in redirect.c skb->data is at the MAC header, which skb->csum covers
 * if ip_summed is CHECKSUM_COMPLETE. Softirqs are off.
 */

#include <linux/bpf.h>

#include "forward.h"
#include "headers.h"
#include "meta.h"
/* Included instead of linked, so that meta_redirect() is inlined below. */
#include "redirect.c"

/*
 * Complete a checksum that is not that of the transport header (see headers.h),
 * so that the program sees the final packet. Return an error for one outside of
 * the packet, and for GSO: meta_features_check() makes the core segment first.
 */
static noinline int meta_complete_csum(struct sk_buff *skb)
{
	int start = skb_checksum_start_offset(skb);

	if (skb_is_gso(skb) || start < 0 ||
	    start + skb->csum_offset + sizeof(__sum16) > skb_headlen(skb))
		return -EINVAL;
	return skb_csum_hwoffload_help(skb, 0);
}

/*
 * Remove the metadata of the sender's namespace. Derive the header offsets, and
 * protocol and packet type, which the program reads, from the packet: a raw
 * socket may set others.
 */
static void meta_prep_forward(struct sk_buff *skb, const struct meta *meta,
			      const struct net_device *dev,
			      const struct net_device *peer)
{
	const struct ethhdr *eth;

	skb_reset_mac_header(skb);
	skb_scrub_packet(skb, false);
	if (!net_eq(dev_net(dev), dev_net(peer))) {
		skb_clear_tstamp(skb);
		/* else the host's IPVS ignores packets that a Pod's IPVS has handled */
		ipvs_reset(skb);
		if (meta->scrub != META_SCRUB_NONE) {
			skb->mark = 0;
			skb->priority = 0;
		}
	}

	eth = eth_hdr(skb);
	skb->protocol = eth_proto_is_802_3(eth->h_proto) ? eth->h_proto :
							   htons(ETH_P_802_2);
	meta_reset_network_header(skb);
	/* L3 mode ignores unicast addresses. */
	if (meta->mode == META_L2 || is_multicast_ether_addr(eth->h_dest))
		eth_skb_pkt_type(skb, peer);
}

netdev_tx_t meta_xmit(struct sk_buff *skb, struct net_device *dev)
{
	/* Not initialised: the core clears what it uses before the first use. */
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
	 * dev_queue_xmit() counts one level of recursion. Count another for the
	 * stack that the program and the redirect use.
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

	reason = SKB_DROP_REASON_SKB_CSUM;
	if (skb->ip_summed == CHECKSUM_PARTIAL &&
	    unlikely(!meta_csum_is_transport(skb)) && meta_complete_csum(skb))
		goto drop;

	meta_prep_forward(skb, meta, dev, peer);

	/* The primary in both directions: the program sees host ifindexes. */
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
		ret = meta_forward_skb(skb, peer);
		break;
	case META_REDIRECT:
		ret = meta_redirect(skb);
		break;
	default:
drop:
		ret = meta_drop_skb(skb, reason);
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
