// SPDX-License-Identifier: GPL-2.0-only
/*
 * Drop events: each drop is counted and, while the ring buffer has room, reported to readers of
 * `drops`.
 */
#ifndef PODNET_DROPS_H
#define PODNET_DROPS_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "metrics.h"
#include "parse.h"
#include "policy.h"
#include "tuple.h"

#define DROPS_SIZE (256 * 1024)	/* bytes: a power of two, and a multiple of any page size */

struct drop_event {
	__u64 time;		/* ns since boot, CLOCK_MONOTONIC */
	struct tuple tuple;	/* as far as the packet could be parsed */
	__u32 ifindex;
	__u32 len;
	__u32 peer;		/* policy drops: the other endpoint's identity */
	__u16 slot;
	__u8 reason;
	__u8 direction;		/* POLICY_INGRESS: to a Pod */
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, DROPS_SIZE);
} drops SEC(".maps");

/* Drop the packet, count it in the slot of the sending or receiving Pod, and report it. */
__noinline int drop_packet(struct __sk_buff *skb, const struct packet *p, __u32 slot,
			   enum reason reason, __u32 peer)
{
	struct drop_event *event = bpf_ringbuf_reserve(&drops, sizeof(*event), 0);
	bool v4;

	metrics_count(slot, reason);
	if (!event) {
		metrics_count(slot, REASON_EVENT_LOST);
		return TC_ACT_SHOT;
	}
	if (!p) {
		bpf_ringbuf_discard(event, 0);
		return TC_ACT_SHOT;
	}
	event->time = bpf_ktime_get_ns();
	v4 = p->flow.family == AF_INET;
	for (int i = 0; i < 4; i++) {
		event->tuple.src[i] = !v4 ? p->flow.src6[i] : i ? 0 : p->flow.src4;
		event->tuple.dst[i] = !v4 ? p->flow.dst6[i] : i ? 0 : p->flow.dst4;
	}
	event->tuple.sport = p->flow.sport;
	event->tuple.dport = p->flow.dport;
	event->tuple.proto = p->flow.proto;
	event->tuple.family = p->flow.family;
	event->tuple.icmp = 0;
	event->tuple.pad = 0;
	event->ifindex = skb->ifindex;
	event->len = skb->len;
	event->peer = peer;
	event->slot = slot;
	event->reason = reason;
	event->direction = p->flow.origin || reason == REASON_DROP_POLICY_INGRESS ?
				   POLICY_INGRESS : POLICY_EGRESS;
	bpf_ringbuf_submit(event, 0);
	return TC_ACT_SHOT;
}

#endif
