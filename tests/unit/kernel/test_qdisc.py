# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Qdiscs of a NIC and of its queues."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._kernel import netlink, qdisc


def test_the_qdiscs_of_queues_are_reported_below_mq() -> None:
    root, below = 0xFFFFFFFF, 0x10001
    assert qdisc.kind_of([(0, root, "fq_codel")]) == "fq_codel"
    assert qdisc.kind_of([(0x10000, root, "mq"), (0, below, "fq"), (0, below + 1, "fq")]) == "fq"
    assert qdisc.kind_of([(0x10000, root, "mq"), (0, below, "fq"), (0, below + 1, "htb")]) == "fq*1+htb*1"
    assert qdisc.kinds("fq*2+pfifo*1") == ["fq", "fq", "pfifo"] and qdisc.kinds("fq") == ["fq"]
    assert qdisc.kind_of([]) == ""


def message(index: int, parent: int, kind: str, limit: int | None = None) -> bytes:
    """Return an answer of RTM_GETQDISC."""
    options = b"" if limit is None else netlink.attribute(1, struct.pack("=I", limit))
    return (
        struct.pack("=BxxxiIII", 0, index, 0, parent, 0)
        + netlink.attribute(1, kind.encode() + b"\0")
        + netlink.attribute(2, options)
    )


def test_queues_of_a_device_and_their_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    root, ingress = 0xFFFFFFFF, 0xFFFFFFF1
    answers = [
        *(message(1, root, "noqueue"), message(2, root, "mq"), message(2, 0x10001, "fq", 10000)),
        *(message(2, 0x10002, "fq", 500), message(2, ingress, "clsact"), message(3, root, "htb")),
        *(message(3, 0x10001, "fq", 100), message(4, root, "fq", 9), message(5, ingress, "clsact")),
    ]

    def request(*_: Any) -> list[bytes]:
        return answers

    monkeypatch.setattr(qdisc, "_request", request)
    assert qdisc.queues(1) == [qdisc.Queue("noqueue")]
    assert qdisc.queues(2) == [qdisc.Queue("fq", 10000), qdisc.Queue("fq", 500)]
    assert qdisc.queues(3) == [qdisc.Queue("htb")]
    assert qdisc.queues(4) == [qdisc.Queue("fq", 9)]
    assert qdisc.queues(5) == []
