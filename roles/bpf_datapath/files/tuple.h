// SPDX-License-Identifier: GPL-2.0-only
/* Who talks to whom: the one form in which maps hold addresses of both families. */
#ifndef PODNET_TUPLE_H
#define PODNET_TUPLE_H

#include <linux/bpf.h>

/* An IPv4 address is in the first word, the others are 0. */
struct place {
	__be32 address[4];
	__be16 port;
	__u16 pad;
};

struct tuple {
	__be32 src[4];
	__be32 dst[4];
	__be16 sport;		/* ICMP echo: the identifier; 0 where there is none */
	__be16 dport;		/* ICMP: type and code, a byte each */
	__u8 proto;
	__u8 family;
	__u16 kind;		/* of an entry in `ct` */
};

#endif
