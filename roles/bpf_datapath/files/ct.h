// SPDX-License-Identifier: GPL-2.0-only
/* Connections: what lets replies pass, and what translation was chosen. Written by programs only. */
#ifndef PODNET_CT_H
#define PODNET_CT_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "tuple.h"

#define CT_MAX 131072

/*
 * CT_CONNECTION's tuple is that of its first packet as it was routed: to the backend, from the Pod's
 * own address. The other two find it by what the packets of the other side of a translation say.
 */
enum ct_kind {
	CT_CONNECTION,
	CT_SERVICE,		/* from the client to the service's address */
	CT_MASQUERADE,		/* from the target to the node's address */
};

#define CT_REPLIED 1		/* both sides have sent */
#define CT_CLOSING 2		/* TCP: a FIN from either side, or a RST */
#define CT_SERVED 4		/* `service` is what the client asks for */
#define CT_MASQUERADED 8	/* `outside` is what the target sees */

struct connection {
	__u32 seen;		/* seconds since boot */
	__u32 generation;	/* of the policy that allowed it */
	__u32 flags;
	struct place service;	/* CT_SERVICE: the backend */
	struct place outside;	/* CT_MASQUERADE: the Pod */
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, CT_MAX);
	__type(key, struct tuple);
	__type(value, struct connection);
} ct SEC(".maps");

#endif
