# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Netlink, ethtool, BPF, network namespaces and module signatures of the Linux kernel.

A general library without project logic. Each file names the kernel sources that it follows.

Callers: all
May import: _core
"""

__all__ = [
    "bpf",
    "btf",
    "ethtool",
    "libbpf",
    "link_kinds",
    "messages",
    "mounts",
    "netlink",
    "netns",
    "qdisc",
    "routes",
    "rtnl",
    "signing",
    "sock_diag",
    "xfrm",
]
