// SPDX-License-Identifier: GPL-2.0-only
/* Pods by address, and redirection to the Pods of this node. */
#ifndef PODNET_ENDPOINTS_H
#define PODNET_ENDPOINTS_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ipv6.h>
#include <bpf/bpf_helpers.h>

#include "config.h"
#include "flow_cache.h"
#include "metrics.h"
#include "mtu.h"
#include "parse.h"

#define ENDPOINTS_MAX 131072
#define PODS_MAX 1024

/* Marks in skb->tc_index, which the stack keeps. pod_egress() replaces those of Pods. */
#define TC_INDEX_REDIRECTED 0x706e	/* not from the stack */
#define TC_INDEX_FROM_POD 0x7400	/* the stack got it from a Pod's device; plus its slot */
#define TC_INDEX_SLOT 0x3ff

/* Directions under policy, and the default verdict of each */
enum endpoint_enforce {
	ENFORCE_INGRESS = 1 << 0,
	ENFORCE_EGRESS = 1 << 1,
	DENY_INGRESS = 1 << 2,
	DENY_EGRESS = 1 << 3,
};

enum pod_flag {
	POD_NETKIT = 1 << 0,		/* netkit: its xmit does not support bpf_redirect_peer */
	POD_L2 = 1 << 1,		/* L2 mode: reply to ARP and NDP */
	POD_MASQUERADE = 1 << 2,	/* leaves the node with the node's address */
	POD_ANY_SOURCE = 1 << 3,	/* may send from other addresses: a router, a VM's host */
	POD_META = 1 << 4,		/* meta: the driver corrects checksum and header offsets */
};

/* An address of a Pod, of this or another node. */
struct endpoint {
	__u32 ifindex;		/* the host end of the Pod's device; 0: a Pod of another node */
	__u32 owner;		/* crc32 of the entry's owner */
	__u32 identity[CONFIG_BUFFERS];
	__u16 enforce[CONFIG_BUFFERS];	/* enum endpoint_enforce */
	__u16 slot;		/* of `metrics`; 0: none */
	__u16 flags;		/* enum pod_flag */
	__u32 since;		/* generation in which the Pod got the address; 0: unknown */
};

/* A Pod of this node, by the host end of its device. */
struct pod {
	__u32 owner;
	__u16 slot;
	__u16 flags;
	__u32 identity[CONFIG_BUFFERS];	/* for sources that are no endpoint (POD_ANY_SOURCE) */
	__u16 enforce[CONFIG_BUFFERS];
	__u8 mac[ETH_ALEN];	/* of the host end, for ARP and NDP replies */
	__u16 pad;
	__u32 netns;		/* low bits of its cookie; 0: unknown */
	__u64 rate;		/* bytes per second to the wire; 0: unlimited */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, ENDPOINTS_MAX);
	__type(key, __be32);
	__type(value, struct endpoint);
} endpoints4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, ENDPOINTS_MAX);
	__type(key, struct in6_addr);
	__type(value, struct endpoint);
} endpoints6 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, PODS_MAX);
	__type(key, __u32);
	__type(value, struct pod);
} pods SEC(".maps");

static __always_inline struct endpoint *endpoint_lookup(__u8 family, const __be32 *address)
{
	struct endpoint *ep;

	if (family == AF_INET) {
		ep = bpf_map_lookup_elem(&endpoints4, address);
		barrier(); /* keep both calls: the kernel inlines lookups in a constant map */
		return ep;
	}
	return bpf_map_lookup_elem(&endpoints6, address);
}

/*
 * Redirect to a Pod of this node by the host end of its device. bpf_redirect_peer avoids a second
 * backlog queue. The kernel rejects it in netkit's xmit, which is not tc ingress: `no_peer`
 * selects bpf_redirect there, and pod_ingress() gets the packet.
 */
static __always_inline int endpoint_redirect(struct __sk_buff *skb, __u32 ifindex, bool no_peer)
{
	if (!no_peer)
		return bpf_redirect_peer(ifindex, 0);
	skb->tc_index = TC_INDEX_REDIRECTED;
	return bpf_redirect(ifindex, 0);
}

#endif
