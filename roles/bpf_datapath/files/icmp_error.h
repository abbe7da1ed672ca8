// SPDX-License-Identifier: GPL-2.0-only
/*
 * ICMP errors. An error about a packet of a known connection passes, as netfilter's RELATED. It is
 * translated as that packet was, so that the receiver can match it to its own packet.
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

/* ct_lookup(), but only for a connection that the current generation of policy allowed. */
static __always_inline struct ct_entry *icmp_error_ct_lookup(struct tuple *t, enum ct_kind kind,
							     const struct config *cfg)
{
	struct ct_entry *entry;

	t->kind = kind;
	entry = ct_lookup(t);
	return entry && (kind != CT_CONNECTION || entry->generation == cfg->generation) ? entry :
											  NULL;
}

struct icmp_error_nat {
	struct addr_port to;	/* the new address and port */
	__u8 translated;	/* 1: `to` is set */
	__u8 source;		/* 1: for the inner packet's source and the error's destination */
	__u16 pad;
};

/* Look up the connection of the inner packet, and the translation that the error requires. */
static __noinline bool icmp_error_match(const struct tuple *inner, const struct config *cfg,
					struct icmp_error_nat *nat)
{
	struct tuple t = *inner;
	struct ct_entry *entry = icmp_error_ct_lookup(&t, CT_CONNECTION, cfg);

	if (entry) {
		/* to the client, whose packet was translated to the backend */
		nat->translated = !!(entry->flags & CT_DNAT);
		nat->to = entry->service;
		return true;
	}
	/* to the client, already translated */
	if (icmp_error_ct_lookup(&t, CT_SERVICE, cfg))
		return true;
	reverse_tuple(inner, &t, CT_CONNECTION);
	entry = icmp_error_ct_lookup(&t, CT_CONNECTION, cfg);
	if (entry) {
		/* to the server, which knows only the masqueraded source */
		nat->translated = !!(entry->flags & CT_SNAT);
		nat->to = entry->masquerade;
		return true;
	}
	nat->translated = 1;
	nat->source = 1;
	entry = icmp_error_ct_lookup(&t, CT_SERVICE, cfg);
	if (entry) {
		/* from the client to the backend, whose reply had the service's address */
		nat->to = entry->service;
		return true;
	}
	entry = icmp_error_ct_lookup(&t, CT_MASQUERADE, cfg);
	if (entry) {
		/* from the wire to the masqueraded Pod */
		nat->to = entry->masquerade;
		return true;
	}
	return false;
}

static __always_inline bool address_equal(const __be32 *a, const __be32 *b)
{
	return a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3];
}

/* Translate an ICMP error. Return REASON_MAX if it belongs to no known connection. */
static __noinline enum reason icmp_error_translate(struct __sk_buff *skb, struct l4_info *l4,
						   const struct config *cfg)
{
	struct tuple inner = {};
	struct icmp_error_nat nat = {};
	bool outer;

	inner.family = l4->tuple.family;
	if (!l4_parse_inner(skb, l4->offset + ICMP_HEADER, &inner) ||
	    !icmp_error_match(&inner, cfg, &nat))
		return REASON_MAX;
	if (!nat.translated)
		return REASON_NONE;
	/* the outer address is translated too, unless a router on the path sent the error */
	outer = nat.source ? address_equal(inner.src, l4->tuple.dst) :
			     address_equal(inner.dst, l4->tuple.src);
	if (!nat_rewrite_inner(skb, l4, &inner, nat.source, &nat.to) ||
	    (outer && !nat_rewrite_outer(skb, l4, !nat.source, &nat.to)))
		return REASON_DROP_NAT_FAILED;
	return REASON_NONE;
}

#endif
