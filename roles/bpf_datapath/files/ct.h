// SPDX-License-Identifier: GPL-2.0-only
/*
 * Connection tracking. A connection is one record in `connections`, whatever translates it: it has
 * one lifetime, one state and one verdict. As in nf_conntrack it has two tuples: the original one,
 * as the client sends, and the reply one, as the server sees it. `ct4` and `ct6` lead from both to
 * the record. A connection without translation needs only the original tuple, because a tuple's
 * key is the same in both directions.
 *
 * Only programs write these maps. Records are reused without being deleted, so each reference to
 * one has its serial number. Each Pod has a quota of records, and displaces only its own; the LRU
 * maps discard what expired.
 */
#ifndef PODNET_CT_H
#define PODNET_CT_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "config.h"
#include "l4.h"
#include "metrics.h"
#include "tuple.h"

#define CT_MAX 262144		/* connections of all Pods */
#define CT_QUOTA 16384		/* connections of a Pod; a power of two */
#define CT_RECLAIM_TRIES 8	/* records that a new connection considers for reuse */

/* Seconds without a packet after which a connection expires */
#define CT_TIMEOUT_ESTABLISHED 8000	/* TCP: longer than the default tcp_keepalive_time, 2 h */
#define CT_TIMEOUT_SYN 60
#define CT_TIMEOUT_CLOSED 60
#define CT_TIMEOUT_OTHER 180	/* as nf_conntrack_udp_timeout_stream */
#define CT_SPARE 30	/* as nf_conntrack_udp_timeout: others may get its port then */

enum ct_tuple {
	CT_ORIGINAL,
	CT_REPLY,		/* only of translated connections */
};

/* A tuple's key is the same in both directions: its endpoints are in the order of their values. */
struct ct_key_ports {
	__be16 low;
	__be16 high;
	__u8 proto;
	__u8 tuple;		/* enum ct_tuple */
	__u8 high_requests;	/* ICMP queries: the higher endpoint sends the requests */
	__u8 pad;
};

struct ct4_key {
	__be32 low;
	__be32 high;
	struct ct_key_ports ports;
};

struct ct6_key {
	__be32 low[4];
	__be32 high[4];
	struct ct_key_ports ports;
};

/* Reference to a record. */
union ct_ref {
	struct {
		__u32 place : 31;	/* key in `connections` */
		__u32 client_high : 1;	/* the client is the higher endpoint of the key */
		__u32 serial;
	};
	__u64 word;	/* for atomic access */
};

enum ct_flag {
	CT_SEEN_REPLY = 1 << 0,		/* packets in both directions, as IPS_SEEN_REPLY */
	CT_ASSURED = 1 << 1,		/* the client went on after a reply, as IPS_ASSURED */
	CT_FIN_CLIENT = 1 << 2,
	CT_FIN_SERVER = 1 << 3,
	CT_RST = 1 << 4,		/* the last TCP packet was a reset */
	CT_WAS_RST = 1 << 5,		/* any TCP packet was a reset */
	CT_MIDSTREAM = 1 << 6,		/* TCP without SYN: either side may be the client */
	CT_DNAT = 1 << 7,		/* `server` replaces the destination */
	CT_SNAT = 1 << 8,		/* `source` replaces the client */
	CT_IPV6 = 1 << 9,
	CT_HOST_CLIENT = 1 << 10,	/* the node itself */
	CT_HOST_SERVER = 1 << 11,
	CT_ANY_SOURCE = 1 << 12,	/* the client is a Pod, but not its address */
	CT_EXTERNAL = 1 << 13,		/* CT_DNAT: the client is a host on the wire */
};

#define CT_FIN_BOTH (CT_FIN_CLIENT | CT_FIN_SERVER)

/* Several CPUs may process packets of one connection: both members change at once. */
union ct_verdict {
	struct {
		__u32 generation;	/* for which translation and verdict are valid */
		__u32 reason : 8;	/* REASON_NONE, or why policy drops its packets */
		__u32 peers : 24;	/* ctx_peers(), for which the verdict is valid */
	};
	__u64 word;
};

struct connection {
	struct addr_port client;	/* source of the original tuple */
	struct addr_port service;	/* CT_DNAT: destination of the original tuple */
	struct addr_port server;	/* the destination after translation */
	struct addr_port source;	/* CT_SNAT: the source after translation */
	__u32 serial;		/* set last: no tuple refers to an unfinished record */
	__u32 last_seen;	/* seconds since boot */
	union ct_verdict verdict;
	__u32 created;		/* generation */
	__u32 backend;		/* CT_DNAT: index into `backends` */
	__u32 flags;		/* enum ct_flag */
	__u8 proto;		/* 0: never used */
	__u8 pad[3];
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, CT_MAX);
	__type(key, struct ct4_key);
	__type(value, union ct_ref);
} ct4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, CT_MAX);
	__type(key, struct ct6_key);
	__type(value, union ct_ref);
} ct6 SEC(".maps");

