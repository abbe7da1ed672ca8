// SPDX-License-Identifier: GPL-2.0-only
/* What became of a packet: one counter per reason and processor. */
#ifndef PODNET_REASONS_H
#define PODNET_REASONS_H

#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

/*
 * The order is the index into the map `metrics` and readers take names and numbers from the
 * object's BTF: append, never reorder. REASON_STACK_* means "to the upper stack, unmodified".
 */
enum reason {
	REASON_NONE,
	REASON_LOCAL,			/* Pod to Pod of this node */
	REASON_REMOTE,			/* Pod to the wire */
	REASON_INBOUND,			/* the wire to a Pod */
	REASON_HOST,			/* what pod_ingress let into a Pod */
	REASON_STACK_PROTOCOL,		/* neither IPv4 nor IPv6 (ARP, ...) */
	REASON_STACK_MALFORMED,		/* headers cut off or contradictory, or no memory */
	REASON_STACK_VLAN,		/* tagged: for a VLAN device, not for this one */
	REASON_STACK_OTHERHOST,		/* another machine's frame, a broadcast or multicast */
	REASON_STACK_LINK,		/* link scope: multicast, link-local, neighbour discovery */
	REASON_STACK_OPTIONS,		/* IP options that a router has to look at */
	REASON_STACK_TTL,		/* TTL or hop limit used up: ICMP time exceeded */
	REASON_STACK_MTU,		/* too big for the way out: ICMP too big */
	REASON_STACK_NOT_POD,		/* from the wire, to no Pod of this node */
	REASON_STACK_NOT_FORWARDED,	/* to the host itself, or no unicast route */
	REASON_STACK_NO_ROUTE,		/* unreachable, blackhole or prohibit route */
	REASON_STACK_FORWARDING_OFF,	/* sysctl forwarding is 0 on the device */
	REASON_STACK_FIB,		/* a route that only the stack can follow (lwtunnel, ...) */
	REASON_STACK_NO_DEVICE,		/* an endpoint whose device is gone */
	REASON_MAX,
};

/* Never read: it puts the enum into the object's BTF, where readers of `metrics` find the names. */
const volatile enum reason reason_max = REASON_MAX;

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, REASON_MAX);
	__type(key, __u32);
	__type(value, __u64);
} metrics SEC(".maps");

static __always_inline void count(enum reason reason)
{
	__u32 key = reason;
	__u64 *packets = bpf_map_lookup_elem(&metrics, &key);

	if (packets)
		*packets += 1;
}

/*
 * Leave the packet to whatever comes next. -1 (TC_ACT_UNSPEC, TCX_NEXT, NETKIT_NEXT) passes on
 * every hook and lets other programs of the same hook run.
 */
static __always_inline int to_stack(enum reason reason)
{
	count(reason);
	return TC_ACT_UNSPEC;
}

#endif
