// SPDX-License-Identifier: GPL-2.0-only
/*
 * The order of connection tracking, services and policy: find or create the packet's connection,
 * translate its destination, apply policy. source.h translates the source afterwards.
 */
#ifndef PODNET_TRACK_H
#define PODNET_TRACK_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "context.h"
#include "ct.h"
#include "endpoints.h"
#include "icmp_error.h"
#include "lb.h"
#include "masquerade.h"
#include "metrics.h"
#include "nat.h"
#include "verdict.h"

/* Return whether an address belongs to a Pod that is newer than a connection. */
static __noinline bool ct_is_before_pod(const struct connection *c, __u8 family,
					const struct addr_port *side)
{
	__be32 address[4];
	struct endpoint *ep;

	__builtin_memcpy(address, side->address, sizeof(address));
	ep = endpoint_lookup(family, address);
	return ep && ep->since && (__s32)(ep->since - c->created) > 0;
}

/*
 * Return whether a connection is still one of its Pods, and its backend one of its service. An open
 * TCP connection keeps its backend. One without a backend ends if a service gets its destination
 * before an answer arrives: the client of the service would never reach it.
 */
__noinline bool ct_is_current(const struct connection *c, __u8 family, const struct config *cfg,
			      bool syn)
{
	if (!c || !cfg)
		return false;
	if (ct_is_before_pod(c, family, &c->client) || ct_is_before_pod(c, family, &c->server))
		return false;
	if (!(c->flags & CT_DNAT))
		return c->flags & CT_SEEN_REPLY || !(cfg->features & FEATURE_SERVICES) ||
		       !lb_has_service(family, c->proto, &c->server, cfg);
	return (c->proto == IPPROTO_TCP && !syn) || lb_is_current(c, family, cfg);
}

/* Return whether a packet belongs to the connection of its tuple, and does not open another one. */
static __noinline bool ctx_is_of_connection(const struct context *ctx, const struct connection *c)
{
	bool syn = tcp_is_syn(ctx->l4.tcp_flags);

	/* from the client or, from the server's port, from the server */
	if (syn && (c->verdict.reason != REASON_NONE || c->flags & (CT_FIN_BOTH | CT_WAS_RST)))
		return false;
	/* the client forgot an open connection; a retransmitted SYN keeps its backend */
	syn = syn && c->flags & CT_SEEN_REPLY;
	return (!syn && c->verdict.generation == ctx->cfg.generation) ||
	       ct_is_current(c, ctx->l4.tuple.family, &ctx->cfg, syn);
}

enum ctx_match {
	CTX_NEW,		/* no connection */
	CTX_KNOWN,
	CTX_DONE,		/* a known connection; an earlier program translated the packet */
	CTX_CLASH,		/* no connection, but the tuple is the reply tuple of another one */
	CTX_FORGED,		/* a translated connection has this tuple only inside the node */
};

/* Find the packet's connection. Only packets from the stack may be translated already. */
__noinline enum ctx_match ctx_find(const struct packet *p, struct context *ctx)
{
	const struct tuple *t;
	enum ctx_match other = CTX_NEW;
	struct connection *c;

	if (!p || !ctx)
		return CTX_FORGED;
	t = &ctx->l4.tuple;
	c = ct_lookup(t, CT_ORIGINAL, &ctx->ct.place, &ctx->ct.reply);
	if (c)
		ctx->ct.serial = c->serial;
	if (c && (!(c->flags & (CT_DNAT | CT_SNAT)) ||
		  (!ctx->ct.reply && p->flow.origin != FROM_HOST)))
		return CTX_KNOWN;
	if (c)
		other = !ctx->ct.reply ? CTX_KNOWN :
			p->flow.origin == FROM_HOST ? CTX_DONE : CTX_FORGED;
	/* pod_egress() has translated what Pods of this node send */
	if (!(ctx->cfg.features & (FEATURE_SERVICES | FEATURE_MASQUERADE)) ||
	    (other == CTX_DONE && ctx->src.ifindex))
		return other;
	/* both tuples may exist: a Pod has the same port to a server and to a service of it */
	c = ct_lookup(t, CT_REPLY, &ctx->ct.place, &ctx->ct.reply);
	if (!c)
		return other;
	ctx->ct.serial = c->serial;
	if (ctx->ct.reply)
		return CTX_KNOWN;
	if (p->flow.origin == FROM_HOST)
		return CTX_DONE;
	return p->flow.origin == FROM_POD ? CTX_CLASH : CTX_FORGED;
}

