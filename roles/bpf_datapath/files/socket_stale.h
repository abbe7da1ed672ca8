// SPDX-License-Identifier: GPL-2.0-only
/*
 * Finds UDP sockets that are connected to a backend that their service does not have any more. No
 * hook sees what a connected socket sends, so user space reads this iterator after such a change,
 * and passes each request on to sock_diag, which ends the socket.
 */
#ifndef PODNET_SOCKET_STALE_H
#define PODNET_SOCKET_STALE_H

#include <linux/bpf.h>
#include <linux/in6.h>
#include <linux/inet_diag.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "config.h"
#include "lb.h"
#include "socket_address.h"
#include "socket_peers.h"

#define SOCKET_ESTABLISHED 1	/* TCP_ESTABLISHED, also of connected UDP sockets */

/* Fields of the kernel; libbpf adapts their offsets. */
struct ns_common {
	unsigned int inum;
} __attribute__((preserve_access_index));

struct net {
	struct ns_common ns;
} __attribute__((preserve_access_index));

struct sock_common {
	__be32 skc_daddr;
	__be32 skc_rcv_saddr;
	__be16 skc_dport;
	__u16 skc_num;
	unsigned char skc_state;
	int skc_bound_dev_if;
	struct {
		struct net *net;
	} skc_net;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
} __attribute__((preserve_access_index));

struct sock {
	struct sock_common __sk_common;
	__u16 sk_protocol;
} __attribute__((preserve_access_index));

struct bpf_iter_meta {
	struct seq_file *seq;
} __attribute__((preserve_access_index));

struct bpf_iter__bpf_sk_storage_map {
	struct bpf_iter_meta *meta;
	struct bpf_map *map;
	struct sock *sk;
	void *value;
} __attribute__((preserve_access_index));

/* A socket to end: the inode of its network namespace, and the request to sock_diag there. */
struct stale_socket {
	struct inet_diag_req_v2 request;
	__u32 netns;
};

/* Return whether a table has a backend. New maps may have it at another index. */
__noinline bool socket_has_backend(__u32 table_index, const struct addr_port *server)
{
	struct maglev_table *table = bpf_map_lookup_elem(&maglev, &table_index);

	if (!server || !table)
		return false;
	for (int i = 0; i < TABLE_SIZE; i++) {
		__u32 index = table->backend[i];
		struct addr_port *backend = bpf_map_lookup_elem(&backends, &index);

		if (backend && backend->port == server->port &&
		    address_equal(backend->address, server->address))
			return true;
	}
	return false;
}

/* Return whether the service of a connected UDP socket does not have its backend. */
static __always_inline bool socket_is_stale(const struct socket_peer *peer)
{
	struct config cfg = config_read();
	struct service *service;

	service = lb_find(peer->service.family, IPPROTO_UDP, peer->service.at.address,
			  peer->service.at.port, &cfg);
	return !service || !socket_has_backend(service->table, &peer->backend.at);
}

/* Read the addresses of a socket; IPv4-mapped ones are IPv4. */
static __always_inline void socket_read_ends(struct sock *sk, __u32 family,
					     struct inet_diag_sockid *id)
{
	id->idiag_dport = sk->__sk_common.skc_dport;
	id->idiag_sport = bpf_htons(sk->__sk_common.skc_num);
	if (family == AF_INET) {
		id->idiag_dst[0] = sk->__sk_common.skc_daddr;
		id->idiag_src[0] = sk->__sk_common.skc_rcv_saddr;
		return;
	}
	for (int i = 0; i < 4; i++) {
		id->idiag_dst[i] = sk->__sk_common.skc_v6_daddr.in6_u.u6_addr32[i];
		id->idiag_src[i] = sk->__sk_common.skc_v6_rcv_saddr.in6_u.u6_addr32[i];
	}
}

SEC("iter/bpf_sk_storage_map")
int sock_stale(struct bpf_iter__bpf_sk_storage_map *ctx)
{
	struct socket_peer *stored = ctx->value, peer;
	struct inet_diag_sockid *id;
	struct stale_socket stale = {};
	struct sock *sk = ctx->sk;
	__u64 cookie;

	if (!sk || !stored || sk->sk_protocol != IPPROTO_UDP ||
	    sk->__sk_common.skc_state != SOCKET_ESTABLISHED)
		return 0;
	peer = *stored;
	id = &stale.request.id;
	socket_read_ends(sk, peer.backend.family, id);
	/* the storage outlives a connection */
	if (id->idiag_dport != peer.backend.at.port ||
	    !address_equal(id->idiag_dst, peer.backend.at.address) || !socket_is_stale(&peer))
		return 0;
	cookie = bpf_get_socket_cookie(sk);
	id->idiag_cookie[0] = cookie;
	id->idiag_cookie[1] = cookie >> 32;
	id->idiag_if = sk->__sk_common.skc_bound_dev_if;
	stale.request.sdiag_family = peer.backend.family;
	stale.request.sdiag_protocol = IPPROTO_UDP;
	stale.netns = sk->__sk_common.skc_net.net->ns.inum;
	bpf_seq_write(ctx->meta->seq, &stale, sizeof(stale));
	return 0;
}

#endif
