// SPDX-License-Identifier: GPL-2.0-only
/* What a Pod may send and get: one look-up by two identities, then a short list of ports. */
#ifndef PODNET_POLICY_H
#define PODNET_POLICY_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define POLICY_MAX 65536
#define RULESETS_MAX 4096
#define RANGES 16

#define INGRESS 0
#define EGRESS 1

#define VERDICT_DEFAULT 0	/* that of the Pod: DENY_INGRESS, DENY_EGRESS */
#define VERDICT_ALLOW 1
#define VERDICT_DENY 2

struct policy_key {
	__u32 subject;		/* the identity of the Pod whose policy it is */
	__u32 peer;
	__u8 bank;
	__u8 direction;
	__u16 pad;
};

struct range {
	__u8 proto;		/* 0: any */
	__u8 verdict;
	__u16 first;		/* of the target's ports, in host order; ICMP: type << 8 | code */
	__u16 last;
};

/* Not written while `policy` names it. The first range that fits decides. */
struct ruleset {
	__u8 verdict;		/* where no range fits */
	__u8 ranges;
	__u16 pad;
	struct range range[RANGES];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, POLICY_MAX);
	__type(key, struct policy_key);
	__type(value, __u32);	/* index into `rulesets` */
} policy SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, RULESETS_MAX);
	__type(key, __u32);
	__type(value, struct ruleset);
} rulesets SEC(".maps");

#endif
