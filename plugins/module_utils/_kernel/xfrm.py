# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""List the IPsec policies of a network namespace that apply to routed packets.

Source: linux/xfrm.h, net/xfrm/xfrm_user.c, ip-xfrm(8).
"""

from __future__ import annotations

import contextlib
import socket
from typing import Any

from .messages import policy_types
from .netlink import NETLINK_XFRM, KernelRefusal, Socket, decode

_GETPOLICY, _GETDEFAULT = 0x15, 0x28  # XFRM_MSG_*
_DIRECTIONS = {1: "out", 2: "fwd"}  # XFRM_POLICY_*; 0 applies to packets for the host itself
_BLOCK = 1  # XFRM_USERPOLICY_BLOCK


def shown(policy: Any) -> str:
    """Return a policy as text, such as ``out 10.0.0.0/8 to 10.1.0.0/16``; empty if it cannot apply.

    A policy with an interface ID applies only to packets that are routed to that xfrm interface.
    """
    direction = _DIRECTIONS.get(policy["dir"])
    if not direction or policy.get_attr("XFRMA_IF_ID"):
        return ""
    family = policy["family"] if policy["family"] in (socket.AF_INET, socket.AF_INET6) else socket.AF_INET
    size = 4 if family == socket.AF_INET else 16
    ends = [
        f"{socket.inet_ntop(family, policy[address][:size])}/{policy[length]}"
        for address, length in (("saddr", "prefixlen_s"), ("daddr", "prefixlen_d"))
    ]
    return f"{direction} {' to '.join(ends)}"


def _is_supported() -> bool:
    """Return whether the kernel's interface is loaded. Opening its socket would load it."""
    with open("/proc/thread-self/net/netlink", encoding="ascii") as sockets:
        return any(line.split()[1:2] == [str(NETLINK_XFRM)] for line in sockets)


def policies() -> list[str]:
    """Return the policies that apply to routed packets of this network namespace, and blocking defaults.

    Raises ``KernelRefusal`` without CAP_NET_ADMIN.
    """
    if not _is_supported():
        return []
    types = policy_types()
    every = types.selection()
    every["policy_id"] = bytes(64)
    with Socket(NETLINK_XFRM) as sock:
        replies = sock.dump_bytes(every, _GETPOLICY)
        found = sorted({text for text in (shown(decode(types.policy, one)) for one in replies) if text})
        with contextlib.suppress(KernelRefusal):  # before Linux 5.15
            default = decode(types.default, sock.get(types.default(), _GETDEFAULT))
            for name in ("fwd", "out"):
                if default[name] == _BLOCK:
                    found.append(f"{name} block by default")
    return found
