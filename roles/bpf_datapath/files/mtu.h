// SPDX-License-Identifier: GPL-2.0-only
/* Check of a packet, or of the segments of a GSO packet, against a device's MTU. */
#ifndef PODNET_MTU_H
#define PODNET_MTU_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "metrics.h"
#include "parse.h"

/* Stores the device's MTU in `mtu`. */
static __always_inline enum reason mtu_check(struct __sk_buff *skb, const struct packet *p,
					     __u32 ifindex, __u32 *mtu)
{
	long result;

	*mtu = 0;
	result = bpf_check_mtu(skb, ifindex, mtu, 0, p->wire_len ? 0 : BPF_MTU_CHK_SEGS);
	if (result < 0)
		return REASON_STACK_NO_DEVICE;
	if (p->wire_len ? p->wire_len > *mtu : result)
		return REASON_STACK_MTU;
	return REASON_NONE;
}

#endif
