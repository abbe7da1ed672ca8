// SPDX-License-Identifier: GPL-2.0-only
/* Policy of a packet's connection: who its peers are, and whether they may talk. */
#ifndef PODNET_VERDICT_H
#define PODNET_VERDICT_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "context.h"
#include "ct.h"
#include "fib.h"
#include "identity.h"
#include "l4.h"
#include "metrics.h"
#include "policy.h"

/* Return whether a packet without a connection belongs to one that it does not open. */
static __always_inline bool ctx_is_midstream(const struct l4_info *l4)
{
	return l4->tuple.proto == IPPROTO_TCP && !tcp_is_syn(l4->tcp_flags);
}

/*
 * Return whether a packet to a Pod is of a socket of the node: the stack forwards packets without
 * their socket. skb->skb_iif tells nothing on meta and netkit, which reset it.
 */
static __always_inline bool skb_is_of_node(struct __sk_buff *skb)
{
	return skb->sk && !skb->ingress_ifindex;
}

/*
 * Set the identity of a peer whose address is no Pod's. Packets of the node's own sockets are from
 * the node, which has the identity HOST. Those that it forwards with its own address (SNAT), or
 * from it (DNAT), are not. Replies do not show the difference, so their connection `c` tells it.
 * Destinations: see ctx_verdict().
 */
static __always_inline void ctx_classify(struct __sk_buff *skb, const struct packet *p,
					 struct context *ctx, const struct connection *c)
{
	if (c && ctx->ct.reply) {
		if (c->flags & CT_HOST_CLIENT)
			ctx->dst.identity = IDENTITY_HOST;
		if (c->flags & CT_HOST_SERVER)
			ctx->src.identity = IDENTITY_HOST;
	} else if (p->flow.origin == FROM_HOST && !ctx->src.pod && skb_is_of_node(skb)) {
		ctx->src.identity = IDENTITY_HOST;
	}
}

/* Apply policy to both directions that the packet's connection requires. */
__noinline enum reason ctx_policy(struct __sk_buff *skb, const struct packet *p,
				  struct context *ctx, const struct connection *c)
{
	const struct endpoint_info *client, *server;
	enum reason reason;
	bool midstream;
	__u8 proto;

	if (!p || !ctx)
		return REASON_DROP_UNSUPPORTED;
	ctx_classify(skb, p, ctx, c);
	if (!ctx->src.enforce && !ctx->dst.enforce)
		return REASON_NONE;
	client = ctx->ct.reply ? &ctx->dst : &ctx->src;
	server = ctx->ct.reply ? &ctx->src : &ctx->dst;
	proto = ctx->l4.tuple.proto;
	midstream = c ? c->flags & CT_MIDSTREAM : ctx_is_midstream(&ctx->l4);
	reason = policy_verdict(client, server, proto, c ? c->server.port : ctx->l4.policy_port,
				&ctx->cfg);
	if (reason == REASON_NONE && midstream)
		reason = policy_verdict(server, client, proto,
					c ? c->client.port : ctx->l4.tuple.sport, &ctx->cfg);
	return reason;
}

/* Return whether the destination of a packet is an address of the node. */
static __noinline bool ctx_is_to_node(struct __sk_buff *skb, const struct packet *p)
{
	struct bpf_fib_lookup fib = {};

	return fib_lookup(skb, p, &fib, false) == REASON_STACK_NOT_FORWARDED;
}

/*
 * Set the identity of a destination by its route: the node itself, or for replies the Pod that a
 * POD_ANY_SOURCE Pod forwards for. Return false if the route does not show one.
 */
__noinline bool ctx_set_dst_by_route(struct __sk_buff *skb, const struct packet *p,
				     struct context *ctx, const struct connection *c)
{
	struct bpf_fib_lookup fib = {};
	enum reason route;
	struct pod *pod;
	__u32 ifindex;

	if (!p || !ctx)
		return false;
	if (p->flow.origin != FROM_POD || ctx->dst.pod || ctx->dst.identity == IDENTITY_HOST ||
	    (ctx->ct.reply && !(c && c->flags & CT_ANY_SOURCE)))
		return false;
	route = fib_lookup(skb, p, &fib, false);
	if (!ctx->ct.reply) {
		if (route != REASON_STACK_NOT_FORWARDED)
			return false;
		ctx->dst.identity = IDENTITY_HOST;
		return true;
	}
	ifindex = fib.ifindex;
	pod = bpf_map_lookup_elem(&pods, &ifindex);
	if (pod)
		ctx->dst.identity = pod->identity[config_buffer(ctx->cfg)];
	return pod;
}

/*
 * Apply policy to the connection `c`, or to a packet without a connection, in the direction of the
 * client. The start of a TCP connection may be unknown, so either side may be its client. Policy
 * then has to allow both directions; otherwise a packet of the server would admit what policy
 * forbids its client.
 *
 * Whether a destination is the node itself is known by its route. Most packets need the route only
 * once, to be forwarded: if policy denies the packet, here; if not, pod_pass_to_stack() applies the
 * policy for the node.
 */
static __always_inline enum reason ctx_verdict(struct __sk_buff *skb, const struct packet *p,
					       struct context *ctx, const struct connection *c)
{
	enum reason reason = ctx_policy(skb, p, ctx, c);
	/* what policy allows its address, it may forbid the Pod */
	bool behind_pod = c && ctx->ct.reply && c->flags & CT_ANY_SOURCE;

	if ((reason != REASON_NONE || behind_pod) && ctx_set_dst_by_route(skb, p, ctx, c))
		return ctx_policy(skb, p, ctx, c);
	return reason;
}

/*
 * Apply the policy for the node itself to a Pod's packet that passes to the stack, and let replies
 * of its connection know their peer. Return REASON_NONE, or the reason for a drop.
 */
static __noinline enum reason ctx_verdict_host(struct __sk_buff *skb, const struct packet *p,
					       struct context *ctx, enum reason stack)
{
	struct bpf_fib_lookup fib = {};
	struct connection *c;

	if (!(ctx->src.enforce & ENFORCE_EGRESS) || ctx->ct.reply || ctx->dst.pod ||
	    ctx->dst.identity == IDENTITY_HOST)
		return REASON_NONE;
	if (stack == REASON_STACK_TTL ||
	    (stack == REASON_STACK_NAT && !(ctx->dst.cidr_flags & CIDR_STACK_NAT)))
		stack = fib_lookup(skb, p, &fib, false);
	/* without forwarding the stack only delivers to the node */
	if (stack != REASON_STACK_NOT_FORWARDED && stack != REASON_STACK_FWD_DISABLED)
		return REASON_NONE;
	ctx->dst.identity = IDENTITY_HOST;
	c = ctx->ct.tracked ? ctx_connection(ctx) : NULL;
	if (c && !(c->flags & CT_HOST_SERVER))
		__sync_fetch_and_or(&c->flags, CT_HOST_SERVER);
	return policy_verdict(&ctx->src, &ctx->dst, ctx->l4.tuple.proto, ctx->l4.policy_port,
			      &ctx->cfg);
}

#endif
