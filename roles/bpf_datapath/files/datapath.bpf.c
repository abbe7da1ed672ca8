// SPDX-License-Identifier: GPL-2.0-only
/*
 * Host routing: forwards Pods' packets between devices without the host's stack, as far as policy
 * allows. Packets that these programs do not support pass to the stack unmodified and are counted
 * by reason; those of Pods under policy are dropped. The same object attaches to meta, netkit, and
 * tcx or clsact of any device.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "arp_ndp.h"
#include "checksum.h"
#include "config.h"
#include "context.h"
#include "drops.h"
#include "endpoints.h"
#include "fib.h"
#include "flow_cache.h"
#include "metrics.h"
#include "mtu.h"
#include "neighbours.h"
#include "pacing.h"
#include "parse.h"
#include "shared_types.h"
#include "socket_lb.h"
#include "socket_stale.h"
#include "source.h"
#include "stack_nat.h"
#include "track.h"
#include "verdict.h"

/* Return whether a TCP packet opens or closes its connection: conntrack must see it. */
static __always_inline bool tcp_changes_state(struct __sk_buff *skb, const struct packet *p)
{
	__u8 flags = 0;

	if (p->flow.proto != IPPROTO_TCP)
		return false;
	if (!parse_load(skb, p, p->l4_offset + TCP_FLAGS, &flags, sizeof(flags)))
		return true;
	return flags & (TCP_SYN | TCP_FIN | TCP_RST);
}

static __always_inline bool flow_is_cached(struct __sk_buff *skb, const struct packet *p,
					   const struct flow_cache_entry *entry,
					   struct config cfg, struct nexthop *nh)
{
	if (!flow_cache_lookup(entry, p, cfg, nh))
		return false;
	if (!(nh->flags & (NEXTHOP_TRACKED | NEXTHOP_CHECK_LINK)))
		return true;
	return !(nh->flags & NEXTHOP_TRACKED && tcp_changes_state(skb, p)) &&
	       !(nh->flags & NEXTHOP_CHECK_LINK && !link_header_is_valid(skb));
}

/*
 * Pace a packet to the wire by its Pod's rate. Return NEXTHOP_PACED, 0 if the Pod has no rate, -1
 * beyond the pacing horizon.
 */
static __noinline int pod_schedule(struct __sk_buff *skb, const struct packet *p)
{
	__u32 ifindex = p->flow.ifindex;
	struct pod *pod = bpf_map_lookup_elem(&pods, &ifindex);

	if (!pod || !pod->rate)
		return 0;
	return pacing_schedule(skb, p, pod->slot, pod->rate) ? NEXTHOP_PACED : -1;
}

/* Return the checks that the following packets of a Pod's flow need. */
static __always_inline __u8 nexthop_checks(const struct packet *p, const struct context *ctx)
{
	if (p->flow.origin != FROM_POD || ctx->src.flags & POD_META)
		return 0;
	return NEXTHOP_CHECK_CSUM | (ctx->src.flags & POD_NETKIT ? NEXTHOP_CHECK_LINK : 0);
}

/*
 * Pass a Pod's packet to the stack, if the policy for the node allows it. The stack neither
 * masquerades nor paces: what it would send to the wire is dropped if the Pod is masqueraded, and
 * gets a departure time if it has a rate.
 */
static __noinline int pod_pass_to_stack(struct __sk_buff *skb, const struct packet *p,
					struct context *ctx, enum reason reason)
{
	bool masquerade = ctx->masquerade && !ctx->ct.reply, translated = false, forwarded;
	__u32 ifindex = p->flow.ifindex, slot = ctx->src.slot;
	struct pod *pod = bpf_map_lookup_elem(&pods, &ifindex);
	enum reason denied = ctx_verdict_host(skb, p, ctx, reason);

