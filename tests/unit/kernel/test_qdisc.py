# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Qdiscs of a NIC and of its queues."""

from __future__ import annotations

from ansible_collections.podnet.datapath.plugins.module_utils._kernel import qdisc


def test_the_qdiscs_of_queues_are_reported_below_mq() -> None:
    root, below = 0xFFFFFFFF, 0x10001
    assert qdisc.kind_of([(0, root, "fq_codel")]) == "fq_codel"
    assert qdisc.kind_of([(0x10000, root, "mq"), (0, below, "fq"), (0, below + 1, "fq")]) == "fq"
    assert qdisc.kind_of([(0x10000, root, "mq"), (0, below, "fq"), (0, below + 1, "htb")]) == "fq*1+htb*1"
    assert qdisc.kinds("fq*2+pfifo*1") == ["fq", "fq", "pfifo"] and qdisc.kinds("fq") == ["fq"]
    assert qdisc.kind_of([]) == ""
