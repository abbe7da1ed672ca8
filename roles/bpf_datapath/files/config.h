// SPDX-License-Identifier: GPL-2.0-only
/* Which state holds, and what of it is in use. */
#ifndef PODNET_CONFIG_H
#define PODNET_CONFIG_H

#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

/* Raised with each change of what an entry of any map means; readers and writers compare it. */
#define LAYOUT 1

/*
 * What must change at once for packets (identities, policy, services) is there twice. The writer
 * fills the bank that does not hold, then writes `config`; it writes into a bank only once no
 * program can still be reading it. Bit 0 of the generation is the bank that holds, and a new
 * generation ends all that was decided before.
 */
#define BANKS 2

#define FEATURE_SERVICES 1
#define FEATURE_MASQUERADE 2

struct config {
	union {
		struct {
			__u32 generation;
			__u32 features;
		};
		__u64 both;	/* read and written as one */
	};
};

/* MMAPABLE: its writer changes it by one store. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct config);
} config SEC(".maps");

/* Its size is the number, so that whoever compares sizes of maps sees a change. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, LAYOUT);
	__type(key, __u32);
	__type(value, __u32);
} layout SEC(".maps");

/* To be read once a packet, before anything that stands in banks. */
static __always_inline struct config current_config(void)
{
	struct config now = {};
	__u32 key = 0;
	struct config *current = bpf_map_lookup_elem(&config, &key);

	if (current)
		now.both = *(volatile __u64 *)&current->both;
	return now;
}

static __always_inline __u32 bank_of(struct config now)
{
	return now.generation % BANKS;
}

#endif
