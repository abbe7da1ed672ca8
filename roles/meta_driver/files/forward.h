/* SPDX-License-Identifier: GPL-2.0-only */
/* Passes a packet to the receive path of a device, or drops it. */
#ifndef _META_FORWARD_H
#define _META_FORWARD_H

#include <linux/etherdevice.h>
#include <linux/interrupt.h>
#include <linux/netdevice.h>
#include <linux/skbuff.h>

static inline int meta_drop_skb(struct sk_buff *skb,
				enum skb_drop_reason reason)
{
	kfree_skb_reason(skb, reason);
	return NET_XMIT_DROP;
}

/*
 * Tell whether netif_receive_skb() may run now. The NET_RX softirq would run it
 * as soon as the transmit ends; a direct call saves the softirq and the backlog.
 *
 * The sender must be a task in which nothing but dev_queue_xmit() disabled
 * softirqs: such a sender holds no lock that the receive path may take. No
 * softirq may be pending, as this packet would overtake those in the backlog.
 * Half of the kernel stack must be free.
 */
static inline bool meta_may_receive_directly(void)
{
	return !IS_ENABLED(CONFIG_PREEMPT_RT) &&
	       softirq_count() == SOFTIRQ_DISABLE_OFFSET &&
	       !local_softirq_pending() &&
	       (current_stack_pointer & (THREAD_SIZE - 1)) > THREAD_SIZE / 2;
}

static __always_inline int meta_receive_skb(struct sk_buff *skb,
					    struct net_device *dev)
{
	skb->dev = dev;
	if (meta_may_receive_directly()) {
		netif_receive_skb(skb);
		return NET_XMIT_SUCCESS;
	}
	return __netif_rx(skb) == NET_RX_SUCCESS ? NET_XMIT_SUCCESS :
						   NET_XMIT_DROP;
}

static __always_inline void meta_pull_mac_header(struct sk_buff *skb)
{
	skb_reset_mac_header(skb);
	__skb_pull(skb, ETH_HLEN);
	skb_postpull_rcsum(skb, eth_hdr(skb), ETH_HLEN);
}

/* dev needs tstats, which every driver with ndo_get_peer_dev must provide. */
static __always_inline int meta_forward_skb(struct sk_buff *skb,
					    struct net_device *dev)
{
	unsigned int len = skb->len;
	int ret;

	meta_pull_mac_header(skb);
	ret = meta_receive_skb(skb, dev);
	if (likely(ret == NET_XMIT_SUCCESS))
		dev_sw_netstats_rx_add(dev, len);
	return ret;
}

#endif /* _META_FORWARD_H */
