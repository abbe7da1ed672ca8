// SPDX-License-Identifier: GPL-2.0-only
/*
 * Connections that netfilter translates in the host's stack, as kube-proxy and the CNI plugin
 * portmap request it. Both directions of them pass to the stack; all others bypass it.
 *
 * If a Pod is the client, the backend is unknown here: netfilter selects it. Therefore
 * `stack_clients` has the Pod's port, and all packets from and to it pass to the stack. So if the
 * Pod has another connection with the same port, netfilter sees both directions of it too. If
 * packets of any other client come from the stack, `stack_peers` has their exact tuple. Each Pod
 * has a quota of clients, and displaces only its own.
 */
#ifndef PODNET_STACK_NAT_H
#define PODNET_STACK_NAT_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "context.h"
#include "ct.h"
#include "l4.h"
#include "parse.h"
#include "verdict.h"

#define STACK_CLIENTS_MAX 131072
#define STACK_QUOTA 16384	/* clients of a Pod; a power of two */
#define STACK_RECLAIM_TRIES 8	/* places that a new client considers for reuse */
#define STACK_PEERS_MAX 65536
#define STACK_TIMEOUT_CLOSING 120	/* seconds, as nf_conntrack_tcp_timeout_fin_wait */

enum stack_flow_flag {
	STACK_CLOSING = 1 << 0,	/* TCP: a side sent FIN or RST */
	STACK_TO_NODE = 1 << 1,	/* not to a service: only packets to the node renew it */
};

struct stack_flow {
	__u32 last_seen;	/* seconds since boot */
	__u32 flags;		/* enum stack_flow_flag */
	__u32 place;		/* of a client: key in `stack_places` */
};

struct stack_client_key {
	__u32 ifindex;		/* the host end of the Pod's device */
	__be16 port;
	__u8 proto;
	__u8 pad;
};

struct stack_peer_key {
	__be32 address[4];
	__u32 ifindex;		/* the host end of the Pod's device */
	__be16 port;
	__be16 pod_port;
	__u8 proto;
	__u8 family;
	__u16 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, STACK_CLIENTS_MAX);
	__type(key, struct stack_client_key);
	__type(value, struct stack_flow);
} stack_clients SEC(".maps");

/* The key is slot * STACK_QUOTA + a position, where the slot is the Pod's. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, STACK_CLIENTS_MAX);
	__type(key, __u32);
	__type(value, struct stack_client_key);
} stack_places SEC(".maps");

/* The serial number of each Pod's next client, by slot. Its low bits are the position. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, POD_SLOTS);
	__type(key, __u32);
	__type(value, __u32);
} stack_serial SEC(".maps");

/* A map of its own, so that clients outside of the node displace no Pod's entries. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, STACK_PEERS_MAX);
	__type(key, struct stack_peer_key);
	__type(value, struct stack_flow);
} stack_peers SEC(".maps");

struct stack_ports {
	__be16 sport;
	__be16 dport;
	__u8 proto;
	__u8 tcp_flags;
};

/* Parse what stack_ports() needs of fragments, packets with extension headers and ICMP. */
static __always_inline void stack_nat_parse(struct __sk_buff *skb, const struct packet *p,
					    struct context *ctx)
{
	if ((packet_is_partial(p) || !proto_has_ports(p->flow.proto)) && !ctx->l4.tuple.family)
		l4_parse(skb, p, &ctx->l4);
}

/* Set the ports of a packet. Return false without ports: netfilter does not translate it. */
static __always_inline bool stack_ports(struct __sk_buff *skb, const struct packet *p,
					const struct context *ctx, struct stack_ports *ports)
{
	const struct tuple *t = &ctx->l4.tuple;

	if (!packet_is_partial(p) && proto_has_ports(p->flow.proto)) {
		ports->sport = p->flow.sport;
		ports->dport = p->flow.dport;
		ports->proto = p->flow.proto;
		if (p->flow.proto == IPPROTO_TCP)
			l4_load(skb, p->l4_offset + TCP_FLAGS, &ports->tcp_flags,
				sizeof(ports->tcp_flags), packet_end(p));
	} else {
		ports->sport = t->sport;
		ports->dport = t->dport;
		ports->proto = t->proto;
		ports->tcp_flags = ctx->l4.tcp_flags;
	}
	/* of a later fragment, only with the first one */
	return proto_has_ports(ports->proto) && ports->sport && ports->dport;
}

/* Set the ports of the packet that an ICMP error is about, in the direction of the error. */
static __noinline bool stack_icmp_ports(struct __sk_buff *skb, const struct packet *p,
					struct l4_info *l4, struct stack_ports *ports)
{
	struct tuple inner = { .family = l4->tuple.family };

	if (!l4->icmp_error || !l4_parse_inner(skb, p, l4, &inner))
		return false;
	ports->sport = inner.dport;
	ports->dport = inner.sport;
	ports->proto = inner.proto;
	return proto_has_ports(inner.proto);
}

