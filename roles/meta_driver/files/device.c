// SPDX-License-Identifier: GPL-2.0-only
/*
 * meta: a pair of network devices with a BPF program for each direction in the
 * device itself. The primary stays with the host, the peer goes to the Pod.
 * Only the primary can be configured, and whatever the Pod sends or gets
 * passes the host's program.
 *
 * The driver is out of tree and uses exported symbols only, so programs are
 * attached over rtnetlink, and redirect.c does what the core keeps to itself.
 */

#include <linux/bpf.h>
#include <linux/ethtool.h>
#include <linux/module.h>
#include <linux/percpu.h>

#include "meta.h"

#define DRV_NAME	"meta"

static DEFINE_PER_CPU(unsigned int, meta_depth);

/*
 * Makes a frame one that is about to enter the other end: nothing of the
 * sender's namespace is left on it, and what the program is told of it comes
 * from the frame and not from the sender, who may have had a raw socket.
 */
static void meta_prepare(struct sk_buff *skb, const struct meta *meta,
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

static netdev_tx_t meta_xmit(struct sk_buff *skb, struct net_device *dev)
{
	struct bpf_net_context net_ctx, *old_ctx;
	struct meta *meta = netdev_priv(dev);
	const struct bpf_prog *prog;
	enum skb_drop_reason reason;
	struct net_device *peer;
	int len = skb->len;
	int verdict, ret;

	old_ctx = bpf_net_ctx_set(&net_ctx);
	rcu_read_lock();

	reason = META_REASON_RECURSION;
	if (unlikely(this_cpu_inc_return(meta_depth) > META_MAX_DEPTH))
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

	meta_prepare(skb, meta, dev, peer);

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
		ret = meta_deliver(skb, peer);
		break;
	case META_REDIRECT:
		ret = meta_redirect(skb);
		break;
	default:
drop:
		ret = meta_drop(skb, reason);
		break;
	}

	if (likely(ret == NET_XMIT_SUCCESS || ret == NET_XMIT_CN))
		dev_sw_netstats_tx_add(dev, 1, len);
	else
		dev_core_stats_tx_dropped_inc(dev);

	this_cpu_dec(meta_depth);
	rcu_read_unlock();
	bpf_net_ctx_clear(old_ctx);
	return ret;
}

