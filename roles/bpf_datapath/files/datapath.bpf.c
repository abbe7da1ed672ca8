// SPDX-License-Identifier: GPL-2.0-only
/*
 * Host routing: Pods' packets go from device to device without the host's upper stack, as far
 * as policy lets them. What these programs do not understand passes on unmodified, counted by
 * reason, but for Pods under policy, whose packets must be understood.
 * The same object attaches to meta, netkit, and tcx or clsact of any device.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "cache.h"
#include "config.h"
#include "drops.h"
#include "endpoints.h"
#include "fib.h"
#include "l2.h"
#include "mtu.h"
#include "pacing.h"
#include "parse.h"
#include "passage.h"
#include "reasons.h"

/* What begins or ends a TCP connection is not answered by what was decided for its flow. */
static __noinline bool is_turning_point(struct __sk_buff *skb, const struct packet *p)
{
	__u8 flags;

	return p->flow.proto == IPPROTO_TCP &&
	       (bpf_skb_load_bytes(skb, p->l4 + TCP_FLAGS, &flags, sizeof(flags)) ||
		flags & (TCP_SYN | TCP_FIN | TCP_RST));
}

static __always_inline bool may_follow(struct __sk_buff *skb, const struct packet *p,
				       const struct decision *d, struct config now,
				       struct way *way)
{
	return recall(d, p, now, way) &&
	       !(way->flags & DECISION_TRACKED && is_turning_point(skb, p));
}

/* Hold a packet to the wire to its Pod's rate. */
static __noinline bool keep_rate(struct __sk_buff *skb, const struct packet *p, bool *paced)
{
	__u32 ifindex = p->flow.ifindex;
	struct pod *pod = bpf_map_lookup_elem(&pods, &ifindex);

	*paced = pod && pod->rate;
	return !*paced || pace(skb, p, pod->slot, pod->rate);
}

/* Send the packet where the flow's last one went. */
static __always_inline int follow(struct __sk_buff *skb, const struct packet *p,
				  const struct way *way)
{
	bool paced;
	__u8 *macs;

	if (way->flags & DECISION_PACED && !keep_rate(skb, p, &paced))
		return drop(skb, p, way->slot, REASON_DROP_RATE, 0);
	if (!decrease_ttl(skb, p))
		return to_stack(way->slot, REASON_STACK_MALFORMED);
	count(way->slot, way->reason);
	if (way->reason != REASON_REMOTE)
		return into_pod(way->ifindex, way->flags & DECISION_PLAIN);

	macs = (void *)(long)skb->data;
	if (macs + sizeof(way->macs) > (__u8 *)(long)skb->data_end)
		return to_stack(way->slot, REASON_STACK_MALFORMED);
	/* NET_IP_ALIGN leaves the MAC header at an even address */
	__builtin_memcpy(__builtin_assume_aligned(macs, 2), way->macs, sizeof(way->macs));
	return bpf_redirect(way->ifindex, 0);
}

/* Put the packet into a Pod of this node. */
__noinline int deliver(struct __sk_buff *skb, const struct packet *p, struct passage *w,
		       struct decision *d)
{
	struct way way = {};
	enum reason refusal;
	__u32 mtu;

	if (!p || !w)
		return TC_ACT_SHOT;
	way.ifindex = w->to.ifindex;
	way.reason = p->flow.origin == FROM_POD ? REASON_LOCAL : REASON_INBOUND;
	way.slot = p->flow.origin == FROM_POD ? w->from.slot : w->to.slot;
	way.flags = w->known.known ? DECISION_TRACKED : 0;
	if (p->flow.origin == FROM_POD && w->from.flags & POD_NETKIT)
		way.flags |= DECISION_PLAIN;
	if (p->ttl <= 1)
		return to_stack(way.slot, REASON_STACK_TTL);
	refusal = check_mtu(skb, p, way.ifindex, &mtu);
	if (refusal != REASON_NONE)
		return to_stack(way.slot, refusal);
	way.mtu = mtu < 0xffff ? mtu : 0xffff;
	if (!lead_back(skb, w))
		return drop(skb, p, way.slot, REASON_DROP_REWRITE, 0);
	if (!decrease_ttl(skb, p))
		return to_stack(way.slot, REASON_STACK_MALFORMED);
	if (d)
		remember(d, p, w->now, &way);
	count(way.slot, way.reason);
	return into_pod(way.ifindex, way.flags & DECISION_PLAIN);
}

/* Send the packet to another node, or further. */
__noinline int forward(struct __sk_buff *skb, const struct packet *p, struct passage *w,
		       struct decision *d)
{
	struct way way = { .reason = REASON_REMOTE };
	struct bpf_fib_lookup fib = {};
	bool resolved = false, paced = false;
	enum reason reason;

