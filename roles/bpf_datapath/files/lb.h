// SPDX-License-Identifier: GPL-2.0-only
/*
 * Service load balancing. A new connection is assigned an entry of the service's Maglev table: a
 * packet the one that its tuple hashes to, a socket a random one. With session affinity, a client
 * keeps its backend. An open TCP connection keeps its backend when the table changes; other
 * protocols keep it while the service has it, also as one that gets no new connections.
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
#define TABLES_MAX 8192
#define BACKENDS_MAX 65536
#define MAGLEV_SIZE 251		/* prime, as Maglev's permutations require */
#define DRAINING_MAX 64		/* backends of a table that get no new connections */
#define TABLE_SIZE (MAGLEV_SIZE + DRAINING_MAX)
#define AFFINITIES_MAX 65536
#define NODE_ADDRESSES_MAX 1024
#define SOURCES_MAX 65536

/* A key with the unspecified address stands for all addresses of the node: a node port. */
struct service_key {
	__be32 address[4];
	__be16 port;
	__u8 proto;
	__u8 family;
	__u32 buffer;
};

enum service_flag {
	SERVICE_LISTED = 1 << 0,	/* the service chose its address: a Pod has precedence */
	SERVICE_SOURCES = 1 << 1,	/* only for clients in `sources` */
	SERVICE_NODE = 1 << 2,		/* the node is one of these clients */
};

struct service {
	__u32 table;		/* index into `maglev` */
	__u32 external;		/* the same, for clients outside of the cluster */
	__u32 id;		/* crc32 of its name */
	__u32 affinity;		/* seconds that a client keeps its backend; 0: no affinity */
	__u32 flags;		/* enum service_flag */
};

/* Immutable while `services` refers to it. */
struct maglev_table {
	__u32 backend[TABLE_SIZE];	/* indexes into `backends`; from MAGLEV_SIZE on: draining */
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

/* The service is part of the prefix: prefixlen is that of the clients plus SOURCE_PREFIX. */
struct source_key {
	__u32 prefixlen;
	struct service_key service;
	__be32 client[4];
};

#define SOURCE_PREFIX (8 * sizeof(struct service_key))

/* The clients of services with SERVICE_SOURCES. The value is unused. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, SOURCES_MAX);
	__type(key, struct source_key);
	__type(value, __u32);
} sources SEC(".maps");

struct node_address {
	__be32 address[4];
	__u32 family;
};

/*
 * The addresses of the node, for sockets, which cannot look up routes. With AF_UNSPEC, the address
 * is the cookie of the node's network namespace. The value is unused.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, NODE_ADDRESSES_MAX);
	__type(key, struct node_address);
	__type(value, __u32);
} node_addresses SEC(".maps");

enum lb_client_kind {
	LB_CLIENT_ADDRESS,
	LB_CLIENT_NETNS,	/* a Pod or socket: low bits of its namespace's cookie */
};

/* A client of a service, for session affinity. */
struct lb_client {
	__be32 address[4];
	__u32 service;		/* its id */
	__u16 family;
	__u16 kind;		/* enum lb_client_kind */
};

struct affinity {
	struct addr_port backend;
	__u32 index;		/* of the backend */
	__u32 last_seen;	/* seconds since boot */
};

/* Only programs write it. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, AFFINITIES_MAX);
	__type(key, struct lb_client);
	__type(value, struct affinity);
} affinities SEC(".maps");

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

/* Return the service of all addresses of the node, NULL if there is none. */
static __always_inline struct service *lb_lookup_node_port(__u8 family, __u8 proto, __be16 port,
							   const struct config *cfg)
{
	const __be32 any[4] = {};

	return lb_lookup(family, proto, any, port, cfg);
}

