// SPDX-License-Identifier: GPL-2.0-only
/*
 * A Pod's rate to the wire: each packet is given the time at which it may leave, and the NIC's fq
 * holds it until then. Nothing is dropped for it, and the sender's socket sees how much waits.
 */
#ifndef PODNET_PACING_H
#define PODNET_PACING_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "reasons.h"

struct pacing {
	__u64 next;		/* ns: when the Pod's next packet may leave */
};

/* By slot. Written by programs only. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, POD_SLOTS);
	__type(key, __u32);
	__type(value, struct pacing);
} pacing SEC(".maps");

#endif
