// SPDX-License-Identifier: GPL-2.0-only
/* Pods that leave the node under its address, on ports that the node itself never takes. */
#ifndef PODNET_MASQUERADE_H
#define PODNET_MASQUERADE_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "config.h"

struct node {
	__be32 masquerade4;	/* the node's address towards the outside; 0: none */
	__u16 first_port;	/* outside of the node's net.ipv4.ip_local_port_range */
	__u16 last_port;
	__be32 masquerade6[4];
};

/* By bank. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, BANKS);
	__type(key, __u32);
	__type(value, struct node);
} node SEC(".maps");

#endif
