/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */
/*
 * Netlink interface of the rtnl link kind "meta". Attribute numbers below 32 and
 * their values match IFLA_NETKIT_*, so that a tool can support both.
 */
#ifndef _META_UAPI_H
#define _META_UAPI_H

/*
 * Attributes of IFLA_INFO_DATA. PEER_* refers to the other device of the pair,
 * the others to the device that the message is about.
 */
enum {
	IFLA_META_UNSPEC,
	IFLA_META_PEER_INFO,		/* ifinfomsg + IFLA_* of the peer */
	IFLA_META_PRIMARY,		/* u8, read-only, 1 on the primary */
	IFLA_META_POLICY,		/* u32, META_PASS or META_DROP */
	IFLA_META_PEER_POLICY,		/* u32, META_PASS or META_DROP */
	IFLA_META_MODE,			/* u32, enum meta_mode */
	IFLA_META_SCRUB,		/* u32, enum meta_scrub */
	IFLA_META_PEER_SCRUB,		/* u32, enum meta_scrub */
	IFLA_META_HEADROOM,		/* u16, bytes, at most 1024 */
	IFLA_META_TAILROOM,		/* u16, bytes, at most 1024 */
	IFLA_META_PAIRING,		/* u32, enum meta_pairing */

	IFLA_META_PROG_FD = 32,		/* s32, write-only; -1 detaches */
	IFLA_META_PEER_PROG_FD,		/* s32, write-only; -1 detaches */
	IFLA_META_PROG_ID,		/* u32, read-only, primary only */
	IFLA_META_PEER_PROG_ID,		/* u32, read-only, primary only */
	IFLA_META_PROG_TAG,		/* 8 bytes, read-only, primary only */
	IFLA_META_PEER_PROG_TAG,	/* 8 bytes, read-only, primary only */
	__IFLA_META_MAX,
};

#define IFLA_META_MAX	(__IFLA_META_MAX - 1)

/* Return values of a program, equal to TC_ACT_*. All others drop the packet. */
enum meta_verdict {
	META_NEXT	= -1,
	META_PASS	= 0,
	META_DROP	= 2,
	META_REDIRECT	= 7,
};

enum meta_mode {
	META_L2,
	META_L3,
};

enum meta_pairing {
	META_PAIR,
	META_SINGLE,
};

/* DEFAULT clears skb->mark and skb->priority across network namespaces. */
enum meta_scrub {
	META_SCRUB_NONE,
	META_SCRUB_DEFAULT,
};

#endif /* _META_UAPI_H */
