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
 * Set the source port of a tuple, which is as the server sees it, so that the tuple is free, else
 * belongs to the spare connection that has been idle for longest. Make it refer to the record.
 */
__noinline bool snat_select(struct tuple *t, const struct node_config *config, __u32 hash,
			    __u32 place, __u32 serial)
{
	__u32 ports, window, shared, own, offset, state, longest = 0;
	__be16 spare = 0;

	if (!t || !config || config->last_port < config->first_port)
		return false;
	ports = config->last_port - config->first_port + 1;
	window = ports / SNAT_WINDOW_SHARE;
	shared = ports - window * SNAT_WINDOWS;
	own = shared + place / CT_QUOTA % SNAT_WINDOWS * window;
	for (__u32 i = 0; i < 2 * SNAT_TRIES; i++) {
		if (i < SNAT_TRIES)
			/* the hash first: a connection that was displaced likely keeps its port */
			offset = (i ? bpf_get_prandom_u32() : hash) % shared;
		else if (i - SNAT_TRIES < window)
			offset = own + i - SNAT_TRIES;
		else
			break;
		t->sport = bpf_htons(config->first_port + offset);
		state = snat_port_state(t, place);
		if (state == SNAT_PORT_FREE && ct_ref_insert(t, CT_REPLY, place, serial))
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
	return ct_ref_insert(t, CT_REPLY, place, serial);
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
