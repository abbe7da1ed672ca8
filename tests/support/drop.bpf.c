// SPDX-License-Identifier: GPL-2.0-only
/* Network faults: all received packets are lost, or a switch drops packets that exceed its MTU. */

#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_helpers.h>

SEC("tc")
int drop_all(struct __sk_buff *skb)
{
	return TC_ACT_SHOT;
}

SEC("classifier")
int drop_large(struct __sk_buff *skb)
{
	return skb->len > 1514 ? TC_ACT_SHOT : TC_ACT_OK;
}

char _license[] SEC("license") = "GPL";
