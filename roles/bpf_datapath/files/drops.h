// SPDX-License-Identifier: GPL-2.0-only
/* Every drop is counted, and told to whoever reads `drops`; a full ring never holds a packet up. */
#ifndef PODNET_DROPS_H
#define PODNET_DROPS_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "tuple.h"

#define DROPS_SIZE (256 * 1024)	/* bytes; a power of two, and whole pages of every machine */

struct drop {
	__u64 time;		/* ns since boot, as CLOCK_MONOTONIC */
	struct tuple tuple;	/* as far as the packet was understood */
	__u32 ifindex;
	__u32 len;
	__u32 peer;		/* the other side's identity, where policy dropped */
	__u16 slot;
	__u8 reason;
	__u8 direction;		/* INGRESS: into a Pod */
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, DROPS_SIZE);
} drops SEC(".maps");

#endif