/* Netfilter keeps the translation of an idle connection at most as long, except of TCP. */
static __always_inline bool stack_flow_is_expired(const struct stack_flow *flow, __u8 proto)
{
	__s32 timeout = CT_TIMEOUT_OTHER;

	if (proto == IPPROTO_TCP)
		timeout = flow->flags & STACK_CLOSING ? STACK_TIMEOUT_CLOSING :
							CT_TIMEOUT_ESTABLISHED;
	return (__s32)(ct_now() - flow->last_seen) > timeout;
}

static __always_inline void stack_flow_update(struct stack_flow *flow, __u8 tcp_flags)
{
	flow->last_seen = ct_now();
	if (tcp_flags & (TCP_FIN | TCP_RST))
		flow->flags |= STACK_CLOSING;
	else if (tcp_is_syn(tcp_flags))
		flow->flags &= ~STACK_CLOSING;
}

/* Return the worth of a client: 0 if missing or expired; then closing, idle. */
static __always_inline __u32 stack_client_value(const struct stack_flow *flow, __u8 proto)
{
	if (!flow || stack_flow_is_expired(flow, proto))
		return 0;
	return (flow->flags & STACK_CLOSING ? 1U : 2U) << 30 | (flow->last_seen & 0x3fffffff);
}

/*
 * Return a place of the Pod of `slot` for a new client: an unused one or, of STACK_RECLAIM_TRIES,
 * the one with the lowest stack_client_value(), whose client is deleted.
 */
static __noinline __u32 stack_place_alloc(__u32 slot)
{
	__u32 *next = bpf_map_lookup_elem(&stack_serial, &slot);
	__u32 at, value, chosen = 0, best = ~0U;
	struct stack_client_key *key, reused = {};
	struct stack_flow *flow;

	if (!next)
		return 0;
	for (int i = 0; i < STACK_RECLAIM_TRIES; i++) {
		at = slot * STACK_QUOTA + (__sync_fetch_and_add(next, 1) & (STACK_QUOTA - 1));
		key = bpf_map_lookup_elem(&stack_places, &at);
		flow = key ? bpf_map_lookup_elem(&stack_clients, key) : NULL;
		/* the client may have got another place since */
		if (flow && flow->place != at)
			flow = NULL;
		value = flow ? stack_client_value(flow, key->proto) : 0;
		if (value < best) {
			best = value;
			chosen = at;
			if (flow)
				reused = *key;
			else
				reused = (struct stack_client_key){};
		}
		if (!value)
			break;
	}
	if (reused.ifindex)
		bpf_map_delete_elem(&stack_clients, &reused);
	return chosen;
}

/* Record that a Pod is a client with the source port of its packet. */
static __always_inline void stack_client_record(const struct endpoint_info *src,
						const struct stack_ports *ports,
						enum stack_flow_flag flag)
{
	struct stack_client_key key = {
		.ifindex = src->ifindex,
		.port = ports->sport,
		.proto = ports->proto,
	};
	struct stack_flow new = { .flags = flag };
	struct stack_flow *flow = bpf_map_lookup_elem(&stack_clients, &key);

	if (flow) {
		flow->flags &= flag | STACK_CLOSING;
		stack_flow_update(flow, ports->tcp_flags);
		return;
	}
	new.place = stack_place_alloc(src->slot);
	stack_flow_update(&new, ports->tcp_flags);
	bpf_map_update_elem(&stack_places, &new.place, &key, BPF_ANY);
	bpf_map_update_elem(&stack_clients, &key, &new, BPF_ANY);
}

/* Return whether a Pod is a client with a port, and let its packets keep it one. */
static __noinline bool stack_client_has(__u32 ifindex, __be16 port, __u8 proto)
{
	struct stack_client_key key = { .ifindex = ifindex, .port = port, .proto = proto };
	struct stack_flow *flow = bpf_map_lookup_elem(&stack_clients, &key);

	if (!flow || stack_flow_is_expired(flow, proto))
		return false;
	if (!(flow->flags & STACK_TO_NODE))
		flow->last_seen = ct_now();
	return true;
}

/*
 * Return whether the sender of a packet is a client. If it has closed its connections, it may use
 * the port for another one.
 */
static __always_inline bool stack_client_sends(__u32 ifindex, const struct stack_ports *ports)
{
	struct stack_client_key key = {
		.ifindex = ifindex,
		.port = ports->sport,
		.proto = ports->proto,
	};
	struct stack_flow *flow = bpf_map_lookup_elem(&stack_clients, &key);

	if (!flow || stack_flow_is_expired(flow, ports->proto))
		return false;
	if (flow->flags & STACK_CLOSING && tcp_is_syn(ports->tcp_flags)) {
		bpf_map_delete_elem(&stack_clients, &key);
		return false;
	}
	if (!(flow->flags & STACK_TO_NODE))
		stack_flow_update(flow, ports->tcp_flags);
	return true;
}

