# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Connections in sock_diag replies, counted by window scale."""

from __future__ import annotations

import socket
import struct
from typing import Any

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._kernel import messages, netlink, sock_diag


def answer(family: int, ends: list[tuple[str, int]], options: int, scales: int) -> Any:
    """Return an inet_diag_msg with the first bytes of tcp_info."""
    ports = b"".join(struct.pack(">H", port) for dummy, port in ends)
    addresses = b"".join(socket.inet_pton(family, address).ljust(16, b"\0") for address, dummy in ends)
    head = struct.pack("=BBBB", family, 1, 0, 0) + ports + addresses
    info = bytes([1, 0, 0, 0, 0, options, scales, 0])
    return message(head.ljust(72, b"\0") + netlink.attribute(2, info))


def message(payload: bytes) -> Any:
    """Return a reply of sock_diag as it is decoded."""
    data = struct.pack("=IHHII", 16 + len(payload), 20, 0, 1, 0) + payload
    return netlink.decode(messages.connection_types().reply, data)


@pytest.mark.parametrize(("options", "scales", "scale"), [(4, 0xC7, 12), (5, 0x7C, 7), (1, 0xC7, None)])
def test_the_announced_scale_of_a_connection(options: int, scales: int, scale: int | None) -> None:
    ends = [("fd31::1", 22), ("fd31::2", 40000)]
    one = sock_diag.connection(answer(socket.AF_INET6, ends, options, scales))
    assert one == sock_diag.Connection("[fd31::1]:22", "[fd31::2]:40000", scale)
    ends = [("10.0.0.1", 22), ("10.0.0.2", 40000)]
    two = sock_diag.connection(answer(socket.AF_INET, ends, options, scales))
    assert two == sock_diag.Connection("10.0.0.1:22", "10.0.0.2:40000", scale)
    assert sock_diag.connection(message(bytes(72))) is None


def test_connections_with_other_scales_are_counted() -> None:
    found = [sock_diag.Connection("a", str(n), scale) for n, scale in enumerate([12, 7, 7, None, 0, 7])]
    assert sock_diag.by_scale(found, 12, examples=2) == [
        {"scale": 0, "count": 1, "examples": ["a 4"]},
        {"scale": 7, "count": 3, "examples": ["a 1", "a 2"]},
    ]
    assert [one["count"] for one in sock_diag.by_scale(found)] == [1, 1, 3, 1]
