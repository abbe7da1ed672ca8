// SPDX-License-Identifier: GPL-2.0-only
/*
 * Programs that the driver's tests attach to a pair. A program records what it
 * sees of a packet, then runs the action that a map holds for skb->ifindex.
 */
#include <stddef.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define AF_INET 2
#define AF_INET6 10
#define HOUR_NS (3600ULL * 1000 * 1000 * 1000)

enum action_type {
	ACTION_VERDICT,			/* return the argument */
	ACTION_REDIRECT,		/* to the ifindex in the argument */
	ACTION_REDIRECT_INGRESS,
	ACTION_REDIRECT_PEER,
	ACTION_REDIRECT_NEIGH,
	ACTION_REDIRECT_NEXTHOP,	/* bpf_redirect_neigh() with a next hop */
	ACTION_REDIRECT_FIB,		/* by bpf_fib_lookup() */
	ACTION_SET_PKT_TYPE,		/* pass as PACKET_HOST */
	ACTION_SET_MARK,		/* pass with the argument as mark */
	ACTION_REDIRECT_PEER_L3,	/* for packets without Ethernet header */
	ACTION_SET_TSTAMP,		/* pass with a delivery time in one hour */
};

struct action {
	__u32 type;
	__u32 argument;
	__u32 family;
	__u8 nexthop[16];
};

struct record {
	__u64 packets;
	__u64 arps;
	__u64 tstamp;
	__u32 ifindex;
	__u32 mark;
	__u32 priority;
	__u32 protocol;
	__u32 pkt_type;
	__u32 longest;
	__u32 dst4;
	__u32 pad;
};

/* Key: skb->ifindex */
struct actions {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, struct action);
};

struct actions from_pod_actions SEC(".maps");
struct actions to_pod_actions SEC(".maps");
struct actions ingress_actions SEC(".maps");

enum program { FROM_POD, FROM_POD_ALT, TO_POD, INGRESS, PROGRAMS };

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PROGRAMS);
	__type(key, __u32);
	__type(value, struct record);
} records SEC(".maps");

static __always_inline void record_packet(struct __sk_buff *skb, __u32 program)
{
	struct record *record = bpf_map_lookup_elem(&records, &program);

	if (!record)
		return;
	__sync_fetch_and_add(&record->packets, 1);
	if (skb->protocol == bpf_htons(ETH_P_ARP))
		__sync_fetch_and_add(&record->arps, 1);
	record->tstamp = skb->tstamp;
	record->ifindex = skb->ifindex;
	record->mark = skb->mark;
	record->priority = skb->priority;
	record->protocol = skb->protocol;
	record->pkt_type = skb->pkt_type;
	bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct iphdr, daddr), &record->dst4,
			   sizeof(record->dst4));
	if (skb->len > record->longest)
		record->longest = skb->len;
}

static __always_inline int redirect_fib(struct __sk_buff *skb)
{
	struct bpf_fib_lookup fib = { .ifindex = skb->ifindex };
	struct bpf_redir_neigh next = {};
	struct ethhdr eth;
	int result;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		struct iphdr ip;

		if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)))
			return TC_ACT_SHOT;
		fib.family = AF_INET;
		fib.l4_protocol = ip.protocol;
		fib.tot_len = bpf_ntohs(ip.tot_len);
		fib.ipv4_src = ip.saddr;
		fib.ipv4_dst = ip.daddr;
	} else {
		struct ipv6hdr ip;

		if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)))
			return TC_ACT_SHOT;
		fib.family = AF_INET6;
		fib.l4_protocol = ip.nexthdr;
		__builtin_memcpy(fib.ipv6_src, &ip.saddr, 16);
		__builtin_memcpy(fib.ipv6_dst, &ip.daddr, 16);
	}

	result = bpf_fib_lookup(skb, &fib, sizeof(fib), 0);
	if (result == BPF_FIB_LKUP_RET_NO_NEIGH) {
		next.nh_family = fib.family;
		__builtin_memcpy(next.ipv6_nh, fib.ipv6_dst, 16);
		return bpf_redirect_neigh(fib.ifindex, &next, sizeof(next), 0);
	}
	if (result != BPF_FIB_LKUP_RET_SUCCESS)
		return TC_ACT_SHOT;
	__builtin_memcpy(eth.h_dest, fib.dmac, ETH_ALEN);
	__builtin_memcpy(eth.h_source, fib.smac, ETH_ALEN);
	eth.h_proto = skb->protocol;
	if (bpf_skb_store_bytes(skb, 0, &eth, sizeof(eth), 0))
		return TC_ACT_SHOT;
	return bpf_redirect(fib.ifindex, 0);
}

