// SPDX-License-Identifier: GPL-2.0-only
/* The source of a packet's connection: select it for a new one, rewrite it when it is forwarded. */
#ifndef PODNET_SOURCE_H
#define PODNET_SOURCE_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "context.h"
#include "ct.h"
#include "fib.h"
#include "lb.h"
#include "masquerade.h"
#include "metrics.h"
#include "nat.h"

/* Rewrite the source as the connection requires. */
static __always_inline bool ctx_set_source(struct __sk_buff *skb, struct context *ctx)
{
	struct connection *c;

	if (!ctx->ct.set_source)
		return true;
	ctx->ct.set_source = false;
	c = ctx_connection(ctx);
	return c && nat_rewrite(skb, &ctx->l4, true, ctx->ct.reply ? &c->service : &c->source);
}

/* Return whether a packet of a Pod leaves the node. */
static __noinline bool ctx_leaves(struct __sk_buff *skb, const struct packet *p)
{
	struct bpf_fib_lookup fib = {};

	return fib_lookup(skb, p, &fib, false) == REASON_NONE;
}

/*
 * Select the source of a connection: the node's address if the Pod is masqueraded and the packet
 * leaves the node, or another port of the Pod if the reply tuple is taken. The node's address may
 * have changed since the connection was opened.
 */
__noinline enum reason ctx_select_source(struct __sk_buff *skb, const struct packet *p,
					 struct context *ctx)
{
	struct node_config *config;
	struct connection *c;
	struct tuple t;
	__u32 buffer, hash;
	bool masquerade;

	if (!p || !ctx || ctx->ct.reply)
		return REASON_NONE;
	t = ctx->l4.tuple;
	hash = tuple_hash(&t);
	buffer = config_buffer(ctx->cfg);
	config = bpf_map_lookup_elem(&node, &buffer);
	if (!config)
		return REASON_DROP_NAT_NO_MAPPING;
	masquerade = ctx->masquerade && masquerade_address(t.family, config, t.src);
	if (!masquerade)
		__builtin_memcpy(t.src, ctx->l4.tuple.src, sizeof(t.src));
	c = ctx->ct.tracked ? ctx_connection(ctx) : NULL;
	if (c && c->flags & CT_SNAT && (!masquerade || address_equal(c->source.address, t.src)))
		goto out;
	if (masquerade ? !ctx_leaves(skb, p) : !ctx->ct.clash)
		return REASON_NONE;
	/* only these have a port or an identifier */
	if (!c || (t.proto != IPPROTO_TCP && t.proto != IPPROTO_UDP && !t.icmp))
		return REASON_DROP_NAT_FAILED;
	if (!snat_select(skb, &t, config, ctx, hash))
		return REASON_DROP_NAT_NO_MAPPING;
	__builtin_memcpy(c->source.address, t.src, sizeof(t.src));
	c->source.port = t.sport;
	__sync_fetch_and_or(&c->flags, CT_SNAT);
	ctx->ct.set_source = true;
out:
	/* the stack cannot take over packets whose port is another connection's */
	if (address_equal(c->source.address, ctx->l4.tuple.src) && !ctx_set_source(skb, ctx))
		return REASON_DROP_NAT_FAILED;
	return REASON_NONE;
}

#endif