	if (denied != REASON_NONE)
		return drop_packet(skb, p, slot, denied, ctx->dst.identity);
	/* forward_to_wire() has checked it, or the address of a service is no next hop */
	if (reason != REASON_STACK_NO_NEIGH && reason != REASON_STACK_NOT_FORWARDED &&
	    !(ctx->dst.cidr_flags & CIDR_STACK_NAT) && !neighbour_may_forward(skb, p, slot))
		return drop_packet(skb, p, slot, REASON_DROP_NEIGHBOURS, ctx->dst.identity);
	skb->tc_index = TC_INDEX_FROM_POD | (pod ? pod->slot & TC_INDEX_SLOT : 0);
	pacing_limit_edt(skb);
	/* netfilter may translate these to any destination */
	if (ctx->cfg.features & FEATURE_STACK_NAT) {
		translated = reason == REASON_STACK_NAT || reason == REASON_STACK_NOT_FORWARDED;
		if (reason == REASON_STACK_NOT_FORWARDED)
			stack_nat_to_node(skb, p, ctx);
	}
	if (masquerade || (pod && pod->rate)) {
		forwarded = fib_stack_forwards(skb, p, reason);
		if (masquerade && forwarded)
			return drop_packet(skb, p, slot, REASON_DROP_NAT_FAILED, ctx->dst.identity);
		if ((forwarded || translated) && pod_schedule(skb, p) < 0)
			return drop_packet(skb, p, slot, REASON_DROP_EDT_HORIZON,
					   ctx->dst.identity);
	}
	return pass_to_stack(slot, reason);
}

/* Translate a packet as the flow cache says. */
static __noinline bool translate_cached(struct __sk_buff *skb, const struct packet *p,
					const struct flow_cache_entry *entry, bool source)
{
	struct l4_info l4 = {};
	struct addr_port to;

	return flow_cache_translation(entry, p, &to) && l4_parse(skb, p, &l4) == REASON_NONE &&
	       nat_rewrite(skb, &l4, source, &to);
}

/*
 * Set which checks and translations the following packets of a tracked flow need; return its
 * connection if they are translated.
 */
static __always_inline struct connection *nexthop_track(const struct context *ctx,
							struct nexthop *nh)
{
	struct connection *c = NULL;

	if (ctx->ct.tracked)
		nh->flags |= NEXTHOP_TRACKED;
	if (ctx->ct.tracked && ctx->ct.translated)
		c = ctx_connection(ctx);
	if (c)
		nh->flags |= ctx->ct.reply ? NEXTHOP_SET_SRC : NEXTHOP_SET_DST;
	return c;
}

/* Store the decision for the following packets of a flow. */
static __noinline int nexthop_cache(struct flow_cache_entry *entry, const struct packet *p,
				    const struct context *ctx, struct nexthop *nh)
{
	struct connection *c = nexthop_track(ctx, nh);

	/* its record was reused meanwhile */
	if (ctx->ct.translated && !c)
		return 0;
	flow_cache_update(entry, p, ctx->cfg, nh,
			  !c ? NULL : ctx->ct.reply ? &c->service : &c->server,
			  c ? &c->service : NULL);
	return 0;
}

/* Forward by the flow cache. */
static __always_inline int forward_cached(struct __sk_buff *skb, const struct packet *p,
					  const struct nexthop *nh, struct flow_cache_entry *entry)
{
	bool remote = nh->reason == REASON_REMOTE;
	__u64 *edt = &entry->edt;
	void *data;

	if (nh->flags & NEXTHOP_TRANSLATE &&
	    !translate_cached(skb, p, entry, nh->flags & NEXTHOP_SET_SRC))
		return drop_packet(skb, p, nh->slot, REASON_DROP_NAT_FAILED, 0);

	if (remote) {
		__u64 departure = skb->tstamp;

		if (!departure) {
			pacing_depart(skb);
		} else if (departure > *edt) {
			pacing_limit_edt(skb);
			/* A concurrent writer of the slot at worst makes it look at the socket. */
			if (*edt)
				*edt = bpf_ktime_get_ns() + EDT_UNCHECKED;
		}
		if (nh->flags & NEXTHOP_PACED && pod_schedule(skb, p) < 0)
			return drop_packet(skb, p, nh->slot, REASON_DROP_EDT_HORIZON, 0);
	}
	data = (void *)(long)skb->data;
	if (data + L3_OFFSET + sizeof(struct iphdr) > (void *)(long)skb->data_end)
		return pass_to_stack(nh->slot, REASON_STACK_MALFORMED);
	if (remote)
		/* x86-64 and aarch64 store words at any address */
		__builtin_memcpy(__builtin_assume_aligned(data, 8), nh->macs, sizeof(nh->macs));
	if (p->flow.family == AF_INET)
		ipv4_decrease_ttl(data + L3_OFFSET, p->ttl);
	else if (!ip_decrease_ttl(skb, p))
		return pass_to_stack(nh->slot, REASON_STACK_MALFORMED);
	metrics_count(nh->slot, nh->reason);
	return remote ? bpf_redirect(nh->ifindex, 0) :
			endpoint_redirect(skb, nh->ifindex, nh->flags & NEXTHOP_NO_PEER);
}

