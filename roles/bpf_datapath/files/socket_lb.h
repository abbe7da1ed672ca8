// SPDX-License-Identifier: GPL-2.0-only
/*
 * Service load balancing at socket level: connect() and sendmsg() to a service get the address of
 * a backend, before a packet exists. So packets of these connections need no translation, and
 * policy sees the backend. The socket's storage has the service that each backend stands for,
 * which recvmsg() and getpeername() return to the application. Entries of a socket disappear with
 * it and never displace those of others.
 *
 * Attached to the root of the cgroup v2 hierarchy, for all processes of the node. What does not
 * pass here, such as raw sockets, SCTP and packets of virtual machines, track.h translates.
 */
#ifndef PODNET_SOCKET_LB_H
#define PODNET_SOCKET_LB_H

#include <linux/bpf.h>
#include <linux/errno.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "config.h"
#include "lb.h"
#include "metrics.h"
#include "parse.h"

#define SOCKET_PEERS 16		/* services that an unconnected UDP socket uses at a time */
#define SOCKET_PROTO_MPTCP 262	/* IPPROTO_MPTCP */

enum socket_verdict {
	SOCKET_REFUSE = 0,
	SOCKET_ALLOW = 1,
};

/* An IPv4 address is in the first word, also that of an IPv6 socket. */
struct socket_address {
	struct addr_port at;
	__u32 family;
};

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

/* Return the protocol of a socket as services have it, 0 if it is translated per packet. */
static __always_inline __u8 socket_proto(const struct bpf_sock_addr *sa)
{
	switch (sa->protocol) {
	case IPPROTO_TCP:
	case SOCKET_PROTO_MPTCP:
		return IPPROTO_TCP;
	case IPPROTO_UDP:
		return IPPROTO_UDP;
	default:
		return 0;
	}
}

static __always_inline bool socket_address_equal(const struct socket_address *a,
						 const struct socket_address *b)
{
	return a->at.port == b->at.port && a->family == b->family &&
	       address_equal(a->at.address, b->at.address);
}

/* Read the address of a call, an IPv4-mapped one of an IPv6 socket as IPv4. */
static __always_inline void socket_read4(const struct bpf_sock_addr *sa, struct socket_address *to)
{
	to->at.address[0] = sa->user_ip4;
	to->at.port = sa->user_port;
	to->family = AF_INET;
}

static __always_inline void socket_read6(const struct bpf_sock_addr *sa, struct socket_address *to)
{
	__be32 words[4] = { sa->user_ip6[0], sa->user_ip6[1], sa->user_ip6[2], sa->user_ip6[3] };

	to->at.port = sa->user_port;
	if (!words[0] && !words[1] && words[2] == bpf_htonl(0xffff)) {
		to->at.address[0] = words[3];
		to->family = AF_INET;
		return;
	}
	__builtin_memcpy(to->at.address, words, sizeof(words));
	to->family = AF_INET6;
}

static __always_inline void socket_write4(struct bpf_sock_addr *sa, const struct socket_address *to)
{
	sa->user_ip4 = to->at.address[0];
	sa->user_port = to->at.port;
}

static __always_inline void socket_write6(struct bpf_sock_addr *sa, const struct socket_address *to)
{
	if (to->family == AF_INET) {
		sa->user_ip6[3] = to->at.address[0];
	} else {
		sa->user_ip6[0] = to->at.address[0];
		sa->user_ip6[1] = to->at.address[1];
		sa->user_ip6[2] = to->at.address[2];
		sa->user_ip6[3] = to->at.address[3];
	}
	sa->user_port = to->at.port;
}

/* Return the service of an address, NULL if there is none. */
static __always_inline struct service *socket_service(__u8 proto, const struct socket_address *to,
						      const struct config *cfg)
{
	struct service *service;

	if (!(cfg->features & FEATURE_SERVICES))
		return NULL;
	service = lb_lookup(to->family, proto, to->at.address, to->at.port, cfg);
	if (service || !(cfg->features & FEATURE_NODE_PORTS))
		return service;
	service = lb_lookup_node_port(to->family, proto, to->at.port, cfg);
	return service && lb_is_node_address(to->family, to->at.address) ? service : NULL;
}

/* Select the backend of a service for a socket. */
static __always_inline enum reason socket_select(struct bpf_sock_addr *sa,
						 const struct service *service,
						 const struct config *cfg, struct socket_peer *peer)
{
	const __u64 cookie = bpf_get_netns_cookie(sa);
	struct lb_client client = {
		.address = { cookie, cookie >> 32 },
		.kind = LB_CLIENT_NETNS,
		.family = peer->service.family,
	};

	peer->backend.family = peer->service.family;
	peer->generation = cfg->generation;
	return lb_assign(service, service->table, &client, bpf_get_prandom_u32(), &peer->backend.at,
			 &peer->index);
}

/* Fail the call as the stack does if a host rejects the connection. */
static __always_inline enum socket_verdict socket_refuse(enum reason reason)
{
	metrics_count(0, reason);
	bpf_set_retval(-ECONNREFUSED);
	return SOCKET_REFUSE;
}

/* Replace the service in `to` by the backend that a connection to it gets. */
static __always_inline enum socket_verdict socket_connect(struct bpf_sock_addr *sa,
							  struct socket_address *to)
{
	struct socket_peer peer = { .service = *to }, *stored;
	struct config cfg = config_read();
	__u8 proto = socket_proto(sa);
	struct service *service;
	enum reason reason;

