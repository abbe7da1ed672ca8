// SPDX-License-Identifier: GPL-2.0-only
/*
 * Creates, configures, dumps and deletes meta devices over rtnetlink. Requests
 * are atomic: an invalid one changes nothing and returns an extack message.
 */

#include <linux/bpf.h>
#include <linux/module.h>

#include "meta.h"

#define META_IMMUTABLE(what) "meta: " what " cannot be changed after creation"

/* Attribute types of the device that a message is about, and of its peer. */
static const struct meta_attrs {
	int policy, scrub, prog_fd, prog_id, prog_tag;
} meta_local_attrs = {
	IFLA_META_POLICY, IFLA_META_SCRUB, IFLA_META_PROG_FD,
	IFLA_META_PROG_ID, IFLA_META_PROG_TAG,
}, meta_peer_attrs = {
	IFLA_META_PEER_POLICY, IFLA_META_PEER_SCRUB, IFLA_META_PEER_PROG_FD,
	IFLA_META_PEER_PROG_ID, IFLA_META_PEER_PROG_TAG,
};

static bool meta_is_valid_policy(const struct nlattr *attr)
{
	return nla_get_u32(attr) == META_PASS || nla_get_u32(attr) == META_DROP;
}

/* For mode, scrub and pairing, which have the values 0 and 1. */
static bool meta_is_valid_bool(const struct nlattr *attr)
{
	return nla_get_u32(attr) <= 1;
}

static bool meta_is_valid_room(const struct nlattr *attr)
{
	return nla_get_u16(attr) <= META_MAX_ROOM;
}

static const struct {
	int type;
	bool needs_peer;		/* rejected for single devices */
	const char *immutable_msg;	/* NULL: may change after creation */
	bool (*is_valid)(const struct nlattr *attr);
	const char *invalid_msg;
} meta_attr_rules[] = {
	{ IFLA_META_PEER_INFO, true, META_IMMUTABLE("peer") },
	{ IFLA_META_POLICY, false, NULL, meta_is_valid_policy,
	  "meta: policy must be 0 (pass) or 2 (drop)" },
	{ IFLA_META_PEER_POLICY, true, NULL, meta_is_valid_policy,
	  "meta: peer policy must be 0 (pass) or 2 (drop)" },
	{ IFLA_META_MODE, false, META_IMMUTABLE("mode"), meta_is_valid_bool,
	  "meta: mode must be 0 (L2) or 1 (L3)" },
	{ IFLA_META_SCRUB, false, META_IMMUTABLE("scrub"), meta_is_valid_bool,
	  "meta: scrub must be 0 (none) or 1 (default)" },
	{ IFLA_META_PEER_SCRUB, true, META_IMMUTABLE("peer scrub"), meta_is_valid_bool,
	  "meta: peer scrub must be 0 (none) or 1 (default)" },
	{ IFLA_META_HEADROOM, false, META_IMMUTABLE("headroom"), meta_is_valid_room,
	  "meta: headroom must not exceed 1024 bytes" },
	{ IFLA_META_TAILROOM, false, META_IMMUTABLE("tailroom"), meta_is_valid_room,
	  "meta: tailroom must not exceed 1024 bytes" },
	{ IFLA_META_PAIRING, false, META_IMMUTABLE("pairing"), meta_is_valid_bool,
	  "meta: pairing must be 0 (pair) or 1 (single)" },
	{ IFLA_META_PEER_PROG_FD, true },
};

/* NL_SET_ERR_MSG_ATTR() accepts string literals only. */
static int meta_reject_attr(struct netlink_ext_ack *extack,
			    const struct nlattr *attr, const char *msg, int err)
{
	NL_SET_BAD_ATTR(extack, attr);
	if (extack)
		extack->_msg = msg;
	return err;
}

static int meta_check_attrs(struct nlattr *data[], bool single, bool exists,
			    struct netlink_ext_ack *extack)
{
	const struct nlattr *attr;
	int i;

