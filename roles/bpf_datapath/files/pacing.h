// SPDX-License-Identifier: GPL-2.0-only
/*
 * A Pod's rate to the wire: each packet is given the time at which it may leave, and the NIC's fq
 * holds it until then. Nothing is dropped for it, and the sender's socket sees how much waits.
 */
#ifndef PODNET_PACING_H
#define PODNET_PACING_H

#include <linux/bpf.h>
#include <linux/udp.h>
#include <bpf/bpf_helpers.h>

#include "parse.h"
#include "reasons.h"

struct pacing {
	__u64 next;		/* ns: when the Pod's next packet may leave */
};

/* By slot. Written by programs only. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, POD_SLOTS);
	__type(key, __u32);
	__type(value, struct pacing);
} pacing SEC(".maps");

#define HORIZON 2000000000ULL	/* ns: a packet that would wait longer is dropped; fq holds 10 s */
#define PACING_TRIES 4

/* Bytes on the wire: each segment of a GSO packet has headers of its own. */
static __always_inline __u64 wire_bytes(struct __sk_buff *skb, const struct packet *p)
{
	__u32 headers = p->l4 + sizeof(struct udphdr);

	if (!skb->gso_size || skb->gso_segs < 2)
		return skb->len;
	if (p->wire_len)
		headers = L3_OFFSET + p->wire_len - skb->gso_size;
	return skb->len + (__u64)(skb->gso_segs - 1) * headers;
}

/*
 * Set the time at which a packet leaves, by the Pod's rate in bytes a second. What the sender's
 * TCP has set is kept where it is later. False: too far ahead.
 */
static __noinline bool pace(struct __sk_buff *skb, const struct packet *p, __u32 slot, __u64 rate)
{
	struct pacing *of = bpf_map_lookup_elem(&pacing, &slot);
	__u64 now = bpf_ktime_get_ns(), last, start, took;

	if (!of || !rate)
		return true;
	took = wire_bytes(skb, p) * 1000000000ULL / rate;
	for (int i = 0; i < PACING_TRIES; i++) {
		last = *(volatile __u64 *)&of->next;
		start = last > now ? last : now;
		if (start - now > HORIZON)
			return false;
		if (__sync_val_compare_and_swap(&of->next, last, start + took) == last)
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