/* The key is slot * CT_QUOTA + a position, where the slot is that of the Pod that is charged. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, CT_MAX);
	__type(key, __u32);
	__type(value, struct connection);
} connections SEC(".maps");

struct ct_slot {
	__u32 serial;		/* of the Pod's next record; its low bits are the position */
	/* Seconds since boot when the Pod had such a connection; 0: never */
	__u32 translated;	/* of a service, or with another source port */
	__u32 masqueraded;
};

/* By slot. Slot 0 has the Pods without a slot. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, POD_SLOTS);
	__type(key, __u32);
	__type(value, struct ct_slot);
} ct_slots SEC(".maps");

static __always_inline __u32 ct_now(void)
{
	return bpf_ktime_get_coarse_ns() / 1000000000;
}

/* Record that a Pod, given by its slot, has a translated or masqueraded connection. */
static __always_inline void ct_slot_set(__u32 slot, bool masqueraded)
{
	struct ct_slot *pod = bpf_map_lookup_elem(&ct_slots, &slot);
	__u32 now = ct_now() ?: 1;

	if (!pod)
		return;
	if (masqueraded)
		pod->masqueraded = now;
	else
		pod->translated = now;
}

/*
 * Return whether a Pod may have a translated or, with `masqueraded`, masqueraded connection. If
 * not, its packets need no look-up.
 */
static __always_inline bool ct_slot_has(__u32 slot, bool masqueraded)
{
	struct ct_slot *pod = bpf_map_lookup_elem(&ct_slots, &slot);
	__u32 seen = pod ? pod->translated : 0;

	if (pod && masqueraded && (__s32)(pod->masqueraded - seen) > 0)
		seen = pod->masqueraded;
	return seen && (__s32)(ct_now() - seen) <= CT_TIMEOUT_ESTABLISHED;
}

/* Return whether the source of a tuple is the higher endpoint of its key. */
static __always_inline bool ct_source_is_high(const struct tuple *t)
{
	#pragma unroll
	for (int i = 0; i < 4; i++) {
		if (t->src[i] != t->dst[i])
			return t->src[i] > t->dst[i];
		if (t->family == AF_INET)
			break;
	}
	return t->sport > t->dport;
}

static __always_inline void ct_set_key_ports(const struct tuple *t, bool high, enum ct_tuple which,
					     struct ct_key_ports *ports)
{
	ports->low = high ? t->dport : t->sport;
	ports->high = high ? t->sport : t->dport;
	ports->proto = t->proto;
	ports->tuple = which;
	ports->high_requests = t->icmp && high == (t->icmp == TUPLE_ICMP_REQUEST);
	ports->pad = 0;
}

static __always_inline void ct4_set_key(const struct tuple *t, bool high, enum ct_tuple which,
					struct ct4_key *key)
{
	key->low = high ? t->dst[0] : t->src[0];
	key->high = high ? t->src[0] : t->dst[0];
	ct_set_key_ports(t, high, which, &key->ports);
}

static __always_inline void ct6_set_key(const struct tuple *t, bool high, enum ct_tuple which,
					struct ct6_key *key)
{
	__builtin_memcpy(key->low, high ? t->dst : t->src, sizeof(key->low));
	__builtin_memcpy(key->high, high ? t->src : t->dst, sizeof(key->high));
	ct_set_key_ports(t, high, which, &key->ports);
}

static __always_inline union ct_ref *ct_ref_lookup(const struct tuple *t, enum ct_tuple which,
						   bool high)
{
	struct ct6_key key6;
	union ct_ref *ref;

	if (t->family == AF_INET) {
		struct ct4_key key4;

		ct4_set_key(t, high, which, &key4);
		ref = bpf_map_lookup_elem(&ct4, &key4);
		barrier(); /* keep both calls: the kernel inlines lookups in a constant map */
		return ref;
	}
	ct6_set_key(t, high, which, &key6);
	return bpf_map_lookup_elem(&ct6, &key6);
}

static __always_inline bool ct_is_closed(const struct connection *c)
{
	return c->proto == IPPROTO_TCP &&
	       (c->flags & CT_RST || (c->flags & CT_FIN_BOTH) == CT_FIN_BOTH);
}

