// SPDX-License-Identifier: GPL-2.0-only
/* Ports of fragmented datagrams: only the first fragment has them. */
#ifndef PODNET_FRAGMENTS_H
#define PODNET_FRAGMENTS_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define FRAGMENTS_MAX 4096
#define FRAGMENT_TIMEOUT 30	/* seconds, as net.ipv4.ipfrag_time */

struct fragment_key {
	__be32 src[4];
	__be32 dst[4];
	__be32 id;
	__u8 proto;		/* IPv6: 0 */
	__u8 family;
	__u16 pad;
};

struct fragment {
	__u32 last_seen;	/* seconds since boot */
	__be16 sport;
	__be16 dport;
	__be16 policy_port;
	__u8 proto;		/* IPv6: after all extension headers */
	__u8 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, FRAGMENTS_MAX);
	__type(key, struct fragment_key);
	__type(value, struct fragment);
} fragments SEC(".maps");

#endif
