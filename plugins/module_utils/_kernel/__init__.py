# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Netlink, ethtool, BPF, network namespaces and module signatures of the Linux kernel.

A library that knows nothing about this project.

Callers: all
May import: _core
"""

__all__ = [
    "bpf",
    "btf",
    "ethtool",
    "libbpf",
    "link_kinds",
    "netlink",
    "netns",
    "qdisc",
    "rtnl",
    "signing",
    "sock_diag",
]
