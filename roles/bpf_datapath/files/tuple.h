// SPDX-License-Identifier: GPL-2.0-only
/* Addresses and ports in the common format that maps use for IPv4 and IPv6. */
#ifndef PODNET_TUPLE_H
#define PODNET_TUPLE_H

#include <linux/bpf.h>

/* An IPv4 address is in the first word; the others are 0. */
struct addr_port {
	__be32 address[4];
	__be16 port;
	__u16 pad;
};

/* A request has the tuple of its sender; a response has the reverse of its request's tuple. */
enum tuple_icmp {
	TUPLE_ICMP_REQUEST = 1,		/* echo and other queries with an identifier */
	TUPLE_ICMP_RESPONSE = 2,
};

struct tuple {
	__be32 src[4];
	__be32 dst[4];
	__be16 sport;		/* ICMP request: the identifier; 0 without ports */
	__be16 dport;		/* ICMP request: type and code, one byte each */
	__u8 proto;
	__u8 family;
	__u8 icmp;		/* enum tuple_icmp; 0: neither */
	__u8 pad;
};

static __always_inline bool address_equal(const __be32 *a, const __be32 *b)
{
	return a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3];
}

static __always_inline void reverse_tuple(const struct tuple *t, struct tuple *reverse)
{
	__builtin_memcpy(reverse->src, t->dst, sizeof(reverse->src));
	__builtin_memcpy(reverse->dst, t->src, sizeof(reverse->dst));
	reverse->sport = t->dport;
	reverse->dport = t->sport;
	reverse->proto = t->proto;
	reverse->family = t->family;
	reverse->icmp = t->icmp ? TUPLE_ICMP_REQUEST + TUPLE_ICMP_RESPONSE - t->icmp : 0;
	reverse->pad = 0;
}

#endif
