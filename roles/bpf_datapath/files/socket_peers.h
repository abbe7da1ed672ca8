// SPDX-License-Identifier: GPL-2.0-only
/*
 * What a socket remembers: the service that each of its backends stands for. Entries are in the
 * socket's storage, so they disappear with it and never displace those of others.
 */
#ifndef PODNET_SOCKET_PEERS_H
#define PODNET_SOCKET_PEERS_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "socket_address.h"

#define SOCKET_PEERS 16		/* services that an unconnected UDP socket uses at a time */

/* A service that a socket uses, and the backend that it got. */
struct socket_peer {
	struct socket_address service;
	struct socket_address backend;
	__u32 index;		/* into `backends` */
	__u32 generation;	/* for which the service has the backend */
	__u64 used;		/* number of its last use, of an unconnected socket; 0: none */
};

/* Of an unconnected UDP socket */
struct socket_peers {
	struct bpf_spin_lock lock;
	__u64 uses;
	struct socket_peer peer[SOCKET_PEERS];
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct socket_peer);
} socket_peer SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct socket_peers);
} socket_peers SEC(".maps");

/* Find the backend that an unconnected socket uses for a service. */
static __always_inline bool socket_peers_find(struct socket_peers *peers, struct socket_peer *peer)
{
	bool found = false;

	bpf_spin_lock(&peers->lock);
	for (int i = 0; i < SOCKET_PEERS; i++) {
		struct socket_peer *one = &peers->peer[i];

		if (one->used && socket_address_equal(&one->service, &peer->service)) {
			one->used = ++peers->uses;
			*peer = *one;
			found = true;
			break;
		}
	}
	bpf_spin_unlock(&peers->lock);
	return found;
}

/* Store the backend of a service, in place of the former one or of the least recently used. */
static __always_inline void socket_peers_store(struct socket_peers *peers, struct socket_peer *peer)
{
	struct socket_peer *target = &peers->peer[0];

	bpf_spin_lock(&peers->lock);
	for (int i = 0; i < SOCKET_PEERS; i++) {
		struct socket_peer *one = &peers->peer[i];

		if (socket_address_equal(&one->service, &peer->service)) {
			target = one;
			break;
		}
		if (one->used < target->used)
			target = one;
	}
	peer->used = ++peers->uses;
	*target = *peer;
	bpf_spin_unlock(&peers->lock);
}

/* Forget the services that an address is the backend of: the socket uses the address itself. */
static __always_inline void socket_peers_forget(struct socket_peers *peers,
						const struct socket_address *backend)
{
	bpf_spin_lock(&peers->lock);
	for (int i = 0; i < SOCKET_PEERS; i++) {
		if (socket_address_equal(&peers->peer[i].backend, backend))
			peers->peer[i].used = 0;
	}
	bpf_spin_unlock(&peers->lock);
}

/*
 * Replace a backend in `address` by the service that the socket sent to; return whether it is one.
 * If several services have the backend, it is the one that the socket used last.
 */
static __always_inline bool socket_peers_service(struct socket_peers *peers,
						 struct socket_address *address)
{
	struct socket_address service;
	__u64 used = 0;

	bpf_spin_lock(&peers->lock);
	for (int i = 0; i < SOCKET_PEERS; i++) {
		struct socket_peer *one = &peers->peer[i];

		if (one->used > used && socket_address_equal(&one->backend, address)) {
			service = one->service;
			used = one->used;
		}
	}
	bpf_spin_unlock(&peers->lock);
	if (used)
		*address = service;
	return used;
}

#endif
