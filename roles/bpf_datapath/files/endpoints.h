// SPDX-License-Identifier: GPL-2.0-only
/* The Pods of this node by address, and the way to them. */
#ifndef PODNET_ENDPOINTS_H
#define PODNET_ENDPOINTS_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ipv6.h>
#include <bpf/bpf_helpers.h>

#include "cache.h"
#include "config.h"
#include "mtu.h"
#include "parse.h"
#include "reasons.h"

#define ENDPOINTS_MAX 16384
#define PODS_MAX 1024

/* enforce: whether policy is asked, and what holds where no rule says anything */
#define ENFORCE_INGRESS 1
#define ENFORCE_EGRESS 2
#define DENY_INGRESS 4
#define DENY_EGRESS 8

/* flags */
#define POD_NETKIT 1		/* its program runs in netkit's xmit: no redirect_peer there */
#define POD_L2 2		/* its device has MAC addresses: answer ARP and NDP */
#define POD_MASQUERADE 4	/* leaves the node under the node's address */
#define POD_ANY_SOURCE 8	/* may send from addresses of others: a router, a VM's host */

/* A Pod's address, on this node or another one. */
struct endpoint {
	__u32 ifindex;		/* the host's side of the Pod's device; 0: a Pod of another node */
	__u32 owner;		/* crc32 of the name of who made the entry */
	__u32 identity[BANKS];
	__u16 enforce[BANKS];
	__u16 slot;		/* the Pod's place in `metrics`; 0: none */
	__u16 flags;
};

/* A Pod of this node, by the host's side of its device. */
struct pod {
	__u32 owner;
	__u16 slot;
	__u16 flags;
	__u32 identity[BANKS];	/* where its address is no endpoint (POD_ANY_SOURCE) */
	__u16 enforce[BANKS];
	__u8 mac[ETH_ALEN];	/* the host's side's: the answer to ARP and NDP */
	__u8 pad[6];
	__u64 rate;		/* bytes a second to the wire; 0: as fast as it goes */
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

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, PODS_MAX);
	__type(key, __u32);
	__type(value, struct pod);
} pods SEC(".maps");

/*
 * Put the packet into a Pod of this node, by the host's side of its device. redirect_peer does so
 * without a second queue; from netkit's xmit the kernel refuses that (it is not tc ingress), so
 * there it takes the device (`plain`).
 */
static __always_inline int into_pod(__u32 ifindex, bool plain)
{
	return plain ? bpf_redirect(ifindex, 0) : bpf_redirect_peer(ifindex, 0);
}

#endif
