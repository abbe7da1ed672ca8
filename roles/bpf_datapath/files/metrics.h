// SPDX-License-Identifier: GPL-2.0-only
/* Packet counters: one per Pod, reason and CPU. */
#ifndef PODNET_METRICS_H
#define PODNET_METRICS_H

#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

/*
 * Each value is an index into an element of `metrics`, and readers take names and values from the
 * object's BTF: append, never reorder. REASON_STACK_*: passed to the host's stack. REASON_DROP_*:
 * dropped.
 */
enum reason {
	REASON_NONE,
	REASON_LOCAL,			/* from a Pod to another Pod of this node */
	REASON_REMOTE,			/* from a Pod to the wire */
	REASON_INBOUND,			/* from the wire to a Pod */
	REASON_HOST,			/* pod_ingress passed it to a Pod */
	REASON_STACK_PROTOCOL,		/* neither IPv4 nor IPv6 (ARP, ...) */
	REASON_STACK_MALFORMED,		/* truncated or inconsistent headers, or no memory */
	REASON_STACK_VLAN,		/* VLAN tag: for a VLAN device */
	REASON_STACK_OTHERHOST,		/* to another host's MAC address, broadcast or multicast */
	REASON_STACK_LINK_SCOPE,	/* link-local, multicast, neighbour discovery */
	REASON_STACK_IP_OPTIONS,	/* IP options that a router must process */
	REASON_STACK_TTL,		/* TTL or hop limit exceeded: ICMP time exceeded */
	REASON_STACK_MTU,		/* exceeds the path's MTU: ICMP packet too big */
	REASON_STACK_NO_ENDPOINT,	/* from the wire, and not to a Pod of this node */
	REASON_STACK_NOT_FORWARDED,	/* to the host itself, or no unicast route */
	REASON_STACK_NO_ROUTE,		/* unreachable, blackhole or prohibit route */
	REASON_STACK_FWD_DISABLED,	/* sysctl forwarding is 0 on the device */
	REASON_STACK_FIB_UNSUPPORTED,	/* a route that only the stack supports (lwtunnel, ...) */
	REASON_STACK_NO_DEVICE,		/* the endpoint's device no longer exists */
	REASON_DROP_INVALID_SOURCE_IP,	/* the source address is not the Pod's */
	REASON_DROP_POLICY_EGRESS,	/* denied by the sender's policy */
	REASON_DROP_POLICY_INGRESS,	/* denied by the receiver's policy */
	REASON_DROP_UNSUPPORTED,	/* a Pod under policy, and headers that cannot be parsed */
	REASON_DROP_FRAG_NOT_FOUND,	/* a Pod under policy, and the first fragment is unknown */
	REASON_DROP_CT_CREATE_FAILED,	/* no memory for a conntrack entry */
	REASON_DROP_NO_BACKEND,		/* the service has no backend */
	REASON_DROP_HAIRPIN,		/* the service's backend is the sender itself */
	REASON_DROP_NAT_NO_MAPPING,	/* masquerade: no free port for this destination */
	REASON_DROP_NAT_FAILED,		/* the address or port cannot be rewritten */
	REASON_DROP_EDT_HORIZON,	/* departure time too far ahead, or too many packets */
	REASON_ARP_REPLY,		/* an ARP request of a Pod, answered */
	REASON_NDP_REPLY,		/* a neighbour solicitation of a Pod, answered */
	REASON_EVENT_LOST,		/* no packet: a drop for which `drops` had no room */
	REASON_DROP_CHECKSUM,		/* requests a checksum outside of the transport header */
	REASON_DROP_VLAN,		/* a VLAN tag: Pods send and receive untagged frames */
	REASON_DROP_NDP,		/* a message of or to routers from a Pod */
	REASON_STACK_NO_NEIGH,		/* the next hop's MAC address is unknown */
	REASON_STACK_NAT,		/* netfilter translates its connection */
	REASON_DROP_ICMP_ERROR,		/* a Pod's ICMP error about a packet that was not to it */
	REASON_DROP_SOURCE_RANGE,	/* the service is not for clients with this address */
	REASON_DROP_NEIGHBOURS,		/* the node resolves too many next hops for the Pod */
	REASON_MAX,
};

/* Unused by programs: keeps the enum in the BTF. */
const volatile enum reason reason_max = REASON_MAX;

#define METRICS_REASONS 64	/* counters per element, at least REASON_MAX; a power of two */
#define POD_SLOTS 1024

struct counters {
	__u64 packets[METRICS_REASONS];
};

/* Indexed by the Pod's slot. Slot 0 counts packets that no Pod of this node sent or received. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, POD_SLOTS);
	__type(key, __u32);
	__type(value, struct counters);
} metrics SEC(".maps");

static __always_inline void metrics_count(__u32 slot, enum reason reason)
{
	struct counters *counters = bpf_map_lookup_elem(&metrics, &slot);

	if (counters)
		counters->packets[reason & (METRICS_REASONS - 1)] += 1;
}

/*
 * Pass the packet to the next program of the hook, then to the stack: -1 is TC_ACT_UNSPEC,
 * TCX_NEXT and NETKIT_NEXT.
 */
static __always_inline int pass_to_stack(__u32 slot, enum reason reason)
{
	metrics_count(slot, reason);
	return TC_ACT_UNSPEC;
}

#endif
