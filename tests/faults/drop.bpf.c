// SPDX-License-Identifier: GPL-2.0-or-later
/* What a node must survive: nothing comes in any more. */

#include <linux/bpf.h>
#include <linux/pkt_cls.h>

__attribute__((section("tc"), used))
int drop_all(struct __sk_buff *skb)
{
	return TC_ACT_SHOT;
}

char _license[] __attribute__((section("license"), used)) = "GPL";
