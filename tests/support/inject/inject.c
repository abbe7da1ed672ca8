// SPDX-License-Identifier: GPL-2.0-only
/*
 * On load, transmits one UDP packet with CHECKSUM_COMPLETE on a device in the
 * network namespace of the loading process. Only few NICs create such packets,
 * and no software does.
 */

#include <linux/etherdevice.h>
#include <linux/inet.h>
#include <linux/ip.h>
#include <linux/module.h>
#include <linux/netdevice.h>
#include <linux/nsproxy.h>
#include <linux/sched.h>
#include <linux/udp.h>
#include <net/checksum.h>
#include <net/ip.h>
#include <net/net_namespace.h>

static char *device = "";
module_param(device, charp, 0);
static char *source = "";
module_param(source, charp, 0);
static char *destination = "";
module_param(destination, charp, 0);

static const char payload[] = "summed by hardware";

static int __init inject_init(void)
{
	const int size = sizeof(struct udphdr) + sizeof(payload) - 1;
	struct net_device *dev;
	struct ethhdr *eth;
	struct udphdr *udp;
	struct sk_buff *skb;
	struct iphdr *ip;

	dev = dev_get_by_name(current->nsproxy->net_ns, device);
	if (!dev)
		return -ENODEV;
	skb = alloc_skb(LL_RESERVED_SPACE(dev) + 256, GFP_KERNEL);
	if (!skb) {
		dev_put(dev);
		return -ENOMEM;
	}
	skb_reserve(skb, LL_RESERVED_SPACE(dev));

	eth = skb_put_zero(skb, ETH_HLEN);
	eth->h_proto = htons(ETH_P_IP);
	skb_set_network_header(skb, ETH_HLEN);
	ip = skb_put_zero(skb, sizeof(*ip));
	ip->version = 4;
	ip->ihl = 5;
	ip->ttl = 64;
	ip->protocol = IPPROTO_UDP;
	ip->tot_len = htons(sizeof(*ip) + size);
	ip->saddr = in_aton(source);
	ip->daddr = in_aton(destination);
	ip_send_check(ip);
	udp = skb_put_zero(skb, sizeof(*udp));
	udp->source = htons(9);
	udp->dest = htons(9);
	udp->len = htons(size);
	skb_put_data(skb, payload, sizeof(payload) - 1);
	udp->check = csum_tcpudp_magic(ip->saddr, ip->daddr, size, IPPROTO_UDP,
				       csum_partial(udp, size, 0));

	skb->csum = csum_partial(skb->data, skb->len, 0);
	skb->ip_summed = CHECKSUM_COMPLETE;
	skb->protocol = htons(ETH_P_IP);
	skb->dev = dev;
	dev_queue_xmit(skb);
	dev_put(dev);
	return 0;
}

static void __exit inject_exit(void)
{
}

module_init(inject_init);
module_exit(inject_exit);

MODULE_DESCRIPTION("Transmits a packet with CHECKSUM_COMPLETE");
MODULE_LICENSE("GPL");