/* Pass the packet to the stack; if a Pod sent it, let the caller do that. */
static __always_inline int ctx_pass_to_stack(const struct packet *p, struct context *ctx,
					     enum reason reason)
{
	if (p->flow.origin != FROM_POD)
		return pass_to_stack(ctx->dst.slot, reason);
	ctx->stack = reason;
	return TC_ACT_UNSPEC;
}

/* Forward to a Pod of this node. */
__noinline int forward_to_pod(struct __sk_buff *skb, const struct packet *p, struct context *ctx,
			      struct flow_cache_entry *entry)
{
	struct nexthop nh = {};
	enum reason reason;
	__u32 mtu;

	if (!p || !ctx)
		return TC_ACT_SHOT;
	nh.ifindex = ctx->dst.ifindex;
	nh.reason = p->flow.origin == FROM_POD ? REASON_LOCAL : REASON_INBOUND;
	nh.slot = p->flow.origin == FROM_POD ? ctx->src.slot : ctx->dst.slot;
	nh.flags = nexthop_checks(p, ctx);
	if (p->flow.origin == FROM_POD && ctx->src.flags & POD_NETKIT)
		nh.flags |= NEXTHOP_NO_PEER;
	if (p->ttl <= 1)
		return ctx_pass_to_stack(p, ctx, REASON_STACK_TTL);
	reason = mtu_check(skb, p, nh.ifindex, &mtu);
	if (reason != REASON_NONE)
		return ctx_pass_to_stack(p, ctx, reason);
	nh.mtu = mtu < 0xffff ? mtu : 0xffff;
	if (!ctx_set_source(skb, ctx))
		return drop_packet(skb, p, nh.slot, REASON_DROP_NAT_FAILED, 0);
	if (!ip_decrease_ttl(skb, p))
		return ctx_pass_to_stack(p, ctx, REASON_STACK_MALFORMED);
	if (entry)
		nexthop_cache(entry, p, ctx, &nh);
	metrics_count(nh.slot, nh.reason);
	return endpoint_redirect(skb, nh.ifindex, nh.flags & NEXTHOP_NO_PEER);
}

/* Forward to another node or beyond. */
__noinline int forward_to_wire(struct __sk_buff *skb, const struct packet *p, struct context *ctx,
			       struct flow_cache_entry *entry)
{
	struct nexthop nh = {};
	struct bpf_fib_lookup fib = {};
	enum reason reason;
	bool to_stack;
	int paced;

	if (!p || !ctx)
		return TC_ACT_SHOT;
	nh.reason = REASON_REMOTE;
	nh.slot = ctx->src.slot;
	if (p->ttl <= 1)
		return ctx_pass_to_stack(p, ctx, REASON_STACK_TTL);
	/*
	 * The stack does not translate sources, and kube-proxy drops packets of connections that
	 * netfilter has not seen. So the stack must not forward these packets.
	 */
	to_stack = !ctx->masquerade && !ctx->ct.set_source &&
		   !(ctx->cfg.features & FEATURE_STACK_NAT);
	reason = fib_lookup(skb, p, &fib, true);
	/* As a router, the node does not trust the ICMP errors that it learns MTUs from. */
	if (reason == REASON_STACK_MTU && !to_stack)
		reason = fib_lookup(skb, p, &fib, false);
	if (reason != REASON_NONE)
		return ctx_pass_to_stack(p, ctx, reason);
	if (fib.h_vlan_TCI && p->flow.origin == FROM_POD &&
	    !neighbour_may_resolve(&fib, nh.slot))
		return drop_packet(skb, p, nh.slot, REASON_DROP_NEIGHBOURS, ctx->dst.identity);
	/*
	 * The stack resolves the neighbour, and reports one that does not answer;
	 * bpf_redirect_neigh() only resolves it.
	 */
	if (!fib_is_resolved(&fib) && to_stack)
		return ctx_pass_to_stack(p, ctx, REASON_STACK_NO_NEIGH);
	if (!ctx_set_source(skb, ctx))
		return drop_packet(skb, p, nh.slot, REASON_DROP_NAT_FAILED, ctx->dst.identity);
	paced = 0;
	if (p->flow.origin == FROM_POD) {
		pacing_limit_edt(skb);
		paced = pod_schedule(skb, p);
	}
	if (paced < 0)
		return drop_packet(skb, p, nh.slot, REASON_DROP_EDT_HORIZON, ctx->dst.identity);
	if (!ip_decrease_ttl(skb, p))
		return ctx_pass_to_stack(p, ctx, REASON_STACK_MALFORMED);
	metrics_count(nh.slot, REASON_REMOTE);
	if (entry && fib_is_resolved(&fib) && p->wire_len) {
		nh.ifindex = fib.ifindex;
		nh.mtu = fib.mtu_result;
		nh.flags = nexthop_checks(p, ctx) | paced;
		__builtin_memcpy(nh.macs, fib.dmac, ETH_ALEN);
		__builtin_memcpy(nh.macs + ETH_ALEN, fib.smac, ETH_ALEN);
		nexthop_cache(entry, p, ctx, &nh);
		/* A concurrent reader of the slot at worst looks at the socket. */
		entry->edt = p->flow.proto == IPPROTO_TCP ? bpf_ktime_get_ns() + EDT_UNCHECKED : 0;
	}
	return fib_redirect(&fib);
}

