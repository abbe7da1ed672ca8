// SPDX-License-Identifier: GPL-2.0-only
/*
 * Who an address is, for policy: one number for all addresses that the same rules speak of. A Pod's
 * stands in its endpoint, everybody else's is that of the longest prefix in `cidrs4/6`, in which the
 * node's own addresses are too.
 */
#ifndef PODNET_IDENTITY_H
#define PODNET_IDENTITY_H

#include <linux/bpf.h>
#include <linux/ipv6.h>
#include <bpf/bpf_helpers.h>

#define CIDRS_MAX 16384

#define IDENTITY_WORLD 0	/* no rule speaks of it */
#define IDENTITY_HOST 1		/* this node */

#define CIDR_NO_MASQUERADE 1	/* is reached under the Pod's own address */

/* Every key begins with the bank, so prefixlen is 32 more than the CIDR's. */
struct cidr4_key {
	__u32 prefixlen;
	__u32 bank;
	__be32 address;
};

struct cidr6_key {
	__u32 prefixlen;
	__u32 bank;
	__be32 address[4];
};

struct cidr {
	__u32 identity;
	__u32 flags;
};

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, CIDRS_MAX);
	__type(key, struct cidr4_key);
	__type(value, struct cidr);
} cidrs4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, CIDRS_MAX);
	__type(key, struct cidr6_key);
	__type(value, struct cidr);
} cidrs6 SEC(".maps");

#endif
