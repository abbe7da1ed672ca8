// SPDX-License-Identifier: GPL-2.0-only
/* The Pods of this node by address, and the way to them. */
#ifndef PODNET_ENDPOINTS_H
#define PODNET_ENDPOINTS_H

#include <linux/bpf.h>
#include <linux/ipv6.h>
#include <bpf/bpf_helpers.h>

#include "mtu.h"
#include "parse.h"
#include "reasons.h"

#define ENDPOINTS_MAX 16384

/* Fits every device that may carry IPv6 (RFC 8200): no MTU needs to be asked. */
#define ALWAYS_FITS 1280

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
	if (p->family == AF_INET)
		return bpf_map_lookup_elem(&endpoints4, &p->dst4);
	return bpf_map_lookup_elem(&endpoints6, &p->dst6);
}

/*
 * Hand the packet to a Pod of this node. redirect_peer puts it into the Pod without a second
 * queue; from netkit's xmit the kernel refuses that (it is not tc ingress), so there it takes the
 * host's side of the device (`plain`).
 */
static __always_inline int deliver(struct __sk_buff *skb, const struct packet *p,
				   const struct endpoint *ep, bool plain, enum reason reason)
{
	__u32 ifindex = ep->ifindex;

	if (p->ttl <= 1)
		return to_stack(REASON_STACK_TTL);
	if (!p->wire_len || p->wire_len > ALWAYS_FITS) {
		enum reason refusal = check_mtu(skb, p, ifindex);

		if (refusal != REASON_NONE)
			return to_stack(refusal);
	}
	if (!decrease_ttl(skb, p))
		return to_stack(REASON_STACK_MALFORMED);
	count(reason);
	return plain ? bpf_redirect(ifindex, 0) : bpf_redirect_peer(ifindex, 0);
}

#endif
