// SPDX-License-Identifier: GPL-2.0-only
/* State of one packet during processing, and the order of policy and translation. */
#ifndef PODNET_CONTEXT_H
#define PODNET_CONTEXT_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "config.h"
#include "ct.h"
#include "icmp_error.h"
#include "identity.h"
#include "l4.h"
#include "lb.h"
#include "masquerade.h"
#include "metrics.h"
#include "nat.h"
#include "policy.h"

struct context {
	struct config cfg;
	struct l4_info l4;
	struct endpoint_info src;
	struct endpoint_info dst;
	struct ct_state ct;
	bool masquerade;	/* if it leaves the node, it is masqueraded */
	bool cacheable;		/* the flow cache may hold the decision */
	__u8 stack;		/* REASON_STACK_*: the caller must pass the packet to the stack */
};

static __always_inline void ctx_set_dst(const struct packet *p, struct context *ctx)
{
	__be32 address[4] = { p->flow.dst4 };

	if (p->flow.family == AF_INET6)
		__builtin_memcpy(address, p->flow.dst6, sizeof(address));
	identity_lookup(p->flow.family, address, &ctx->cfg, &ctx->dst);
	ctx->masquerade = p->flow.origin == FROM_POD && ctx->cfg.features & FEATURE_MASQUERADE &&
			  ctx->src.flags & POD_MASQUERADE && !ctx->dst.pod &&
			  !(ctx->dst.cidr_flags & CIDR_NO_MASQUERADE);
}

static __always_inline void ctx_set_src(const struct packet *p, struct context *ctx)
{
	__be32 address[4] = { p->flow.src4 };

	if (p->flow.family == AF_INET6)
		__builtin_memcpy(address, p->flow.src6, sizeof(address));
	identity_lookup(p->flow.family, address, &ctx->cfg, &ctx->src);
}

/* Set the destination to that of the tuple, after a translation. */
static __always_inline void ctx_update_dst(struct packet *p, struct context *ctx)
{
	if (p->flow.family == AF_INET)
		p->flow.dst4 = ctx->l4.tuple.dst[0];
	else
		__builtin_memcpy(p->flow.dst6, ctx->l4.tuple.dst, sizeof(p->flow.dst6));
	if (p->flow.proto == IPPROTO_TCP || p->flow.proto == IPPROTO_UDP)
		p->flow.dport = ctx->l4.offset ? ctx->l4.tuple.dport : 0;
	ctx_set_dst(p, ctx);
}

/*
 * Return whether the packet's connection must be tracked. That includes connections from the wire
 * to a masqueraded Pod: untracked, the Pod's reply would open a new connection, and be masqueraded.
 */
static __always_inline bool ctx_needs_ct(const struct context *ctx)
{
	return ctx->src.enforce || ctx->dst.enforce || ctx->masquerade ||
	       (ctx->cfg.features & FEATURE_MASQUERADE && ctx->dst.flags & POD_MASQUERADE &&
		!ctx->src.pod);
}

/* Return whether policy or reverse translation requires the packet's connection. */
static __always_inline bool ctx_needs_state(const struct context *ctx)
{
	return ctx_needs_ct(ctx) || ctx->cfg.features & FEATURE_SERVICES;
}

/* Return whether an earlier program admitted and translated this reply of a service. */
static __noinline bool lb_is_translated_reply(const struct tuple *t)
{
	struct tuple reverse = {};

	reverse_tuple(t, &reverse, CT_SERVICE);
	return ct_lookup(&reverse);
}

/* Update the connection of a reply, for reverse translation; policy is not enforced here. */
static __noinline void ctx_track_reply(struct context *ctx)
{
	struct tuple reverse = {};
	struct ct_entry *entry;

	reverse_tuple(&ctx->l4.tuple, &reverse, CT_CONNECTION);
	entry = ct_lookup(&reverse);
	if (!entry)
		return;
	ct_update(entry, ctx->l4.tcp_flags, true);
	ct_export(entry, true, &ctx->ct);
}

/* Apply services, policy and connection tracking. Return REASON_NONE, or the reason for a drop. */
static __noinline enum reason ctx_process(struct __sk_buff *skb, struct packet *p,
					  struct context *ctx)
{
	struct l4_info *l4;
	enum reason reason;

	l4 = &ctx->l4;
	reason = l4_parse(skb, p, l4);
	if (reason != REASON_NONE)
		return ctx->src.enforce || ctx->dst.enforce || ctx->masquerade ? reason :
										 REASON_NONE;
	if (l4->icmp_error) {
		reason = icmp_error_translate(skb, l4, &ctx->cfg);
		if (reason == REASON_MAX)
			return policy_verdict(&ctx->src, &ctx->dst, l4->tuple.proto,
					      l4->policy_port, &ctx->cfg);
		ctx_update_dst(p, ctx);
		return reason;
	}
	if (ctx->cfg.features & FEATURE_SERVICES) {
		if (p->flow.origin == FROM_HOST && lb_is_translated_reply(&l4->tuple))
			return REASON_NONE;
		if (p->flow.origin == FROM_POD) {
			reason = lb_translate(skb, l4, &ctx->cfg);
			if (reason != REASON_NONE)
				return reason;
		}
		if (l4->service.port)
			ctx_update_dst(p, ctx);
	}
	ctx->cacheable = l4->unfragmented &&
			 (p->flow.proto == IPPROTO_TCP || p->flow.proto == IPPROTO_UDP) &&
			 !l4->service.port && !ctx->masquerade;
	if (ctx_needs_ct(ctx) || l4->service.port)
		reason = ct_track(l4, &ctx->src, &ctx->dst, &ctx->cfg, &ctx->ct);
	else
		ctx_track_reply(ctx);
	if (reason == REASON_NONE && ctx->masquerade && !ctx->ct.reply)
		reason = masquerade_select(l4, &ctx->ct, &ctx->cfg);
	if (ctx->ct.flags & (CT_DNAT | CT_SNAT))
		ctx->cacheable = false;
	return reason;
}

/* Translate a reply, or an ICMP error, from the wire to a masqueraded Pod. */
static __noinline bool ctx_masquerade_reverse(struct __sk_buff *skb, struct packet *p,
					      struct context *ctx)
{
	struct l4_info *l4;

	l4 = &ctx->l4;
	if (l4_parse(skb, p, l4) != REASON_NONE ||
	    !masquerade_is_node_address(l4->tuple.family, l4->tuple.dst, &ctx->cfg))
		return false;
	if (l4->icmp_error ? icmp_error_translate(skb, l4, &ctx->cfg) != REASON_NONE :
			     !masquerade_reverse(skb, l4))
		return false;
	ctx_update_dst(p, ctx);
	return true;
}

/* Set the source of a service's reply to the service's address. */
static __always_inline bool ctx_service_reverse(struct __sk_buff *skb, struct context *ctx)
{
	if (!ctx->ct.reply || !(ctx->ct.flags & CT_DNAT))
		return true;
	return nat_rewrite(skb, &ctx->l4, true, &ctx->ct.nat);
}

#endif
