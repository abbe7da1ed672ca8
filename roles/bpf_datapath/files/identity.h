// SPDX-License-Identifier: GPL-2.0-only
/*
 * Security identities: one number for all addresses that the same rules select. A Pod's identity
 * is in its endpoint; any other address has that of the longest matching prefix in `cidrs4` or
 * `cidrs6`, which include the node's own addresses.
 */
#ifndef PODNET_IDENTITY_H
#define PODNET_IDENTITY_H

#include <linux/bpf.h>
#include <linux/ipv6.h>
#include <bpf/bpf_helpers.h>

#include "config.h"
#include "endpoints.h"

#define CIDRS_MAX 65536
#define IDENTITY_MAX 0x1000000	/* assigned numbers are lower */

/* Reserved identities */
enum identity {
	IDENTITY_WORLD = 0,	/* selected by no rule */
	IDENTITY_HOST = 1,	/* this node */
	IDENTITY_ANY = 0x7fffffff,	/* in `policy`: all peers without an entry */
};

enum cidr_flag {
	CIDR_NO_MASQUERADE = 1 << 0,	/* Pods keep their own address to this prefix */
	CIDR_STACK_NAT = 1 << 1,	/* netfilter translates this prefix in the stack */
};

/* The buffer is part of the prefix: prefixlen is that of the CIDR plus 32. */
struct cidr4_key {
	__u32 prefixlen;
	__u32 buffer;
	__be32 address;
};

struct cidr6_key {
	__u32 prefixlen;
	__u32 buffer;
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

/* Source or destination of a packet, as policy sees it. */
struct endpoint_info {
	__u32 identity;
	__u16 enforce;		/* 0 unless a Pod of this node: other nodes enforce their Pods' */
	__u16 slot;
	__u16 flags;		/* POD_* */
	__u16 cidr_flags;
	__u32 ifindex;		/* of a Pod of this node */
	__u32 pod : 1;		/* a Pod of this or another node */
	__u32 spoofed : 1;	/* the address of a Pod of this node, but not from its device */
	__u32 of_address : 24;	/* identity of the address, low bits: `identity` may become HOST */
};

/* Fill `info` for an address. */
static __noinline void identity_lookup(__u8 family, const __be32 *address,
				       const struct config *cfg, struct endpoint_info *info)
{
	struct endpoint *ep = endpoint_lookup(family, address);
	__u32 buffer = config_buffer(*cfg);
	struct cidr *cidr;

	*info = (struct endpoint_info){};
	if (ep) {
		info->pod = true;
		info->identity = ep->identity[buffer];
		info->of_address = info->identity;
		info->ifindex = ep->ifindex;
		if (ep->ifindex) {
			info->enforce = ep->enforce[buffer];
			info->slot = ep->slot;
			info->flags = ep->flags;
		}
		return;
	}
	if (family == AF_INET) {
		struct cidr4_key key = {
			.prefixlen = 32 + 32,
			.buffer = buffer,
			.address = *address,
		};

		cidr = bpf_map_lookup_elem(&cidrs4, &key);
	} else {
		struct cidr6_key key = { .prefixlen = 32 + 128, .buffer = buffer };

		__builtin_memcpy(key.address, address, sizeof(key.address));
		cidr = bpf_map_lookup_elem(&cidrs6, &key);
	}
	if (cidr) {
		info->identity = cidr->identity;
		info->of_address = info->identity;
		info->cidr_flags = cidr->flags;
	}
}

#endif
