// SPDX-License-Identifier: GPL-2.0-only
/*
 * What was decided for a flow a moment ago, so that routes and neighbours are not looked up for
 * each packet. An answer lives for CACHE_JIFFIES, then the host's tables are asked again, and the
 * packet that asks goes by bpf_redirect_neigh, which keeps the neighbour's state alive: a change of
 * the host's routes, rules and neighbours is seen within that time. What is declared changes at
 * once, by `config`. Only what went past the stack is kept.
 */
#ifndef PODNET_CACHE_H
#define PODNET_CACHE_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_helpers.h>

#include "config.h"
#include "parse.h"
#include "reasons.h"

#define CACHE_JIFFIES 3		/* 3 ms where HZ is 1000, 12 where it is 250 */
#define CACHE_SLOTS 1024	/* for each processor; a power of two */

struct decision {
	struct flow flow;
	__u64 expires;		/* jiffies */
	__u32 generation;	/* of the state that it was made with */
	__u32 ifindex;		/* where to; for a Pod the host's side of its device */
	__u16 mtu;
	__u16 slot;		/* where it counts */
	__u16 reason;		/* enum reason: LOCAL or INBOUND to a Pod, REMOTE to the wire */
	__u8 macs[2 * ETH_ALEN];	/* REMOTE: target and source */
};

/* A processor's own, so that no program reads what another one is writing. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, CACHE_SLOTS);
	__type(key, __u32);
	__type(value, struct decision);
} decisions SEC(".maps");

/* The place of a flow, whatever is there now. */
static __always_inline struct decision *decision_of(const struct flow *flow)
{
	__u64 hash = 0;
	__u32 slot;

	#pragma unroll
	for (int i = 0; i < FLOW6_WORDS; i++) {
		if (i == FLOW4_WORDS && flow->family == AF_INET)
			break;
		hash = (hash ^ flow->words[i]) * 0x9e3779b97f4a7c15ULL;
	}
	slot = (hash >> 32) & (CACHE_SLOTS - 1);
	return bpf_map_lookup_elem(&decisions, &slot);
}

static __always_inline bool same_flow(const struct flow *a, const struct flow *b)
{
	#pragma unroll
	for (int i = 0; i < FLOW6_WORDS; i++) {
		if (i == FLOW4_WORDS && a->family == AF_INET)
			break;
		if (a->words[i] != b->words[i])
			return false;
	}
	return true;
}

/* Whether a decision holds for the packet. */
static __always_inline bool holds(const struct decision *d, const struct packet *p,
				  struct config now)
{
	return same_flow(&d->flow, &p->flow) && d->generation == now.generation && p->ttl > 1 &&
	       p->wire_len && p->wire_len <= d->mtu && d->expires > bpf_jiffies64();
}

/* Keep a decision in its place; the caller of REMOTE adds the MAC addresses. */
static __always_inline void remember(struct decision *d, const struct packet *p, struct config now,
				     __u32 ifindex, __u32 mtu, enum reason reason)
{
	d->flow = p->flow;
	d->expires = bpf_jiffies64() + CACHE_JIFFIES;
	d->generation = now.generation;
	d->ifindex = ifindex;
	d->mtu = mtu < 0xffff ? mtu : 0xffff;
	d->slot = 0;
	d->reason = reason;
}

#endif
