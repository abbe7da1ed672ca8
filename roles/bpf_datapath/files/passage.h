// SPDX-License-Identifier: GPL-2.0-only
/* A packet's way through policy and translation, in the order in which they belong. */
#ifndef PODNET_PASSAGE_H
#define PODNET_PASSAGE_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "config.h"
#include "ct.h"
#include "identity.h"
#include "masquerade.h"
#include "nat.h"
#include "policy.h"
#include "reasons.h"
#include "related.h"
#include "services.h"
#include "transport.h"

struct passage {
	struct config now;
	struct segment segment;
	struct side from;
	struct side to;
	struct tracked known;
	bool masquerade;	/* it leaves under the node's address, if it leaves */
	bool exact;		/* its flow says all: what is decided holds for the next one */
};

static __always_inline void destination(const struct packet *p, struct passage *w)
{
	__be32 address[4] = { p->flow.dst4 };

	if (p->flow.family == AF_INET6)
		__builtin_memcpy(address, p->flow.dst6, sizeof(address));
	identify(p->flow.family, address, &w->now, &w->to);
	w->masquerade = p->flow.origin == FROM_POD && w->now.features & FEATURE_MASQUERADE &&
			w->from.flags & POD_MASQUERADE && !w->to.pod &&
			!(w->to.cidr_flags & CIDR_NO_MASQUERADE);
}

static __always_inline void origin(const struct packet *p, struct passage *w)
{
	__be32 address[4] = { p->flow.src4 };

	if (p->flow.family == AF_INET6)
		__builtin_memcpy(address, p->flow.src6, sizeof(address));
	identify(p->flow.family, address, &w->now, &w->from);
}

/* After translation the packet goes where its tuple says. */
static __always_inline void redirected(struct packet *p, struct passage *w)
{
	if (p->flow.family == AF_INET)
		p->flow.dst4 = w->segment.tuple.dst[0];
	else
		__builtin_memcpy(p->flow.dst6, w->segment.tuple.dst, sizeof(p->flow.dst6));
	if (p->flow.proto == IPPROTO_TCP || p->flow.proto == IPPROTO_UDP)
		p->flow.dport = w->segment.l4 ? w->segment.tuple.dport : 0;
	destination(p, w);
}

/*
 * Whether a packet's connection is kept. Where it comes to a masqueraded Pod from outside, an
 * answer would else look like a connection of the Pod's own, and leave under the node's address.
 */
static __always_inline bool is_tracked(const struct passage *w)
{
	return w->from.enforce || w->to.enforce || w->masquerade ||
	       (w->now.features & FEATURE_MASQUERADE && w->to.flags & POD_MASQUERADE &&
		!w->from.pod);
}

/* Whether a connection has to be known for a packet to pass, or to be led back. */
static __always_inline bool needs_state(const struct passage *w)
{
	return is_tracked(w) || w->now.features & FEATURE_SERVICES;
}

/* From a service's backend to its client, led back and judged by an earlier program of ours. */
static __noinline bool led_back(const struct tuple *t)
{
	struct tuple turned = {};

	turn(t, &turned, CT_SERVICE);
	return find(&turned);
}

/* A reply where nothing is enforced: only services want to know. */
static __noinline void watch(struct passage *w)
{
	struct tuple turned = {};
	struct connection *c;

	turn(&w->segment.tuple, &turned, CT_CONNECTION);
	c = find(&turned);
	if (!c)
		return;
	note(c, w->segment.tcp_flags, true);
	tell(c, true, &w->known);
}

/* Judge a packet and lead it to where it belongs; anything but REASON_NONE ends its way. */
static __noinline enum reason pass(struct __sk_buff *skb, struct packet *p, struct passage *w)
{
	struct segment *s;
	enum reason reason;

	s = &w->segment;
	reason = resolve(skb, p, s);
	if (reason != REASON_NONE)
		return w->from.enforce || w->to.enforce || w->masquerade ? reason : REASON_NONE;
	if (s->error) {
		reason = relate(skb, s, &w->now);
		if (reason == REASON_MAX)
			return judge(&w->from, &w->to, s->tuple.proto, s->asked, &w->now);
		redirected(p, w);
		return reason;
	}
	if (w->now.features & FEATURE_SERVICES) {
		if (p->flow.origin == FROM_HOST && led_back(&s->tuple))
			return REASON_NONE;
		if (p->flow.origin == FROM_POD) {
			reason = serve(skb, s, &w->now);
			if (reason != REASON_NONE)
				return reason;
		}
		if (s->served.port)
			redirected(p, w);
	}
	w->exact = s->whole && (p->flow.proto == IPPROTO_TCP || p->flow.proto == IPPROTO_UDP) &&
		   !s->served.port && !w->masquerade;
	if (is_tracked(w) || s->served.port)
		reason = track(s, &w->from, &w->to, &w->now, &w->known);
	else
		watch(w);
	if (reason == REASON_NONE && w->masquerade && !w->known.reply)
		reason = reserve(s, &w->known, &w->now);
	if (w->known.flags & (CT_SERVED | CT_MASQUERADED))
		w->exact = false;
	return reason;
}

/* Lead an answer to a masqueraded Pod there. An error is led there by what it is about. */
static __noinline bool back_inside(struct __sk_buff *skb, struct packet *p, struct passage *w)
{
	struct segment *s;

	s = &w->segment;
	if (resolve(skb, p, s) != REASON_NONE ||
	    !to_outside(s->tuple.family, s->tuple.dst, &w->now))
		return false;
	if (s->error ? relate(skb, s, &w->now) != REASON_NONE : !unmasquerade(skb, s))
		return false;
	redirected(p, w);
	return true;
}

/* Let the client of a service see an answer from where it asked. */
static __always_inline bool lead_back(struct __sk_buff *skb, struct passage *w)
{
	if (!w->known.reply || !(w->known.flags & CT_SERVED))
		return true;
	return rewrite(skb, &w->segment, true, &w->known.other);
}

#endif