	if (!proto)
		return SOCKET_ALLOW;
	service = socket_service(proto, to, &cfg);
	if (!service) {
		/* of a former connect(); the address may be that of the former backend */
		bpf_sk_storage_delete(&socket_peer, sa->sk);
		return SOCKET_ALLOW;
	}
	reason = socket_select(sa, service, &cfg, &peer);
	if (reason != REASON_NONE)
		return socket_refuse(reason);
	stored = bpf_sk_storage_get(&socket_peer, sa->sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (stored)
		*stored = peer;
	*to = peer.backend;
	return SOCKET_ALLOW;
}

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

/* Replace the service in `to` by a backend; the socket keeps it while the service has it. */
static __always_inline enum socket_verdict socket_sendmsg(struct bpf_sock_addr *sa,
							  struct socket_address *to)
{
	struct socket_peer peer = { .service = *to };
	struct config cfg = config_read();
	struct socket_peers *peers;
	struct service *service;
	enum reason reason;

	service = socket_service(IPPROTO_UDP, to, &cfg);
	if (!service) {
		peers = bpf_sk_storage_get(&socket_peers, sa->sk, NULL, 0);
		if (peers)
			socket_peers_forget(peers, to);
		return SOCKET_ALLOW;
	}
	peers = bpf_sk_storage_get(&socket_peers, sa->sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (peers && socket_peers_find(peers, &peer)) {
		if (peer.generation == cfg.generation)
			goto out;
		if (lb_has_backend(service->table, peer.index, &peer.backend.at)) {
			peer.generation = cfg.generation;
			goto store;
		}
	}
	reason = socket_select(sa, service, &cfg, &peer);
	if (reason != REASON_NONE)
		return socket_refuse(reason);
store:
	if (peers)
		socket_peers_store(peers, &peer);
out:
	*to = peer.backend;
	return SOCKET_ALLOW;
}

/*
 * Replace a backend in `from` by the service that the socket sent to; return whether it is one. If
 * several services have the backend, it is the one that the socket used last.
 */
static __always_inline bool socket_recvmsg(struct bpf_sock_addr *sa, struct socket_address *from)
{
	struct socket_peer *peer = bpf_sk_storage_get(&socket_peer, sa->sk, NULL, 0);
	struct socket_address service;
	struct socket_peers *peers;
	__u64 used = 0;

	if (peer && socket_address_equal(&peer->backend, from)) {
		*from = peer->service;
		return true;
	}
	peers = bpf_sk_storage_get(&socket_peers, sa->sk, NULL, 0);
	if (!peers)
		return false;
	bpf_spin_lock(&peers->lock);
	for (int i = 0; i < SOCKET_PEERS; i++) {
		peer = &peers->peer[i];
		if (peer->used > used && socket_address_equal(&peer->backend, from)) {
			service = peer->service;
			used = peer->used;
		}
	}
	bpf_spin_unlock(&peers->lock);
	if (used)
		*from = service;
	return used;
}

/* Replace the backend in `peer` by the service that the socket is connected to. */
static __always_inline bool socket_getpeername(struct bpf_sock_addr *sa,
					       struct socket_address *peer)
{
	struct socket_peer *stored = bpf_sk_storage_get(&socket_peer, sa->sk, NULL, 0);

	if (!stored || !socket_address_equal(&stored->backend, peer))
		return false;
	*peer = stored->service;
	return true;
}

SEC("cgroup/connect4")
int sock_connect4(struct bpf_sock_addr *sa)
{
	struct socket_address to = {};
	enum socket_verdict verdict;

	socket_read4(sa, &to);
	verdict = socket_connect(sa, &to);
	socket_write4(sa, &to);
	return verdict;
}

SEC("cgroup/connect6")
int sock_connect6(struct bpf_sock_addr *sa)
{
	struct socket_address to = {};
	enum socket_verdict verdict;

	socket_read6(sa, &to);
	verdict = socket_connect(sa, &to);
	socket_write6(sa, &to);
	return verdict;
}

SEC("cgroup/sendmsg4")
int sock_sendmsg4(struct bpf_sock_addr *sa)
{
	struct socket_address to = {};
	enum socket_verdict verdict;

	socket_read4(sa, &to);
	verdict = socket_sendmsg(sa, &to);
	socket_write4(sa, &to);
	return verdict;
}

SEC("cgroup/sendmsg6")
int sock_sendmsg6(struct bpf_sock_addr *sa)
{
	struct socket_address to = {};
	enum socket_verdict verdict;

	socket_read6(sa, &to);
	verdict = socket_sendmsg(sa, &to);
	socket_write6(sa, &to);
	return verdict;
}

SEC("cgroup/recvmsg4")
int sock_recvmsg4(struct bpf_sock_addr *sa)
{
	struct socket_address from = {};

	socket_read4(sa, &from);
	if (socket_recvmsg(sa, &from))
		socket_write4(sa, &from);
	return SOCKET_ALLOW;
}

SEC("cgroup/recvmsg6")
int sock_recvmsg6(struct bpf_sock_addr *sa)
{
	struct socket_address from = {};

	socket_read6(sa, &from);
	if (socket_recvmsg(sa, &from))
		socket_write6(sa, &from);
	return SOCKET_ALLOW;
}

SEC("cgroup/getpeername4")
int sock_getpeer4(struct bpf_sock_addr *sa)
{
	struct socket_address peer = {};

	socket_read4(sa, &peer);
	if (socket_getpeername(sa, &peer))
		socket_write4(sa, &peer);
	return SOCKET_ALLOW;
}

SEC("cgroup/getpeername6")
int sock_getpeer6(struct bpf_sock_addr *sa)
{
	struct socket_address peer = {};

	socket_read6(sa, &peer);
	if (socket_getpeername(sa, &peer))
		socket_write6(sa, &peer);
	return SOCKET_ALLOW;
}

#endif
