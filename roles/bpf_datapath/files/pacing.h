// SPDX-License-Identifier: GPL-2.0-only
/*
 * Departure times (EDT) of what Pods send to the wire; fq on the uplink holds packets until then.
 *
 * All Pods share the slots of fq, so no Pod may choose how long its packets stay there. TCP's own
 * pacing is limited to EDT_MAX; any other packet departs at once, whatever SO_TXTIME and
 * SO_MAX_PACING_RATE of its socket request. A Pod with a rate gets later times, for at most
 * PACING_PACKETS packets within PACING_HORIZON; queued packets stay charged to the sending socket.
 */
#ifndef PODNET_PACING_H
#define PODNET_PACING_H

#include <linux/bpf.h>
#include <linux/udp.h>
#include <bpf/bpf_helpers.h>

#include "metrics.h"
#include "parse.h"

#define SOCK_STREAM 1		/* BPF programs cannot include linux/net.h */
#define TCP_HEADER 20		/* bytes without options */

/*
 * ns. TCP queues two packets of a socket, each of at least two segments, so EDT_MAX does not affect
 * sockets paced at 5 Mbit/s and more. Cached flows allow EDT_UNCHECKED without looking at the
 * socket.
 */
#define EDT_MAX 10000000ULL
#define EDT_UNCHECKED 2000000ULL
#define EDT_PAST 1

/* ns: packets beyond it are dropped. The default horizon of fq is 10 s. */
#define PACING_HORIZON 1000000000ULL

/* Packets of one Pod in fq, whose default limit is 10,000 */
enum pacing_limit {
	PACING_PACKETS = 500,
};

/* Queue of a Pod. Departure times are in ns. */
struct pacing {
	__u64 next;		/* departure time of the next packet */
	__u64 mark;
	__u32 before;		/* packets that depart before `mark` */
	__u32 after;
	struct bpf_spin_lock lock;
	__u32 pad;
};

/* Indexed by slot. Only programs write it. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, POD_SLOTS);
	__type(key, __u32);
	__type(value, struct pacing);
} pacing SEC(".maps");

static __always_inline bool pacing_is_tcp_socket(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;

	if (sk)
		sk = bpf_sk_fullsock(sk);
	return sk && sk->type == SOCK_STREAM && sk->protocol == IPPROTO_TCP;
}

/*
 * Let a packet without departure time depart at once, by a time that has passed: fq would apply the
 * pacing rate of the sender's socket.
 */
static __always_inline void pacing_depart(struct __sk_buff *skb)
{
	bpf_skb_set_tstamp(skb, EDT_PAST, BPF_SKB_TSTAMP_DELIVERY_MONO);
}

/* Limit the departure time that the sender set. */
static __noinline void pacing_limit_edt(struct __sk_buff *skb)
{
	bool edt = skb->tstamp_type == BPF_SKB_TSTAMP_DELIVERY_MONO;
	__u64 now, latest;

	if (!skb->tstamp) {
		pacing_depart(skb);
		return;
	}
	now = bpf_ktime_get_ns();
	latest = now;
	if (edt && skb->tstamp <= now)
		return;
	if (edt && pacing_is_tcp_socket(skb)) {
		latest = now + EDT_MAX;
		if (skb->tstamp <= latest)
			return;
	}
	/* IPv4 and IPv6 only */
	if (bpf_skb_set_tstamp(skb, latest, BPF_SKB_TSTAMP_DELIVERY_MONO)) {
		/* keep the offset in the store: the verifier rejects modified context pointers */
		barrier_var(skb);
		skb->tstamp = 0;
	}
}

/* Return the bytes on the wire; each segment of a GSO packet has its own headers. */
static __always_inline __u64 pacing_wire_bytes(struct __sk_buff *skb, const struct packet *p)
{
	__u32 headers = L3_OFFSET + sizeof(struct ipv6hdr) + TCP_HEADER;
	__u32 size = skb->gso_size, segments = skb->gso_segs, len = skb->len;

	if (!size)
		return len > ETH_ZLEN ? len : ETH_ZLEN;
	if (p->wire_len)
		headers = L3_OFFSET + p->wire_len - size;
	else if (p->l4_offset)
		headers = p->l4_offset + sizeof(struct udphdr);
	/* The kernel does not count the segments of packets from raw sockets. */
	if (!segments && len > headers)
		segments = (len - headers + size - 1) / size;
	return segments < 2 ? len : len + (__u64)(segments - 1) * headers;
}

/*
 * Delay the packet until its departure time by the Pod's rate in bytes per second, unless TCP set a
 * later one. Return false beyond the horizon or the limit of packets.
 */
static __noinline bool pacing_schedule(struct __sk_buff *skb, const struct packet *p, __u32 slot,
				       __u64 rate)
{
	struct pacing *pod = bpf_map_lookup_elem(&pacing, &slot);
	__u64 now = bpf_ktime_get_ns(), start = now, delay;
	bool fits;

	if (!pod || !rate)
		return true;
	delay = pacing_wire_bytes(skb, p) * 1000000000ULL / rate;
	bpf_spin_lock(&pod->lock);
	if (pod->next <= now) {
		pod->before = 0;
		pod->after = 0;
		pod->mark = now;
	} else {
		start = pod->next;
		if (pod->mark <= now) {
			pod->before = pod->after;
			pod->after = 0;
			pod->mark = start;
		}
	}
	fits = start - now <= PACING_HORIZON && pod->before + pod->after < PACING_PACKETS;
	if (fits) {
		pod->next = start + delay;
		pod->after++;
	}
	bpf_spin_unlock(&pod->lock);
	if (!fits)
		return false;
	if (skb->tstamp < start)
		bpf_skb_set_tstamp(skb, start, BPF_SKB_TSTAMP_DELIVERY_MONO);
	return true;
}

#endif
