// SPDX-License-Identifier: GPL-2.0-only
/*
 * Connections: what lets replies pass, and what translation was chosen. Written by programs
 * only.
 */
#ifndef PODNET_CT_H
#define PODNET_CT_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "config.h"
#include "identity.h"
#include "policy.h"
#include "reasons.h"
#include "transport.h"
#include "tuple.h"

#define CT_MAX 131072

/*
 * CT_CONNECTION's tuple is that of its first packet as it was routed: to the backend, from the
 * Pod's own address. The other two find it by what the packets of the other side of a
 * translation say.
 */
enum ct_kind {
	CT_CONNECTION,
	CT_SERVICE,		/* from the client to the service's address */
	CT_MASQUERADE,		/* from the target to the node's address */
};

#define CT_REPLIED 1		/* both sides have sent */
#define CT_CLOSING 2		/* TCP: a FIN from either side, or a RST */
#define CT_SERVED 4		/* `service` is what the client asks for */
#define CT_MASQUERADED 8	/* `outside` is what the target sees */

struct connection {
	__u32 seen;		/* seconds since boot */
	__u32 generation;	/* of the policy that allowed it */
	__u32 flags;
	struct place service;	/* CT_SERVICE: the backend */
	struct place outside;	/* CT_MASQUERADE: the Pod */
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, CT_MAX);
	__type(key, struct tuple);
	__type(value, struct connection);
} ct SEC(".maps");

/* How long, in seconds, an entry stays good without a packet of its own */
#define LIFE_ESTABLISHED 8000	/* TCP: more than the two hours after which keep-alive asks */
#define LIFE_OPENING 60
#define LIFE_CLOSING 10
#define LIFE_REPLIED 180	/* other protocols, as Linux has it for UDP */
#define LIFE_UNREPLIED 60

static __always_inline __u32 seconds(void)
{
	return bpf_ktime_get_coarse_ns() / 1000000000;
}

static __always_inline __u32 life_of(const struct connection *c, const struct tuple *t)
{
	bool replied = c->flags & CT_REPLIED || t->kind != CT_CONNECTION;

	if (t->proto != IPPROTO_TCP)
		return replied ? LIFE_REPLIED : LIFE_UNREPLIED;
	if (c->flags & CT_CLOSING)
		return LIFE_CLOSING;
	return replied ? LIFE_ESTABLISHED : LIFE_OPENING;
}

/* The live entry of a tuple; for functions that are too deep in the stack to call another one. */
static __always_inline struct connection *find_here(const struct tuple *t)
{
	struct connection *c = bpf_map_lookup_elem(&ct, t);

	/* signed: another processor may have seen a packet a moment later */
	if (c && (__s32)(seconds() - c->seen) > (__s32)life_of(c, t))
		return NULL;
	return c;
}

static __noinline struct connection *find(const struct tuple *t)
{
	return find_here(t);
}

static __always_inline void turn(const struct tuple *t, struct tuple *turned, enum ct_kind kind)
{
	__builtin_memcpy(turned->src, t->dst, sizeof(turned->src));
	__builtin_memcpy(turned->dst, t->src, sizeof(turned->dst));
	turned->sport = t->dport;
	turned->dport = t->sport;
	turned->proto = t->proto;
	turned->family = t->family;
	turned->kind = kind;
}

static __always_inline void note(struct connection *c, __u8 tcp_flags, bool reply)
{
	c->seen = seconds();
	if (reply && !(c->flags & CT_REPLIED))
		c->flags |= CT_REPLIED;
	if (tcp_flags & (TCP_FIN | TCP_RST) && !(c->flags & CT_CLOSING))
		c->flags |= CT_CLOSING;
}

static __always_inline bool opens(__u8 tcp_flags)
{
	return (tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

/* What is known of a packet's connection once it may pass. */
struct tracked {
	struct place other;	/* a reply: the service; else what the target sees */
	__u32 flags;		/* CT_* */
	__u8 known;		/* 0: an ICMP error, or nothing has to be kept */
	__u8 reply;
	__u16 pad;
};

static __always_inline void tell(const struct connection *c, bool reply, struct tracked *result)
{
	result->other = reply ? c->service : c->outside;
	result->flags = c->flags;
	result->known = 1;
	result->reply = reply;
}

static __noinline struct connection *begin(const struct segment *s, const struct config *now)
{
	struct connection made = {
		.seen = seconds(),
		.generation = now->generation,
		.flags = s->served.port ? CT_SERVED : 0,
		.service = s->served,
	};

	if (bpf_map_update_elem(&ct, &s->tuple, &made, BPF_ANY))
		return NULL;
	return bpf_map_lookup_elem(&ct, &s->tuple);
}

/*
 * Let a packet pass that belongs to a connection, or that policy allows to begin one. After a
 * change of the state each connection is judged anew, by its first packet's direction.
 */
static __noinline enum reason track(const struct segment *s, const struct side *from,
				    const struct side *to, const struct config *now,
				    struct tracked *result)
{
	struct tuple turned = {};
	const struct tuple *t;
	struct connection *c;
	bool reply = false;
	enum reason reason;

	t = &s->tuple;
	c = find(t);
	if (c && c->flags & CT_CLOSING && opens(s->tcp_flags))
		c = NULL;
	if (!c) {
		turn(t, &turned, CT_CONNECTION);
		c = find(&turned);
		if (c && c->flags & CT_CLOSING && opens(s->tcp_flags))
			c = NULL;
		reply = c;
	}
	if (!c || c->generation != now->generation) {
		reason = reply ? judge(to, from, turned.proto, turned.dport, now) :
					 judge(from, to, t->proto, s->asked, now);
		if (reason != REASON_NONE) {
			if (c)
				bpf_map_delete_elem(&ct, reply ? &turned : t);
			return reason;
		}
	}
	if (!c)
		c = begin(s, now);
	if (!c)
		return REASON_DROP_NO_STATE;
	c->generation = now->generation;
	note(c, s->tcp_flags, reply);
	tell(c, reply, result);
	return REASON_NONE;
}

#endif
