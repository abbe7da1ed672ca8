// SPDX-License-Identifier: GPL-2.0-only
/*
 * Virtual addresses. A new connection takes the backend that its tuple hashes to in the service's
 * Maglev table; the connection's entry keeps it, whatever becomes of the table.
 */
#ifndef PODNET_SERVICES_H
#define PODNET_SERVICES_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "config.h"
#include "ct.h"
#include "nat.h"
#include "reasons.h"
#include "transport.h"
#include "tuple.h"

#define SERVICES_MAX 8192
#define TABLES_MAX 4096
#define BACKENDS_MAX 65536
#define MAGLEV_SIZE 251		/* a prime, so that each backend's steps meet every place */

struct service_key {
	__be32 address[4];
	__be16 port;
	__u8 proto;
	__u8 family;
	__u32 bank;
};

struct service {
	__u32 table;		/* index into `tables` */
	__u32 id;		/* crc32 of its name */
};

/* Not written while `services` names it. */
struct table {
	__u32 backend[MAGLEV_SIZE];	/* indexes into `backends` */
	__u32 digest[2];		/* the writer's: what it was made from */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, SERVICES_MAX);
	__type(key, struct service_key);
	__type(value, struct service);
} services SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, TABLES_MAX);
	__type(key, __u32);
	__type(value, struct table);
} tables SEC(".maps");

/* Not written while a table names it. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, BACKENDS_MAX);
	__type(key, __u32);
	__type(value, struct place);
} backends SEC(".maps");

static __noinline __u32 hash_of(const struct tuple *t)
{
	__u64 hash = (__u64)t->sport << 32 | (__u64)t->dport << 16 | t->proto;

	#pragma unroll
	for (int i = 0; i < 4; i++) {
		hash = (hash ^ t->src[i]) * 0x9e3779b97f4a7c15ULL;
		hash = (hash ^ t->dst[i]) * 0x9e3779b97f4a7c15ULL;
	}
	return hash >> 32;
}

/*
 * Whether a client's connection to its backend is at an end, so that a new one may go elsewhere.
 */
static __noinline bool ended(const struct tuple *t, const struct place *backend)
{
	struct tuple direct = *t;
	struct connection *c;

	__builtin_memcpy(direct.dst, backend->address, sizeof(direct.dst));
	direct.dport = backend->port;
	direct.kind = CT_CONNECTION;
	c = find(&direct);
	return !c || c->flags & CT_CLOSING;
}

/* The backend for a new connection, kept for its life. `t` is of CT_SERVICE. */
static __noinline enum reason choose(const struct tuple *t, const struct config *now,
				     struct place *to)
{
	struct service_key key = {
		.port = t->dport,
		.proto = t->proto,
		.family = t->family,
		.bank = bank_of(*now),
	};
	struct connection made = { .seen = seconds(), .generation = now->generation };
	struct service *service;
	struct table *table;
	struct place *backend;
	__u32 place;

	__builtin_memcpy(key.address, t->dst, sizeof(key.address));
	service = bpf_map_lookup_elem(&services, &key);
	if (!service)
		return REASON_NONE;
	table = bpf_map_lookup_elem(&tables, &service->table);
	if (!table)
		return REASON_DROP_NO_BACKEND;
	place = hash_of(t) % MAGLEV_SIZE;
	barrier_var(place); /* the compiler knows already, the verifier does not */
	if (place >= MAGLEV_SIZE)
		return REASON_DROP_NO_BACKEND;
	backend = bpf_map_lookup_elem(&backends, &table->backend[place]);
	if (!backend || !backend->port)
		return REASON_DROP_NO_BACKEND;
	*to = *backend;
	made.service = *backend;
	if (bpf_map_update_elem(&ct, t, &made, BPF_ANY))
		return REASON_DROP_NO_STATE;
	return REASON_NONE;
}

/* Lead a packet to a service to its backend; what was asked for stays in `served`. */
static __noinline enum reason serve(struct __sk_buff *skb, struct segment *s,
				    const struct config *now)
{
	struct place to = {};
	struct connection *c;
	enum reason reason;
	struct tuple *t;

	t = &s->tuple;
	if (t->proto != IPPROTO_TCP && t->proto != IPPROTO_UDP)
		return REASON_NONE;
	t->kind = CT_SERVICE;
	c = find(t);
	if (c && opens(s->tcp_flags) && ended(t, &c->service))
		c = NULL;
	if (c) {
		c->seen = seconds();
		to = c->service;
	} else {
		reason = choose(t, now, &to);
		if (reason != REASON_NONE)
			return reason;
	}
	t->kind = CT_CONNECTION;
	if (!to.port)
		return REASON_NONE;
	if (to.address[0] == t->src[0] && to.address[1] == t->src[1] &&
	    to.address[2] == t->src[2] && to.address[3] == t->src[3])
		return REASON_DROP_HAIRPIN;
	__builtin_memcpy(s->served.address, t->dst, sizeof(s->served.address));
	s->served.port = t->dport;
	s->asked = to.port;
	return rewrite(skb, s, false, &to) ? REASON_NONE : REASON_DROP_REWRITE;
}

#endif
