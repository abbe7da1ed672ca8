// SPDX-License-Identifier: GPL-2.0-only
/*
 * Service load balancing. A new connection is assigned the backend that its tuple hashes to in
 * the service's Maglev table. An open TCP connection keeps its backend when the table changes;
 * other protocols keep it while the service has it.
 */
#ifndef PODNET_LB_H
#define PODNET_LB_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "config.h"
#include "ct.h"
#include "l4.h"
#include "metrics.h"
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

static __noinline struct service *
lb_lookup(__u8 family, __u8 proto, const __be32 *address, __be16 port, const struct config *cfg)
{
	struct service_key key = {
		.port = port,
		.proto = proto,
		.family = family,
		.buffer = config_buffer(*cfg),
	};

	__builtin_memcpy(key.address, address, sizeof(key.address));
	return bpf_map_lookup_elem(&services, &key);
}

/*
 * Select the backend of a new connection. Leaves `backend` unset if the destination is not a
 * service.
 */
__noinline enum reason lb_select(const struct tuple *t, const struct config *cfg,
				 struct addr_port *backend, __u32 *backend_index)
{
	struct service *service;
	struct maglev_table *table;
	struct addr_port *selected;
	__u32 index;

	if (!t || !cfg || !backend || !backend_index)
		return REASON_DROP_NO_BACKEND;
	service = lb_lookup(t->family, t->proto, t->dst, t->dport, cfg);
	if (!service)
		return REASON_NONE;
	table = bpf_map_lookup_elem(&maglev, &service->table);
	if (!table)
		return REASON_DROP_NO_BACKEND;
	index = tuple_hash(t) % MAGLEV_SIZE;
	barrier_var(index); /* keep the check: the verifier does not track the modulo */
	if (index >= MAGLEV_SIZE)
		return REASON_DROP_NO_BACKEND;
	index = table->backend[index];
	*backend_index = index;
	selected = bpf_map_lookup_elem(&backends, &index);
	if (!selected || !selected->port)
		return REASON_DROP_NO_BACKEND;
	if (address_equal(selected->address, t->src))
		return REASON_DROP_HAIRPIN;
	*backend = *selected;
	return REASON_NONE;
}

/* Return whether the service of a connection still has the connection's backend. */
__noinline bool lb_is_current(const struct connection *c, __u8 family, const struct config *cfg)
{
	struct maglev_table *table;
	struct addr_port *backend;
	struct service *service;
	__u32 index;

	if (!c || !cfg)
		return false;
	index = c->backend;
	service = lb_lookup(family, c->proto, c->service.address, c->service.port, cfg);
	if (!service)
		return false;
	table = bpf_map_lookup_elem(&maglev, &service->table);
	backend = bpf_map_lookup_elem(&backends, &index);
	if (!table || !backend || backend->port != c->server.port ||
	    !address_equal(backend->address, c->server.address))
		return false;
	for (int i = 0; i < MAGLEV_SIZE; i++) {
		if (table->backend[i] == index)
			return true;
	}
	return false;
}

#endif