/*
 * Return whether a Pod's packet, which opens a connection in the place of a former one, has the
 * reply tuple of another connection. ctx_find() has found the former one.
 */
static __noinline bool ctx_reopens_with_clash(const struct packet *p, const struct context *ctx)
{
	struct connection *c = NULL;
	bool reply = true;
	__u32 place;

	if (p->flow.origin == FROM_POD)
		c = ct_lookup(&ctx->l4.tuple, CT_REPLY, &place, &reply);
	return c && !reply;
}

/*
 * Keep the tuple of the direction that sends nothing from being discarded as the least recently
 * used, once a second.
 */
__noinline int ct_refresh(const struct connection *c, const struct ct_state *ct)
{
	struct tuple t = {};
	enum ct_tuple which;
	bool reply;
	__u32 place;

	if (!c || !ct)
		return 0;
	which = ct->reply ? CT_ORIGINAL : CT_REPLY;
	ct_set_tuple(c, which, &t);
	if (!ct_lookup(&t, which, &place, &reply))
		ct_ref_insert(&t, which, ct->place, ct->serial);
	return 0;
}

/*
 * Return whether a packet opens a connection to a process of the node, or to a service, that began
 * after a masqueraded connection with the same host had got its port.
 */
static __noinline bool ctx_opens_to_node(struct __sk_buff *skb, const struct packet *p,
					 const struct context *ctx, const struct connection *c)
{
	const struct tuple *t = &ctx->l4.tuple;

	if (p->flow.origin != FROM_WIRE || !ctx->ct.reply || !(c->flags & CT_SNAT) ||
	    !tcp_is_syn(ctx->l4.tcp_flags))
		return false;
	return node_socket_state(skb, t, false) ||
	       (ctx->cfg.features & FEATURE_SERVICES &&
		lb_find(t->family, t->proto, t->dst, t->dport, &ctx->cfg));
}

/* Return whether another open connection has this tuple, or has it as its reply tuple. */
static __always_inline bool ct_is_taken(const struct tuple *routed)
{
	struct connection *c;
	bool reply;
	__u32 place;

	c = ct_lookup(routed, CT_REPLY, &place, &reply);
	if (!c)
		c = ct_lookup(routed, CT_ORIGINAL, &place, &reply);
	return c && !ct_is_closed(c);
}

/* Allocate the record of a new connection, which its sender is charged for if it is a Pod. */
static __always_inline struct connection *ctx_alloc(struct context *ctx)
{
	__u32 place = 0, serial = 0;
	struct connection *c;

	c = ct_alloc(ctx->src.slot ? ctx->src.slot : ctx->dst.slot, &place, &serial);
	if (!c)
		return NULL;
	ct_end(c);
	if (c->proto)
		ct_forget(c, CT_ORIGINAL, place);
	if (c->flags & (CT_DNAT | CT_SNAT))
		ct_forget(c, CT_REPLY, place);
	ctx->ct.place = place;
	ctx->ct.serial = serial;
	return c;
}

/*
 * Fill the record of a new connection, which has its verdict. The packet's destination is that of
 * the server already; `service` is the one before, with port 0 if it is the same.
 */
