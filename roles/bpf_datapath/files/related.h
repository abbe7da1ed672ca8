// SPDX-License-Identifier: GPL-2.0-only
/*
 * ICMP errors. Where the packet that one is about belongs to a known connection it passes,
 * translated as that packet was, so that it reaches its sender and means something there.
 */
#ifndef PODNET_RELATED_H
#define PODNET_RELATED_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "config.h"
#include "ct.h"
#include "nat.h"
#include "reasons.h"
#include "transport.h"

/* The connection of a tuple or of its opposite, if it was allowed by what is declared now. */
static __always_inline struct connection *find_now(struct tuple *t, enum ct_kind kind,
						   const struct config *now)
{
	struct connection *c;

	t->kind = kind;
	c = find(t);
	return c && (kind != CT_CONNECTION || c->generation == now->generation) ? c : NULL;
}

struct relation {
	struct place to;	/* what is to be put in */
	__u8 translated;	/* 1: there is something */
	__u8 source;		/* 1: as the inner packet's source, the error's target */
	__u16 pad;
};

/* Find the connection of the packet that an error is about. */
static __noinline bool related(const struct tuple *about, const struct config *now,
			       struct relation *r)
{
	struct tuple turned = *about;
	struct connection *c = find_now(&turned, CT_CONNECTION, now);

	if (c) {
		/* to the client: what it sent was led to the backend */
		r->translated = !!(c->flags & CT_SERVED);
		r->to = c->service;
		return true;
	}
	/* on its way to the client, translated already */
	if (find_now(&turned, CT_SERVICE, now))
		return true;
	turn(about, &turned, CT_CONNECTION);
	c = find_now(&turned, CT_CONNECTION, now);
	if (c) {
		/* to who answers the connection: he knows its masqueraded end only */
		r->translated = !!(c->flags & CT_MASQUERADED);
		r->to = c->outside;
		return true;
	}
	r->translated = 1;
	r->source = 1;
	c = find_now(&turned, CT_SERVICE, now);
	if (c) {
		/* from the client, to the backend that its answer seemed not to come from */
		r->to = c->service;
		return true;
	}
	c = find_now(&turned, CT_MASQUERADE, now);
	if (c) {
		/* from outside, to the Pod that sent */
		r->to = c->outside;
		return true;
	}
	return false;
}

static __always_inline bool same_address(const __be32 *a, const __be32 *b)
{
	return a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3];
}

/* REASON_NONE: it passes. REASON_MAX: it is about nothing that is known here. */
static __noinline enum reason relate(struct __sk_buff *skb, struct segment *s,
				     const struct config *now)
{
	struct tuple about = {};
	struct relation r = {};
	bool outer;

	about.family = s->tuple.family;
	if (!resolve_inner(skb, s->l4 + ICMP_HEADER, &about) || !related(&about, now, &r))
		return REASON_MAX;
	if (!r.translated)
		return REASON_NONE;
	/* the error's own opposite end is the same one, unless a router in between sent it */
	outer = r.source ? same_address(about.src, s->tuple.dst) :
			   same_address(about.dst, s->tuple.src);
	if (!rewrite_inner(skb, s, &about, r.source, &r.to) ||
	    (outer && !rewrite_outer(skb, s, !r.source, &r.to)))
		return REASON_DROP_REWRITE;
	return REASON_NONE;
}

#endif
