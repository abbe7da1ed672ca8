// SPDX-License-Identifier: GPL-2.0-only
/* The current generation of the double-buffered state, and the features in use. */
#ifndef PODNET_CONFIG_H
#define PODNET_CONFIG_H

#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

/* Increment when the meaning of a map entry changes; programs and writers compare it. */
#define LAYOUT 4

/*
 * Identities, policy and services are double-buffered, so that they change atomically for packets.
 * The writer fills the inactive buffer, then commits it by one store into `config`. It reuses a
 * buffer only when no running program can still read it. Bit 0 of the generation selects the
 * active buffer. A new generation also invalidates the flow cache.
 */
#define CONFIG_BUFFERS 2

enum config_feature {
	FEATURE_SERVICES = 1 << 0,
	FEATURE_MASQUERADE = 1 << 1,
	FEATURE_STACK_NAT = 1 << 2,	/* netfilter translates services in the stack */
	FEATURE_NODE_PORTS = 1 << 3,	/* there are services of all addresses of the node */
	FEATURE_EXTERNAL = 1 << 4,	/* hosts on the wire reach services */
	FEATURE_HOST_BACKENDS = 1 << 5,	/* also at processes of the node */
};

struct config {
	union {
		struct {
			__u32 generation;
			__u32 features;
		};
		__u64 word;	/* for atomic access to both */
	};
};

/*
 * Memory-mapped by its writer, which commits a generation by one 64-bit store. libbpf makes an
 * array of one entry of the section; programs read it without a lookup.
 */
struct config config SEC(".data.config") = {};

/* max_entries is the layout number, so a comparison of map sizes detects a new layout. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, LAYOUT);
	__type(key, __u32);
	__type(value, __u32);
} layout SEC(".maps");

/* Read the configuration: once per packet, before any double-buffered map. */
static __always_inline struct config config_read(void)
{
	return (struct config){ .word = *(volatile __u64 *)&config.word };
}

/* Return the index of the active buffer. */
static __always_inline __u32 config_buffer(struct config cfg)
{
	return cfg.generation % CONFIG_BUFFERS;
}

#endif
