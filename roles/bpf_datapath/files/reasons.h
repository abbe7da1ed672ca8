// SPDX-License-Identifier: GPL-2.0-only
/* What became of a packet: one counter a Pod, reason and processor. */
#ifndef PODNET_REASONS_H
#define PODNET_REASONS_H

#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

/*
 * The order is the index into an element of `metrics` and readers take names and numbers from the
 * object's BTF: append, never reorder. REASON_STACK_* means "to the upper stack", REASON_DROP_*
 * that the packet ends here.
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
	REASON_DROP_SPOOF,		/* a source address that is not the Pod's own */
	REASON_DROP_POLICY_EGRESS,	/* the sender's policy forbids it */
	REASON_DROP_POLICY_INGRESS,	/* the receiver's policy forbids it */
	REASON_DROP_UNKNOWN,		/* under policy, and not understood */
	REASON_DROP_FRAGMENT,		/* under policy, and its first fragment was not seen */
	REASON_DROP_NO_STATE,		/* the connection cannot be kept: no memory */
	REASON_DROP_NO_BACKEND,		/* a service whose table or backend is not there */
	REASON_DROP_HAIRPIN,		/* a service whose backend is the sender itself */
	REASON_DROP_NO_PORT,		/* masquerade: no port is free towards this target */
	REASON_DROP_REWRITE,		/* an address or port that could not be rewritten */
	REASON_DROP_RATE,		/* more than two seconds ahead of the Pod's rate */
	REASON_ANSWERED_ARP,		/* a Pod's ARP request */
	REASON_ANSWERED_NDP,		/* a Pod's neighbour solicitation */
	REASON_NOT_REPORTED,		/* not a packet: a drop for which `drops` had no room */
	REASON_MAX,
};

/*
 * Never read: it puts the enum into the object's BTF, where readers of `metrics` find the names.
 */
const volatile enum reason reason_max = REASON_MAX;

#define REASONS 64	/* room for the enum; a power of two */
#define POD_SLOTS 1024

struct counters {
	__u64 by[REASONS];
};

/* By slot, which is a Pod's; 0 is for what no Pod of this node sent or got. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, POD_SLOTS);
	__type(key, __u32);
	__type(value, struct counters);
} metrics SEC(".maps");

static __always_inline void count(__u32 slot, enum reason reason)
{
	struct counters *of = bpf_map_lookup_elem(&metrics, &slot);

	if (of)
		of->by[reason & (REASONS - 1)] += 1;
}

/*
 * Leave the packet to whatever comes next. -1 (TC_ACT_UNSPEC, TCX_NEXT, NETKIT_NEXT) passes on
 * every hook and lets other programs of the same hook run.
 */
static __always_inline int to_stack(__u32 slot, enum reason reason)
{
	count(slot, reason);
	return TC_ACT_UNSPEC;
}

#endif
