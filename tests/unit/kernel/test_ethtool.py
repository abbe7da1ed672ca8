# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Attributes of ethtool netlink replies."""

from __future__ import annotations

import struct

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._kernel import ethtool, netlink


def number(value: int) -> bytes:
    return struct.pack("=I", value)


@pytest.mark.parametrize(
    ("answer", "split"),
    [
        # mlx5 7.3 before a split was requested: ring sizes, pushes, hds-thresh and its maximum of 0.
        ({2: number(8192), 6: number(1024), 13: b"\0", 14: b"\0", 17: number(0), 18: number(0)}, False),
        ({6: number(1024), 11: b"\2", 17: number(0), 18: number(0)}, True),
        # mlx5 and gve of 6.12 report the split but no hds-thresh.
        ({6: number(1024), 11: b"\1", 13: b"\0", 14: b"\0"}, False),
        ({6: number(1024), 11: b"\2", 13: b"\0", 14: b"\0"}, True),
        # gve on a device without header split, and drivers without support.
        ({6: number(1024), 13: b"\0", 14: b"\0"}, None),
    ],
)
def test_an_unset_split_is_off_if_it_can_be_set(answer: dict[int, bytes], split: bool | None) -> None:
    payload = struct.pack("=BBxx", 16, 1)
    payload += b"".join(netlink.attribute(kind, data) for kind, data in answer.items())
    message = struct.pack("=IHHII", 16 + len(payload), 20, 0, 1, 0) + payload
    values, dummy = ethtool.group_values("rings", netlink.decode(ethtool._type("rings"), message))
    assert values.get("rings.tcp-data-split") is split
