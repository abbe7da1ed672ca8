// SPDX-License-Identifier: GPL-2.0-only
/* State of one packet during processing. */
#ifndef PODNET_CONTEXT_H
#define PODNET_CONTEXT_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "config.h"
#include "ct.h"
#include "identity.h"
#include "l4.h"
#include "lb.h"
#include "parse.h"

/* The connection of one packet. */
struct ct_state {
	__u32 place;		/* of its record */
	__u32 serial;
	bool tracked;		/* there is a record, or it is an ICMP error about one */
	bool reply;		/* from the server to the client */
	bool clash;		/* the source needs another port: the reply tuple is taken */
	bool set_source;	/* rewrite the source when the packet is forwarded */
	bool translated;	/* between a service and its backend, and nothing else */
};

struct context {
	struct config cfg;
	struct l4_info l4;
	struct endpoint_info src;
	struct endpoint_info dst;
	struct ct_state ct;
	bool masquerade;	/* if it leaves the node, it is masqueraded */
	bool external;		/* from the wire, and translated */
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
			  !(ctx->dst.cidr_flags & (CIDR_NO_MASQUERADE | CIDR_STACK_NAT));
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

/* Return whether the packet may be of a translated connection, or open one to a service. */
static __noinline bool ctx_may_translate(const struct packet *p, const struct context *ctx)
{
	__be32 address[4] = { p->flow.dst4 };

	if (!(ctx->cfg.features & (FEATURE_SERVICES | FEATURE_MASQUERADE)))
		return false;
	if (ct_slot_has(ctx->src.slot, !ctx->dst.pod) || ct_slot_has(ctx->dst.slot, !ctx->src.pod))
		return true;
	if (p->flow.origin != FROM_POD || ctx->dst.pod || !(ctx->cfg.features & FEATURE_SERVICES))
		return false;
	if (p->flow.proto == IPPROTO_ICMP || p->flow.proto == IPPROTO_ICMPV6)
		return false;
	/* of a fragment and behind extension headers, the port is unknown here */
	if (packet_is_partial(p) || !proto_has_ports(p->flow.proto))
		return true;
	if (p->flow.family == AF_INET6)
		__builtin_memcpy(address, p->flow.dst6, sizeof(address));
	return lb_find(p->flow.family, p->flow.proto, address, p->flow.dport, &ctx->cfg);
}

/* Return whether policy or translation requires the packet's connection. */
static __always_inline bool ctx_needs_state(const struct packet *p, const struct context *ctx)
{
	return ctx_needs_ct(ctx) || ctx_may_translate(p, ctx);
}

/* Record that the Pods of a connection have a translated one. */
static __always_inline void ctx_set_translated(const struct packet *p, const struct context *ctx)
{
	if (ctx->src.slot || ctx->src.ifindex || p->flow.origin == FROM_POD)
		ct_slot_set(ctx->src.slot, ctx->masquerade);
	if (ctx->dst.slot || ctx->dst.ifindex)
		ct_slot_set(ctx->dst.slot, ctx->masquerade);
}

/*
 * Return the sum of the identities of both addresses, which is the same in both directions. It
 * changes with the Pod of a remote address, for which there is no new generation.
 */
static __always_inline __u32 ctx_peers(const struct context *ctx)
{
	return (ctx->src.of_address + ctx->dst.of_address) & (IDENTITY_MAX - 1);
}

/* Return the record of a packet, unless another connection has got it since. */
static __always_inline struct connection *ctx_connection(const struct context *ctx)
{
	__u32 place = ctx->ct.place; /* before Linux 6.2 keys have to be on the stack */
	struct connection *c = bpf_map_lookup_elem(&connections, &place);

	return c && c->serial == ctx->ct.serial ? c : NULL;
}

#endif
