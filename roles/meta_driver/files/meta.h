/* SPDX-License-Identifier: GPL-2.0-only */
/* Shared by device.c, netlink.c and redirect.c. */
#ifndef _META_H
#define _META_H

#include <linux/etherdevice.h>
#include <linux/filter.h>
#include <linux/netdevice.h>
#include <linux/skbuff.h>
#include <net/net_namespace.h>
#include <net/rtnetlink.h>

#include "meta_config.h"
#include "meta_uapi.h"

#define META_KIND	"meta"
#define META_VERSION	"0.1.0"

/* An end of a pair; a single device is its own peer. Written under RTNL. */
struct meta {
	/* Read for every packet. */
	struct net_device __rcu *peer;
	struct bpf_prog __rcu *prog;	/* of this end's transmit */
	enum meta_verdict policy;	/* when there is no program */
	enum meta_scrub scrub;
	enum meta_mode mode;
	bool primary;

	/* Read for configuration. */
	int headroom;
};

/*
 * Program, redirect and the next device's transmit nest on one stack. Fewer
 * levels than the stack's own XMIT_RECURSION_LIMIT, each being larger.
 */
#define META_MAX_DEPTH	5

/* More would only make every packet's memory larger. */
#define META_MAX_ROOM	1024

#ifndef META_HAVE_BPF_NET_CONTEXT
/* Before 6.11 the target of a redirect is kept for each CPU, not each task. */
struct bpf_net_context {
};

static inline struct bpf_net_context *
bpf_net_ctx_set(struct bpf_net_context *ctx)
{
	return ctx;
}

static inline void bpf_net_ctx_clear(struct bpf_net_context *ctx)
{
}

static inline struct bpf_redirect_info *bpf_net_ctx_get_ri(void)
{
	return this_cpu_ptr(&bpf_redirect_info);
}
#endif

#ifndef META_HAVE_NEWLINK_PARAMS
struct rtnl_newlink_params {
	struct net *src_net;
	struct nlattr **tb;
	struct nlattr **data;
};
#endif

#ifdef META_HAVE_REASON_RECURSION_LIMIT
#define META_REASON_RECURSION	SKB_DROP_REASON_RECURSION_LIMIT
#else
#define META_REASON_RECURSION	SKB_DROP_REASON_NOT_SPECIFIED
#endif

#ifdef META_HAVE_REASON_NO_TX_TARGET
#define META_REASON_NO_TARGET	SKB_DROP_REASON_NO_TX_TARGET
#else
#define META_REASON_NO_TARGET	SKB_DROP_REASON_DEV_READY
#endif

static inline int meta_drop(struct sk_buff *skb, enum skb_drop_reason reason)
{
	kfree_skb_reason(skb, reason);
	return NET_XMIT_DROP;
}

void meta_setup(struct net_device *dev);
/* Takes the reference that came with the program. */
void meta_set_prog(struct net_device *dev, struct bpf_prog *prog);

/* Both consume skb and return what ndo_start_xmit may. */
int meta_deliver(struct sk_buff *skb, struct net_device *dev);
int meta_redirect(struct sk_buff *skb);

struct net_device *meta_get_peer_dev(struct net_device *dev);

#endif /* _META_H */
