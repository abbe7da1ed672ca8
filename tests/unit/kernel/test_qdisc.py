# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Qdiscs of a NIC and of its queues."""

from __future__ import annotations

import struct
from typing import Any

from ansible_collections.podnet.datapath.plugins.module_utils._kernel import messages, netlink, qdisc


def test_the_qdiscs_of_queues_are_reported_below_mq() -> None:
    root, below = 0xFFFFFFFF, 0x10001
    assert qdisc.kind_of([(0, root, "fq_codel")]) == "fq_codel"
    assert qdisc.kind_of([(0x10000, root, "mq"), (0, below, "fq"), (0, below + 1, "fq")]) == "fq"
    assert qdisc.kind_of([(0x10000, root, "mq"), (0, below, "fq"), (0, below + 1, "htb")]) == "fq*1+htb*1"
    assert qdisc.kinds("fq*2+pfifo*1") == ["fq", "fq", "pfifo"] and qdisc.kinds("fq") == ["fq"]
    assert qdisc.kind_of([]) == ""


def message(parent: int, kind: str, limit: int | None = None) -> Any:
    """Return a reply to RTM_GETQDISC as it is decoded."""
    options = b"" if limit is None else netlink.attribute(1, struct.pack("=I", limit))
    payload = (
        struct.pack("=BxxxiIII", 0, 1, 0, parent, 0)
        + netlink.attribute(1, kind.encode() + b"\0")
        + netlink.attribute(2, options)
    )
    data = struct.pack("=IHHII", 16 + len(payload), 36, 0, 1, 0) + payload
    return netlink.decode(messages.traffic_control_type(), data)


def test_queues_of_a_device_and_their_limits() -> None:
    root, ingress = 0xFFFFFFFF, 0xFFFFFFF1
    mq = [message(root, "mq"), message(0x10001, "fq", 10000), message(0x10002, "fq", 500)]
    assert qdisc.queues_of([message(root, "noqueue")]) == [qdisc.Queue("noqueue")]
    assert qdisc.queues_of([*mq, message(ingress, "clsact")]) == [
        *(qdisc.Queue("fq", 10000), qdisc.Queue("fq", 500))
    ]
    assert qdisc.queues_of([message(root, "htb"), message(0x10001, "fq", 100)]) == [qdisc.Queue("htb")]
    assert qdisc.queues_of([message(root, "fq", 9)]) == [qdisc.Queue("fq", 9)]
    assert qdisc.queues_of([message(root, "fq")]) == [qdisc.Queue("fq")]
    assert qdisc.queues_of([message(ingress, "clsact")]) == []
