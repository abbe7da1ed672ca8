/* SPDX-License-Identifier: GPL-2.0-only */
/* Shared by device.c, netlink.c and transmit.c. */
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

netdev_tx_t meta_xmit(struct sk_buff *skb, struct net_device *dev);
struct net_device *meta_get_peer_dev(struct net_device *dev);

void meta_setup(struct net_device *dev);
/* Takes the reference that came with the program. */
void meta_set_prog(struct net_device *dev, struct bpf_prog *prog);

#endif /* _META_H */