/* Return the service of an address, or of a node port if the address were the node's. */
static __noinline struct service *lb_find(__u8 family, __u8 proto, const __be32 *address,
					  __be16 port, const struct config *cfg)
{
	struct service_key key = {
		.port = port,
		.proto = proto,
		.family = family,
		.buffer = config_buffer(*cfg),
	};
	struct service *service;

	__builtin_memcpy(key.address, address, sizeof(key.address));
	service = bpf_map_lookup_elem(&services, &key);
	if (service || !(cfg->features & FEATURE_NODE_PORTS))
		return service;
	__builtin_memset(key.address, 0, sizeof(key.address));
	return bpf_map_lookup_elem(&services, &key);
}

static __always_inline bool lb_is_node_address(__u32 family, const __be32 *address)
{
	struct node_address key = { .family = family };

	__builtin_memcpy(key.address, address, sizeof(key.address));
	return bpf_map_lookup_elem(&node_addresses, &key);
}

/* Return whether a network namespace is that of the node. */
static __always_inline bool lb_is_node_netns(__u64 cookie)
{
	struct node_address key = { .family = AF_UNSPEC };

	__builtin_memcpy(key.address, &cookie, sizeof(cookie));
	return bpf_map_lookup_elem(&node_addresses, &key);
}

/*
 * Return whether packets to an address and port are for a service. Unlike lb_find(), a node port is
 * one of the node's addresses only.
 */
static __noinline bool lb_has_service(__u8 family, __u8 proto, const struct addr_port *to,
				      const struct config *cfg)
{
	if (lb_lookup(family, proto, to->address, to->port, cfg))
		return true;
	return cfg->features & FEATURE_NODE_PORTS &&
	       lb_lookup_node_port(family, proto, to->port, cfg) &&
	       lb_is_node_address(family, to->address);
}

/*
 * Return the position of a backend in a table, TABLE_SIZE if the table does not have it. The index
 * may have another backend since.
 */
__noinline __u32 lb_position(__u32 table_index, __u32 index, const struct addr_port *server)
{
	struct maglev_table *table = bpf_map_lookup_elem(&maglev, &table_index);
	struct addr_port *backend = bpf_map_lookup_elem(&backends, &index);

	if (!server || !table || !backend || backend->port != server->port ||
	    !address_equal(backend->address, server->address))
		return TABLE_SIZE;
	for (__u32 i = 0; i < TABLE_SIZE; i++) {
		if (table->backend[i] == index)
			return i;
	}
	return TABLE_SIZE;
}

/* Set the backend at the position of a hash in a table; return false if the table has none. */
static __noinline bool lb_entry(__u32 table_index, __u32 hash, struct addr_port *backend,
				__u32 *backend_index)
{
	struct maglev_table *table = bpf_map_lookup_elem(&maglev, &table_index);
	struct addr_port *selected;
	__u32 index = hash % MAGLEV_SIZE;

	barrier_var(index); /* keep the check: the verifier does not track the modulo */
	if (!table || index >= MAGLEV_SIZE)
		return false;
	index = table->backend[index];
	selected = bpf_map_lookup_elem(&backends, &index);
	if (!selected || !selected->port)
		return false;
	*backend = *selected;
	*backend_index = index;
	return true;
}

/* Assign a backend of a service's table to a new connection of a client. */
static __always_inline enum reason lb_assign(const struct service *service, __u32 table,
					     struct lb_client *client, __u32 hash,
					     struct addr_port *backend, __u32 *index)
{
	struct affinity *known, new = {};
	__u32 now;

	if (!service->affinity)
		return lb_entry(table, hash, backend, index) ? REASON_NONE :
							       REASON_DROP_NO_BACKEND;
	now = ct_now();
	client->service = service->id;
	known = bpf_map_lookup_elem(&affinities, client);
	if (known && now - known->last_seen < service->affinity) {
		new = *known;
		if (lb_position(table, new.index, &new.backend) < MAGLEV_SIZE) {
			known->last_seen = now;
			*backend = new.backend;
			*index = new.index;
			return REASON_NONE;
		}
	}
	if (!lb_entry(table, hash, backend, index))
		return REASON_DROP_NO_BACKEND;
	new.backend = *backend;
	new.index = *index;
	new.last_seen = now;
	bpf_map_update_elem(&affinities, client, &new, BPF_ANY);
	return REASON_NONE;
}

