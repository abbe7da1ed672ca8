// SPDX-License-Identifier: GPL-2.0-only
/*
 * Offsets that a Pod can choose for its packets: where the kernel stores a checksum that it
 * computes after these programs (CHECKSUM_PARTIAL), and where the IP header begins. Packet sockets
 * with PACKET_VNET_HDR, AF_XDP and BPF programs in the Pod set them. A checksum stored over an
 * address or port would change a packet that policy has already allowed. The meta driver corrects
 * both offsets.
 */
#ifndef PODNET_CHECKSUM_H
#define PODNET_CHECKSUM_H

#include <linux/bpf.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

#include "l4.h"
#include "parse.h"

#define CHECKSUM_PARTIAL 3

/* Offsets in transport headers */
#define TCP_CHECK 16
#define UDP_CHECK 6
#define SCTP_CHECK 8
#define GRE_CHECK 4

#define UDP_HEADER_LEN 8

/* Fields of include/linux/skbuff.h; libbpf adapts their offsets to the running kernel. */
struct sk_buff {
	unsigned char *head;
	unsigned char *data;
	__u16 csum_start;	/* from head */
	__u16 csum_offset;	/* from csum_start */
	__u16 network_header;	/* from head */
	__u8 ip_summed : 2;
	__u8 encapsulation : 1;
} __attribute__((preserve_access_index));

/* Linux 6.2. It becomes a register copy. */
void *bpf_cast_to_kern_ctx(void *ctx) __ksym __weak;

/* A type of Linux 6.4. libbpf resolves its existence, so the verifier skips the other branch. */
struct bpf_iter_num___kernel {
};

#define HAVE_KERN_CTX bpf_core_type_exists(struct bpf_iter_num___kernel)

/*
 * Return whether csum_start and csum_offset, relative to the MAC header, denote the checksum of the
 * transport header, or of a packet inside of a tunnel.
 */
__noinline bool checksum_is_of_transport(struct __sk_buff *skb, __u32 start, __u32 offset,
					 bool encapsulated)
{
	struct ip_info info = { .offset = L3_OFFSET, .end = skb->len };
	__u32 l4;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		struct iphdr ip;

		if (bpf_skb_load_bytes(skb, L3_OFFSET, &ip, sizeof(ip)) ||
		    ip.frag_off & bpf_htons(IPV4_FRAGMENT))
			return false;
		info.offset += (*(__u8 *)&ip & 0xf) * 4;
		info.proto = ip.protocol;
	} else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		if (bpf_skb_load_bytes(skb, L3_OFFSET + offsetof(struct ipv6hdr, nexthdr),
				       &info.proto, sizeof(info.proto)))
			return false;
		info.offset += sizeof(struct ipv6hdr);
		if (!ipv6_skip_exthdrs(skb, &info) || info.fragmented)
			return false;
	}
	l4 = info.offset;
	switch (info.proto) {
	case IPPROTO_TCP:
		return start == l4 && offset == TCP_CHECK;
	case IPPROTO_SCTP:
		return start == l4 && offset == SCTP_CHECK;
	case IPPROTO_UDP:
		if (start == l4 && offset == UDP_CHECK)
			return true;
		break;
	case IPPROTO_GRE:
		if (start == l4 && offset == GRE_CHECK)
			return true;
		break;
	case IPPROTO_IPIP:
	case IPPROTO_IPV6:
		break;
	default:
		return false;
	}
	/* Behind all headers that policy and translation read */
	return encapsulated && start >= l4 + UDP_HEADER_LEN;
}

/* Return whether the requested checksum, if there is one, is that of the transport header. */
static __noinline bool checksum_request_is_valid(struct __sk_buff *skb, const struct packet *p)
{
	struct sk_buff *kernel = (void *)skb;
	__u32 start, offset;
	bool encapsulated;

	if (HAVE_KERN_CTX) {
		kernel = bpf_cast_to_kern_ctx(skb);
		start = kernel->head + kernel->csum_start - kernel->data;
		offset = kernel->csum_offset;
		encapsulated = BPF_CORE_READ_BITFIELD(kernel, encapsulation);
	} else {
		if (BPF_CORE_READ_BITFIELD_PROBED(kernel, ip_summed) != CHECKSUM_PARTIAL)
			return true;
		start = BPF_CORE_READ(kernel, head) + BPF_CORE_READ(kernel, csum_start) -
			BPF_CORE_READ(kernel, data);
		offset = BPF_CORE_READ(kernel, csum_offset);
		encapsulated = BPF_CORE_READ_BITFIELD_PROBED(kernel, encapsulation);
	}
	if (start == p->l4_offset &&
	    ((p->flow.proto == IPPROTO_TCP && offset == TCP_CHECK) ||
	     (p->flow.proto == IPPROTO_UDP && offset == UDP_CHECK)))
		return true;
	return checksum_is_of_transport(skb, start, offset, encapsulated);
}

/* Return whether the packet requests no checksum, or that of its transport header. */
static __always_inline bool checksum_is_valid(struct __sk_buff *skb, const struct packet *p)
{
	if (HAVE_KERN_CTX) {
		struct sk_buff *kernel = bpf_cast_to_kern_ctx(skb);
		/* BPF_CORE_READ_BITFIELD() without its switch on the field's size */
		__u64 byte = *((__u8 *)kernel + __CORE_RELO(kernel, ip_summed, BYTE_OFFSET));

		byte <<= __CORE_RELO(kernel, ip_summed, LSHIFT_U64);
		if (byte >> __CORE_RELO(kernel, ip_summed, RSHIFT_U64) != CHECKSUM_PARTIAL)
			return true;
	}
	return checksum_request_is_valid(skb, p);
}

/*
 * Return whether the IP header is where these programs assume it. netkit keeps the network header
 * of the sender's socket. bpf_redirect() uses it; bpf_redirect_neigh() and the stack set it.
 */
static __always_inline bool link_header_is_valid(struct __sk_buff *skb)
{
	struct sk_buff *kernel;

	if (!HAVE_KERN_CTX)
		return true;	/* nor netkit */
	kernel = bpf_cast_to_kern_ctx(skb);
	return kernel->head + kernel->network_header == kernel->data + L3_OFFSET;
}

#endif
