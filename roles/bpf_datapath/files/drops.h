// SPDX-License-Identifier: GPL-2.0-only
/*
 * Every drop is counted, and told to whoever reads `drops`; a full ring never holds a packet up.
 */
#ifndef PODNET_DROPS_H
#define PODNET_DROPS_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "tuple.h"
#include "parse.h"
#include "policy.h"
#include "reasons.h"

#define DROPS_SIZE (256 * 1024)	/* bytes; a power of two, and whole pages of every machine */

struct drop {
	__u64 time;		/* ns since boot, as CLOCK_MONOTONIC */
	struct tuple tuple;	/* as far as the packet was understood */
	__u32 ifindex;
	__u32 len;
	__u32 peer;		/* the other side's identity, where policy dropped */
	__u16 slot;
	__u8 reason;
	__u8 direction;		/* INGRESS: into a Pod */
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, DROPS_SIZE);
} drops SEC(".maps");

/* End the packet's way; it counts in the slot of the Pod that it was to leave or to reach. */
__noinline int drop(struct __sk_buff *skb, const struct packet *p, __u32 slot, enum reason reason,
		    __u32 peer)
{
	struct drop *drop = bpf_ringbuf_reserve(&drops, sizeof(*drop), 0);
	bool v4;

	count(slot, reason);
	if (!drop) {
		count(slot, REASON_NOT_REPORTED);
		return TC_ACT_SHOT;
	}
	if (!p) {
		bpf_ringbuf_discard(drop, 0);
		return TC_ACT_SHOT;
	}
	drop->time = bpf_ktime_get_ns();
	v4 = p->flow.family == AF_INET;
	for (int i = 0; i < 4; i++) {
		drop->tuple.src[i] = !v4 ? p->flow.src6[i] : i ? 0 : p->flow.src4;
		drop->tuple.dst[i] = !v4 ? p->flow.dst6[i] : i ? 0 : p->flow.dst4;
	}
	drop->tuple.sport = p->flow.sport;
	drop->tuple.dport = p->flow.dport;
	drop->tuple.proto = p->flow.proto;
	drop->tuple.family = p->flow.family;
	drop->tuple.kind = 0;
	drop->ifindex = skb->ifindex;
	drop->len = skb->len;
	drop->peer = peer;
	drop->slot = slot;
	drop->reason = reason;
	drop->direction = p->flow.origin || reason == REASON_DROP_POLICY_INGRESS ? INGRESS : EGRESS;
	bpf_ringbuf_submit(drop, 0);
	return TC_ACT_SHOT;
}

#endif
