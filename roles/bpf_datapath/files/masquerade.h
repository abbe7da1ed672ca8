// SPDX-License-Identifier: GPL-2.0-only
/*
 * Translation of a connection's source: to the node's address for Pods that are masqueraded, and
 * to another port of the Pod where two of its connections would have the same reply tuple.
 */
#ifndef PODNET_MASQUERADE_H
#define PODNET_MASQUERADE_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "config.h"
#include "context.h"
#include "ct.h"
#include "l4.h"
#include "lb.h"
#include "metrics.h"

struct node_config {
	__be32 masquerade4;	/* the node's external address; 0: none */
	__u16 first_port;	/* outside the node's net.ipv4.ip_local_port_range */
	__u16 last_port;
	__be32 masquerade6[4];
};

/* Indexed by buffer. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, CONFIG_BUFFERS);
	__type(key, __u32);
	__type(value, struct node_config);
} node SEC(".maps");

/*
 * Ports per destination: Pods share three quarters; the rest is divided into windows, so that a
 * Pod which occupies all shared ports leaves some to each other Pod.
 */
#define SNAT_WINDOWS 128
#define SNAT_WINDOW_SHARE 512	/* a window is 1/512 of the ports */
#define SNAT_TRIES 32		/* in the shared ports, then in the window */

/* Return false if the node has no external address of this family: masquerade is off for it. */
static __always_inline bool masquerade_address(__u8 family, struct node_config *node,
					       __be32 *address)
{
	if (family == AF_INET)
		address[0] = node->masquerade4;
	else
		__builtin_memcpy(address, node->masquerade6, sizeof(node->masquerade6));
	return address[0] | address[1] | address[2] | address[3];
}

#define SNAT_PORT_FREE (~0U)
#define SNAT_PORT_USED 0

/*
 * Return whether a tuple, as the server sees it, is free, or belongs to the connection at `place`
 * already; whether it is in use; else for how many seconds its connection, which is spare, has been
 * idle.
 */
__noinline __u32 snat_port_state(const struct tuple *t, __u32 place)
{
	struct connection *c;
	bool reply;
	__u32 other, idle;

	if (!t)
		return SNAT_PORT_USED;
	c = __ct_lookup(t, CT_REPLY, &other, &reply);
	if (!c) {
		/* a connection that is not translated */
		c = __ct_lookup(t, CT_ORIGINAL, &other, &reply);
		return c && !ct_is_spare(c) ? SNAT_PORT_USED : SNAT_PORT_FREE;
	}
	if (other == place)
		return SNAT_PORT_FREE;
	if (!ct_is_spare(c))
		return SNAT_PORT_USED;
	idle = ct_now() - c->last_seen;
	return idle <= CT_TIMEOUT_OTHER ? idle + 1 : 1;
}

/*
 * End the connection of a reply tuple, so that its client cannot send into the connection that gets
 * its port.
 */
__noinline int snat_release_port(const struct tuple *t)
{
	struct connection *c;
	bool reply;
	__u32 place;

	if (!t)
		return 0;
	c = __ct_lookup(t, CT_REPLY, &place, &reply);
	if (c && ct_is_spare(c))
		ct_end(c);
	return 0;
}

/*
 * Return the state (BPF_TCP_*) of the socket of the node that a packet from the wire with this
 * tuple, or with `reverse` a reply to it, would reach; 0: none.
 */