	for (i = 0; i < ARRAY_SIZE(meta_attr_rules); i++) {
		attr = data[meta_attr_rules[i].type];
		if (!attr)
			continue;
		if (exists && meta_attr_rules[i].immutable_msg)
			return meta_reject_attr(extack, attr,
						meta_attr_rules[i].immutable_msg,
						-EOPNOTSUPP);
		if (single && meta_attr_rules[i].needs_peer)
			return meta_reject_attr(extack, attr,
						"meta: a single device has no peer",
						-EINVAL);
		if (meta_attr_rules[i].is_valid &&
		    !meta_attr_rules[i].is_valid(attr))
			return meta_reject_attr(extack, attr,
						meta_attr_rules[i].invalid_msg,
						-EINVAL);
	}
	return 0;
}

static u32 meta_get_u32(const struct nlattr *attr, u32 default_value)
{
	return attr ? nla_get_u32(attr) : default_value;
}

static u16 meta_get_room(const struct nlattr *attr)
{
	return attr ? nla_get_u16(attr) : 0;
}

/* The core calls this for the primary, meta_newlink() for the peer. */
static int meta_validate(struct nlattr *tb[], struct nlattr *data[],
			 struct netlink_ext_ack *extack)
{
	const struct nlattr *address = tb[IFLA_ADDRESS];

	if (address && nla_len(address) != ETH_ALEN)
		return meta_reject_attr(extack, address,
					"meta: MAC address must have 6 bytes",
					-EINVAL);
	if (address && !is_valid_ether_addr(nla_data(address)))
		return meta_reject_attr(extack, address,
					"meta: MAC address must be unicast and non-zero",
					-EADDRNOTAVAIL);
	return 0;
}

/* Return a reference to the program, NULL if there is none, or ERR_PTR(). */
static struct bpf_prog *meta_get_prog(const struct nlattr *attr,
				      struct netlink_ext_ack *extack)
{
	struct bpf_prog *prog;
	int fd = attr ? nla_get_s32(attr) : -1;

	if (fd == -1)
		return NULL;
	if (fd < -1)
		return ERR_PTR(meta_reject_attr(extack, attr,
						"meta: program must be a file descriptor, or -1 to detach",
						-EINVAL));
	prog = bpf_prog_get_type(fd, BPF_PROG_TYPE_SCHED_CLS);
	if (PTR_ERR_OR_ZERO(prog) == -EBADF)
		meta_reject_attr(extack, attr,
				 "meta: program file descriptor is not open", 0);
	else if (IS_ERR(prog))
		meta_reject_attr(extack, attr,
				 "meta: file descriptor is not a BPF program of type sched_cls", 0);
	return prog;
}

static void meta_put_prog(struct bpf_prog *prog)
{
	if (prog)
		bpf_prog_put(prog);
}

/* On failure the caller holds no reference. */
static int meta_get_progs(struct nlattr *data[], struct bpf_prog **prog,
			  struct bpf_prog **peer_prog,
			  struct netlink_ext_ack *extack)
{
	*prog = meta_get_prog(data[IFLA_META_PROG_FD], extack);
	if (IS_ERR(*prog))
		return PTR_ERR(*prog);
	*peer_prog = meta_get_prog(data[IFLA_META_PEER_PROG_FD], extack);
	if (!IS_ERR(*peer_prog))
		return 0;
	meta_put_prog(*prog);
	return PTR_ERR(*peer_prog);
}

/* Configure dev from the attributes that attrs selects, then register it. */
static int meta_register_dev(struct net_device *dev, struct nlattr *data[],
			     const struct meta_attrs *attrs,
			     const struct nlattr *address)
{
	struct meta *meta = netdev_priv(dev);
	int err;

	meta->policy = meta_get_u32(data[attrs->policy], META_DROP);
	meta->scrub = meta_get_u32(data[attrs->scrub], META_SCRUB_DEFAULT);
	meta->mode = meta_get_u32(data[IFLA_META_MODE], META_L3);
	if (meta->mode == META_L2) {
		dev->flags &= ~IFF_NOARP;
		if (!address)
			eth_hw_addr_random(dev);
	}
	meta->headroom = meta_get_room(data[IFLA_META_HEADROOM]);
	dev->needed_headroom = meta->headroom;
	dev->needed_tailroom = meta_get_room(data[IFLA_META_TAILROOM]);

	err = register_netdevice(dev);
	if (!err)
		netif_carrier_off(dev);
	return err;
}

