// SPDX-License-Identifier: GPL-2.0-only
/* Masquerade: Pods leave the node with its address, on ports outside its ephemeral range. */
#ifndef PODNET_MASQUERADE_H
#define PODNET_MASQUERADE_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "config.h"
#include "ct.h"
#include "l4.h"
#include "lb.h"
#include "metrics.h"
#include "nat.h"

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

#define MASQUERADE_PORT_TRIES 16

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

/* Return whether a connection still owns its port, and extend the mapping's lifetime if so. */
static __noinline bool masquerade_keep_port(const struct tuple *t, const struct addr_port *mapped)
{
	struct tuple reverse = {};
	struct ct_entry *entry;

	reverse_tuple(t, &reverse, CT_MASQUERADE);
	__builtin_memcpy(reverse.dst, mapped->address, sizeof(reverse.dst));
	reverse.dport = mapped->port;
	entry = ct_lookup(&reverse);
	if (!entry || entry->masquerade.port != t->sport ||
	    entry->masquerade.address[0] != t->src[0] ||
	    entry->masquerade.address[1] != t->src[1] ||
	    entry->masquerade.address[2] != t->src[2] ||
	    entry->masquerade.address[3] != t->src[3])
		return false;
	entry->last_seen = ct_now();
	return true;
}

/* Allocate a port that is unused for this destination. */
static __noinline bool masquerade_alloc_port(const struct tuple *t,
					     const struct node_config *node,
					     struct addr_port *mapped, __u32 hash)
{
	struct tuple reverse = {};
	struct ct_entry entry = { .last_seen = ct_now() };
	__u32 ports = node->last_port - node->first_port + 1;

	__builtin_memcpy(entry.masquerade.address, t->src, sizeof(t->src));
	entry.masquerade.port = t->sport;
	reverse_tuple(t, &reverse, CT_MASQUERADE);
	__builtin_memcpy(reverse.dst, mapped->address, sizeof(reverse.dst));
	for (int i = 0; i < MASQUERADE_PORT_TRIES; i++) {
		/* the hash first: a connection whose entry was evicted likely keeps its port */
		__u32 offset = i ? bpf_get_prandom_u32() : hash;

		if (!ports)
			return false;
		mapped->port = bpf_htons(node->first_port + offset % ports);
		reverse.dport = mapped->port;
		if (__ct_lookup(&reverse))
			continue;
		bpf_map_delete_elem(&ct, &reverse); /* it may have expired */
		if (!bpf_map_update_elem(&ct, &reverse, &entry, BPF_NOEXIST))
			return true;
	}
	return false;
}

/* Set state->nat to the source address and port to masquerade with; port 0: do not masquerade. */
static __noinline enum reason masquerade_select(const struct l4_info *l4, struct ct_state *state,
						const struct config *cfg)
{
	struct node_config *config;
	struct ct_entry *entry;
	const struct tuple *t;
	__u32 buffer;

	t = &l4->tuple;
	buffer = config_buffer(*cfg);
	if (state->flags & CT_SNAT && masquerade_keep_port(t, &state->nat))
		return REASON_NONE;
	state->nat = (struct addr_port){};
	config = bpf_map_lookup_elem(&node, &buffer);
	if (!config || !masquerade_address(t->family, config, state->nat.address))
		return REASON_NONE;
	/* an ICMP echo's identifier is its source port; other ICMP messages have none */
	if (!t->sport)
		return REASON_DROP_NAT_FAILED;
	if (!masquerade_alloc_port(t, config, &state->nat, tuple_hash(t)))
		return REASON_DROP_NAT_NO_MAPPING;
	entry = ct_lookup(t);
	if (!entry)
		return REASON_DROP_CT_CREATE_FAILED;
	entry->masquerade = state->nat;
	entry->flags |= CT_SNAT;
	state->flags |= CT_SNAT;
	return REASON_NONE;
}

/* Translate a reply to a masqueraded packet back to its Pod. Return false for other packets. */
static __noinline bool masquerade_reverse(struct __sk_buff *skb, struct l4_info *l4)
{
	struct ct_entry *entry;
	struct addr_port pod;

	l4->tuple.kind = CT_MASQUERADE;
	entry = ct_lookup(&l4->tuple);
	l4->tuple.kind = CT_CONNECTION;
	if (!entry)
		return false;
	pod = entry->masquerade;
	return nat_rewrite(skb, l4, false, &pod);
}

/* Return whether an address is the node's external address. */
static __noinline bool masquerade_is_node_address(__u8 family, const __be32 *address,
						  const struct config *cfg)
{
	__be32 own[4] = {};
	__u32 buffer = config_buffer(*cfg);
	struct node_config *config = bpf_map_lookup_elem(&node, &buffer);

	return config && masquerade_address(family, config, own) && own[0] == address[0] &&
	       (family == AF_INET || (own[1] == address[1] && own[2] == address[2] &&
				      own[3] == address[3]));
}

#endif