__noinline bool ctx_create(struct context *ctx, struct connection *c,
			   const struct addr_port *service, __u32 backend)
{
	__u32 place, serial;
	struct tuple *t;

	if (!ctx || !c || !service)
		return false;
	t = &ctx->l4.tuple;
	place = ctx->ct.place;
	serial = ctx->ct.serial;
	__builtin_memcpy(c->client.address, t->src, sizeof(t->src));
	c->client.port = t->sport;
	__builtin_memcpy(c->server.address, t->dst, sizeof(t->dst));
	c->server.port = t->dport;
	c->last_seen = ct_now();
	c->created = ctx->cfg.generation;
	c->backend = backend;
	c->proto = t->proto;
	c->flags = (t->family == AF_INET6 ? CT_IPV6 : 0) | (service->port ? CT_DNAT : 0) |
		   (ctx_is_midstream(&ctx->l4) ? CT_MIDSTREAM : 0) |
		   (ctx->l4.tcp_flags & TCP_FIN ? CT_FIN_CLIENT : 0) |
		   (ctx->src.identity == IDENTITY_HOST ? CT_HOST_CLIENT : 0) |
		   (ctx->dst.identity == IDENTITY_HOST ? CT_HOST_SERVER : 0) |
		   (ctx->src.flags & POD_ANY_SOURCE && !ctx->src.pod ? CT_ANY_SOURCE : 0) |
		   (ctx->external ? CT_EXTERNAL : 0);
	barrier();
	c->serial = serial;
	if (!service->port)
		return ct_ref_insert(t, CT_ORIGINAL, place, serial);
	c->service = *service;
	ctx->ct.clash = ct_is_taken(t) || !ct_ref_insert(t, CT_REPLY, place, serial);
	__builtin_memcpy(t->dst, service->address, sizeof(t->dst));
	t->dport = service->port;
	if (!ct_ref_insert(t, CT_ORIGINAL, place, serial))
		return false;
	__builtin_memcpy(t->dst, c->server.address, sizeof(t->dst));
	t->dport = c->server.port;
	return true;
}

/*
 * Return whether a packet is a reply to a process of the node. Its connection has no record, and
 * its port may be that of a service, also of one that began later.
 */
static __noinline bool ctx_is_reply_to_node(struct __sk_buff *skb, const struct l4_info *l4)
{
	__u32 state;

	if (tcp_is_syn(l4->tcp_flags))
		return false;
	state = node_socket_state(skb, &l4->tuple, false);
	/* listening, and UDP without a peer: they are servers */
	return state && state != BPF_TCP_LISTEN && state != BPF_TCP_CLOSE;
}

/* Select the server of a new connection to a service; `to` stays unset for other destinations. */
static __always_inline enum reason ctx_select_backend(struct __sk_buff *skb,
						      const struct packet *p, struct context *ctx,
						      struct addr_port *to, __u32 *backend)
{
	const struct tuple *t = &ctx->l4.tuple;
	__u32 ifindex = p->flow.ifindex;
	struct lb_origin from = {};
	enum reason reason;
	struct pod *pod;

	if (p->flow.origin == FROM_HOST || !(ctx->cfg.features & FEATURE_SERVICES) ||
	    ctx->dst.pod || !proto_has_ports(t->proto))
		return REASON_NONE;
	if (ctx->cfg.features & FEATURE_NODE_PORTS &&
	    lb_lookup_node_port(t->family, t->proto, t->dport, &ctx->cfg))
		from.flags |= ctx_is_to_node(skb, p) ? LB_TO_NODE : 0;
	if (p->flow.origin == FROM_WIRE) {
		if (!(ctx->cfg.features & FEATURE_EXTERNAL))
			return REASON_NONE;
		from.flags |= LB_EXTERNAL;
	} else if (ctx->src.pod) {
		pod = bpf_map_lookup_elem(&pods, &ifindex);
		from.netns = pod ? pod->netns : 0;
	}
	reason = lb_select(t, &ctx->cfg, &from, to, backend);
	if ((reason != REASON_NONE || to->port) && ctx_is_reply_to_node(skb, &ctx->l4)) {
		to->port = 0;
		return REASON_NONE;
	}
	if (from.flags & LB_SOURCES && !lb_allows_source(t, &ctx->cfg))
		return REASON_DROP_SOURCE_RANGE;
	if (reason == REASON_DROP_NO_BACKEND && from.flags & LB_REJECT)
		return REASON_NONE;
	return reason;
}

