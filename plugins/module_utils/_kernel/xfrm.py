# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""List the IPsec policies of a network namespace that apply to routed packets.

Source: linux/xfrm.h, net/xfrm/xfrm_user.c, ip-xfrm(8).
"""

from __future__ import annotations

import contextlib
import socket
import struct

from . import netlink

_NETLINK_XFRM = 6
_GETPOLICY, _GETDEFAULT = 0x15, 0x28  # XFRM_MSG_*
_DIRECTIONS = {1: "out", 2: "fwd"}  # XFRM_POLICY_*; 0 applies to packets for the host itself
_BLOCK = 1  # XFRM_USERPOLICY_BLOCK
_IF_ID = 31  # XFRMA_IF_ID

_POLICY_ID_SIZE = 64  # struct xfrm_userpolicy_id
# struct xfrm_userpolicy_info: the selector's addresses, family and prefix lengths; the direction
_SELECTOR = struct.Struct("=16s16s8xHBB")
_DIRECTION_OFFSET, _POLICY_SIZE = 160, 168


def parse(payload: bytes) -> str:
    """Return a policy as text, such as ``out 10.0.0.0/8 to 10.1.0.0/16``; empty if it cannot apply.

    A policy with an interface ID applies only to packets that are routed to that xfrm interface.
    """
    direction = _DIRECTIONS.get(payload[_DIRECTION_OFFSET])
    interface = netlink.attributes(payload[_POLICY_SIZE:]).get(_IF_ID, b"")
    if not direction or any(interface):
        return ""
    target, source, family, target_length, source_length = _SELECTOR.unpack_from(payload)
    ends = []
    for address, length in ((source, source_length), (target, target_length)):
        version = family if family in (socket.AF_INET, socket.AF_INET6) else socket.AF_INET
        size = 4 if version == socket.AF_INET else 16
        ends.append(f"{socket.inet_ntop(version, address[:size])}/{length}")
    return f"{direction} {' to '.join(ends)}"


def _is_supported() -> bool:
    """Return whether the kernel's interface is loaded. Opening its socket would load it."""
    with open("/proc/thread-self/net/netlink", encoding="ascii") as sockets:
        return any(line.split()[1:2] == [str(_NETLINK_XFRM)] for line in sockets)


def policies() -> list[str]:
    """Return the policies that apply to routed packets of this network namespace, and blocking defaults.

    Raises ``KernelRefusal`` without CAP_NET_ADMIN.
    """
    if not _is_supported():
        return []
    dumped = netlink.exchange(_GETPOLICY, netlink.NLM_F_DUMP, bytes(_POLICY_ID_SIZE), _NETLINK_XFRM)
    found = sorted({policy for policy in map(parse, dumped) if policy})
    with contextlib.suppress(netlink.KernelRefusal):  # before Linux 5.15
        (default,) = netlink.exchange(_GETDEFAULT, netlink.NLM_F_ACK, bytes(3), _NETLINK_XFRM)
        # struct xfrm_userpolicy_default: in, fwd, out
        for name, value in (("fwd", default[1]), ("out", default[2])):
            if value == _BLOCK:
                found.append(f"{name} block by default")
    return found
