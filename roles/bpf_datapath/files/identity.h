// SPDX-License-Identifier: GPL-2.0-only
/*
 * Who an address is, for policy: one number for all addresses that the same rules speak of. A
 * Pod's stands in its endpoint, everybody else's is that of the longest prefix in `cidrs4/6`,
 * in which the node's own addresses are too.
 */
#ifndef PODNET_IDENTITY_H
#define PODNET_IDENTITY_H

#include <linux/bpf.h>
#include <linux/ipv6.h>
#include <bpf/bpf_helpers.h>

#include "config.h"
#include "endpoints.h"

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

/* One end of a packet's way, as policy sees it. */
struct side {
	__u32 identity;
	__u16 enforce;		/* 0 but for Pods of this node: others are enforced at theirs */
	__u16 slot;
	__u16 flags;		/* of the Pod */
	__u16 cidr_flags;
	__u32 ifindex;		/* of a Pod of this node */
	bool pod;		/* here or elsewhere */
	__u8 pad[3];
};

static __always_inline struct endpoint *endpoint_at(__u8 family, const __be32 *address)
{
	if (family == AF_INET)
		return bpf_map_lookup_elem(&endpoints4, address);
	return bpf_map_lookup_elem(&endpoints6, address);
}

/* Fill `side` for an address. */
static __noinline void identify(__u8 family, const __be32 *address, const struct config *now,
				struct side *side)
{
	struct endpoint *ep = endpoint_at(family, address);
	__u32 bank = bank_of(*now);
	struct cidr *cidr;

	*side = (struct side){};
	if (ep) {
		side->pod = true;
		side->identity = ep->identity[bank];
		side->ifindex = ep->ifindex;
		if (ep->ifindex) {
			side->enforce = ep->enforce[bank];
			side->slot = ep->slot;
			side->flags = ep->flags;
		}
		return;
	}
	if (family == AF_INET) {
		struct cidr4_key key = { .prefixlen = 32 + 32, .bank = bank, .address = *address };

		cidr = bpf_map_lookup_elem(&cidrs4, &key);
	} else {
		struct cidr6_key key = { .prefixlen = 32 + 128, .bank = bank };

		__builtin_memcpy(key.address, address, sizeof(key.address));
		cidr = bpf_map_lookup_elem(&cidrs6, &key);
	}
	if (cidr) {
		side->identity = cidr->identity;
		side->cidr_flags = cidr->flags;
	}
}

#endif