static struct rtnl_link_ops meta_link_ops;

/*
 * Return a reference to the network namespace of the peer. Since 6.13 the core
 * looks it up and passes it as net. Before, net is the namespace of the request.
 */
static struct net *meta_get_peer_net(struct net *net, struct nlattr *peer_tb[],
				     struct netlink_ext_ack *extack)
{
#ifdef META_HAVE_NEWLINK_PARAMS
	return get_net(net);
#else
	net = rtnl_link_get_net(net, peer_tb);
	if (IS_ERR(net)) {
		NL_SET_ERR_MSG(extack, "meta: network namespace of the peer does not exist");
	} else if (!ns_capable(net->user_ns, CAP_NET_ADMIN)) {
		NL_SET_ERR_MSG(extack, "meta: no CAP_NET_ADMIN in the peer's network namespace");
		put_net(net);
		return ERR_PTR(-EPERM);
	}
	return net;
#endif
}

/* Create and register the peer of dev in its network namespace. */
static struct net_device *meta_create_peer(const struct net_device *dev,
					   struct net *net,
					   struct nlattr *data[],
					   struct nlattr *tb[],
					   struct netlink_ext_ack *extack)
{
	struct nlattr *info = data[IFLA_META_PEER_INFO];
	unsigned char name_type = NET_NAME_ENUM;
	char name[IFNAMSIZ] = META_KIND "%d";
	struct net_device *peer;
	int err;

	if (info && tb[IFLA_IFNAME]) {
		nla_strscpy(name, tb[IFLA_IFNAME], IFNAMSIZ);
		name_type = NET_NAME_USER;
	}
	net = meta_get_peer_net(net, tb, extack);
	if (IS_ERR(net))
		return ERR_CAST(net);
	peer = rtnl_create_link(net, name, name_type, &meta_link_ops, tb,
				extack);
	put_net(net);
	if (IS_ERR(peer))
		return peer;
	if (info && dev->ifindex)
		peer->ifindex = ((struct ifinfomsg *)nla_data(info))->ifi_index;

	err = meta_register_dev(peer, data, &meta_peer_attrs,
				info ? tb[IFLA_ADDRESS] : NULL);
	if (err) {
		NL_SET_ERR_MSG(extack, "meta: cannot register the peer; name or index in use?");
		free_netdev(peer);
		return ERR_PTR(err);
	}
	err = rtnl_configure_link(peer, NULL, 0, NULL);
	if (err) {
		unregister_netdevice(peer);
		return ERR_PTR(err);
	}
	return peer;
}

static int meta_newlink(struct net *net, struct net_device *dev,
			struct nlattr *tb[], struct nlattr *data[],
			struct netlink_ext_ack *extack)
{
	static struct nlattr *empty_data[IFLA_META_MAX + 1];
	struct nlattr *peer_ifla[IFLA_MAX + 1], **peer_tb = tb;
	struct meta *meta = netdev_priv(dev), *peer_meta;
	struct bpf_prog *prog, *peer_prog;
	struct net_device *peer = dev;
	bool single;
	int err;

	data = data ?: empty_data;
	single = meta_get_u32(data[IFLA_META_PAIRING], META_PAIR) == META_SINGLE;
	err = meta_check_attrs(data, single, false, extack);
	if (err)
		return err;
	if (data[IFLA_META_PEER_INFO]) {
		err = rtnl_nla_parse_ifinfomsg(peer_ifla,
					       data[IFLA_META_PEER_INFO],
					       extack);
		if (!err)
			err = meta_validate(peer_ifla, NULL, extack);
		if (err)
			return err;
		peer_tb = peer_ifla;
	}
	if ((tb[IFLA_ADDRESS] || peer_tb[IFLA_ADDRESS]) &&
	    meta_get_u32(data[IFLA_META_MODE], META_L3) != META_L2) {
		NL_SET_ERR_MSG(extack, "meta: a MAC address requires L2 mode");
		return -EOPNOTSUPP;
	}
	err = meta_get_progs(data, &prog, &peer_prog, extack);
	if (err)
		return err;

