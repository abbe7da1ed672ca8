// SPDX-License-Identifier: GPL-2.0-only
/*
 * Service load balancing at socket level: connect() and sendmsg() to a service get the address of
 * a backend, before a packet exists. So packets of these connections need no translation, and
 * policy sees the backend. recvmsg() and getpeername() return the service to the application,
 * which the socket's storage has (socket_peers.h).
 *
 * Attached to the root of the cgroup v2 hierarchy, for all processes of the node. What does not
 * pass here, such as raw sockets, SCTP and packets of virtual machines, track.h translates.
 */
#ifndef PODNET_SOCKET_LB_H
#define PODNET_SOCKET_LB_H

#include <linux/bpf.h>
#include <linux/errno.h>
#include <bpf/bpf_helpers.h>

#include "config.h"
#include "endpoints.h"
#include "lb.h"
#include "metrics.h"
#include "socket_address.h"
#include "socket_peers.h"

#define SOCKET_PROTO_MPTCP 262	/* IPPROTO_MPTCP */

enum socket_verdict {
	SOCKET_REFUSE = 0,
	SOCKET_ALLOW = 1,
};

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

/* Return the service of an address, NULL if there is none. */
static __always_inline struct service *socket_service(struct bpf_sock_addr *sa, __u8 proto,
						      const struct socket_address *to,
						      const struct config *cfg)
{
	const __be32 *address = to->at.address;
	const bool loopback = socket_is_loopback(to);
	struct service *service;

	if (!(cfg->features & FEATURE_SERVICES))
		return NULL;
	/* the kernel replaces it by the loopback address; as a key, it has all addresses */
	if (!(address[0] | address[1] | address[2] | address[3]))
		return NULL;
	if (loopback && !lb_is_node_netns(bpf_get_netns_cookie(sa)))
		return NULL;
	service = lb_lookup(to->family, proto, address, to->at.port, cfg);
	/* the address of the client is known when there are packets */
	if (service && service->flags & SERVICE_SOURCES &&
	    !lb_is_node_netns(bpf_get_netns_cookie(sa)))
		return NULL;
	/* as for packets, which are never translated if they are to a Pod */
	if (service && service->flags & SERVICE_LISTED && endpoint_lookup(to->family, address))
		return NULL;
	if (service || !(cfg->features & FEATURE_NODE_PORTS))
		return service;
	service = lb_lookup_node_port(to->family, proto, to->at.port, cfg);
	if (service && !loopback && !lb_is_node_address(to->family, address))
		return NULL;
	return service;
}

/* Select the backend of a service for a socket. */
static __always_inline enum reason socket_select(struct bpf_sock_addr *sa,
						 const struct service *service,
						 const struct config *cfg, struct socket_peer *peer)
{
	struct lb_client client = {
		.address = { (__u32)bpf_get_netns_cookie(sa) },
		.kind = LB_CLIENT_NETNS,
		.family = peer->service.family,
	};

	if ((service->flags & (SERVICE_SOURCES | SERVICE_NODE)) == SERVICE_SOURCES)
		return REASON_DROP_SOURCE_RANGE;
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
	service = socket_service(sa, proto, to, &cfg);
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

/* Replace the service in `to` by a backend; the socket keeps it while the service has it. */
static __always_inline enum socket_verdict socket_sendmsg(struct bpf_sock_addr *sa,
							  struct socket_address *to)
{
	struct socket_peer peer = { .service = *to };
	struct config cfg = config_read();
	struct socket_peers *peers;
	struct service *service;
	enum reason reason;

	service = socket_service(sa, IPPROTO_UDP, to, &cfg);
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
		if (lb_position(service->table, peer.index, &peer.backend.at) < TABLE_SIZE) {
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

/* Replace a backend in `from` by the service that the socket sent to; return whether it is one. */
static __always_inline bool socket_recvmsg(struct bpf_sock_addr *sa, struct socket_address *from)
{
	struct socket_peer *peer = bpf_sk_storage_get(&socket_peer, sa->sk, NULL, 0);
	struct socket_peers *peers;

	if (peer && socket_address_equal(&peer->backend, from)) {
		*from = peer->service;
		return true;
	}
	peers = bpf_sk_storage_get(&socket_peers, sa->sk, NULL, 0);
	return peers && socket_peers_service(peers, from);
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
