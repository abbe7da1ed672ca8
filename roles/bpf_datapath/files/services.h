// SPDX-License-Identifier: GPL-2.0-only
/*
 * Virtual addresses. A new connection takes the backend that its tuple hashes to in the service's
 * Maglev table; the connection's entry keeps it, whatever becomes of the table.
 */
#ifndef PODNET_SERVICES_H
#define PODNET_SERVICES_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

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

#endif