/* Set ctx->src; return whether the Pod may send from the packet's source address. */
static __noinline bool ctx_check_source(struct __sk_buff *skb, const struct packet *p,
					struct context *ctx)
{
	__u32 ifindex = skb->ifindex, buffer = config_buffer(ctx->cfg);
	struct pod *pod;

	ctx_set_src(p, ctx);
	if (ctx->src.ifindex == ifindex)
		return true;
	pod = bpf_map_lookup_elem(&pods, &ifindex);
	if (!pod)
		return false;
	ctx->src.slot = pod->slot;
	/* POD_ANY_SOURCE never allows the address of another Pod */
	if (!(pod->flags & POD_ANY_SOURCE) || ctx->src.pod)
		return false;
	ctx->src.identity = pod->identity[buffer];
	ctx->src.enforce = pod->enforce[buffer];
	ctx->src.flags = pod->flags;
	return true;
}

/* Drop, and count for the Pod whose policy applies: the receiver if its ingress policy decided. */
static __always_inline int ctx_drop(struct __sk_buff *skb, const struct packet *p,
				    const struct context *ctx, enum reason reason)
{
	bool receiver = reason == REASON_DROP_POLICY_INGRESS || p->flow.origin != FROM_POD;

	return drop_packet(skb, p, receiver ? ctx->dst.slot : ctx->src.slot, reason,
			   receiver ? ctx->src.identity : ctx->dst.identity);
}

enum ndp_verdict {
	NDP_NONE,		/* no neighbour discovery */
	NDP_EXEMPT,		/* exempt from policy: it stays on the link */
	NDP_DENIED,		/* of or to routers, or it may be */
};

/*
 * Classify a Pod's packet of link scope. A Pod is no router: it must not send router
 * advertisements and redirects, even behind extension headers, which the stack would accept. It
 * gets no advertisements either, but the stack would remember each address that solicits them, and
 * the neighbour table is that of all devices.
 */
static __noinline enum ndp_verdict ndp_classify(struct __sk_buff *skb, const struct packet *p)
{
	__be32 group = p->flow.dst6[0] & bpf_htonl(0xffff0000);
	struct ip_info ip = {
		.offset = L3_OFFSET + sizeof(struct ipv6hdr),
		.end = packet_end(p),
		.proto = p->flow.proto,
	};
	__u8 type = 0;

	if (!ipv6_skip_exthdrs(skb, &ip))
		return NDP_DENIED;
	if (ip.proto != IPPROTO_ICMPV6 || ip.later)
		return NDP_NONE;
	if (!l4_load(skb, ip.offset, &type, sizeof(type), ip.end) || type == NDP_ROUTER_SOLICIT ||
	    type == NDP_ROUTER_ADVERT || type == NDP_LAST)
		return NDP_DENIED;
	if (type < NDP_FIRST || type > NDP_LAST || p->flow.proto != IPPROTO_ICMPV6 ||
	    p->ttl != NDP_HOP_LIMIT)
		return NDP_NONE;
	return ipv6_is_link_local(p->flow.dst6) || group == bpf_htonl(0xff020000) ? NDP_EXEMPT :
										   NDP_NONE;
}

/*
 * Handle a Pod's packet that parse_packet() rejects: reply to ARP and NDP, drop it if the Pod is
 * under policy or must not send it, else pass to the stack.
 */
