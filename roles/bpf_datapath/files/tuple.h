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

struct tuple {
	__be32 src[4];
	__be32 dst[4];
	__be16 sport;		/* ICMP echo: the identifier; 0 without ports */
	__be16 dport;		/* ICMP: type and code, one byte each */
	__u8 proto;
	__u8 family;
	__u16 kind;		/* enum ct_kind; only for `ct` */
};

#endif