static void meta_set_prog(struct net_device *dev, struct bpf_prog *prog)
{
	struct meta *meta = netdev_priv(dev);
	struct bpf_prog *old = rtnl_dereference(meta->prog);

	/* A frame in flight ends with the old program, freed after RCU. */
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
	if (peer->flags & IFF_UP) {
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
	/* There is no filter: every frame of the other end is received. */
}

static void meta_set_rx_headroom(struct net_device *dev, int headroom)
{
	struct meta *meta = netdev_priv(dev);
	struct net_device *peer;

	meta->headroom = headroom < 0 ? NET_SKB_PAD : headroom;
	headroom = meta->headroom;
	/* Open vSwitch calls this without RTNL. */
	rcu_read_lock();
	peer = rcu_dereference(meta->peer);
	if (peer) {
		struct meta *other = netdev_priv(peer);

		headroom = max(headroom, other->headroom);
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

/* Called under rcu_read_lock(), also by bpf_redirect_peer() at tc ingress. */
struct net_device *meta_get_peer_dev(struct net_device *dev)
{
	struct meta *meta = netdev_priv(dev);

	return rcu_dereference(meta->peer);
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
	.ndo_features_check	= passthru_features_check,
};

static void meta_get_drvinfo(struct net_device *dev,
			     struct ethtool_drvinfo *info)
{
	strscpy(info->driver, DRV_NAME, sizeof(info->driver));
	strscpy(info->version, META_VERSION, sizeof(info->version));
}

static const struct ethtool_ops meta_ethtool_ops = {
	.get_drvinfo	= meta_get_drvinfo,
	.get_link	= ethtool_op_get_link,
};

static void meta_setup(struct net_device *dev)
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

/* What an attribute may hold, and whether it may be given again later. */
static const struct {
	int type;
	u32 values;		/* a bit for each; 0: any */
	const char *invalid;
	const char *fixed;	/* NULL: it can be changed */
} meta_rules[] = {
	{ IFLA_META_POLICY, BIT(META_PASS) | BIT(META_DROP),
	  "meta: policy must be 0 (pass) or 2 (drop)" },
	{ IFLA_META_PEER_POLICY, BIT(META_PASS) | BIT(META_DROP),
	  "meta: peer policy must be 0 (pass) or 2 (drop)" },
	{ IFLA_META_MODE, BIT(META_L2) | BIT(META_L3),
	  "meta: mode must be 0 (L2) or 1 (L3)",
	  "meta: mode cannot be changed after creation" },
	{ IFLA_META_SCRUB, BIT(META_SCRUB_NONE) | BIT(META_SCRUB_DEFAULT),
	  "meta: scrub must be 0 (none) or 1 (default)",
	  "meta: scrub cannot be changed after creation" },
	{ IFLA_META_PEER_SCRUB, BIT(META_SCRUB_NONE) | BIT(META_SCRUB_DEFAULT),
	  "meta: peer scrub must be 0 (none) or 1 (default)",
	  "meta: peer scrub cannot be changed after creation" },
	{ IFLA_META_HEADROOM, .fixed =
	  "meta: headroom cannot be changed after creation" },
	{ IFLA_META_TAILROOM, .fixed =
	  "meta: tailroom cannot be changed after creation" },
	{ IFLA_META_PEER_INFO, .fixed =
	  "meta: peer cannot be changed after creation" },
};

static int meta_refuse(struct netlink_ext_ack *extack,
		       const struct nlattr *attr, const char *sentence, int err)
{
	NL_SET_BAD_ATTR(extack, attr);
	if (extack)
		extack->_msg = sentence;
	return err;
}

/* Called for the primary with data, and for the peer's own attributes. */
static int meta_validate(struct nlattr *tb[], struct nlattr *data[],
			 struct netlink_ext_ack *extack)
{
	struct nlattr *attr = tb[IFLA_ADDRESS];
	u32 value;
	int i;

	if (attr && nla_len(attr) != ETH_ALEN)
		return meta_refuse(extack, attr,
				   "meta: MAC address must have 6 bytes",
				   -EINVAL);
	if (attr && !is_valid_ether_addr(nla_data(attr)))
		return meta_refuse(extack, attr,
				   "meta: MAC address must be unicast and not zero",
				   -EADDRNOTAVAIL);

	for (i = 0; data && i < ARRAY_SIZE(meta_rules); i++) {
		attr = data[meta_rules[i].type];
		if (!attr || !meta_rules[i].values)
			continue;
		value = nla_get_u32(attr);
		if (value >= 32 || !(meta_rules[i].values & BIT(value)))
			return meta_refuse(extack, attr, meta_rules[i].invalid,
					   -EINVAL);
	}
	return 0;
}

/* The program of a descriptor, with a reference; NULL for none. */
static struct bpf_prog *meta_get_prog(const struct nlattr *attr,
				      struct netlink_ext_ack *extack)
{
	struct bpf_prog *prog;
	int fd = attr ? nla_get_s32(attr) : -1;

	if (fd == -1)
		return NULL;
	if (fd < -1)
		return ERR_PTR(meta_refuse(extack, attr,
					   "meta: program must be a file descriptor, or -1 to detach",
					   -EINVAL));
	prog = bpf_prog_get_type(fd, BPF_PROG_TYPE_SCHED_CLS);
	if (PTR_ERR_OR_ZERO(prog) == -EBADF)
		meta_refuse(extack, attr,
			    "meta: file descriptor of the program is not open", 0);
	else if (IS_ERR(prog))
		meta_refuse(extack, attr,
			    "meta: file descriptor is not a BPF program of type sched_cls", 0);
	return prog;
}

static void meta_put_prog(struct bpf_prog *prog)
{
	if (prog)
		bpf_prog_put(prog);
}

/* Takes a reference to the namespace in which the peer is to be made. */
static struct net *meta_peer_net(struct rtnl_newlink_params *params,
				 struct nlattr *peer_tb[],
				 struct netlink_ext_ack *extack)
{
#ifdef META_HAVE_NEWLINK_PARAMS
	return get_net(rtnl_newlink_peer_net(params));
#else
	struct net *net = rtnl_link_get_net(params->src_net, peer_tb);

	if (IS_ERR(net)) {
		NL_SET_ERR_MSG(extack, "meta: no such network namespace for the peer");
		return net;
	}
	if (!ns_capable(net->user_ns, CAP_NET_ADMIN)) {
		NL_SET_ERR_MSG(extack, "meta: no permission in the peer's network namespace");
		put_net(net);
		return ERR_PTR(-EPERM);
	}
	return net;
#endif
}

/* Fills in an end from the attributes that are its own, and registers it. */
static int meta_register(struct net_device *dev, struct nlattr *data[],
			 const struct nlattr *policy,
			 const struct nlattr *scrub,
			 const struct nlattr *address)
{
	const struct nlattr *mode = data[IFLA_META_MODE];
	const struct nlattr *headroom = data[IFLA_META_HEADROOM];
	const struct nlattr *tailroom = data[IFLA_META_TAILROOM];
	struct meta *meta = netdev_priv(dev);
	int err;

	meta->policy = policy ? nla_get_u32(policy) : META_DROP;
	meta->scrub = scrub ? nla_get_u32(scrub) : META_SCRUB_DEFAULT;
	meta->mode = mode ? nla_get_u32(mode) : META_L3;
	if (meta->mode == META_L2) {
		dev->flags &= ~IFF_NOARP;
		if (!address)
			eth_hw_addr_random(dev);
	}
	meta->headroom = headroom ? nla_get_u16(headroom) : 0;
	dev->needed_headroom = meta->headroom;
	dev->needed_tailroom = tailroom ? nla_get_u16(tailroom) : 0;

	err = register_netdevice(dev);
	if (!err)
		netif_carrier_off(dev);
	return err;
}

static struct rtnl_link_ops meta_link_ops;

static int meta_newlink(struct net_device *dev,
			struct rtnl_newlink_params *params,
			struct netlink_ext_ack *extack)
{
	struct nlattr *no_data[IFLA_META_MAX + 1] = {}, *peer_attrs[IFLA_MAX + 1];
	struct nlattr **data = params->data ?: no_data;
	struct nlattr *info = data[IFLA_META_PEER_INFO];
	struct nlattr **tb = params->tb, **peer_tb = tb;
	struct meta *meta = netdev_priv(dev);
	unsigned char name_type = NET_NAME_ENUM;
	char name[IFNAMSIZ] = DRV_NAME "%d";
	struct bpf_prog *prog, *peer_prog;
	struct net_device *peer;
	struct net *net;
	int err;

	if (info) {
		err = rtnl_nla_parse_ifinfomsg(peer_attrs, info, extack);
		if (!err)
			err = meta_validate(peer_attrs, NULL, extack);
		if (err)
			return err;
		peer_tb = peer_attrs;
		if (peer_tb[IFLA_IFNAME]) {
			nla_strscpy(name, peer_tb[IFLA_IFNAME], IFNAMSIZ);
			name_type = NET_NAME_USER;
		}
	}
	if ((tb[IFLA_ADDRESS] || peer_tb[IFLA_ADDRESS]) &&
	    (!data[IFLA_META_MODE] ||
	     nla_get_u32(data[IFLA_META_MODE]) != META_L2)) {
		NL_SET_ERR_MSG(extack, "meta: a MAC address can be set in L2 mode only");
		return -EOPNOTSUPP;
	}

	prog = meta_get_prog(data[IFLA_META_PROG_FD], extack);
	if (IS_ERR(prog))
		return PTR_ERR(prog);
	peer_prog = meta_get_prog(data[IFLA_META_PEER_PROG_FD], extack);
	if (IS_ERR(peer_prog)) {
		err = PTR_ERR(peer_prog);
		goto put_prog;
	}

	net = meta_peer_net(params, peer_tb, extack);
	if (IS_ERR(net)) {
		err = PTR_ERR(net);
		goto put_peer_prog;
	}
	peer = rtnl_create_link(net, name, name_type, &meta_link_ops, peer_tb,
				extack);
	put_net(net);
	if (IS_ERR(peer)) {
		err = PTR_ERR(peer);
		goto put_peer_prog;
	}
	if (info && dev->ifindex)
		peer->ifindex = ((struct ifinfomsg *)nla_data(info))->ifi_index;

	err = meta_register(peer, data, data[IFLA_META_PEER_POLICY],
			    data[IFLA_META_PEER_SCRUB],
			    info ? peer_tb[IFLA_ADDRESS] : NULL);
	if (err) {
		NL_SET_ERR_MSG(extack, "meta: cannot register the peer; name or index taken?");
		free_netdev(peer);
		goto put_peer_prog;
	}
	/* From here on the peer's end puts its program. */
	meta_set_prog(peer, peer_prog);
	peer_prog = NULL;

	err = rtnl_configure_link(peer, NULL, 0, NULL);
	if (err)
		goto unregister_peer;
	err = meta_register(dev, data, data[IFLA_META_POLICY],
			    data[IFLA_META_SCRUB], tb[IFLA_ADDRESS]);
	if (err) {
		NL_SET_ERR_MSG(extack, "meta: cannot register the primary; name or index taken?");
		goto unregister_peer;
	}
	meta_set_prog(dev, prog);

	meta->primary = true;
	rcu_assign_pointer(meta->peer, peer);
	meta = netdev_priv(peer);
	rcu_assign_pointer(meta->peer, dev);
	return 0;

unregister_peer:
	unregister_netdevice(peer);
put_peer_prog:
	meta_put_prog(peer_prog);
put_prog:
	meta_put_prog(prog);
	return err;
}

#ifndef META_HAVE_NEWLINK_PARAMS
static int meta_newlink_from_net(struct net *src_net, struct net_device *dev,
				 struct nlattr *tb[], struct nlattr *data[],
				 struct netlink_ext_ack *extack)
{
	struct rtnl_newlink_params params = {
		.src_net	= src_net,
		.tb		= tb,
		.data		= data,
	};

	return meta_newlink(dev, &params, extack);
}
#endif

/* Refuses first and then cannot fail: a request is done whole or not at all. */
static int meta_changelink(struct net_device *dev, struct nlattr *tb[],
			   struct nlattr *data[],
			   struct netlink_ext_ack *extack)
{
	struct meta *meta = netdev_priv(dev), *other;
	struct net_device *peer = rtnl_dereference(meta->peer);
	struct bpf_prog *prog, *peer_prog;
	int i;

	if (!meta->primary) {
		NL_SET_ERR_MSG(extack, "meta: only the primary can change the pair");
		return -EACCES;
	}
	for (i = 0; i < ARRAY_SIZE(meta_rules); i++) {
		if (data[meta_rules[i].type] && meta_rules[i].fixed)
			return meta_refuse(extack, data[meta_rules[i].type],
					   meta_rules[i].fixed, -EOPNOTSUPP);
	}
	if (!peer) {
		NL_SET_ERR_MSG(extack, "meta: the peer is gone");
		return -ENOTCONN;
	}
	prog = meta_get_prog(data[IFLA_META_PROG_FD], extack);
	if (IS_ERR(prog))
		return PTR_ERR(prog);
	peer_prog = meta_get_prog(data[IFLA_META_PEER_PROG_FD], extack);
	if (IS_ERR(peer_prog)) {
		meta_put_prog(prog);
		return PTR_ERR(peer_prog);
	}

	other = netdev_priv(peer);
	if (data[IFLA_META_POLICY])
		WRITE_ONCE(meta->policy, nla_get_u32(data[IFLA_META_POLICY]));
	if (data[IFLA_META_PEER_POLICY])
		WRITE_ONCE(other->policy,
			   nla_get_u32(data[IFLA_META_PEER_POLICY]));
	if (data[IFLA_META_PROG_FD])
		meta_set_prog(dev, prog);
	if (data[IFLA_META_PEER_PROG_FD])
		meta_set_prog(peer, peer_prog);
	return 0;
}

static void meta_dellink(struct net_device *dev, struct list_head *head)
{
	struct meta *meta = netdev_priv(dev);
	struct net_device *peer = rtnl_dereference(meta->peer);

	RCU_INIT_POINTER(meta->peer, NULL);
	unregister_netdevice_queue(dev, head);
	if (peer) {
		meta = netdev_priv(peer);
		RCU_INIT_POINTER(meta->peer, NULL);
		unregister_netdevice_queue(peer, head);
	}
}

static struct net *meta_get_link_net(const struct net_device *dev)
{
	struct meta *meta = netdev_priv(dev);
	struct net_device *peer = rtnl_dereference(meta->peer);

	return dev_net(peer ?: dev);
}

static size_t meta_get_size(const struct net_device *dev)
{
	return nla_total_size(sizeof(u8)) +			/* PRIMARY */
	       nla_total_size(sizeof(u32)) +			/* MODE */
	       2 * nla_total_size(sizeof(u16)) +		/* *ROOM */
	       2 * nla_total_size(sizeof(u32)) +		/* *POLICY */
	       2 * nla_total_size(sizeof(u32)) +		/* *SCRUB */
	       2 * nla_total_size(sizeof(u32)) +		/* *PROG_ID */
	       2 * nla_total_size(BPF_TAG_SIZE);		/* *PROG_TAG */
}

static int meta_fill_prog(struct sk_buff *skb, const struct meta *meta,
			  int id_type, int tag_type)
{
	const struct bpf_prog *prog = rtnl_dereference(meta->prog);

	if (!prog)
		return 0;
	if (nla_put_u32(skb, id_type, prog->aux->id) ||
	    nla_put(skb, tag_type, BPF_TAG_SIZE, prog->tag))
		return -EMSGSIZE;
	return 0;
}

static int meta_fill_info(struct sk_buff *skb, const struct net_device *dev)
{
	const struct meta *meta = netdev_priv(dev), *other;
	struct net_device *peer = rtnl_dereference(meta->peer);

	if (nla_put_u8(skb, IFLA_META_PRIMARY, meta->primary) ||
	    nla_put_u32(skb, IFLA_META_MODE, meta->mode) ||
	    nla_put_u16(skb, IFLA_META_HEADROOM, dev->needed_headroom) ||
	    nla_put_u16(skb, IFLA_META_TAILROOM, dev->needed_tailroom) ||
	    nla_put_u32(skb, IFLA_META_POLICY, meta->policy) ||
	    nla_put_u32(skb, IFLA_META_SCRUB, meta->scrub))
		return -EMSGSIZE;
	if (!peer)
		return 0;

	other = netdev_priv(peer);
	if (nla_put_u32(skb, IFLA_META_PEER_POLICY, other->policy) ||
	    nla_put_u32(skb, IFLA_META_PEER_SCRUB, other->scrub))
		return -EMSGSIZE;
	/* The programs are the host's; the Pod is not told. */
	if (!meta->primary)
		return 0;
	return meta_fill_prog(skb, meta, IFLA_META_PROG_ID,
			      IFLA_META_PROG_TAG) ?:
	       meta_fill_prog(skb, other, IFLA_META_PEER_PROG_ID,
			      IFLA_META_PEER_PROG_TAG);
}

#define META_READ_ONLY(what) \
	{ .type = NLA_REJECT, .reject_message = "meta: " what " is read-only" }

static const struct nla_policy meta_policy[IFLA_META_MAX + 1] = {
	/* From here on a wrong length or an unknown number is refused. */
	[IFLA_META_UNSPEC]	= { .strict_start_type = IFLA_META_PRIMARY },
	[IFLA_META_PEER_INFO]	= { .len = sizeof(struct ifinfomsg) },
	[IFLA_META_PRIMARY]	= META_READ_ONLY("primary attribute"),
	[IFLA_META_POLICY]	= { .type = NLA_U32 },
	[IFLA_META_PEER_POLICY]	= { .type = NLA_U32 },
	[IFLA_META_MODE]	= { .type = NLA_U32 },
	[IFLA_META_SCRUB]	= { .type = NLA_U32 },
	[IFLA_META_PEER_SCRUB]	= { .type = NLA_U32 },
	[IFLA_META_HEADROOM]	= { .type = NLA_U16 },
	[IFLA_META_TAILROOM]	= { .type = NLA_U16 },
	[IFLA_META_PROG_FD]	= { .type = NLA_S32 },
	[IFLA_META_PEER_PROG_FD] = { .type = NLA_S32 },
	[IFLA_META_PROG_ID]	= META_READ_ONLY("program id"),
	[IFLA_META_PEER_PROG_ID] = META_READ_ONLY("peer program id"),
	[IFLA_META_PROG_TAG]	= META_READ_ONLY("program tag"),
	[IFLA_META_PEER_PROG_TAG] = META_READ_ONLY("peer program tag"),
};

static struct rtnl_link_ops meta_link_ops = {
	.kind		= DRV_NAME,
	.priv_size	= sizeof(struct meta),
	.setup		= meta_setup,
#ifdef META_HAVE_NEWLINK_PARAMS
	.newlink	= meta_newlink,
#else
	.newlink	= meta_newlink_from_net,
#endif
#ifdef META_HAVE_PEER_TYPE
	.peer_type	= IFLA_META_PEER_INFO,
#endif
	.changelink	= meta_changelink,
	.dellink	= meta_dellink,
	.get_link_net	= meta_get_link_net,
	.get_size	= meta_get_size,
	.fill_info	= meta_fill_info,
	.validate	= meta_validate,
	.policy		= meta_policy,
	.maxtype	= IFLA_META_MAX,
};

static int __init meta_module_init(void)
{
	return rtnl_link_register(&meta_link_ops);
}

static void __exit meta_module_exit(void)
{
	rtnl_link_unregister(&meta_link_ops);
}

module_init(meta_module_init);
module_exit(meta_module_exit);

MODULE_DESCRIPTION("Pair of network devices programmed with BPF by the host");
MODULE_AUTHOR("podnet.datapath contributors");
MODULE_LICENSE("GPL");
MODULE_VERSION(META_VERSION);
MODULE_ALIAS_RTNL_LINK(DRV_NAME);