__noinline int pod_egress_unsupported(struct __sk_buff *skb, const struct packet *p,
				      enum reason reason, __u64 config_word)
{
	struct context ctx = { .cfg.word = config_word };
	__u32 ifindex = skb->ifindex, buffer = config_buffer(ctx.cfg);
	struct pod *pod = bpf_map_lookup_elem(&pods, &ifindex);
	__u32 slot = pod ? pod->slot : 0;
	enum ndp_verdict ndp = NDP_NONE;
	enum reason denied = REASON_NONE;
	bool link_scope, exempt;

	if (!p)
		return TC_ACT_SHOT;
	/* The stack ignores priority tags, and would forward a packet that no policy allowed. */
	if (reason == REASON_STACK_VLAN)
		return drop_packet(skb, p, slot, REASON_DROP_VLAN, 0);
	if (pod && pod->flags & POD_L2) {
		if (skb->protocol == bpf_htons(ETH_P_ARP) && arp_reply(skb, pod)) {
			metrics_count(slot, REASON_ARP_REPLY);
			return bpf_redirect(ifindex, 0);
		}
		if (skb->protocol == bpf_htons(ETH_P_ARP) && arp_is_denied(skb))
			return drop_packet(skb, p, slot, REASON_DROP_UNSUPPORTED, 0);
		if (reason == REASON_STACK_LINK_SCOPE && ndp_reply(skb, pod)) {
			metrics_count(slot, REASON_NDP_REPLY);
			return bpf_redirect(ifindex, 0);
		}
	}
	if (reason == REASON_STACK_LINK_SCOPE && p->flow.family == AF_INET6)
		ndp = ndp_classify(skb, p);
	if (ndp == NDP_DENIED)
		return drop_packet(skb, p, slot, REASON_DROP_NDP, 0);
	link_scope = reason == REASON_STACK_LINK_SCOPE && p->flow.family == AF_INET6 &&
		     (ipv6_is_link_local(p->flow.src6) ||
		      !(p->flow.src6[0] | p->flow.src6[1] | p->flow.src6[2] | p->flow.src6[3]));
	if (p->flow.family && !link_scope) {
		if (!ctx_check_source(skb, p, &ctx))
			return drop_packet(skb, p, ctx.src.slot, REASON_DROP_INVALID_SOURCE_IP, 0);
		ctx_set_dst(p, &ctx);
		slot = ctx.src.slot;
	} else if (pod) {
		ctx.src.slot = slot;
		ctx.masquerade = ctx.cfg.features & FEATURE_MASQUERADE &&
				 pod->flags & POD_MASQUERADE;
	}
	if (pod)
		ctx.src.enforce |= pod->enforce[buffer];
	exempt = skb->protocol == bpf_htons(ETH_P_ARP) || ndp == NDP_EXEMPT;
	if (ctx.src.enforce & ENFORCE_EGRESS && !exempt)
		return drop_packet(skb, p, slot, REASON_DROP_UNSUPPORTED, 0);
	/* The node would deliver it with net.ipv4.conf.*.route_localnet, as kube-proxy sets it. */
	if (p->flow.family == AF_INET && ipv4_is_loopback(p->flow.dst4))
		denied = REASON_DROP_UNSUPPORTED;
	else if (p->flow.family && !(pod && pod->flags & POD_ANY_SOURCE))
		denied = icmp_error_check(skb, p);
	if (denied != REASON_NONE)
		return drop_packet(skb, p, slot, denied, 0);
	return pod_pass_to_stack(skb, p, &ctx, reason);
}

/* Process a Pod's packet that misses the flow cache. */
__noinline int pod_egress_uncached(struct __sk_buff *skb, struct packet *p,
				   struct flow_cache_entry *entry, __u64 config_word)
{
	struct context ctx = { .cfg.word = config_word };
	enum reason reason = REASON_NONE;
	int verdict;

