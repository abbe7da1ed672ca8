// SPDX-License-Identifier: GPL-2.0-only
/*
 * meta: a pair of network devices that run a BPF program on transmit. The primary
 * is in the host's network namespace, the peer in the Pod's. All settings and
 * programs, also those of the peer, are configured through the primary. A device
 * in single mode has no peer and receives the packets that its program passes.
 *
 * The driver is out of tree and uses exported symbols only. Therefore programs
 * are attached over rtnetlink (netlink.c) instead of bpf(2), and redirect.c
 * reimplements skb_do_redirect().
 */

#include <linux/bpf.h>
#include <linux/ethtool.h>

#include "headers.h"
#include "meta.h"

void meta_set_prog(struct net_device *dev, struct bpf_prog *prog)
{
	struct meta *meta = netdev_priv(dev);
	struct bpf_prog *old = rtnl_dereference(meta->prog);

	/* Transmits in flight run the old program, which RCU frees later. */
	rcu_assign_pointer(meta->prog, prog);
	if (old)
		bpf_prog_put(old);
}

static void meta_uninit(struct net_device *dev)
{
	meta_set_prog(dev, NULL);
}

static int meta_open(struct net_device *dev)
{
	struct meta *meta = netdev_priv(dev);
	struct net_device *peer = rtnl_dereference(meta->peer);

	if (!peer)
		return -ENOTCONN;
	if (peer == dev || peer->flags & IFF_UP) {
		netif_carrier_on(dev);
		netif_carrier_on(peer);
	}
	return 0;
}

static int meta_stop(struct net_device *dev)
{
	struct meta *meta = netdev_priv(dev);
	struct net_device *peer = rtnl_dereference(meta->peer);

	netif_carrier_off(dev);
	if (peer)
		netif_carrier_off(peer);
	return 0;
}

static void meta_set_rx_mode(struct net_device *dev)
{
	/* No address filter: the device receives all that its peer sends. */
}

static void meta_set_rx_headroom(struct net_device *dev, int headroom)
{
	struct meta *meta = netdev_priv(dev);
	struct net_device *peer;

	meta->headroom = headroom < 0 ? NET_SKB_PAD : headroom;
	headroom = meta->headroom;
	/* Open vSwitch calls this operation without RTNL. */
	rcu_read_lock();
	peer = rcu_dereference(meta->peer);
	if (peer) {
		struct meta *peer_meta = netdev_priv(peer);

		headroom = max(headroom, peer_meta->headroom);
		peer->needed_headroom = headroom;
	}
	rcu_read_unlock();
	dev->needed_headroom = headroom;
}

static int meta_set_mac_address(struct net_device *dev, void *addr)
{
	struct meta *meta = netdev_priv(dev);

	return meta->mode == META_L2 ? eth_mac_addr(dev, addr) : -EOPNOTSUPP;
}

static int meta_get_iflink(const struct net_device *dev)
{
	struct meta *meta = netdev_priv(dev);
	struct net_device *peer;
	int iflink = 0;

	rcu_read_lock();
	peer = rcu_dereference(meta->peer);
	if (peer)
		iflink = READ_ONCE(peer->ifindex);
	rcu_read_unlock();
	return iflink;
}

/*
 * Let the core segment GSO packets whose checksum is not that of the outer
 * transport header (tunnels in the Pod), and complete the checksums.
 */
static netdev_features_t meta_features_check(struct sk_buff *skb,
					     struct net_device *dev,
					     netdev_features_t features)
{
	if (skb_is_gso(skb) && skb->ip_summed == CHECKSUM_PARTIAL &&
	    (skb_headlen(skb) < ETH_HLEN || !meta_csum_is_transport(skb)))
		features &= ~(NETIF_F_CSUM_MASK | NETIF_F_SCTP_CRC |
			      NETIF_F_GSO_MASK);
	return features;
}

static const struct net_device_ops meta_netdev_ops = {
	.ndo_uninit		= meta_uninit,
	.ndo_open		= meta_open,
	.ndo_stop		= meta_stop,
	.ndo_start_xmit		= meta_xmit,
	.ndo_set_rx_mode	= meta_set_rx_mode,
	.ndo_set_rx_headroom	= meta_set_rx_headroom,
	.ndo_set_mac_address	= meta_set_mac_address,
	.ndo_get_iflink		= meta_get_iflink,
	.ndo_get_peer_dev	= meta_get_peer_dev,
	.ndo_get_stats64	= dev_get_tstats64,
	.ndo_features_check	= meta_features_check,
};

static void meta_get_drvinfo(struct net_device *dev,
			     struct ethtool_drvinfo *info)
{
	strscpy(info->driver, META_KIND, sizeof(info->driver));
	strscpy(info->version, META_VERSION, sizeof(info->version));
}

static int meta_get_sset_count(struct net_device *dev, int set)
{
	return set == ETH_SS_STATS ? 1 : -EOPNOTSUPP;
}

/* The same name as in veth, for tools that look up the peer of a device. */
static void meta_get_strings(struct net_device *dev, u32 set, u8 *names)
{
	if (set == ETH_SS_STATS)
		strscpy(names, "peer_ifindex", ETH_GSTRING_LEN);
}

static void meta_get_ethtool_stats(struct net_device *dev,
				   struct ethtool_stats *stats, u64 *values)
{
	values[0] = meta_get_iflink(dev);
}

static const struct ethtool_ops meta_ethtool_ops = {
	.get_drvinfo		= meta_get_drvinfo,
	.get_link		= ethtool_op_get_link,
	.get_sset_count		= meta_get_sset_count,
	.get_strings		= meta_get_strings,
	.get_ethtool_stats	= meta_get_ethtool_stats,
};

void meta_setup(struct net_device *dev)
{
	const netdev_features_t vlan = NETIF_F_HW_VLAN_CTAG_TX |
				       NETIF_F_HW_VLAN_CTAG_RX |
				       NETIF_F_HW_VLAN_STAG_TX |
				       NETIF_F_HW_VLAN_STAG_RX;
	const netdev_features_t features = NETIF_F_SG | NETIF_F_FRAGLIST |
					   NETIF_F_HW_CSUM | NETIF_F_RXCSUM |
					   NETIF_F_SCTP_CRC | NETIF_F_HIGHDMA |
					   NETIF_F_GSO_SOFTWARE |
					   NETIF_F_GSO_ENCAP_ALL;

	ether_setup(dev);
	dev->max_mtu = ETH_MAX_MTU;
	dev->pcpu_stat_type = NETDEV_PCPU_STAT_TSTATS;
	dev->needs_free_netdev = true;
	dev->netdev_ops = &meta_netdev_ops;
	dev->ethtool_ops = &meta_ethtool_ops;

	dev->flags |= IFF_NOARP;
	dev->priv_flags &= ~IFF_TX_SKB_SHARING;
	dev->priv_flags |= IFF_LIVE_ADDR_CHANGE | IFF_PHONY_HEADROOM |
			   IFF_NO_QUEUE | IFF_DISABLE_NETPOLL;

	dev->features |= features | vlan;
#ifdef META_HAVE_LLTX_BIT
	dev->lltx = true;
#else
	dev->features |= NETIF_F_LLTX;
#endif
	dev->hw_features = features | vlan;
	dev->hw_enc_features = features | vlan;
	dev->vlan_features = features;
	dev->mpls_features = NETIF_F_HW_CSUM | NETIF_F_GSO_SOFTWARE;

	netif_set_tso_max_size(dev, GSO_MAX_SIZE);
}