static __always_inline bool ct_is_expired(const struct connection *c)
{
	__u32 timeout = CT_TIMEOUT_OTHER;
	bool closed = ct_is_closed(c);

	/* A forged reset must not end an idle connection; with a port it would hold that long. */
	if (c->flags & CT_RST && c->flags & CT_ASSURED && !(c->flags & CT_SNAT))
		closed = (c->flags & CT_FIN_BOTH) == CT_FIN_BOTH;
	if (c->proto == IPPROTO_TCP)
		timeout = closed ? CT_TIMEOUT_CLOSED :
			  c->flags & CT_SEEN_REPLY ? CT_TIMEOUT_ESTABLISHED : CT_TIMEOUT_SYN;
	/* signed: another CPU may have stored a later time */
	return (__s32)(ct_now() - c->last_seen) > (__s32)timeout;
}

/*
 * Make a tuple, in the direction of its client, refer to a record. Return false without memory, or
 * if it is the reply tuple of another open connection.
 */
__noinline bool ct_ref_insert(const struct tuple *t, enum ct_tuple which, __u32 place, __u32 serial)
{
	union ct_ref ref = { .serial = serial }, *known;
	struct connection *c;
	__u64 before;
	bool high;
	__u32 at;

	if (!t)
		return false;
	high = ct_source_is_high(t);
	ref.place = place;
	ref.client_high = high;
	if (t->family == AF_INET) {
		struct ct4_key key;

		ct4_set_key(t, high, which, &key);
		if (!bpf_map_update_elem(&ct4, &key, &ref, BPF_NOEXIST))
			return true;
		known = bpf_map_lookup_elem(&ct4, &key);
	} else {
		struct ct6_key key;

		ct6_set_key(t, high, which, &key);
		if (!bpf_map_update_elem(&ct6, &key, &ref, BPF_NOEXIST))
			return true;
		known = bpf_map_lookup_elem(&ct6, &key);
	}
	if (!known)
		return false;
	before = *(volatile __u64 *)&known->word;
	if (before == ref.word)
		return true;
	if (which == CT_REPLY) {
		const union ct_ref other = { .word = before };

		at = other.place;
		c = bpf_map_lookup_elem(&connections, &at);
		if (c && c->serial == other.serial && !ct_is_expired(c) && !ct_is_closed(c))
			return false;
	}
	/* another CPU may do the same */
	return __sync_val_compare_and_swap(&known->word, before, ref.word) == before;
}

/* ct_lookup() inlined, for callers at the limit of the call stack. */
static __always_inline struct connection *__ct_lookup(const struct tuple *t, enum ct_tuple which,
						      __u32 *place, bool *reply)
{
	bool high = ct_source_is_high(t);
	union ct_ref *known = ct_ref_lookup(t, which, high), ref;
	struct connection *c;
	__u32 at;

	if (!known)
		return NULL;
	ref.word = *(volatile __u64 *)&known->word;
	at = ref.place;
	c = bpf_map_lookup_elem(&connections, &at);
	if (!c || c->serial != ref.serial || ct_is_expired(c))
		return NULL;
	*place = at;
	*reply = high != ref.client_high;
	return c;
}

/*
 * Return the connection of a tuple in either direction, or NULL if there is none or it expired.
 * Set its `place`, and whether the packet is a `reply` of the server.
 */
static __noinline struct connection *ct_lookup(const struct tuple *t, enum ct_tuple which,
					       __u32 *place, bool *reply)
{
	return __ct_lookup(t, which, place, reply);
}

static __always_inline void ct_update(struct connection *c, __u8 tcp_flags, bool reply)
{
	__u32 flags = c->flags, set = 0;

	c->last_seen = ct_now();
	if (reply)
		set |= CT_SEEN_REPLY;
	else if (flags & CT_SEEN_REPLY)
		set |= CT_ASSURED;
	if (tcp_flags & TCP_FIN)
		set |= reply ? CT_FIN_SERVER : CT_FIN_CLIENT;
	if (tcp_flags & TCP_RST)
		set |= CT_RST | CT_WAS_RST;
	if (set & ~flags)
		__sync_fetch_and_or(&c->flags, set);
	/* A receiver ignores a reset outside its window, and goes on: RFC 5961. */
	if (flags & ~set & CT_RST)
		__sync_fetch_and_and(&c->flags, ~CT_RST);
}