	if (!p)
		return TC_ACT_SHOT;
	if (!ctx_check_source(skb, p, &ctx))
		return drop_packet(skb, p, ctx.src.slot, REASON_DROP_INVALID_SOURCE_IP, 0);
	ctx_set_dst(p, &ctx);
	if (icmp_error_is_candidate(p)) {
		entry = NULL;
		if (!(ctx.src.flags & POD_ANY_SOURCE))
			reason = icmp_error_check(skb, p);
		if (reason != REASON_NONE)
			return drop_packet(skb, p, ctx.src.slot, reason, 0);
	}
	if (ctx_needs_state(p, &ctx)) {
		reason = ctx_process(skb, p, &ctx);
		if (reason == REASON_NONE &&
		    (ctx.masquerade || ctx.ct.clash || ctx.ct.set_source))
			reason = ctx_select_source(skb, p, &ctx);
		if (!ctx.cacheable)
			entry = NULL;
	}
	/*
	 * A reply that netfilter translates back has no connection before. What the receiver's
	 * policy denies here is denied by pod_ingress() if netfilter does not translate it.
	 */
	if (ctx.cfg.features & FEATURE_STACK_NAT &&
	    (reason == REASON_NONE ||
	     (reason == REASON_DROP_POLICY_INGRESS && ctx.dst.ifindex))) {
		stack_nat_parse(skb, p, &ctx);
		if (stack_nat_from_pod(skb, p, &ctx))
			return pod_pass_to_stack(skb, p, &ctx, REASON_STACK_NAT);
	}
	if (reason != REASON_NONE)
		return ctx_drop(skb, p, &ctx, reason);
	verdict = ctx.dst.ifindex ? forward_to_pod(skb, p, &ctx, entry) :
				    forward_to_wire(skb, p, &ctx, entry);
	return ctx.stack ? pod_pass_to_stack(skb, p, &ctx, ctx.stack) : verdict;
}

/* Drop a Pod's packet that requests an invalid checksum. */
static __noinline int drop_checksum(struct __sk_buff *skb, const struct packet *p)
{
	__u32 ifindex = skb->ifindex;
	struct pod *pod = bpf_map_lookup_elem(&pods, &ifindex);

	return drop_packet(skb, p, pod ? pod->slot : 0, REASON_DROP_CHECKSUM, 0);
}

/* From a Pod: peer end of meta or netkit, tc ingress of a veth's host end. */
SEC("tc")
int pod_egress(struct __sk_buff *skb)
{
	struct packet p = { .flow.origin = FROM_POD };
	enum reason reason = parse_packet(skb, &p);
	struct config cfg = config_read();
	struct flow_cache_entry *entry = NULL;
	struct nexthop nh;

	/* qdiscs select classes by it: veth does not clear that of the Pod's socket */
	if (skb->priority)
		skb->priority = 0;
	if (reason == REASON_NONE)
		entry = flow_cache_slot(&p.flow);
	if (entry && flow_is_cached(skb, &p, entry, cfg, &nh)) {
		if (nh.flags & NEXTHOP_CHECK_CSUM && !checksum_is_valid(skb, &p))
			return drop_checksum(skb, &p);
		return forward_cached(skb, &p, &nh, entry);
	}
	if (!checksum_is_valid(skb, &p))
		return drop_checksum(skb, &p);
	reason = parse_scope(&p, reason);
	if (reason != REASON_NONE)
		return pod_egress_unsupported(skb, &p, reason, cfg.word);
	return pod_egress_uncached(skb, &p, entry, cfg.word);
}

/*
 * Return whether a packet from the wire to no Pod may be of a connection that this node translates:
 * the reply to a translated source, or to a service.
 */
static __noinline bool ctx_is_for_node(const struct packet *p, const struct context *ctx)
{
	__be32 address[4] = { p->flow.dst4 };

	if (ctx->dst.pod)
		return false;
	if (ctx->cfg.features & (FEATURE_MASQUERADE | FEATURE_EXTERNAL) &&
	    masquerade_is_candidate(p, &ctx->cfg))
		return true;
	if (!(ctx->cfg.features & FEATURE_EXTERNAL))
		return false;
	if (packet_is_partial(p) || !proto_has_ports(p->flow.proto))
		return true;
	if (p->flow.family == AF_INET6)
		__builtin_memcpy(address, p->flow.dst6, sizeof(address));
	return lb_find(p->flow.family, p->flow.proto, address, p->flow.dport, &ctx->cfg);
}

/*
 * Set the source of a packet by its address and by the slot of the Pod that sent it, POD_SLOTS if
 * none of this node did. With the address of another Pod of this node, it gets no identity of one.
 */
static __noinline void ctx_set_src_of(const struct packet *p, struct context *ctx, __u32 slot)
{
	ctx_set_src(p, ctx);
	if (ctx->src.ifindex && ctx->src.slot != slot) {
		__builtin_memset(&ctx->src, 0, sizeof(ctx->src)); /* IDENTITY_WORLD */
		ctx->src.spoofed = true;
	}
}

/* Process a packet from the wire that misses the flow cache. */
__noinline int host_ingress_uncached(struct __sk_buff *skb, struct packet *p,
				     struct flow_cache_entry *entry, __u64 config_word,
				     enum reason reason)
{
	struct context ctx = { .cfg.word = config_word };

