# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""IPsec policies as text."""

from __future__ import annotations

import socket
import struct

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._kernel import messages, netlink, xfrm

IN, OUT, FWD, SOCKET_OUT = 0, 1, 2, 4


def policy(direction: int, source: str, target: str, family: int, *attributes: bytes) -> bytes:
    """Return a struct xfrm_userpolicy_info with attributes."""
    ends = [name.partition("/") for name in (target, source)]
    addresses = b"".join(socket.inet_pton(family, address).ljust(16, b"\0") for address, *dummy in ends)
    lengths = [int(length) for *dummy, length in ends]
    selector = addresses + bytes(8) + struct.pack("=HBB", family, *lengths) + bytes(12)
    assert len(selector) == 56
    return selector + bytes(64 + 32 + 8) + bytes((direction, 0, 0, 0)) + bytes(4) + b"".join(attributes)


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (policy(OUT, "10.0.0.0/8", "10.1.0.0/16", socket.AF_INET), "out 10.0.0.0/8 to 10.1.0.0/16"),
        (policy(FWD, "fd00::/8", "::/0", socket.AF_INET6), "fwd fd00::/8 to ::/0"),
        (policy(IN, "10.0.0.0/8", "10.1.0.0/16", socket.AF_INET), ""),
        (policy(SOCKET_OUT, "0.0.0.0/0", "0.0.0.0/0", socket.AF_INET), ""),
        (policy(OUT, "::/0", "::/0", socket.AF_INET6, netlink.attribute(31, b"\7\0\0\0")), ""),
        (policy(OUT, "::/0", "::/0", socket.AF_INET6, netlink.attribute(31, bytes(4))), "out ::/0 to ::/0"),
    ],
)
def test_policies_for_routed_packets_are_shown(payload: bytes, text: str) -> None:
    data = struct.pack("=IHHII", 16 + len(payload), 0x13, 0, 1, 0) + payload
    assert xfrm.shown(netlink.decode(messages.policy_types().policy, data)) == text