static __always_inline bool tcp_is_syn(__u8 tcp_flags)
{
	return (tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

/* Return whether another connection may get the port of this one, if no other port is free. */
static __always_inline bool ct_is_spare(const struct connection *c)
{
	return ct_is_closed(c) || (c->proto != IPPROTO_TCP && !(c->flags & CT_ASSURED) &&
				   (__s32)(ct_now() - c->last_seen) > CT_SPARE);
}

/* Return the worth of a record: 0 if missing or expired; then closed, unreplied, unassured, idle */
__noinline __u32 ct_value(const struct connection *c)
{
	__s32 idle;

	if (!c || ct_is_expired(c))
		return 0;
	idle = ct_now() - c->last_seen;
	return (idle < CT_TIMEOUT_ESTABLISHED ? CT_TIMEOUT_ESTABLISHED - idle : 1) +
	       (c->flags & CT_ASSURED ? 1 << 16 : 0) + (c->flags & CT_SEEN_REPLY ? 1 << 17 : 0) +
	       (ct_is_closed(c) ? 0 : 1 << 18);
}

/*
 * Return a record to fill for a new connection that is charged to the Pod of `slot`: an expired one
 * of this Pod, a new one, or of CT_RECLAIM_TRIES the one with the lowest ct_value(). No two CPUs
 * consider the same place, because each has its own serial numbers.
 */
static __noinline struct connection *ct_alloc(__u32 slot, __u32 *place, __u32 *serial)
{
	static const struct connection empty;
	struct ct_slot *pod = bpf_map_lookup_elem(&ct_slots, &slot);
	__u32 number, at, value, chosen = 0, best = ~0U;
	struct connection *c, *reused = NULL;

	if (!pod)
		return NULL;
	for (int i = 0; i < CT_RECLAIM_TRIES; i++) {
		number = __sync_fetch_and_add(&pod->serial, 1);
		at = slot * CT_QUOTA + (number & (CT_QUOTA - 1));
		/* below the quota the place has never been used */
		c = number < CT_QUOTA ? NULL : bpf_map_lookup_elem(&connections, &at);
		value = ct_value(c);
		if (value < best) {
			best = value;
			*serial = number;
			chosen = at;
			reused = c;
		}
		if (!value)
			break;
	}
	*place = chosen;
	if (reused)
		return reused;
	if (bpf_map_update_elem(&connections, &chosen, &empty, BPF_ANY))
		return NULL;
	return bpf_map_lookup_elem(&connections, &chosen);
}

/* Set the verdict at once: other CPUs may do the same. */
static __always_inline void ct_set_verdict(struct connection *c, __u32 generation,
					   enum reason reason, __u32 peers)
{
	union ct_verdict verdict = {};

	verdict.generation = generation;
	verdict.reason = reason;
	verdict.peers = peers;
	c->verdict.word = verdict.word;
}

/* End a connection: no reference to it is valid any more. */
static __always_inline void ct_end(struct connection *c)
{
	/* no reference has this number: the low bits of a serial number are the place */
	c->serial += 1;
}

/* Set the tuple of a connection as the client or the server sees it, in the client's direction. */
static __noinline void ct_set_tuple(const struct connection *c, enum ct_tuple which,
				    struct tuple *t)
{
	const struct addr_port *src = which && c->flags & CT_SNAT ? &c->source : &c->client;
	const struct addr_port *dst = !which && c->flags & CT_DNAT ? &c->service : &c->server;

	__builtin_memcpy(t->src, src->address, sizeof(t->src));
	__builtin_memcpy(t->dst, dst->address, sizeof(t->dst));
	t->sport = src->port;
	t->dport = dst->port;
	t->proto = c->proto;
	t->family = c->flags & CT_IPV6 ? AF_INET6 : AF_INET;
	t->icmp = c->proto == IPPROTO_ICMP || c->proto == IPPROTO_ICMPV6 ? TUPLE_ICMP_REQUEST : 0;
}

/* Delete a tuple of a record that another connection gets; it would take the place of others. */
static __noinline int ct_forget(const struct connection *c, enum ct_tuple which, __u32 place)
{
	struct tuple t = {};
	union ct_ref *ref;
	bool high;

	ct_set_tuple(c, which, &t);
	high = ct_source_is_high(&t);
	if (t.family == AF_INET) {
		struct ct4_key key;

		ct4_set_key(&t, high, which, &key);
		ref = bpf_map_lookup_elem(&ct4, &key);
		if (ref && ref->place == place)
			bpf_map_delete_elem(&ct4, &key);
	} else {
		struct ct6_key key;

		ct6_set_key(&t, high, which, &key);
		ref = bpf_map_lookup_elem(&ct6, &key);
		if (ref && ref->place == place)
			bpf_map_delete_elem(&ct6, &key);
	}
	return 0;
}

#endif