/* Return whether the sender of a packet may use the service that it is to. */
static __noinline bool lb_allows_source(const struct tuple *t, const struct config *cfg)
{
	struct source_key key = {
		.prefixlen = 8 * (sizeof(key) - sizeof(key.prefixlen)),
		.service.port = t->dport,
		.service.proto = t->proto,
		.service.family = t->family,
		.service.buffer = config_buffer(*cfg),
	};

	__builtin_memcpy(key.service.address, t->dst, sizeof(key.service.address));
	__builtin_memcpy(key.client, t->src, sizeof(key.client));
	return bpf_map_lookup_elem(&sources, &key);
}

enum lb_flag {
	LB_TO_NODE = 1 << 0,	/* the destination is an address of the node */
	LB_EXTERNAL = 1 << 1,	/* the client is outside of the cluster */
	LB_SOURCES = 1 << 2,	/* result: the service is only for clients in `sources` */
	LB_REJECT = 1 << 3,	/* result: without a backend, the node's stack rejects the packet */
};

/* What the tuple does not tell about a new connection. */
struct lb_origin {
	__u32 flags;		/* enum lb_flag */
	__u32 netns;		/* of the Pod that sends, as in struct pod */
};

/*
 * Select the backend of a new connection, and set LB_SOURCES and LB_REJECT. Leaves `backend` unset
 * if the destination is not a service.
 */
__noinline enum reason lb_select(const struct tuple *t, const struct config *cfg,
				 struct lb_origin *from, struct addr_port *backend,
				 __u32 *backend_index)
{
	struct lb_client client = {};
	struct service *service;
	enum reason reason;

	if (!t || !cfg || !from || !backend || !backend_index)
		return REASON_DROP_NO_BACKEND;
	service = lb_lookup(t->family, t->proto, t->dst, t->dport, cfg);
	if (!service && from->flags & LB_TO_NODE)
		service = lb_lookup_node_port(t->family, t->proto, t->dport, cfg);
	if (!service)
		return REASON_NONE;
	/* the caller looks them up: the stack of this function has no room for the key */
	if (service->flags & SERVICE_SOURCES)
		from->flags |= LB_SOURCES;
	if (from->flags & LB_TO_NODE && service->external == service->table)
		from->flags |= LB_REJECT;
	/* a Pod's packets and its sockets are one client */
	if (from->netns) {
		client.kind = LB_CLIENT_NETNS;
		client.address[0] = from->netns;
	} else {
		__builtin_memcpy(client.address, t->src, sizeof(client.address));
	}
	client.family = t->family;
	reason = lb_assign(service, from->flags & LB_EXTERNAL ? service->external : service->table,
			   &client, tuple_hash(t), backend, backend_index);
	/* a host on the wire reaches itself: it gets the packets with the address of this node */
	if (reason == REASON_NONE && !(from->flags & LB_EXTERNAL) &&
	    address_equal(backend->address, t->src))
		return REASON_DROP_HAIRPIN;
	return reason;
}

/*
 * Return whether the service of a connection still has the connection's backend. TCP asks for a
 * SYN, which a draining backend does not get.
 */
__noinline bool lb_is_current(const struct connection *c, __u8 family, const struct config *cfg)
{
	struct service *service;
	struct addr_port server;

	if (!c || !cfg)
		return false;
	service = lb_find(family, c->proto, c->service.address, c->service.port, cfg);
	if (!service)
		return false;
	server = c->server;
	return lb_position(c->flags & CT_EXTERNAL ? service->external : service->table, c->backend,
			   &server) < (c->proto == IPPROTO_TCP ? MAGLEV_SIZE : TABLE_SIZE);
}

#endif
