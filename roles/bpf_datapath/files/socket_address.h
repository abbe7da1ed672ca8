// SPDX-License-Identifier: GPL-2.0-only
/*
 * Addresses in calls of sockets: connect(), sendmsg(), recvmsg() and getpeername(). IPv4-mapped
 * ones of IPv6 sockets are IPv4.
 */
#ifndef PODNET_SOCKET_ADDRESS_H
#define PODNET_SOCKET_ADDRESS_H

#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "parse.h"

/* An IPv4 address is in the first word. */
struct socket_address {
	struct addr_port at;
	__u32 family;
};

static __always_inline bool socket_address_equal(const struct socket_address *a,
						 const struct socket_address *b)
{
	return a->at.port == b->at.port && a->family == b->family &&
	       address_equal(a->at.address, b->at.address);
}

/* Return whether an address leads to the network namespace of the socket itself. */
static __always_inline bool socket_is_loopback(const struct socket_address *to)
{
	const __be32 *address = to->at.address;

	if (to->family == AF_INET)
		return (address[0] & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000);
	return !(address[0] | address[1] | address[2]) && address[3] == bpf_htonl(1);
}

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

#endif