/* Set the packet's destination to `to`; `to` becomes the one before. */
static __noinline bool ctx_set_destination(struct __sk_buff *skb, struct packet *p,
					   struct context *ctx, struct addr_port *to)
{
	struct tuple *t;
	__be16 port;

	t = &ctx->l4.tuple;
	port = t->dport;
	if (!ctx->ct.reply)
		ctx->l4.policy_port = to->port;
	if (!nat_rewrite(skb, &ctx->l4, false, to))
		return false;
	to->address[0] = p->flow.dst4;
	if (t->family == AF_INET6)
		__builtin_memcpy(to->address, p->flow.dst6, sizeof(to->address));
	to->port = port;
	ctx_update_dst(p, ctx);
	return true;
}

/*
 * Set what follows for a packet from the wire if its backend is no Pod of this node: host_egress()
 * translates the replies of the node's own processes, and those of another node's backend must
 * return to this node.
 */
static __noinline int ctx_set_external_server(struct __sk_buff *skb, const struct packet *p,
					      struct context *ctx, const struct connection *c)
{
	bool own = false;

	if (ctx->cfg.features & FEATURE_HOST_BACKENDS)
		own = c ? c->flags & CT_HOST_SERVER : ctx_is_to_node(skb, p);
	if (own)
		ctx->dst.identity = IDENTITY_HOST;
	ctx->masquerade = !own;
	return 0;
}

/* Return whether a packet without a connection opens one that is worth a record. */
static __always_inline bool ctx_opens(const struct l4_info *l4)
{
	const struct tuple *t = &l4->tuple;

	if (t->proto == IPPROTO_ICMP || t->proto == IPPROTO_ICMPV6)
		return t->icmp == TUPLE_ICMP_REQUEST;
	return t->proto != IPPROTO_TCP || !(l4->tcp_flags & TCP_RST);
}

/* Apply policy to an ICMP error, and translate it. */
static __always_inline enum reason ctx_icmp_error(struct __sk_buff *skb, struct packet *p,
						  struct context *ctx)
{
	struct l4_info *l4 = &ctx->l4;
	enum reason reason;

	reason = icmp_error_translate(skb, p, l4, &ctx->cfg,
				      p->flow.origin == FROM_POD || ctx->src.pod);
	if (reason == REASON_MAX)
		return ctx_verdict(skb, p, ctx, NULL);
	ctx->ct.tracked = true;
	ctx->ct.reply = true;
	ctx_update_dst(p, ctx);
	return reason;
}

