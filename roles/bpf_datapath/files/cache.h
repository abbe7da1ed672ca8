// SPDX-License-Identifier: GPL-2.0-only
/*
 * What was decided for a flow a moment ago, so that routes and neighbours are not looked up for
 * each packet. An answer lives for CACHE_JIFFIES, then the host's tables are asked again, and
 * the packet that asks goes by bpf_redirect_neigh, which keeps the neighbour's state alive: a
 * change of the host's routes, rules and neighbours is seen within that time. What is declared
 * changes at once, by `config`. Only what went past the stack is kept.
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

#define DECISION_PLAIN 1	/* to a Pod: from netkit, so not by redirect_peer */
#define DECISION_TRACKED 2	/* what begins or ends a TCP connection has to be noted */
#define DECISION_PACED 4	/* to the wire: the Pod has a rate */

/* Where a packet goes. */
struct way {
	__u32 ifindex;		/* for a Pod the host's side of its device */
	__u8 macs[2 * ETH_ALEN];	/* REMOTE: target and source */
	__u16 mtu;
	__u16 slot;		/* where it counts */
	__u8 reason;		/* enum reason: LOCAL or INBOUND to a Pod, REMOTE to the wire */
	__u8 flags;
	__u16 pad;
};

struct decision {
	struct flow flow;
	__u64 expires;		/* jiffies */
	__u32 generation;	/* of the state that it was made with */
	__u32 sequence;		/* odd while it is written */
	struct way way;
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

/*
 * Take what was decided if it holds for the packet. On PREEMPT_RT another task of this
 * processor may write the slot in between, which the sequence tells.
 */
static __always_inline bool recall(const struct decision *d, const struct packet *p,
				   struct config now, struct way *way)
{
	__u32 sequence = *(volatile __u32 *)&d->sequence;

	if (!same_flow(&d->flow, &p->flow) || d->generation != now.generation || p->ttl <= 1 ||
	    !p->wire_len || p->wire_len > d->way.mtu || d->expires <= bpf_jiffies64())
		return false;
	*way = d->way;
	barrier();
	return !(sequence & 1) && *(volatile __u32 *)&d->sequence == sequence;
}

/* Keep a decision in its place, unless another one is just being written there. */
static __always_inline void remember(struct decision *d, const struct packet *p, struct config now,
				     const struct way *way)
{
	__u32 sequence = *(volatile __u32 *)&d->sequence;

	if (sequence & 1 ||
	    __sync_val_compare_and_swap(&d->sequence, sequence, sequence + 1) != sequence)
		return;
	d->flow = p->flow;
	d->expires = bpf_jiffies64() + CACHE_JIFFIES;
	d->generation = now.generation;
	d->way = *way;
	barrier();
	*(volatile __u32 *)&d->sequence = sequence + 2;
}

#endif
