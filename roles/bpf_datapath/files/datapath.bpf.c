// SPDX-License-Identifier: GPL-2.0-only
/*
 * Host routing: Pods' packets go from device to device without the host's upper stack.
 * What these programs do not understand passes on unmodified, counted by reason.
 * The same object attaches to meta, netkit, and tcx or clsact of any device.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "endpoints.h"
#include "fib.h"
#include "parse.h"
#include "reasons.h"

/* 1: pod_egress runs on netkit. Set at load time. */
const volatile __u8 netkit_source;

/* Pod to host: meta's or netkit's peer side, tc ingress of a veth's host side. */
SEC("tc")
int pod_egress(struct __sk_buff *skb)
{
	struct packet p = {};
	enum reason reason = parse(skb, &p);
	struct endpoint *ep;

	if (reason != REASON_NONE)
		return to_stack(reason);
	ep = endpoint_of(&p);
	if (ep)
		return deliver(skb, &p, ep, netkit_source, REASON_LOCAL);
	return forward(skb, &p);
}

/* Host to Pod: meta's or netkit's primary side, tc egress of a veth's host side. */
SEC("tc")
int pod_ingress(struct __sk_buff *skb)
{
	return to_stack(REASON_HOST);
}

/* The wire to the host: tc ingress of a NIC. */
SEC("tc")
int host_ingress(struct __sk_buff *skb)
{
	struct packet p = {};
	struct endpoint *ep;
	enum reason reason;

	if (skb->pkt_type != PACKET_HOST)
		return to_stack(REASON_STACK_OTHERHOST);
	reason = parse(skb, &p);
	if (reason != REASON_NONE)
		return to_stack(reason);
	ep = endpoint_of(&p);
	if (!ep)
		return to_stack(REASON_STACK_NOT_POD);
	return deliver(skb, &p, ep, false, REASON_INBOUND);
}

char LICENSE[] SEC("license") = "GPL";