	if (!single) {
		peer = meta_create_peer(dev, net, data, peer_tb, extack);
		if (IS_ERR(peer)) {
			err = PTR_ERR(peer);
			goto put_progs;
		}
	}
	err = meta_register_dev(dev, data, &meta_local_attrs, tb[IFLA_ADDRESS]);
	if (err) {
		NL_SET_ERR_MSG(extack, "meta: cannot register the primary; name or index in use?");
		goto unregister_peer;
	}

	/* The devices take over the references to the programs. */
	if (!single)
		meta_set_prog(peer, peer_prog);
	meta_set_prog(dev, prog);
	meta->primary = true;
	rcu_assign_pointer(meta->peer, peer);
	peer_meta = netdev_priv(peer);
	rcu_assign_pointer(peer_meta->peer, dev);
	return 0;

unregister_peer:
	if (!single)
		unregister_netdevice(peer);
put_progs:
	meta_put_prog(peer_prog);
	meta_put_prog(prog);
	return err;
}

#ifdef META_HAVE_NEWLINK_PARAMS
static int meta_newlink_params(struct net_device *dev,
			       struct rtnl_newlink_params *params,
			       struct netlink_ext_ack *extack)
{
	return meta_newlink(rtnl_newlink_peer_net(params), dev, params->tb,
			    params->data, extack);
}
#endif

static void meta_update_dev(struct net_device *dev, struct nlattr *data[],
			    const struct meta_attrs *attrs,
			    struct bpf_prog *prog)
{
	struct meta *meta = netdev_priv(dev);

	WRITE_ONCE(meta->policy, meta_get_u32(data[attrs->policy], meta->policy));
	if (data[attrs->prog_fd])
		meta_set_prog(dev, prog);
}

/* Atomic: all checks precede the first change, and no change can fail. */
static int meta_changelink(struct net_device *dev, struct nlattr *tb[],
			   struct nlattr *data[],
			   struct netlink_ext_ack *extack)
{
	struct meta *meta = netdev_priv(dev);
	struct net_device *peer = rtnl_dereference(meta->peer);
	struct bpf_prog *prog, *peer_prog;
	int err;

	if (!meta->primary) {
		NL_SET_ERR_MSG(extack, "meta: attributes can be changed only through the primary");
		return -EACCES;
	}
	err = meta_check_attrs(data, peer == dev, true, extack);
	if (!err)
		err = meta_get_progs(data, &prog, &peer_prog, extack);
	if (err)
		return err;

	meta_update_dev(dev, data, &meta_local_attrs, prog);
	meta_update_dev(peer, data, &meta_peer_attrs, peer_prog);
	return 0;
}

static void meta_dellink(struct net_device *dev, struct list_head *head)
{
	struct meta *meta = netdev_priv(dev);
	struct net_device *peer = rtnl_dereference(meta->peer);

	RCU_INIT_POINTER(meta->peer, NULL);
	unregister_netdevice_queue(dev, head);
	if (peer && peer != dev) {
		meta = netdev_priv(peer);
		RCU_INIT_POINTER(meta->peer, NULL);
		unregister_netdevice_queue(peer, head);
	}
}

/*
 * The core allocates an id of the returned namespace in that of dev. For the peer
 * return its own: with an id of the host's namespace, a Pod with CAP_NET_ADMIN
 * could access all links of the host.
 */
static struct net *meta_get_link_net(const struct net_device *dev)
{
	struct meta *meta = netdev_priv(dev);
	struct net_device *peer = rtnl_dereference(meta->peer);

	return dev_net(peer && meta->primary ? peer : dev);
}