/* Apply connection tracking, services and policy to a packet whose transport header is parsed. */
__noinline enum reason ctx_track(struct __sk_buff *skb, struct packet *p, struct context *ctx)
{
	struct addr_port to = {};
	struct connection *c = NULL;
	union ct_verdict verdict;
	enum ctx_match match;
	enum reason reason;
	__u32 backend = 0;
	bool translate = false;

	if (!p || !ctx)
		return REASON_DROP_UNSUPPORTED;
	match = ctx_find(p, ctx);
	if (match == CTX_FORGED || (match != CTX_NEW && ctx->src.spoofed))
		return REASON_DROP_INVALID_SOURCE_IP;
	if (match == CTX_KNOWN || match == CTX_DONE)
		c = ctx_connection(ctx);
	if (match == CTX_DONE) {
		if (!c)
			return REASON_DROP_CT_CREATE_FAILED;
		if (ctx->ct.reply || c->verdict.generation == ctx->cfg.generation)
			return c->verdict.reason;
		/* it need not be a packet of the connection: none has been processed since */
		return ctx_verdict(skb, p, ctx, c);
	}
	if (c && ctx_opens_to_node(skb, p, ctx, c)) {
		ct_end(c);
		c = NULL;
	}
	if (c && !ctx_is_of_connection(ctx, c))
		c = NULL;
	if (!c) {
		ctx->ct.reply = false;
		reason = ctx_select_backend(skb, p, ctx, &to, &backend);
		if (reason != REASON_NONE)
			return reason;
		translate = to.port;
		if (match == CTX_KNOWN && !translate && ctx_reopens_with_clash(p, ctx))
			match = CTX_CLASH;
	} else if (ctx->ct.reply ? c->flags & CT_SNAT : c->flags & CT_DNAT) {
		to = ctx->ct.reply ? c->client : c->server;
		translate = true;
	}
	if (translate && !ctx_set_destination(skb, p, ctx, &to))
		return REASON_DROP_NAT_FAILED;
	if (p->flow.origin == FROM_WIRE) {
		if (!c && !translate && !ctx->dst.ifindex)
			return REASON_NONE;
		ctx->external = translate;
		if (translate && !ctx->ct.reply && !ctx->dst.ifindex)
			ctx_set_external_server(skb, p, ctx, c);
	}
	ctx->cacheable = ctx->l4.unfragmented &&
			 (p->flow.proto == IPPROTO_TCP || p->flow.proto == IPPROTO_UDP);
	if (!c) {
		if (!ctx_needs_ct(ctx) && !translate && match != CTX_CLASH)
			return REASON_NONE;
		reason = ctx_verdict(skb, p, ctx, NULL);
		if (reason != REASON_NONE)
			return reason;
		/* its record would admit the Pod itself */
		if (ctx->src.spoofed)
			return REASON_DROP_INVALID_SOURCE_IP;
		if (!ctx_opens(&ctx->l4)) {
			ctx->cacheable = false;
			return REASON_NONE;
		}
		c = ctx_alloc(ctx);
		if (!c)
			return REASON_DROP_CT_CREATE_FAILED;
		ct_set_verdict(c, ctx->cfg.generation, REASON_NONE, ctx_peers(ctx));
		if (!ctx_create(ctx, c, &to, backend))
			return REASON_DROP_CT_CREATE_FAILED;
		ctx->ct.clash |= match == CTX_CLASH;
		ctx->ct.tracked = true;
		if (translate || ctx->ct.clash || ctx->masquerade)
			ctx_set_translated(p, ctx);
		if (translate || ctx->ct.clash || ctx->masquerade)
			ctx->cacheable = false;
		return REASON_NONE;
	}
	verdict.word = c->verdict.word;
	if (verdict.generation != ctx->cfg.generation || verdict.peers != ctx_peers(ctx)) {
		verdict.reason = ctx_verdict(skb, p, ctx, c);
		ct_set_verdict(c, ctx->cfg.generation, verdict.reason, ctx_peers(ctx));
	}
	reason = verdict.reason;
	if (reason != REASON_NONE) {
		/* keep it, so that no packet of the server opens the connection again */
		c->last_seen = ct_now();
		return reason;
	}
	if (c->flags & (CT_DNAT | CT_SNAT)) {
		/* a source port may get another owner at any time */
		if (c->flags & CT_SNAT)
			ctx->cacheable = false;
		ctx->ct.translated = true;
		if (c->last_seen != ct_now()) {
			ct_refresh(c, &ctx->ct);
			ctx_set_translated(p, ctx);
		}
	}
	ct_update(c, ctx->l4.tcp_flags, ctx->ct.reply);
	ctx->ct.tracked = true;
	ctx->ct.set_source = c->flags & (ctx->ct.reply ? CT_DNAT : CT_SNAT);
	if (ctx->masquerade)
		ctx->cacheable = false;
	return REASON_NONE;
}

/*
 * Apply connection tracking, services and policy. Return REASON_NONE, or the reason for a drop. The
 * destination is translated here; the source is translated when the packet is forwarded, so that
 * the stack gets packets with their own source.
 */
static __always_inline enum reason ctx_process(struct __sk_buff *skb, struct packet *p,
					       struct context *ctx)
{
	enum reason reason = l4_parse(skb, p, &ctx->l4);

	if (reason != REASON_NONE)
		return ctx->src.enforce || ctx->dst.enforce || ctx->masquerade ? reason :
										 REASON_NONE;
	return ctx->l4.icmp_error ? ctx_icmp_error(skb, p, ctx) : ctx_track(skb, p, ctx);
}

#endif