	if (!p || !w)
		return TC_ACT_SHOT;
	way.slot = w->from.slot;
	if (p->ttl <= 1)
		return to_stack(way.slot, REASON_STACK_TTL);
	reason = route(skb, p, &fib, &resolved);
	if (reason != REASON_NONE)
		return to_stack(way.slot, reason);
	if (w->masquerade && !w->known.reply && w->known.other.port &&
	    !rewrite(skb, &w->segment, true, &w->known.other))
		return drop(skb, p, way.slot, REASON_DROP_REWRITE, w->to.identity);
	if (!keep_rate(skb, p, &paced))
		return drop(skb, p, way.slot, REASON_DROP_RATE, w->to.identity);
	if (!decrease_ttl(skb, p))
		return to_stack(way.slot, REASON_STACK_MALFORMED);
	count(way.slot, REASON_REMOTE);
	if (d && resolved && p->wire_len) {
		way.ifindex = fib.ifindex;
		way.mtu = fib.mtu_result;
		way.flags = (w->known.known ? DECISION_TRACKED : 0) |
			    (paced ? DECISION_PACED : 0);
		__builtin_memcpy(way.macs, fib.dmac, ETH_ALEN);
		__builtin_memcpy(way.macs + ETH_ALEN, fib.smac, ETH_ALEN);
		remember(d, p, w->now, &way);
	}
	return to_wire(&fib);
}

/* Whether a Pod may send from the packet's source address; fills `from`. */
static __noinline bool admit(struct __sk_buff *skb, const struct packet *p, struct passage *w)
{
	__u32 ifindex = skb->ifindex, bank = bank_of(w->now);
	struct pod *pod;

	origin(p, w);
	if (w->from.ifindex == ifindex)
		return true;
	pod = bpf_map_lookup_elem(&pods, &ifindex);
	if (!pod)
		return false;
	w->from.slot = pod->slot;
	/* another Pod's address is never free to take */
	if (!(pod->flags & POD_ANY_SOURCE) || w->from.pod)
		return false;
	w->from.identity = pod->identity[bank];
	w->from.enforce = pod->enforce[bank];
	w->from.flags = pod->flags;
	return true;
}

/* The slot whose drop or policy it is: the receiver's where its policy decided. */
static __always_inline int refuse(struct __sk_buff *skb, const struct packet *p,
				  const struct passage *w, enum reason reason)
{
	bool receivers = reason == REASON_DROP_POLICY_INGRESS || p->flow.origin != FROM_POD;

	return drop(skb, p, receivers ? w->to.slot : w->from.slot, reason,
		    receivers ? w->from.identity : w->to.identity);
}

/* Link scope: between the Pod and this node only, which never routes it. */
static __always_inline bool is_discovery(struct __sk_buff *skb)
{
	__u8 nexthdr = 0, type = 0;

	return !bpf_skb_load_bytes(skb, L3_OFFSET + offsetof(struct ipv6hdr, nexthdr), &nexthdr,
				   sizeof(nexthdr)) &&
	       !bpf_skb_load_bytes(skb, L3_OFFSET + sizeof(struct ipv6hdr), &type, 1) &&
	       nexthdr == IPPROTO_ICMPV6 && type >= NDP_FIRST && type < NDP_LAST;
}

/*
 * What a Pod sends and routing does not understand: the stack's, unless the Pod is under policy.
 */
__noinline int from_pod_unrouted(struct __sk_buff *skb, const struct packet *p,
				 enum reason reason, __u64 now)
{
	struct passage w = { .now.both = now };
	__u32 ifindex = skb->ifindex, bank = bank_of(w.now);
	struct pod *pod = bpf_map_lookup_elem(&pods, &ifindex);
	__u32 slot = pod ? pod->slot : 0;
	bool link, free;

	if (!p)
		return TC_ACT_SHOT;
	if (pod && pod->flags & POD_L2) {
		if (skb->protocol == bpf_htons(ETH_P_ARP) && answer_arp(skb, pod)) {
			count(slot, REASON_ANSWERED_ARP);
			return bpf_redirect(ifindex, 0);
		}
		if (reason == REASON_STACK_LINK && answer_ndp(skb, pod)) {
			count(slot, REASON_ANSWERED_NDP);
			return bpf_redirect(ifindex, 0);
		}
	}
	link = reason == REASON_STACK_LINK && p->flow.family == AF_INET6 &&
	       (link_scope6(p->flow.src6) || !(p->flow.src6[0] | p->flow.src6[1] |
					       p->flow.src6[2] | p->flow.src6[3]));
	if (p->flow.family && !link) {
		if (!admit(skb, p, &w))
			return drop(skb, p, w.from.slot, REASON_DROP_SPOOF, 0);
		slot = w.from.slot;
	}
	if (pod)
		w.from.enforce |= pod->enforce[bank];
	free = skb->protocol == bpf_htons(ETH_P_ARP) ||
	       (reason == REASON_STACK_LINK && is_discovery(skb));
	if (w.from.enforce & ENFORCE_EGRESS && !free)
		return drop(skb, p, slot, REASON_DROP_UNKNOWN, 0);
	return to_stack(slot, reason);
}

