// SPDX-License-Identifier: GPL-2.0-only
/*
 * Makes, changes, shows and removes meta devices over rtnetlink. Each request
 * is refused with a sentence and changes nothing, or is carried out whole.
 */

#include <linux/bpf.h>
#include <linux/module.h>

#include "meta.h"

#define META_FIXED(what) "meta: " what " cannot be changed after creation"

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
	  "meta: mode must be 0 (L2) or 1 (L3)", META_FIXED("mode") },
	{ IFLA_META_SCRUB, BIT(META_SCRUB_NONE) | BIT(META_SCRUB_DEFAULT),
	  "meta: scrub must be 0 (none) or 1 (default)", META_FIXED("scrub") },
	{ IFLA_META_PEER_SCRUB, BIT(META_SCRUB_NONE) | BIT(META_SCRUB_DEFAULT),
	  "meta: peer scrub must be 0 (none) or 1 (default)",
	  META_FIXED("peer scrub") },
	{ IFLA_META_PAIRING, BIT(META_PAIR) | BIT(META_SINGLE),
	  "meta: pairing must be 0 (pair) or 1 (single)",
	  META_FIXED("pairing") },
	{ IFLA_META_HEADROOM, .fixed = META_FIXED("headroom") },
	{ IFLA_META_TAILROOM, .fixed = META_FIXED("tailroom") },
	{ IFLA_META_PEER_INFO, .fixed = META_FIXED("peer") },
};

static int meta_refuse(struct netlink_ext_ack *extack,
		       const struct nlattr *attr, const char *sentence, int err)
{
	NL_SET_BAD_ATTR(extack, attr);
	if (extack)
		extack->_msg = sentence;
	return err;
}

static u32 meta_u32(const struct nlattr *attr, u32 otherwise)
{
	return attr ? nla_get_u32(attr) : otherwise;
}

static u16 meta_room(const struct nlattr *attr)
{
	return attr ? nla_get_u16(attr) : 0;
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
	if (data && (meta_room(data[IFLA_META_HEADROOM]) > META_MAX_ROOM ||
		     meta_room(data[IFLA_META_TAILROOM]) > META_MAX_ROOM)) {
		NL_SET_ERR_MSG(extack, "meta: head- and tailroom must be 1024 bytes at most");
		return -EINVAL;
	}
	return 0;
}

static int meta_validate_single(struct nlattr *data[],
				struct netlink_ext_ack *extack)
{
	static const int of_peer[] = {
		IFLA_META_PEER_INFO, IFLA_META_PEER_POLICY,
		IFLA_META_PEER_SCRUB, IFLA_META_PEER_PROG_FD,
	};
	int i;

