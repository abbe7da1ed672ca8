// SPDX-License-Identifier: GPL-2.0-only
/*
 * Per-CPU cache of forwarding decisions: saves the route and neighbour lookup for the following
 * packets of a flow. An entry expires after FLOW_CACHE_JIFFIES, so changes of the host's routes,
 * rules and neighbours take effect within that time. The packet that renews it uses
 * bpf_redirect_neigh, which keeps the neighbour reachable. A new generation of `config`
 * invalidates all entries at once. Packets for the stack are not cached.
 */
#ifndef PODNET_FLOW_CACHE_H
#define PODNET_FLOW_CACHE_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_helpers.h>

#include "config.h"
#include "metrics.h"
#include "parse.h"
#include "tuple.h"

#define FLOW_CACHE_JIFFIES 3	/* 3 ms with HZ=1000, 12 ms with HZ=250 */
#define FLOW_CACHE_SLOTS 1024	/* per CPU; a power of two */

#define NEXTHOP_NO_PEER 1	/* to a Pod, from netkit: bpf_redirect_peer is unavailable */
#define NEXTHOP_TRACKED 2	/* conntrack must see the start and end of TCP connections */
#define NEXTHOP_PACED 4		/* to the wire: the Pod has a rate */
#define NEXTHOP_CHECK_CSUM 8	/* from a Pod, not on meta: checksum_is_valid() */
#define NEXTHOP_CHECK_LINK 16	/* from netkit: link_header_is_valid() */
#define NEXTHOP_SET_DST 32	/* to a service: replace the destination by its backend */
#define NEXTHOP_SET_SRC 64	/* from a backend: replace the source by the service */
#define NEXTHOP_TRANSLATE (NEXTHOP_SET_DST | NEXTHOP_SET_SRC)

struct nexthop {
	union {
		struct {
			__u32 ifindex;	/* to a Pod: the host end of its device */
			__u16 mtu;
			__u16 slot;	/* of `metrics` */
		};
		__u64 align;	/* `macs` are copied in words */
	};
	__u8 macs[2 * ETH_ALEN];	/* REMOTE: destination and source */
	__u8 reason;		/* enum reason: LOCAL or INBOUND to a Pod, REMOTE to the wire */
	__u8 flags;
	__u16 pad;
};

struct flow_cache_entry {
	struct flow flow;
	__u64 expires;		/* jiffies */
	__u32 generation;	/* of `config` */
	__u32 sequence;		/* odd during a write */
	struct nexthop nh;
	__u64 edt;		/* ns, REMOTE: later departure times are limited; 0: all */
	struct addr_port nat;	/* NEXTHOP_TRANSLATE: the new destination or source */
	__u32 pad;
};

/* Per CPU, so that a program never reads what another CPU writes. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, FLOW_CACHE_SLOTS);
	__type(key, __u32);
	__type(value, struct flow_cache_entry);
} flow_cache SEC(".maps");

/* Return the slot that the flow hashes to, whichever flow it holds now. */
static __always_inline struct flow_cache_entry *flow_cache_slot(const struct flow *flow)
{
	__u8 family = *(volatile __u8 *)&flow->family; /* else clang extracts it from a word */
	__u64 hash = 0;
	__u32 slot;

	#pragma unroll
	for (int i = 0; i < FLOW6_WORDS; i++) {
		if (i == FLOW4_WORDS && family == AF_INET)
			break;
		hash = (hash ^ flow->words[i]) * 0x9e3779b97f4a7c15ULL;
	}
	slot = (hash >> 32) & (FLOW_CACHE_SLOTS - 1);
	return bpf_map_lookup_elem(&flow_cache, &slot);
}

static __always_inline bool flow_equal(const struct flow *a, const struct flow *b)
{
	#pragma unroll
	for (int i = 0; i < FLOW4_WORDS; i++) {
		if (a->words[i] != b->words[i])
			return false;
	}
	if (*(volatile __u8 *)&b->family == AF_INET)
		return true;
	#pragma unroll
	for (int i = FLOW4_WORDS; i < FLOW6_WORDS; i++) {
		if (a->words[i] != b->words[i])
			return false;
	}
	return true;
}

/*
 * Copy the next hop if the entry is valid for this packet. On PREEMPT_RT another task of this CPU
 * may write the slot meanwhile; the sequence detects that.
 */
static __always_inline bool flow_cache_lookup(const struct flow_cache_entry *entry,
					      const struct packet *p, struct config cfg,
					      struct nexthop *nh)
{
	__u32 sequence;

	/* Each write only extends the time. */
	if (bpf_jiffies64() >= *(volatile __u64 *)&entry->expires)
		return false;
	/* without the bit of a write, which the comparison below detects */
	sequence = *(volatile __u32 *)&entry->sequence & ~1;
	/* The length may be 0, for unknown. */
	if (!flow_equal(&entry->flow, &p->flow) || entry->generation != cfg.generation ||
	    p->ttl <= 1 || p->wire_len - 1 >= entry->nh.mtu)
		return false;
	*nh = entry->nh;
	barrier();
	return *(volatile __u32 *)&entry->sequence == sequence;
}

/*
 * Copy the new address of a translated flow. Return false if another task has written the slot
 * since flow_cache_lookup().
 */
static __always_inline bool flow_cache_translation(const struct flow_cache_entry *entry,
						   const struct packet *p, struct addr_port *to)
{
	__u32 sequence = *(volatile __u32 *)&entry->sequence & ~1;

	*to = entry->nat;
	barrier();
	return flow_equal(&entry->flow, &p->flow) &&
	       *(volatile __u32 *)&entry->sequence == sequence;
}

/*
 * Store the next hop, unless another task writes this slot. With NEXTHOP_TRANSLATE, following
 * packets get the address `to`; with NEXTHOP_SET_DST, `service` is their destination before, which
 * that of this packet was.
 */
static __always_inline void flow_cache_update(struct flow_cache_entry *entry,
					      const struct packet *p, struct config cfg,
					      const struct nexthop *nh,
					      const struct addr_port *to,
					      const struct addr_port *service)
{
	__u32 sequence = *(volatile __u32 *)&entry->sequence;

	if (sequence & 1 ||
	    __sync_val_compare_and_swap(&entry->sequence, sequence, sequence + 1) != sequence)
		return;
	entry->flow = p->flow;
	if (nh->flags & NEXTHOP_TRANSLATE && to)
		entry->nat = *to;
	if (nh->flags & NEXTHOP_SET_DST && service) {
		entry->flow.dport = service->port;
		if (p->flow.family == AF_INET)
			entry->flow.dst4 = service->address[0];
		else
			__builtin_memcpy(entry->flow.dst6, service->address,
					 sizeof(entry->flow.dst6));
	}
	entry->expires = bpf_jiffies64() + FLOW_CACHE_JIFFIES;
	entry->generation = cfg.generation;
	entry->nh = *nh;
	barrier();
	*(volatile __u32 *)&entry->sequence = sequence + 2;
}

#endif