	if (!p)
		return TC_ACT_SHOT;
	ctx_set_dst(p, &ctx);
	if (reason != REASON_NONE) {
		if (ctx.dst.enforce & ENFORCE_INGRESS)
			return drop_packet(skb, p, ctx.dst.slot, REASON_DROP_UNSUPPORTED, 0);
		return pass_to_stack(ctx.dst.slot, reason);
	}
	if (!ctx.dst.ifindex && !ctx_is_for_node(p, &ctx))
		return pass_to_stack(0, REASON_STACK_NO_ENDPOINT);
	if (ctx.cfg.features & FEATURE_STACK_NAT && ctx.dst.ifindex) {
		stack_nat_parse(skb, p, &ctx);
		if (stack_nat_from_wire(skb, p, &ctx))
			return pass_to_stack(ctx.dst.slot, REASON_STACK_NAT);
	}
	if (packet_is_partial(p))
		entry = NULL;
	if (!ctx.dst.ifindex || ctx_needs_state(p, &ctx)) {
		ctx_set_src_of(p, &ctx, POD_SLOTS);
		reason = ctx_process(skb, p, &ctx);
		if (reason == REASON_NONE && (ctx.masquerade || ctx.ct.clash))
			reason = ctx_select_source(skb, p, &ctx);
		if (reason != REASON_NONE)
			return ctx_drop(skb, p, &ctx, reason);
		if (!ctx.cacheable)
			entry = NULL;
	}
	if (ctx.dst.ifindex)
		return forward_to_pod(skb, p, &ctx, entry);
	if (ctx.external && ctx.dst.identity != IDENTITY_HOST)
		return forward_to_wire(skb, p, &ctx, NULL);
	if (!ctx_set_source(skb, &ctx))
		return drop_packet(skb, p, 0, REASON_DROP_NAT_FAILED, 0);
	return pass_to_stack(0, REASON_STACK_NO_ENDPOINT);
}

/* From the wire: tc ingress of an uplink. */
SEC("tc")
int host_ingress(struct __sk_buff *skb)
{
	struct packet p = { .flow.origin = FROM_WIRE };
	struct config cfg = config_read();
	struct flow_cache_entry *entry = NULL;
	enum reason reason;
	struct nexthop nh;

	if (skb->pkt_type != PACKET_HOST)
		return pass_to_stack(0, REASON_STACK_OTHERHOST);
	if (vlan_is_tagged(skb)) {
		reason = vlan_pop_priority(skb);
		if (reason == REASON_DROP_VLAN)
			return drop_packet(skb, &p, 0, reason, 0);
		if (reason != REASON_NONE)
			return pass_to_stack(0, reason);
	}
	reason = parse_packet(skb, &p);
	if (reason == REASON_NONE) {
		entry = flow_cache_slot(&p.flow);
		if (entry && flow_is_cached(skb, &p, entry, cfg, &nh))
			return forward_cached(skb, &p, &nh, entry);
	} else if (!p.flow.family) {
		return pass_to_stack(0, reason);
	}
	reason = parse_scope(&p, reason);
	return host_ingress_uncached(skb, &p, entry, cfg.word, reason);
}

/*
 * Translate a packet of this node to the wire if it is the reply of one of its processes to a host
 * that connected to a service, or an ICMP error about such a connection. Return false if it cannot
 * be translated.
 */
__noinline bool host_reply(struct __sk_buff *skb, struct packet *p, __u64 config_word)
{
	struct context ctx = { .cfg.word = config_word };
	struct addr_port client;
	struct connection *c;
	bool translated;

	if (!p || l4_parse(skb, p, &ctx.l4) != REASON_NONE)
		return true;
	if (ctx.l4.icmp_error)
		return icmp_error_translate(skb, p, &ctx.l4, &ctx.cfg, false) !=
		       REASON_DROP_NAT_FAILED;
	c = ct_lookup(&ctx.l4.tuple, CT_REPLY, &ctx.ct.place, &ctx.ct.reply);
	if (!c || !ctx.ct.reply || !(c->flags & CT_EXTERNAL) || !(c->flags & CT_HOST_SERVER))
		return true;
	ctx.ct.serial = c->serial;
	if (c->last_seen != ct_now())
		ct_refresh(c, &ctx.ct);
	ct_update(c, ctx.l4.tcp_flags, true);
	/* two services with this backend: the second connection has another source port */
	client = c->client;
	translated = !(c->flags & CT_SNAT) || nat_rewrite(skb, &ctx.l4, false, &client);
	return translated && nat_rewrite(skb, &ctx.l4, true, &c->service);
}

