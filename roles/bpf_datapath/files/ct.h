// SPDX-License-Identifier: GPL-2.0-only
/* Connection tracking: admits replies and keeps NAT mappings. Only programs write it. */
#ifndef PODNET_CT_H
#define PODNET_CT_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "config.h"
#include "identity.h"
#include "l4.h"
#include "metrics.h"
#include "policy.h"
#include "tuple.h"

#define CT_MAX 131072

/*
 * The tuple of CT_CONNECTION is that of the first packet as routed: to the backend, from the Pod's
 * own address. The other kinds are the tuples of packets before translation.
 */
enum ct_kind {
	CT_CONNECTION,
	CT_SERVICE,		/* from the client to the service's address */
	CT_MASQUERADE,		/* from the destination to the node's address */
};

#define CT_SEEN_REPLY 1		/* packets in both directions, as IPS_SEEN_REPLY */
#define CT_CLOSING 2		/* TCP: a FIN or RST in either direction */
#define CT_DNAT 4		/* `service` is the original destination */
#define CT_SNAT 8		/* `masquerade` is the translated source */

struct ct_entry {
	__u32 last_seen;	/* seconds since boot */
	__u32 generation;	/* of the policy that allowed it */
	__u32 flags;
	struct addr_port service;	/* CT_SERVICE: the backend */
	struct addr_port masquerade;	/* CT_MASQUERADE: the Pod */
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, CT_MAX);
	__type(key, struct tuple);
	__type(value, struct ct_entry);
} ct SEC(".maps");

/* Seconds without a packet after which an entry expires */
#define CT_TIMEOUT_ESTABLISHED 8000	/* TCP: longer than the default tcp_keepalive_time, 2 h */
#define CT_TIMEOUT_SYN 60
#define CT_TIMEOUT_CLOSING 10
#define CT_TIMEOUT_REPLIED 180	/* other protocols: as nf_conntrack_udp_timeout_stream */
#define CT_TIMEOUT_UNREPLIED 60

static __always_inline __u32 ct_now(void)
{
	return bpf_ktime_get_coarse_ns() / 1000000000;
}

static __always_inline __u32 ct_timeout(const struct ct_entry *entry, const struct tuple *t)
{
	bool replied = entry->flags & CT_SEEN_REPLY || t->kind != CT_CONNECTION;

	if (t->proto != IPPROTO_TCP)
		return replied ? CT_TIMEOUT_REPLIED : CT_TIMEOUT_UNREPLIED;
	if (entry->flags & CT_CLOSING)
		return CT_TIMEOUT_CLOSING;
	return replied ? CT_TIMEOUT_ESTABLISHED : CT_TIMEOUT_SYN;
}

/* ct_lookup() inlined, for callers at the limit of the call stack. */
static __always_inline struct ct_entry *__ct_lookup(const struct tuple *t)
{
	struct ct_entry *entry = bpf_map_lookup_elem(&ct, t);

	/* signed: another CPU may have stored a later time */
	if (entry && (__s32)(ct_now() - entry->last_seen) > (__s32)ct_timeout(entry, t))
		return NULL;
	return entry;
}

/* Return the entry of a tuple, or NULL if there is none or it has expired. */
static __noinline struct ct_entry *ct_lookup(const struct tuple *t)
{
	return __ct_lookup(t);
}

static __always_inline void reverse_tuple(const struct tuple *t, struct tuple *reverse,
					  enum ct_kind kind)
{
	__builtin_memcpy(reverse->src, t->dst, sizeof(reverse->src));
	__builtin_memcpy(reverse->dst, t->src, sizeof(reverse->dst));
	reverse->sport = t->dport;
	reverse->dport = t->sport;
	reverse->proto = t->proto;
	reverse->family = t->family;
	reverse->kind = kind;
}

static __always_inline void ct_update(struct ct_entry *entry, __u8 tcp_flags, bool reply)
{
	entry->last_seen = ct_now();
	if (reply && !(entry->flags & CT_SEEN_REPLY))
		entry->flags |= CT_SEEN_REPLY;
	if (tcp_flags & (TCP_FIN | TCP_RST) && !(entry->flags & CT_CLOSING))
		entry->flags |= CT_CLOSING;
}

static __always_inline bool tcp_is_syn(__u8 tcp_flags)
{
	return (tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

/* Copy of a connection's state, for the translation of one packet. */
struct ct_state {
	struct addr_port nat;	/* reply: the service's address; else the masqueraded source */
	__u32 flags;		/* CT_* */
	__u8 tracked;		/* 0: an ICMP error, or tracking is not required */
	__u8 reply;
	__u16 pad;
};

static __always_inline void ct_export(const struct ct_entry *entry, bool reply,
				      struct ct_state *state)
{
	state->nat = reply ? entry->service : entry->masquerade;
	state->flags = entry->flags;
	state->tracked = 1;
	state->reply = reply;
}

static __noinline struct ct_entry *ct_create(const struct l4_info *l4, const struct config *cfg)
{
	struct ct_entry entry = {
		.last_seen = ct_now(),
		.generation = cfg->generation,
		.flags = l4->service.port ? CT_DNAT : 0,
		.service = l4->service,
	};

	if (bpf_map_update_elem(&ct, &l4->tuple, &entry, BPF_ANY))
		return NULL;
	return bpf_map_lookup_elem(&ct, &l4->tuple);
}

/*
 * Admit a packet that belongs to a connection, or that policy allows to open one. After a new
 * generation policy is applied to each connection again, in the direction of its first packet.
 */
static __noinline enum reason ct_track(const struct l4_info *l4, const struct endpoint_info *src,
				       const struct endpoint_info *dst, const struct config *cfg,
				       struct ct_state *state)
{
	struct tuple reverse = {};
	struct ct_entry *entry;
	const struct tuple *t;
	bool reply = false;
	enum reason reason;

	t = &l4->tuple;
	entry = ct_lookup(t);
	if (entry && entry->flags & CT_CLOSING && tcp_is_syn(l4->tcp_flags))
		entry = NULL;
	if (!entry) {
		reverse_tuple(t, &reverse, CT_CONNECTION);
		entry = ct_lookup(&reverse);
		if (entry && entry->flags & CT_CLOSING && tcp_is_syn(l4->tcp_flags))
			entry = NULL;
		reply = entry;
	}
	if (!entry || entry->generation != cfg->generation) {
		reason = reply ? policy_verdict(dst, src, reverse.proto, reverse.dport, cfg) :
				 policy_verdict(src, dst, t->proto, l4->policy_port, cfg);
		if (reason != REASON_NONE) {
			if (entry)
				bpf_map_delete_elem(&ct, reply ? &reverse : t);
			return reason;
		}
	}
	if (!entry)
		entry = ct_create(l4, cfg);
	if (!entry)
		return REASON_DROP_CT_CREATE_FAILED;
	entry->generation = cfg->generation;
	ct_update(entry, l4->tcp_flags, reply);
	ct_export(entry, reply, state);
	return REASON_NONE;
}

#endif