/* Decide anew on what a Pod sends. */
__noinline int from_pod(struct __sk_buff *skb, struct packet *p, struct decision *d, __u64 now)
{
	struct passage w = { .now.both = now };
	enum reason reason;

	if (!p)
		return TC_ACT_SHOT;
	if (!admit(skb, p, &w))
		return drop(skb, p, w.from.slot, REASON_DROP_SPOOF, 0);
	destination(p, &w);
	if (needs_state(&w)) {
		reason = pass(skb, p, &w);
		if (reason != REASON_NONE)
			return refuse(skb, p, &w, reason);
		if (!w.exact)
			d = NULL;
	}
	return w.to.ifindex ? deliver(skb, p, &w, d) : forward(skb, p, &w, d);
}

/* Pod to host: meta's or netkit's peer side, tc ingress of a veth's host side. */
SEC("tc")
int pod_egress(struct __sk_buff *skb)
{
	struct packet p = { .flow.origin = FROM_POD };
	enum reason reason = parse(skb, &p);
	struct config now = current_config();
	struct decision *d;
	struct way way;

	if (reason != REASON_NONE)
		return from_pod_unrouted(skb, &p, reason, now.both);
	d = decision_of(&p.flow);
	if (d && may_follow(skb, &p, d, now, &way))
		return follow(skb, &p, &way);
	return from_pod(skb, &p, d, now.both);
}

/* Decide anew on what the wire brings. */
__noinline int from_wire(struct __sk_buff *skb, struct packet *p, struct decision *d, __u64 now,
			 enum reason reason)
{
	struct passage w = { .now.both = now };

	if (!p)
		return TC_ACT_SHOT;
	destination(p, &w);
	if (reason != REASON_NONE) {
		if (w.to.enforce & ENFORCE_INGRESS)
			return drop(skb, p, w.to.slot, REASON_DROP_UNKNOWN, 0);
		return to_stack(w.to.slot, reason);
	}
	if (w.now.features & FEATURE_MASQUERADE && !w.to.pod) {
		/* an answer to a masqueraded Pod? */
		if (!back_inside(skb, p, &w))
			return to_stack(0, REASON_STACK_NOT_POD);
		d = NULL;
	}
	if (!w.to.ifindex)
		return to_stack(0, REASON_STACK_NOT_POD);
	if (needs_state(&w)) {
		origin(p, &w);
		/* not where these addresses are */
		if (w.from.ifindex || w.from.identity == IDENTITY_HOST)
			w.from = (struct side){ .identity = IDENTITY_WORLD };
		reason = pass(skb, p, &w);
		if (reason != REASON_NONE)
			return refuse(skb, p, &w, reason);
		if (!w.exact)
			d = NULL;
	}
	return deliver(skb, p, &w, d);
}

/* The wire to the host: tc ingress of a NIC. */
SEC("tc")
int host_ingress(struct __sk_buff *skb)
{
	struct packet p = { .flow.origin = FROM_WIRE };
	struct config now = current_config();
	struct decision *d = NULL;
	enum reason reason;
	struct way way;

	if (skb->pkt_type != PACKET_HOST)
		return to_stack(0, REASON_STACK_OTHERHOST);
	reason = parse(skb, &p);
	if (reason == REASON_NONE) {
		d = decision_of(&p.flow);
		if (d && may_follow(skb, &p, d, now, &way))
			return follow(skb, &p, &way);
	} else if (!p.flow.family || reason == REASON_STACK_LINK) {
		return to_stack(0, reason);
	}
	return from_wire(skb, &p, d, now.both, reason);
}

/*
 * Host to Pod: meta's or netkit's primary side, tc egress of a veth's host side. On netkit also
 * what another program of ours delivers. skb->ifindex is the Pod's there, so the address tells
 * the Pod.
 */
SEC("tc")
int pod_ingress(struct __sk_buff *skb)
{
	struct packet p = { .flow.origin = FROM_HOST };
	struct config now = current_config();
	enum reason reason = parse(skb, &p);
	struct passage w = { .now = now };

	if (!p.flow.family || reason == REASON_STACK_LINK)
		return to_stack(0, REASON_HOST);
	destination(&p, &w);
	/* netkit in L2 mode: the frame still bears the MAC address that its sender sent it to */
	if (w.to.ifindex && skb->pkt_type == PACKET_OTHERHOST)
		bpf_skb_change_type(skb, PACKET_HOST);
	if (!w.to.ifindex || !needs_state(&w))
		return to_stack(w.to.slot, REASON_HOST);
	if (reason != REASON_NONE) {
		if (w.to.enforce & ENFORCE_INGRESS)
			return drop(skb, &p, w.to.slot, REASON_DROP_UNKNOWN, 0);
		return to_stack(w.to.slot, REASON_HOST);
	}
	origin(&p, &w);
	reason = pass(skb, &p, &w);
	if (reason == REASON_NONE && !lead_back(skb, &w))
		reason = REASON_DROP_REWRITE;
	if (reason != REASON_NONE)
		return refuse(skb, &p, &w, reason);
	return to_stack(w.to.slot, REASON_HOST);
}

char LICENSE[] SEC("license") = "GPL";