/* To the wire: tc egress of an uplink. Only for services that have processes of the node. */
SEC("tc")
int host_egress(struct __sk_buff *skb)
{
	struct packet p = { .flow.origin = FROM_HOST };
	struct config cfg = config_read();

	if (cfg.features & FEATURE_HOST_BACKENDS && parse_packet(skb, &p) == REASON_NONE &&
	    !host_reply(skb, &p, cfg.word))
		return drop_packet(skb, &p, 0, REASON_DROP_NAT_FAILED, 0);
	return TC_ACT_UNSPEC;
}

/* Pass a packet to a Pod. `record`: its client, if there is one outside of the node's Pods */
static __always_inline int pod_ingress_pass(struct __sk_buff *skb, const struct packet *p,
					    struct context *ctx, bool record)
{
	if (ctx->cfg.features & FEATURE_STACK_NAT && ctx->dst.ifindex && record) {
		stack_nat_parse(skb, p, ctx);
		stack_nat_to_pod(skb, p, ctx);
	}
	return pass_to_stack(ctx->dst.slot, REASON_HOST);
}

/*
 * Return whether a packet that parse_packet() did not parse is neighbour discovery. The node itself
 * sends it: forwarded packets have a lower hop limit.
 */
static __always_inline bool ndp_is_of_node(struct __sk_buff *skb, const struct packet *p)
{
	const __u32 l4 = L3_OFFSET + sizeof(struct ipv6hdr);
	__u8 type;

	return p->flow.family == AF_INET6 && p->flow.proto == IPPROTO_ICMPV6 &&
	       p->ttl == NDP_HOP_LIMIT && l4_load(skb, l4, &type, sizeof(type), packet_end(p)) &&
	       type >= NDP_FIRST && type <= NDP_LAST;
}

/*
 * From the host to a Pod: primary end of meta or netkit, tc egress of a veth's host end. On netkit
 * also packets that pod_egress redirected, whose skb->ifindex is that of the sending Pod; the
 * destination address therefore selects the Pod.
 */
SEC("tc")
int pod_ingress(struct __sk_buff *skb)
{
	struct packet p = { .flow.origin = FROM_HOST };
	struct config cfg = config_read();
	enum reason reason = parse_packet(skb, &p);
	struct context ctx = { .cfg = cfg };
	bool redirected = skb->tc_index == TC_INDEX_REDIRECTED;
	__u32 sender = POD_SLOTS;

	if ((skb->tc_index & ~TC_INDEX_SLOT) == TC_INDEX_FROM_POD)
		sender = skb->tc_index & TC_INDEX_SLOT;
	if (redirected || sender != POD_SLOTS)
		skb->tc_index = 0;
	if (reason == REASON_STACK_VLAN)
		return drop_packet(skb, &p, 0, REASON_DROP_VLAN, 0);
	if (!p.flow.family)
		return pass_to_stack(0, REASON_HOST);
	ctx_set_dst(&p, &ctx);
	/* netkit in L2 mode: the frame still has the destination MAC address of the sender's hop */
	if (ctx.dst.ifindex && skb->pkt_type == PACKET_OTHERHOST)
		bpf_skb_change_type(skb, PACKET_HOST);
	if (!ctx.dst.ifindex || !ctx_needs_state(&p, &ctx))
		return pod_ingress_pass(skb, &p, &ctx, !redirected && reason == REASON_NONE);
	if (reason != REASON_NONE) {
		if (ctx.dst.enforce & ENFORCE_INGRESS && !ndp_is_of_node(skb, &p))
			return drop_packet(skb, &p, ctx.dst.slot, REASON_DROP_UNSUPPORTED, 0);
		return pass_to_stack(ctx.dst.slot, REASON_HOST);
	}
	if (redirected || skb_is_of_node(skb))
		ctx_set_src(&p, &ctx);
	else
		ctx_set_src_of(&p, &ctx, sender);
	reason = ctx_process(skb, &p, &ctx);
	if (reason == REASON_NONE && !ctx_set_source(skb, &ctx))
		reason = REASON_DROP_NAT_FAILED;
	if (reason != REASON_NONE)
		return ctx_drop(skb, &p, &ctx, reason);
	return pod_ingress_pass(skb, &p, &ctx, !redirected);
}

char LICENSE[] SEC("license") = "GPL";