static __noinline __u32 node_socket_state(struct __sk_buff *skb, const struct tuple *t,
					  bool reverse)
{
	const __be32 *src = reverse ? t->dst : t->src, *dst = reverse ? t->src : t->dst;
	__be16 sport = reverse ? t->dport : t->sport, dport = reverse ? t->sport : t->dport;
	struct bpf_sock_tuple at = {};
	struct bpf_sock *sk;
	__u32 size, state;

	if (t->family == AF_INET) {
		at.ipv4.saddr = src[0];
		at.ipv4.daddr = dst[0];
		at.ipv4.sport = sport;
		at.ipv4.dport = dport;
		size = sizeof(at.ipv4);
	} else {
		__builtin_memcpy(at.ipv6.saddr, src, sizeof(at.ipv6.saddr));
		__builtin_memcpy(at.ipv6.daddr, dst, sizeof(at.ipv6.daddr));
		at.ipv6.sport = sport;
		at.ipv6.dport = dport;
		size = sizeof(at.ipv6);
	}
	if (t->proto == IPPROTO_TCP)
		sk = bpf_sk_lookup_tcp(skb, &at, size, BPF_F_CURRENT_NETNS, 0);
	else if (t->proto == IPPROTO_UDP)
		sk = bpf_sk_lookup_udp(skb, &at, size, BPF_F_CURRENT_NETNS, 0);
	else
		return 0;
	if (!sk)
		return 0;
	state = sk->state;
	bpf_sk_release(sk);
	return state;
}

/* Return the port to try next for a connection, 0 if there are no more. `hash` is the first one. */
static __noinline __u32 snat_port(const struct node_config *config, __u32 place, __u32 hash,
				  __u32 tries)
{
	__u32 ports = config->last_port - config->first_port + 1;
	__u32 window = ports / SNAT_WINDOW_SHARE, shared = ports - window * SNAT_WINDOWS;

	/* the hash first: a connection that was displaced likely keeps its port */
	if (tries < SNAT_TRIES)
		return config->first_port + (tries ? bpf_get_prandom_u32() : hash) % shared;
	tries -= SNAT_TRIES;
	if (tries >= window)
		return 0;
	return config->first_port + shared + place / CT_QUOTA % SNAT_WINDOWS * window + tries;
}

/*
 * Set the source port of a tuple, which is as the server sees it, so that the tuple is free, else
 * belongs to the spare connection that has been idle for longest. Make it refer to the record.
 * Ports of services and of processes of the node are not free: a Pod that connects to a host could
 * get what this host sends to them.
 */
__noinline bool snat_select(struct __sk_buff *skb, struct tuple *t,
			    const struct node_config *config, const struct context *ctx, __u32 hash)
{
	__u32 state, longest = 0;
	__be16 spare = 0;

	if (!t || !config || !ctx || config->last_port < config->first_port)
		return false;
	for (__u32 i = 0; i < 2 * SNAT_TRIES; i++) {
		t->sport = bpf_htons(snat_port(config, ctx->ct.place, hash, i));
		if (!t->sport)
			break;
		state = snat_port_state(t, ctx->ct.place);
		if (state == SNAT_PORT_USED || node_socket_state(skb, t, true) ||
		    (ctx->cfg.features & FEATURE_SERVICES &&
		     lb_find(t->family, t->proto, t->src, t->sport, &ctx->cfg)))
			continue;
		if (state == SNAT_PORT_FREE &&
		    ct_ref_insert(t, CT_REPLY, ctx->ct.place, ctx->ct.serial))
			return true;
		if (state != SNAT_PORT_FREE && state > longest) {
			longest = state;
			spare = t->sport;
		}
	}
	if (!longest)
		return false;
	t->sport = spare;
	snat_release_port(t);
	return ct_ref_insert(t, CT_REPLY, ctx->ct.place, ctx->ct.serial);
}

/* Return whether a packet can be a reply to, or an ICMP error about, a masqueraded packet. */
__noinline bool masquerade_is_candidate(const struct packet *p, const struct config *cfg)
{
	struct node_config *config;
	__u32 buffer, port;

	if (!p || !cfg)
		return false;
	buffer = config_buffer(*cfg);
	port = bpf_ntohs(p->flow.dport);
	if ((p->flow.proto != IPPROTO_TCP && p->flow.proto != IPPROTO_UDP) || !p->flow.dport)
		return true;
	config = bpf_map_lookup_elem(&node, &buffer);
	return config && port >= config->first_port && port <= config->last_port;
}

#endif
