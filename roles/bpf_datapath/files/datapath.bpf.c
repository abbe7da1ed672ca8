// SPDX-License-Identifier: GPL-2.0-only
/*
 * Host routing: Pods' packets go from device to device without the host's upper stack.
 * What these programs do not understand passes on unmodified, counted by reason.
 * The same object attaches to meta, netkit, and tcx or clsact of any device.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "cache.h"
#include "config.h"
#include "ct.h"
#include "drops.h"
#include "endpoints.h"
#include "fib.h"
#include "fragments.h"
#include "identity.h"
#include "masquerade.h"
#include "pacing.h"
#include "parse.h"
#include "policy.h"
#include "reasons.h"
#include "services.h"

/* 1: pod_egress runs on netkit. Set at load time. */
const volatile __u8 netkit_source;

/* Send the packet where the flow's last one went. */
static __always_inline int follow(struct __sk_buff *skb, const struct packet *p,
				  const struct decision *d, bool plain)
{
	__u8 *macs;

	if (!decrease_ttl(skb, p))
		return to_stack(0, REASON_STACK_MALFORMED);
	count(d->slot, d->reason);
	if (d->reason != REASON_REMOTE)
		return into_pod(d->ifindex, plain);

	macs = (void *)(long)skb->data;
	if (macs + sizeof(d->macs) > (__u8 *)(long)skb->data_end)
		return to_stack(0, REASON_STACK_MALFORMED);
	__builtin_memcpy(macs, d->macs, sizeof(d->macs));
	return bpf_redirect(d->ifindex, 0);
}

/* Pod to host: meta's or netkit's peer side, tc ingress of a veth's host side. */
SEC("tc")
int pod_egress(struct __sk_buff *skb)
{
	struct packet p = {};
	enum reason reason = parse(skb, &p);
	struct decision *d;
	struct endpoint *ep;
	struct config now;

	if (reason != REASON_NONE)
		return to_stack(0, reason);
	now = current_config();
	d = decision_of(&p.flow);
	if (d && holds(d, &p, now))
		return follow(skb, &p, d, netkit_source);
	ep = endpoint_of(&p);
	if (ep)
		return deliver(skb, &p, ep, netkit_source, REASON_LOCAL, d, now);
	return forward(skb, &p, d, now);
}

/* Host to Pod: meta's or netkit's primary side, tc egress of a veth's host side. */
SEC("tc")
int pod_ingress(struct __sk_buff *skb)
{
	return to_stack(0, REASON_HOST);
}

/* The wire to the host: tc ingress of a NIC. */
SEC("tc")
int host_ingress(struct __sk_buff *skb)
{
	struct packet p = { .flow.inbound = 1 };
	struct decision *d;
	struct endpoint *ep;
	enum reason reason;
	struct config now;

	if (skb->pkt_type != PACKET_HOST)
		return to_stack(0, REASON_STACK_OTHERHOST);
	reason = parse(skb, &p);
	if (reason != REASON_NONE)
		return to_stack(0, reason);
	now = current_config();
	d = decision_of(&p.flow);
	if (d && holds(d, &p, now))
		return follow(skb, &p, d, false);
	ep = endpoint_of(&p);
	if (!ep)
		return to_stack(0, REASON_STACK_NOT_POD);
	return deliver(skb, &p, ep, false, REASON_INBOUND, d, now);
}

char LICENSE[] SEC("license") = "GPL";
