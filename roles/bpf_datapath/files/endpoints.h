// SPDX-License-Identifier: GPL-2.0-only
/* The Pods of this node by address, and the way to them. */
#ifndef PODNET_ENDPOINTS_H
#define PODNET_ENDPOINTS_H

#include <linux/bpf.h>
#include <linux/ipv6.h>
#include <bpf/bpf_helpers.h>

#include "cache.h"
#include "mtu.h"
#include "parse.h"
#include "reasons.h"

#define ENDPOINTS_MAX 16384

struct endpoint {
	__u32 ifindex;	/* the host's side of the Pod's device */
	__u32 owner;	/* crc32 of the name of who made the entry */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, ENDPOINTS_MAX);
	__type(key, __be32);
	__type(value, struct endpoint);
} endpoints4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, ENDPOINTS_MAX);
	__type(key, struct in6_addr);
	__type(value, struct endpoint);
} endpoints6 SEC(".maps");

static __always_inline struct endpoint *endpoint_of(struct packet *p)
{
	if (p->flow.family == AF_INET)
		return bpf_map_lookup_elem(&endpoints4, &p->flow.dst4);
	return bpf_map_lookup_elem(&endpoints6, &p->flow.dst6);
}

/*
 * Put the packet into a Pod of this node, by the host's side of its device. redirect_peer does so
 * without a second queue; from netkit's xmit the kernel refuses that (it is not tc ingress), so
 * there it takes the device (`plain`).
 */
static __always_inline int into_pod(__u32 ifindex, bool plain)
{
	return plain ? bpf_redirect(ifindex, 0) : bpf_redirect_peer(ifindex, 0);
}

/* Decide on a packet to a Pod of this node. */
static __always_inline int deliver(struct __sk_buff *skb, const struct packet *p,
				   const struct endpoint *ep, bool plain, enum reason reason,
				   struct decision *d, __u32 now)
{
	__u32 ifindex = ep->ifindex, mtu;
	enum reason refusal;

	if (p->ttl <= 1)
		return to_stack(REASON_STACK_TTL);
	refusal = check_mtu(skb, p, ifindex, &mtu);
	if (refusal != REASON_NONE)
		return to_stack(refusal);
	if (!decrease_ttl(skb, p))
		return to_stack(REASON_STACK_MALFORMED);
	if (d)
		remember(d, p, now, ifindex, mtu, reason);
	count(reason);
	return into_pod(ifindex, plain);
}

#endif
