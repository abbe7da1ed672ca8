// SPDX-License-Identifier: GPL-2.0-only
/*
 * Rate limit of what a Pod sends to the wire: each packet gets an earliest departure time (EDT),
 * and fq on the uplink holds it until then. Pacing drops nothing within its horizon, and queued
 * packets stay charged to the sending socket.
 */
#ifndef PODNET_PACING_H
#define PODNET_PACING_H

#include <linux/bpf.h>
#include <linux/udp.h>
#include <bpf/bpf_helpers.h>

#include "metrics.h"
#include "parse.h"

struct pacing {
	__u64 next;		/* ns: departure time of the Pod's next packet */
};

/* Indexed by slot. Only programs write it. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, POD_SLOTS);
	__type(key, __u32);
	__type(value, struct pacing);
} pacing SEC(".maps");

/* ns: packets beyond it are dropped. The default horizon of fq is 10 s. */
#define PACING_HORIZON 2000000000ULL
#define PACING_TRIES 4

/* Return the bytes on the wire; each segment of a GSO packet has its own headers. */
static __always_inline __u64 pacing_wire_bytes(struct __sk_buff *skb, const struct packet *p)
{
	__u32 headers = p->l4_offset + sizeof(struct udphdr);

	if (!skb->gso_size || skb->gso_segs < 2)
		return skb->len;
	if (p->wire_len)
		headers = L3_OFFSET + p->wire_len - skb->gso_size;
	return skb->len + (__u64)(skb->gso_segs - 1) * headers;
}

/*
 * Set a packet's departure time from the Pod's rate in bytes per second, unless the sender's TCP
 * set a later one. Return false beyond the horizon.
 */
static __noinline bool pacing_schedule(struct __sk_buff *skb, const struct packet *p, __u32 slot,
				       __u64 rate)
{
	struct pacing *pod = bpf_map_lookup_elem(&pacing, &slot);
	__u64 now = bpf_ktime_get_ns(), last, start, delay;

	if (!pod || !rate)
		return true;
	delay = pacing_wire_bytes(skb, p) * 1000000000ULL / rate;
	for (int i = 0; i < PACING_TRIES; i++) {
		last = *(volatile __u64 *)&pod->next;
		start = last > now ? last : now;
		if (start - now > PACING_HORIZON)
			return false;
		if (__sync_val_compare_and_swap(&pod->next, last, start + delay) == last)
			break;
	}
	if (start == now)
		return true;
	if (skb->tstamp_type == BPF_SKB_TSTAMP_DELIVERY_MONO && skb->tstamp > start)
		return true;
	bpf_skb_set_tstamp(skb, start, BPF_SKB_TSTAMP_DELIVERY_MONO);
	return true;
}

#endif
