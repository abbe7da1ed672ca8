// SPDX-License-Identifier: GPL-2.0-only
/* Policy verdicts: a lookup by two identities, then a short list of port ranges. */
#ifndef PODNET_POLICY_H
#define PODNET_POLICY_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "config.h"
#include "endpoints.h"
#include "identity.h"
#include "metrics.h"

#define POLICY_MAX 262144
#define RULESETS_MAX 4096
#define RULESET_RANGES 64

enum policy_direction {
	POLICY_INGRESS = 0,
	POLICY_EGRESS = 1,
};

enum verdict {
	VERDICT_DEFAULT = 0,	/* the Pod's: DENY_INGRESS, DENY_EGRESS */
	VERDICT_ALLOW = 1,
	VERDICT_DENY = 2,
};

struct policy_key {
	__u32 subject;		/* identity of the Pod that the policy applies to */
	__u32 peer;		/* identity, or IDENTITY_ANY */
	__u8 buffer;
	__u8 direction;		/* enum policy_direction */
	__u16 pad;
};

struct policy_range {
	__u8 proto;		/* 0: any */
	__u8 verdict;		/* enum verdict */
	__u16 first;		/* destination port, host byte order; ICMP: type << 8 | code */
	__u16 last;
};

/* Immutable while `policy` refers to it. The first matching range decides. */
struct policy_ruleset {
	__u8 verdict;		/* if no range matches */
	__u8 ranges;
	__u16 pad;
	struct policy_range range[RULESET_RANGES];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, POLICY_MAX);
	__type(key, struct policy_key);
	__type(value, __u32);	/* index into `rulesets` */
} policy SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, RULESETS_MAX);
	__type(key, __u32);
	__type(value, struct policy_ruleset);
} rulesets SEC(".maps");

static __always_inline bool policy_range_matches(const struct policy_range *range, __u8 proto,
						 __u16 port)
{
	return (!range->proto || range->proto == proto) && port >= range->first &&
	       port <= range->last;
}

/* Return whether one Pod's policy allows the packet in one direction. */
static __always_inline bool policy_allows(struct policy_key *key, bool deny, __u8 proto, __u16 port)
{
	__u32 verdict = VERDICT_DEFAULT, *index = bpf_map_lookup_elem(&policy, key);
	struct policy_ruleset *rules;

	if (!index) {
		key->peer = IDENTITY_ANY;
		index = bpf_map_lookup_elem(&policy, key);
	}
	rules = index ? bpf_map_lookup_elem(&rulesets, index) : NULL;
	if (rules) {
		verdict = rules->verdict;
		for (int i = 0; i < RULESET_RANGES; i++) {
			if (i >= rules->ranges)
				break;
			if (policy_range_matches(&rules->range[i], proto, port)) {
				verdict = rules->range[i].verdict;
				break;
			}
		}
	}
	return verdict == VERDICT_DEFAULT ? !deny : verdict == VERDICT_ALLOW;
}

/* Apply the egress policy of the source and the ingress policy of the destination. */
__noinline enum reason policy_verdict(const struct endpoint_info *src,
				      const struct endpoint_info *dst, __u8 proto,
				      __be16 policy_port, const struct config *cfg)
{
	struct policy_key key = {};
	__u16 port = bpf_ntohs(policy_port);

	if (!src || !dst || !cfg)
		return REASON_DROP_UNSUPPORTED;
	key.buffer = config_buffer(*cfg);
	if (src->enforce & ENFORCE_EGRESS) {
		key.subject = src->identity;
		key.peer = dst->identity;
		key.direction = POLICY_EGRESS;
		if (!policy_allows(&key, src->enforce & DENY_EGRESS, proto, port))
			return REASON_DROP_POLICY_EGRESS;
	}
	if (dst->enforce & ENFORCE_INGRESS) {
		key.subject = dst->identity;
		key.peer = src->identity;
		key.direction = POLICY_INGRESS;
		if (!policy_allows(&key, dst->enforce & DENY_INGRESS, proto, port))
			return REASON_DROP_POLICY_INGRESS;
	}
	return REASON_NONE;
}

#endif
