/* SPDX-License-Identifier: GPL-2.0-only */
/* Private declarations of the driver. */
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

/* Private data of a device. Written under RTNL. */
struct meta {
	/* fast path */
	struct net_device __rcu *peer;	/* a single device: itself */
	struct bpf_prog __rcu *prog;	/* runs when this device transmits */
	enum meta_verdict policy;	/* verdict without a program */
	enum meta_scrub scrub;
	enum meta_mode mode;
	bool primary;

	/* slow path */
	int headroom;
};

/* Maximum of headroom and of tailroom; every packet allocates them. */
#define META_MAX_ROOM	1024

#ifndef META_HAVE_BPF_NET_CONTEXT
/* Before 6.11 bpf_redirect_info is per CPU instead of per task. */
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
/* Consumes the caller's reference to prog; NULL detaches. */
void meta_set_prog(struct net_device *dev, struct bpf_prog *prog);

#endif /* _META_H */
