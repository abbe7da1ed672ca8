// SPDX-License-Identifier: GPL-2.0-only
/* What a Pod may send and get: one look-up by two identities, then a short list of ports. */
#ifndef PODNET_POLICY_H
#define PODNET_POLICY_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "config.h"
#include "endpoints.h"
#include "identity.h"
#include "reasons.h"

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

static __always_inline bool fits(const struct range *range, __u8 proto, __u16 port)
{
	return (!range->proto || range->proto == proto) && port >= range->first &&
	       port <= range->last;
}

/* Whether one Pod's policy lets the packet pass in one direction. */
static __noinline bool allowed(struct policy_key *key, bool deny, __u8 proto, __u16 port)
{
	__u32 verdict = VERDICT_DEFAULT, *index = bpf_map_lookup_elem(&policy, key);
	struct ruleset *rules = index ? bpf_map_lookup_elem(&rulesets, index) : NULL;

	if (rules) {
		verdict = rules->verdict;
		for (int i = 0; i < RANGES; i++) {
			if (i >= rules->ranges)
				break;
			if (fits(&rules->range[i], proto, port)) {
				verdict = rules->range[i].verdict;
				break;
			}
		}
	}
	return verdict == VERDICT_DEFAULT ? !deny : verdict == VERDICT_ALLOW;
}

/* The policies of both ends, of which only Pods of this node have one here. */
__noinline enum reason judge(const struct side *from, const struct side *to, __u8 proto,
			     __be16 asked, const struct config *now)
{
	struct policy_key key = {};
	__u16 port = bpf_ntohs(asked);

	if (!from || !to || !now)
		return REASON_DROP_UNKNOWN;
	key.bank = bank_of(*now);
	if (from->enforce & ENFORCE_EGRESS) {
		key.subject = from->identity;
		key.peer = to->identity;
		key.direction = EGRESS;
		if (!allowed(&key, from->enforce & DENY_EGRESS, proto, port))
			return REASON_DROP_POLICY_EGRESS;
	}
	if (to->enforce & ENFORCE_INGRESS) {
		key.subject = to->identity;
		key.peer = from->identity;
		key.direction = INGRESS;
		if (!allowed(&key, to->enforce & DENY_INGRESS, proto, port))
			return REASON_DROP_POLICY_INGRESS;
	}
	return REASON_NONE;
}

#endif