static size_t meta_get_size(const struct net_device *dev)
{
	return nla_total_size(sizeof(u8)) +			/* PRIMARY */
	       2 * nla_total_size(sizeof(u32)) +		/* MODE, PAIRING */
	       2 * nla_total_size(sizeof(u16)) +		/* *ROOM */
	       2 * nla_total_size(sizeof(u32)) +		/* *POLICY */
	       2 * nla_total_size(sizeof(u32)) +		/* *SCRUB */
	       2 * nla_total_size(sizeof(u32)) +		/* *PROG_ID */
	       2 * nla_total_size(BPF_TAG_SIZE);		/* *PROG_TAG */
}

static int meta_fill_dev(struct sk_buff *skb, const struct meta *meta,
			 const struct meta_attrs *attrs, bool show_prog)
{
	const struct bpf_prog *prog = NULL;

	if (show_prog)
		prog = rtnl_dereference(meta->prog);
	if (nla_put_u32(skb, attrs->policy, meta->policy) ||
	    nla_put_u32(skb, attrs->scrub, meta->scrub) ||
	    (prog && nla_put_u32(skb, attrs->prog_id, prog->aux->id)) ||
	    (prog && nla_put(skb, attrs->prog_tag, BPF_TAG_SIZE, prog->tag)))
		return -EMSGSIZE;
	return 0;
}

static int meta_fill_info(struct sk_buff *skb, const struct net_device *dev)
{
	const struct meta *meta = netdev_priv(dev);
	struct net_device *peer = rtnl_dereference(meta->peer);
	/* The Pod must not see the host's programs. */
	bool show_prog = meta->primary;

	if (nla_put_u8(skb, IFLA_META_PRIMARY, meta->primary) ||
	    nla_put_u32(skb, IFLA_META_MODE, meta->mode) ||
	    nla_put_u32(skb, IFLA_META_PAIRING,
			peer == dev ? META_SINGLE : META_PAIR) ||
	    nla_put_u16(skb, IFLA_META_HEADROOM, dev->needed_headroom) ||
	    nla_put_u16(skb, IFLA_META_TAILROOM, dev->needed_tailroom) ||
	    meta_fill_dev(skb, meta, &meta_local_attrs, show_prog))
		return -EMSGSIZE;
	if (!peer || peer == dev)
		return 0;
	return meta_fill_dev(skb, netdev_priv(peer), &meta_peer_attrs, show_prog);
}

#define META_READ_ONLY(what) \
	{ .type = NLA_REJECT, .reject_message = "meta: " what " is read-only" }

static const struct nla_policy meta_nla_policy[IFLA_META_MAX + 1] = {
	/* Strict validation: reject unknown types and wrong lengths. */
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
	[IFLA_META_PAIRING]	= { .type = NLA_U32 },
	[IFLA_META_PROG_FD]	= { .type = NLA_S32 },
	[IFLA_META_PEER_PROG_FD] = { .type = NLA_S32 },
	[IFLA_META_PROG_ID]	= META_READ_ONLY("program ID"),
	[IFLA_META_PEER_PROG_ID] = META_READ_ONLY("peer program ID"),
	[IFLA_META_PROG_TAG]	= META_READ_ONLY("program tag"),
	[IFLA_META_PEER_PROG_TAG] = META_READ_ONLY("peer program tag"),
};

static struct rtnl_link_ops meta_link_ops = {
	.kind		= META_KIND,
	.priv_size	= sizeof(struct meta),
	.setup		= meta_setup,
#ifdef META_HAVE_NEWLINK_PARAMS
	.newlink	= meta_newlink_params,
#else
	.newlink	= meta_newlink,
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
	.policy		= meta_nla_policy,
	.maxtype	= IFLA_META_MAX,
};

static int __init meta_module_init(void)
{
	return rtnl_link_register(&meta_link_ops);
}
module_init(meta_module_init);

static void __exit meta_module_exit(void)
{
	rtnl_link_unregister(&meta_link_ops);
}
module_exit(meta_module_exit);

MODULE_DESCRIPTION("BPF-programmable network device pair");
MODULE_AUTHOR("podnet.datapath contributors");
MODULE_LICENSE("GPL");
MODULE_VERSION(META_VERSION);
MODULE_ALIAS_RTNL_LINK(META_KIND);
