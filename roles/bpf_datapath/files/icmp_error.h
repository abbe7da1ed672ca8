// SPDX-License-Identifier: GPL-2.0-only
/*
 * ICMP errors. An error about a packet of a known connection passes, as netfilter's RELATED, if it
 * goes to the sender of that packet. It is translated as that packet was, so that the receiver can
 * match it to its own packet.
 */
#ifndef PODNET_ICMP_ERROR_H
#define PODNET_ICMP_ERROR_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "config.h"
#include "ct.h"
#include "l4.h"
#include "metrics.h"
#include "nat.h"

struct icmp_error_nat {
	struct addr_port src;	/* of the inner packet, before translation */
	struct addr_port dst;
	bool translated;
};

/* Look up the connection of the inner packet, and its addresses before translation. */
static __noinline bool icmp_error_match(const struct tuple *inner, const struct config *cfg,
					struct icmp_error_nat *nat)
{
	struct connection *c;
	bool reply;
	__u32 place;

	c = ct_lookup(inner, CT_REPLY, &place, &reply);
	if (c && !reply) {
		/* to the client, about its packet as the server sees it */
		nat->src = c->client;
		nat->dst = c->flags & CT_DNAT ? c->service : c->server;
		nat->translated = true;
	}
	if (!c) {
		c = ct_lookup(inner, CT_ORIGINAL, &place, &reply);
		if (c && reply && c->flags & (CT_DNAT | CT_SNAT)) {
			/* to the server, about its packet as the client sees it */
			nat->src = c->server;
			nat->dst = c->flags & CT_SNAT ? c->source : c->client;
			nat->translated = true;
		}
	}
	return c && c->verdict.generation == cfg->generation && c->verdict.reason == REASON_NONE;
}

/*
 * Translate an ICMP error. Return REASON_MAX if it belongs to no known connection. Routers send
 * errors too, so only one from a Pod has to be from the packet's destination.
 */
__noinline enum reason icmp_error_translate(struct __sk_buff *skb, const struct packet *p,
					    struct l4_info *l4, const struct config *cfg,
					    bool from_pod)
{
	struct tuple inner = {};
	struct icmp_error_nat nat = {};
	bool from_target;

	if (!p || !l4 || !cfg)
		return REASON_DROP_UNSUPPORTED;
	inner.family = l4->tuple.family;
	if (!l4_parse_inner(skb, p, l4, &inner))
		return REASON_MAX;
	from_target = address_equal(inner.dst, l4->tuple.src);
	if (!address_equal(inner.src, l4->tuple.dst) || (from_pod && !from_target) ||
	    !icmp_error_match(&inner, cfg, &nat))
		return REASON_MAX;
	if (!nat.translated)
		return REASON_NONE;
	if (!nat_rewrite_inner(skb, l4, &inner, true, &nat.src) ||
	    !nat_rewrite_inner(skb, l4, &inner, false, &nat.dst) ||
	    !nat_rewrite_outer(skb, l4, false, &nat.src) ||
	    (from_target && !nat_rewrite_outer(skb, l4, true, &nat.dst)))
		return REASON_DROP_NAT_FAILED;
	return REASON_NONE;
}

#endif