static __always_inline void stack_peer_set_key(const __be32 *address, const struct packet *p,
					       struct stack_peer_key *key)
{
	key->family = p->flow.family;
	key->address[0] = address[0];
	if (p->flow.family == AF_INET6)
		__builtin_memcpy(key->address, address, sizeof(key->address));
}

/* Return whether a Pod's packet is to a client whose packets come from the stack. */
static __noinline bool stack_peer_receives(const struct packet *p, __u32 ifindex,
					   const struct stack_ports *ports)
{
	struct stack_peer_key key = {
		.ifindex = ifindex,
		.port = ports->dport,
		.pod_port = ports->sport,
		.proto = ports->proto,
	};
	struct stack_flow *flow;

	stack_peer_set_key(p->flow.family == AF_INET ? &p->flow.dst4 : p->flow.dst6, p, &key);
	flow = bpf_map_lookup_elem(&stack_peers, &key);
	if (!flow || stack_flow_is_expired(flow, ports->proto))
		return false;
	stack_flow_update(flow, ports->tcp_flags);
	return true;
}

/* Return whether a Pod's packet must pass to the stack to be translated there. */
__noinline bool stack_nat_from_pod(struct __sk_buff *skb, const struct packet *p,
				   struct context *ctx)
{
	struct stack_ports ports = {};
	bool service;

	if (!p || !ctx)
		return false;
	/* the programs translate it */
	if ((ctx->masquerade && !ctx->ct.reply) || ctx->ct.set_source)
		return false;
	service = ctx->dst.cidr_flags & CIDR_STACK_NAT;
	if (!stack_ports(skb, p, ctx, &ports) && !stack_icmp_ports(skb, p, &ctx->l4, &ports))
		return service;
	if (service) {
		/* replies to other sources (POD_ANY_SOURCE) pass to the stack anyway */
		if (ctx->src.ifindex)
			stack_client_record(&ctx->src, &ports, 0);
		return true;
	}
	if (ctx->dst.ifindex ?
	    stack_client_has(ctx->dst.ifindex, ports.dport, ports.proto) :
	    stack_peer_receives(p, p->flow.ifindex, &ports))
		return true;
	return ctx->src.ifindex && stack_client_sends(ctx->src.ifindex, &ports);
}

/*
 * Record the client if a Pod's packet to the node itself may be to a node port or host port: if it
 * opens a TCP connection or, for other protocols, is no reply to the node.
 */
__noinline int stack_nat_to_node(struct __sk_buff *skb, const struct packet *p,
				 struct context *ctx)
{
	struct stack_ports ports = {};

	if (!p || !ctx || !ctx->src.ifindex || !stack_ports(skb, p, ctx, &ports))
		return 0;
	if (ports.proto != IPPROTO_TCP)
		stack_client_record(&ctx->src, &ports, STACK_TO_NODE);
	else if (tcp_is_syn(ports.tcp_flags))
		stack_client_record(&ctx->src, &ports, 0);
	return 0;
}

/* Return whether a packet from the wire must pass to the stack, to be translated for its Pod. */
__noinline bool stack_nat_from_wire(struct __sk_buff *skb, const struct packet *p,
				    struct context *ctx)
{
	struct stack_ports ports = {};

	if (!p || !ctx)
		return false;
	if (!stack_ports(skb, p, ctx, &ports) && !stack_icmp_ports(skb, p, &ctx->l4, &ports))
		return false;
	if (!stack_client_has(ctx->dst.ifindex, ports.dport, ports.proto))
		return false;
	/* spoofed: netfilter would translate it as a reply of that Pod */
	ctx_set_src(p, ctx);
	return !ctx->src.ifindex;
}

/* Record the client of a packet that the stack passes to a Pod, unless it is a Pod of this node. */
__noinline int stack_nat_to_pod(struct __sk_buff *skb, const struct packet *p,
				struct context *ctx)
{
	struct stack_ports ports = {};
	struct stack_peer_key key = {};
	struct stack_flow new = {}, *flow;

	if (!p || !ctx)
		return 0;
	/* the node's probes: replies to the node pass to the stack anyway */
	if (p->flow.proto == IPPROTO_TCP && skb_is_of_node(skb))
		return 0;
	ctx_set_src(p, ctx);
	if (ctx->src.ifindex || !stack_ports(skb, p, ctx, &ports) ||
	    stack_client_has(ctx->dst.ifindex, ports.dport, ports.proto))
		return 0;
	stack_peer_set_key(p->flow.family == AF_INET ? &p->flow.src4 : p->flow.src6, p, &key);
	key.ifindex = ctx->dst.ifindex;
	key.port = ports.sport;
	key.pod_port = ports.dport;
	key.proto = ports.proto;
	flow = bpf_map_lookup_elem(&stack_peers, &key);
	if (flow) {
		stack_flow_update(flow, ports.tcp_flags);
		return 0;
	}
	stack_flow_update(&new, ports.tcp_flags);
	bpf_map_update_elem(&stack_peers, &key, &new, BPF_ANY);
	return 0;
}

#endif
