// SPDX-License-Identifier: GPL-2.0-only
/*
 * Next hops of Pods that the node has to resolve. All network namespaces share the limit of the
 * kernel's neighbour tables (gc_thresh3, 1,024 by default), and an entry that is being resolved
 * cannot be removed. A Pod that sends to all addresses of a network on the link would fill them,
 * and the node could not even resolve its routers.
 */
#ifndef PODNET_NEIGHBOURS_H
#define PODNET_NEIGHBOURS_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "ct.h"
#include "fib.h"
#include "metrics.h"
#include "tuple.h"

#define NEIGHBOURS_PER_POD 128	/* unresolved next hops at the same time; a power of two */
#define NEIGHBOUR_PLACES 4	/* entries that a next hop may have, as others may have them */
#define NEIGHBOUR_TIMEOUT 4	/* seconds; the kernel gives up after three */

struct neighbour {
	__be32 address[4];
	__u32 since;		/* seconds since boot */
};

/* The key is slot * NEIGHBOURS_PER_POD + a hash. Only programs write it. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, POD_SLOTS * NEIGHBOURS_PER_POD);
	__type(key, __u32);
	__type(value, struct neighbour);
} neighbours SEC(".maps");

/* Return whether a Pod may let the node resolve the next hop of a route. */
static __always_inline bool neighbour_may_resolve(const struct bpf_fib_lookup *fib, __u32 slot)
{
	const __be32 *to = fib->ipv6_dst; /* or ipv4_dst and zeros */
	struct neighbour *one;
	__u32 now = ct_now(), at;
	__u64 hash;

	/* another entry at another time: a next hop that never answers keeps no other one away */
	hash = now / NEIGHBOUR_TIMEOUT;
	for (int i = 0; i < 4; i++)
		hash = (hash ^ to[i]) * 0x9e3779b97f4a7c15ULL;
	/* lower bits do not depend on the last byte of an address */
	hash >>= 32;
	for (int i = 0; i < NEIGHBOUR_PLACES; i++, hash >>= 7) {
		at = slot * NEIGHBOURS_PER_POD + hash % NEIGHBOURS_PER_POD;
		one = bpf_map_lookup_elem(&neighbours, &at);
		if (!one)
			return true;
		if (now - one->since <= NEIGHBOUR_TIMEOUT) {
			if (address_equal(one->address, to))
				return true;
			continue;
		}
		__builtin_memcpy(one->address, to, sizeof(one->address));
		one->since = now;
		return true;
	}
	return false;
}

/* Return whether a Pod may let the stack forward a packet, which may have to resolve a next hop. */
static __noinline bool neighbour_may_forward(struct __sk_buff *skb, const struct packet *p,
					     __u32 slot)
{
	struct bpf_fib_lookup fib = {};

	if (!p->flow.family)
		return true;
	fib_init(p, &fib);
	return bpf_fib_lookup(skb, &fib, sizeof(fib), 0) != BPF_FIB_LKUP_RET_NO_NEIGH ||
	       neighbour_may_resolve(&fib, slot);
}

#endif
