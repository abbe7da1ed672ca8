/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */
/*
 * Netlink interface of rtnl link kind "meta". Numbers and values below 32 are
 * netkit's where the meaning is the same, so that one tool can speak to both.
 */
#ifndef _META_UAPI_H
#define _META_UAPI_H

/* Attributes of IFLA_INFO_DATA, seen from the end that carries them. */
enum {
	IFLA_META_UNSPEC,
	IFLA_META_PEER_INFO,		/* ifinfomsg + attributes of the peer */
	IFLA_META_PRIMARY,		/* u8, read-only: 1 on the primary */
	IFLA_META_POLICY,		/* u32, enum meta_verdict: pass or drop */
	IFLA_META_PEER_POLICY,		/* u32, the same of the other end */
	IFLA_META_MODE,			/* u32, enum meta_mode */
	IFLA_META_SCRUB,		/* u32, enum meta_scrub */
	IFLA_META_PEER_SCRUB,		/* u32, the same of the other end */
	IFLA_META_HEADROOM,		/* u16, bytes, 1024 at most */
	IFLA_META_TAILROOM,		/* u16, likewise */
	IFLA_META_PAIRING,		/* u32, enum meta_pairing */

	IFLA_META_PROG_FD = 32,		/* s32, write-only; -1 detaches */
	IFLA_META_PEER_PROG_FD,		/* s32, the same of the other end */
	IFLA_META_PROG_ID,		/* u32, read-only, on the primary only */
	IFLA_META_PEER_PROG_ID,		/* u32, likewise */
	IFLA_META_PROG_TAG,		/* 8 bytes, likewise */
	IFLA_META_PEER_PROG_TAG,	/* 8 bytes, likewise */
	__IFLA_META_MAX,
};

#define IFLA_META_MAX	(__IFLA_META_MAX - 1)

/* What a program returns; anything else drops. The values are those of tc. */
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

/* A pair, or one device without a peer. */
enum meta_pairing {
	META_PAIR,
	META_SINGLE,
};

/* Whether mark and priority are cleared on the way to another namespace. */
enum meta_scrub {
	META_SCRUB_NONE,
	META_SCRUB_DEFAULT,
};

#endif /* _META_UAPI_H */
