// SPDX-License-Identifier: GPL-2.0-only
/* Pods that leave the node under its address, on ports that the node itself never takes. */
#ifndef PODNET_MASQUERADE_H
#define PODNET_MASQUERADE_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "config.h"
#include "ct.h"
#include "nat.h"
#include "reasons.h"
#include "services.h"
#include "transport.h"

struct node {
	__be32 masquerade4;	/* the node's address towards the outside; 0: none */
	__u16 first_port;	/* outside of the node's net.ipv4.ip_local_port_range */
	__u16 last_port;
	__be32 masquerade6[4];
};

/* By bank. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, BANKS);
	__type(key, __u32);
	__type(value, struct node);
} node SEC(".maps");

#define PORT_TRIES 16

/*
 * The node's address in a family. False: it has none, so nothing of this family is masqueraded.
 */
static __always_inline bool outside_address(__u8 family, struct node *n, __be32 *address)
{
	if (family == AF_INET)
		address[0] = n->masquerade4;
	else
		__builtin_memcpy(address, n->masquerade6, sizeof(n->masquerade6));
	return address[0] | address[1] | address[2] | address[3];
}

/*
 * Whether the port that a connection has is still its own; it is kept so for as long as it is
 * used.
 */
static __noinline bool keeps_port(const struct tuple *t, const struct place *outside)
{
	struct tuple back = {};
	struct connection *c;

	turn(t, &back, CT_MASQUERADE);
	__builtin_memcpy(back.dst, outside->address, sizeof(back.dst));
	back.dport = outside->port;
	c = find(&back);
	if (!c || c->outside.port != t->sport || c->outside.address[0] != t->src[0] ||
	    c->outside.address[1] != t->src[1] || c->outside.address[2] != t->src[2] ||
	    c->outside.address[3] != t->src[3])
		return false;
	c->seen = seconds();
	return true;
}

/* Take a port that nobody uses towards this target. */
static __noinline bool take_port(const struct tuple *t, const struct node *n,
				 struct place *outside, __u32 from)
{
	struct tuple back = {};
	struct connection made = { .seen = seconds() };
	__u32 ports = n->last_port - n->first_port + 1;

	__builtin_memcpy(made.outside.address, t->src, sizeof(t->src));
	made.outside.port = t->sport;
	turn(t, &back, CT_MASQUERADE);
	__builtin_memcpy(back.dst, outside->address, sizeof(back.dst));
	for (int i = 0; i < PORT_TRIES; i++) {
		/*
		 * the first is where the hash leads, so a lost entry most likely gets its port
		 * back
		 */
		__u32 offset = i ? bpf_get_prandom_u32() : from;

		if (!ports)
			return false;
		outside->port = bpf_htons(n->first_port + offset % ports);
		back.dport = outside->port;
		if (find_here(&back))
			continue;
		bpf_map_delete_elem(&ct, &back); /* may have ended its life */
		if (!bpf_map_update_elem(&ct, &back, &made, BPF_NOEXIST))
			return true;
	}
	return false;
}

/* Find the place under which a connection's packets leave; `known->other.port` 0: their own. */
static __noinline enum reason reserve(const struct segment *s, struct tracked *known,
				      const struct config *now)
{
	const struct tuple *t;
	struct connection *c;
	struct node *n;
	__u32 bank;

	t = &s->tuple;
	bank = bank_of(*now);
	if (known->flags & CT_MASQUERADED && keeps_port(t, &known->other))
		return REASON_NONE;
	known->other = (struct place){};
	n = bpf_map_lookup_elem(&node, &bank);
	if (!n || !outside_address(t->family, n, known->other.address))
		return REASON_NONE;
	/* an echo's identifier stands for the port, other ICMP queries have none */
	if (!t->sport)
		return REASON_DROP_REWRITE;
	if (!take_port(t, n, &known->other, hash_of(t)))
		return REASON_DROP_NO_PORT;
	c = find(t);
	if (!c)
		return REASON_DROP_NO_STATE;
	c->outside = known->other;
	c->flags |= CT_MASQUERADED;
	known->flags |= CT_MASQUERADED;
	return REASON_NONE;
}

/* Turn an answer to a masqueraded packet back to its Pod. False: it is none. */
static __noinline bool unmasquerade(struct __sk_buff *skb, struct segment *s)
{
	struct connection *c;
	struct place to;

	s->tuple.kind = CT_MASQUERADE;
	c = find(&s->tuple);
	s->tuple.kind = CT_CONNECTION;
	if (!c)
		return false;
	to = c->outside;
	return rewrite(skb, s, false, &to);
}

/* Whether a packet from the wire is to the address that masqueraded Pods have. */
static __noinline bool to_outside(__u8 family, const __be32 *address, const struct config *now)
{
	__be32 ours[4] = {};
	__u32 bank = bank_of(*now);
	struct node *n = bpf_map_lookup_elem(&node, &bank);

	return n && outside_address(family, n, ours) && ours[0] == address[0] &&
	       (family == AF_INET || (ours[1] == address[1] && ours[2] == address[2] &&
				      ours[3] == address[3]));
}

#endif
