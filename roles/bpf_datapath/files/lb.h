// SPDX-License-Identifier: GPL-2.0-only
/*
 * Service load balancing. A new connection is assigned the backend that its tuple hashes to in
 * the service's Maglev table. Its conntrack entry keeps the backend when the table changes.
 */
#ifndef PODNET_LB_H
#define PODNET_LB_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "config.h"
#include "ct.h"
#include "l4.h"
#include "metrics.h"
#include "nat.h"
#include "tuple.h"

#define SERVICES_MAX 8192
#define TABLES_MAX 4096
#define BACKENDS_MAX 65536
#define MAGLEV_SIZE 251		/* prime, as Maglev's permutations require */

struct service_key {
	__be32 address[4];
	__be16 port;
	__u8 proto;
	__u8 family;
	__u32 buffer;
};

struct service {
	__u32 table;		/* index into `maglev` */
	__u32 id;		/* crc32 of its name */
};

/* Immutable while `services` refers to it. */
struct maglev_table {
	__u32 backend[MAGLEV_SIZE];	/* indexes into `backends` */
	__u32 digest[2];		/* of the backends; used by the writer only */
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
	__type(value, struct maglev_table);
} maglev SEC(".maps");

/* Immutable while a table refers to it. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, BACKENDS_MAX);
	__type(key, __u32);
	__type(value, struct addr_port);
} backends SEC(".maps");

static __noinline __u32 tuple_hash(const struct tuple *t)
{
	__u64 hash = (__u64)t->sport << 32 | (__u64)t->dport << 16 | t->proto;

	#pragma unroll
	for (int i = 0; i < 4; i++) {
		hash = (hash ^ t->src[i]) * 0x9e3779b97f4a7c15ULL;
		hash = (hash ^ t->dst[i]) * 0x9e3779b97f4a7c15ULL;
	}
	return hash >> 32;
}

/* Return whether a client's connection to its backend is closed, so that it may select another. */
static __noinline bool lb_connection_closed(const struct tuple *t, const struct addr_port *backend)
{
	struct tuple direct = *t;
	struct ct_entry *entry;

	__builtin_memcpy(direct.dst, backend->address, sizeof(direct.dst));
	direct.dport = backend->port;
	direct.kind = CT_CONNECTION;
	entry = ct_lookup(&direct);
	return !entry || entry->flags & CT_CLOSING;
}

/*
 * Select the backend of a new connection and store it in `ct`. The kind of `t` is CT_SERVICE.
 * Leaves `backend` unset if the destination is not a service.
 */
static __noinline enum reason lb_select(const struct tuple *t, const struct config *cfg,
					struct addr_port *backend)
{
	struct service_key key = {
		.port = t->dport,
		.proto = t->proto,
		.family = t->family,
		.buffer = config_buffer(*cfg),
	};
	struct ct_entry entry = { .last_seen = ct_now(), .generation = cfg->generation };
	struct service *service;
	struct maglev_table *table;
	struct addr_port *selected;
	__u32 index;

	__builtin_memcpy(key.address, t->dst, sizeof(key.address));
	service = bpf_map_lookup_elem(&services, &key);
	if (!service)
		return REASON_NONE;
	table = bpf_map_lookup_elem(&maglev, &service->table);
	if (!table)
		return REASON_DROP_NO_BACKEND;
	index = tuple_hash(t) % MAGLEV_SIZE;
	barrier_var(index); /* keep the check: the verifier does not track the modulo */
	if (index >= MAGLEV_SIZE)
		return REASON_DROP_NO_BACKEND;
	selected = bpf_map_lookup_elem(&backends, &table->backend[index]);
	if (!selected || !selected->port)
		return REASON_DROP_NO_BACKEND;
	*backend = *selected;
	entry.service = *selected;
	if (bpf_map_update_elem(&ct, t, &entry, BPF_ANY))
		return REASON_DROP_CT_CREATE_FAILED;
	return REASON_NONE;
}

/* Translate a service's address to that of a backend; l4->service keeps the original. */
static __noinline enum reason lb_translate(struct __sk_buff *skb, struct l4_info *l4,
					   const struct config *cfg)
{
	struct addr_port backend = {};
	struct ct_entry *entry;
	enum reason reason;
	struct tuple *t;

	t = &l4->tuple;
	if (t->proto != IPPROTO_TCP && t->proto != IPPROTO_UDP)
		return REASON_NONE;
	t->kind = CT_SERVICE;
	entry = ct_lookup(t);
	if (entry && tcp_is_syn(l4->tcp_flags) && lb_connection_closed(t, &entry->service))
		entry = NULL;
	if (entry) {
		entry->last_seen = ct_now();
		backend = entry->service;
	} else {
		reason = lb_select(t, cfg, &backend);
		if (reason != REASON_NONE)
			return reason;
	}
	t->kind = CT_CONNECTION;
	if (!backend.port)
		return REASON_NONE;
	if (backend.address[0] == t->src[0] && backend.address[1] == t->src[1] &&
	    backend.address[2] == t->src[2] && backend.address[3] == t->src[3])
		return REASON_DROP_HAIRPIN;
	__builtin_memcpy(l4->service.address, t->dst, sizeof(l4->service.address));
	l4->service.port = t->dport;
	l4->policy_port = backend.port;
	return nat_rewrite(skb, l4, false, &backend) ? REASON_NONE : REASON_DROP_NAT_FAILED;
}

#endif