	for (i = 0; i < ARRAY_SIZE(of_peer); i++) {
		if (data[of_peer[i]])
			return meta_refuse(extack, data[of_peer[i]],
					   "meta: a single device has no peer",
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
	struct meta *meta = netdev_priv(dev);
	int err;

	meta->policy = meta_u32(policy, META_DROP);
	meta->scrub = meta_u32(scrub, META_SCRUB_DEFAULT);
	meta->mode = meta_u32(data[IFLA_META_MODE], META_L3);
	if (meta->mode == META_L2) {
		dev->flags &= ~IFF_NOARP;
		if (!address)
			eth_hw_addr_random(dev);
	}
	meta->headroom = meta_room(data[IFLA_META_HEADROOM]);
	dev->needed_headroom = meta->headroom;
	dev->needed_tailroom = meta_room(data[IFLA_META_TAILROOM]);

	err = register_netdevice(dev);
	if (!err)
		netif_carrier_off(dev);
	return err;
}

static struct rtnl_link_ops meta_link_ops;

/* Makes the other end of dev and registers it, if in another namespace, there. */
static struct net_device *meta_new_peer(const struct net_device *dev,
					struct rtnl_newlink_params *params,
					struct nlattr *data[],
					struct nlattr *tb[],
					struct netlink_ext_ack *extack)
{
	struct nlattr *info = data[IFLA_META_PEER_INFO];
	unsigned char name_type = NET_NAME_ENUM;
	char name[IFNAMSIZ] = META_KIND "%d";
	struct net_device *peer;
	struct net *net;
	int err;

	if (info && tb[IFLA_IFNAME]) {
		nla_strscpy(name, tb[IFLA_IFNAME], IFNAMSIZ);
		name_type = NET_NAME_USER;
	}
	net = meta_peer_net(params, tb, extack);
	if (IS_ERR(net))
		return ERR_CAST(net);
	peer = rtnl_create_link(net, name, name_type, &meta_link_ops, tb,
				extack);
	put_net(net);
	if (IS_ERR(peer))
		return peer;
	if (info && dev->ifindex)
		peer->ifindex = ((struct ifinfomsg *)nla_data(info))->ifi_index;

	err = meta_register(peer, data, data[IFLA_META_PEER_POLICY],
			    data[IFLA_META_PEER_SCRUB],
			    info ? tb[IFLA_ADDRESS] : NULL);
	if (err) {
		NL_SET_ERR_MSG(extack, "meta: cannot register the peer; name or index taken?");
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

static int meta_newlink(struct net_device *dev,
			struct rtnl_newlink_params *params,
			struct netlink_ext_ack *extack)
{
	struct nlattr *no_data[IFLA_META_MAX + 1] = {}, *peer_attrs[IFLA_MAX + 1];
	struct nlattr **data = params->data ?: no_data;
	struct nlattr **tb = params->tb, **peer_tb = tb;
	struct meta *meta = netdev_priv(dev), *other;
	struct bpf_prog *prog, *peer_prog;
	struct net_device *peer = dev;
	bool single;
	int err;

	single = meta_u32(data[IFLA_META_PAIRING], META_PAIR) == META_SINGLE;
	if (single) {
		err = meta_validate_single(data, extack);
		if (err)
			return err;
	}
	if (data[IFLA_META_PEER_INFO]) {
		err = rtnl_nla_parse_ifinfomsg(peer_attrs,
					       data[IFLA_META_PEER_INFO],
					       extack);
		if (!err)
			err = meta_validate(peer_attrs, NULL, extack);
		if (err)
			return err;
		peer_tb = peer_attrs;
	}
	if ((tb[IFLA_ADDRESS] || peer_tb[IFLA_ADDRESS]) &&
	    meta_u32(data[IFLA_META_MODE], META_L3) != META_L2) {
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
	if (!single) {
		peer = meta_new_peer(dev, params, data, peer_tb, extack);
		if (IS_ERR(peer)) {
			err = PTR_ERR(peer);
			goto put_peer_prog;
		}
	}
	err = meta_register(dev, data, data[IFLA_META_POLICY],
			    data[IFLA_META_SCRUB], tb[IFLA_ADDRESS]);
	if (err) {
		NL_SET_ERR_MSG(extack, "meta: cannot register the primary; name or index taken?");
		goto unregister_peer;
	}

	/* From here on the devices hold their programs. */
	if (!single)
		meta_set_prog(peer, peer_prog);
	meta_set_prog(dev, prog);
	meta->primary = true;
	rcu_assign_pointer(meta->peer, peer);
	other = netdev_priv(peer);
	rcu_assign_pointer(other->peer, dev);
	return 0;

unregister_peer:
	if (!single)
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
	int i, err;

	if (!meta->primary) {
		NL_SET_ERR_MSG(extack, "meta: only the primary can change the pair");
		return -EACCES;
	}
	for (i = 0; i < ARRAY_SIZE(meta_rules); i++) {
		if (data[meta_rules[i].type] && meta_rules[i].fixed)
			return meta_refuse(extack, data[meta_rules[i].type],
					   meta_rules[i].fixed, -EOPNOTSUPP);
	}
	if (peer == dev) {
		err = meta_validate_single(data, extack);
		if (err)
			return err;
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
	WRITE_ONCE(meta->policy,
		   meta_u32(data[IFLA_META_POLICY], meta->policy));
	WRITE_ONCE(other->policy,
		   meta_u32(data[IFLA_META_PEER_POLICY], other->policy));
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
	if (peer && peer != dev) {
		meta = netdev_priv(peer);
		RCU_INIT_POINTER(meta->peer, NULL);
		unregister_netdevice_queue(peer, head);
	}
}

/*
 * The id of this namespace is made known where dev is. To a Pod that has
 * CAP_NET_ADMIN it would be a handle on all links of the host.
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
	    nla_put_u32(skb, IFLA_META_PAIRING,
			peer == dev ? META_SINGLE : META_PAIR) ||
	    nla_put_u16(skb, IFLA_META_HEADROOM, dev->needed_headroom) ||
	    nla_put_u16(skb, IFLA_META_TAILROOM, dev->needed_tailroom) ||
	    nla_put_u32(skb, IFLA_META_POLICY, meta->policy) ||
	    nla_put_u32(skb, IFLA_META_SCRUB, meta->scrub))
		return -EMSGSIZE;
	/* The programs are the host's; the Pod is not told. */
	if (meta->primary && meta_fill_prog(skb, meta, IFLA_META_PROG_ID,
					    IFLA_META_PROG_TAG))
		return -EMSGSIZE;
	if (!peer || peer == dev)
		return 0;

	other = netdev_priv(peer);
	if (nla_put_u32(skb, IFLA_META_PEER_POLICY, other->policy) ||
	    nla_put_u32(skb, IFLA_META_PEER_SCRUB, other->scrub))
		return -EMSGSIZE;
	return !meta->primary ? 0 :
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
	[IFLA_META_PAIRING]	= { .type = NLA_U32 },
	[IFLA_META_PROG_FD]	= { .type = NLA_S32 },
	[IFLA_META_PEER_PROG_FD] = { .type = NLA_S32 },
	[IFLA_META_PROG_ID]	= META_READ_ONLY("program id"),
	[IFLA_META_PEER_PROG_ID] = META_READ_ONLY("peer program id"),
	[IFLA_META_PROG_TAG]	= META_READ_ONLY("program tag"),
	[IFLA_META_PEER_PROG_TAG] = META_READ_ONLY("peer program tag"),
};

static struct rtnl_link_ops meta_link_ops = {
	.kind		= META_KIND,
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
MODULE_ALIAS_RTNL_LINK(META_KIND);