static __always_inline int redirect_peer_l3(struct __sk_buff *skb, __u32 ifindex)
{
	struct ethhdr eth = { .h_proto = skb->protocol };

	if (bpf_skb_change_head(skb, ETH_HLEN, 0) ||
	    bpf_skb_store_bytes(skb, 0, &eth, sizeof(eth), 0))
		return TC_ACT_SHOT;
	return bpf_redirect_peer(ifindex, 0);
}

static __always_inline int run_action(struct __sk_buff *skb, void *actions)
{
	struct bpf_redir_neigh next = {};
	__u32 ifindex = skb->ifindex;
	struct action *action;

	action = bpf_map_lookup_elem(actions, &ifindex);
	if (!action)
		return TC_ACT_SHOT;
	switch (action->type) {
	case ACTION_VERDICT:
		return action->argument;
	case ACTION_REDIRECT:
		return bpf_redirect(action->argument, 0);
	case ACTION_REDIRECT_INGRESS:
		return bpf_redirect(action->argument, BPF_F_INGRESS);
	case ACTION_REDIRECT_PEER:
		return bpf_redirect_peer(action->argument, 0);
	case ACTION_REDIRECT_NEIGH:
		return bpf_redirect_neigh(action->argument, NULL, 0, 0);
	case ACTION_REDIRECT_NEXTHOP:
		next.nh_family = action->family;
		__builtin_memcpy(next.ipv6_nh, action->nexthop, 16);
		return bpf_redirect_neigh(action->argument, &next,
					  sizeof(next), 0);
	case ACTION_REDIRECT_FIB:
		return redirect_fib(skb);
	case ACTION_SET_PKT_TYPE:
		bpf_skb_change_type(skb, 0 /* PACKET_HOST */);
		return TC_ACT_OK;
	case ACTION_SET_MARK:
		skb->mark = action->argument;
		return TC_ACT_OK;
	case ACTION_REDIRECT_PEER_L3:
		return redirect_peer_l3(skb, action->argument);
	case ACTION_SET_TSTAMP:
		bpf_skb_set_tstamp(skb, bpf_ktime_get_ns() + HOUR_NS,
				   BPF_SKB_TSTAMP_DELIVERY_MONO);
		return TC_ACT_OK;
	}
	return TC_ACT_SHOT;
}

SEC("tc")
int from_pod(struct __sk_buff *skb)
{
	record_packet(skb, FROM_POD);
	return run_action(skb, &from_pod_actions);
}

/* Like from_pod, with another record: replacement tests check which one ran. */
SEC("tc")
int from_pod_alt(struct __sk_buff *skb)
{
	record_packet(skb, FROM_POD_ALT);
	return run_action(skb, &from_pod_actions);
}

SEC("tc")
int to_pod(struct __sk_buff *skb)
{
	record_packet(skb, TO_POD);
	return run_action(skb, &to_pod_actions);
}

SEC("tc")
int ingress(struct __sk_buff *skb)
{
	record_packet(skb, INGRESS);
	return run_action(skb, &ingress_actions);
}

SEC("xdp")
int xdp_pass(struct xdp_md *ctx)
{
	return ctx->data < ctx->data_end ? XDP_PASS : XDP_DROP;
}

SEC("xdp")
int xdp_tx(struct xdp_md *ctx)
{
	return XDP_TX;
}

char _license[] SEC("license") = "GPL";
