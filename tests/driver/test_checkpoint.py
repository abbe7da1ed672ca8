# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The node takes back what nobody confirms. tests/faults has more ways to be cut off, and takes longer."""

from __future__ import annotations

import json
import os
import sys

import pytest
from driver_lab import HERE

sys.path.insert(0, str(HERE.parent / "faults"))

from faulty_node import NIC, THERE, Node, same

KERNEL = os.environ.get("PODNET_KERNEL", "6.1")


@pytest.fixture(scope="module")
def faulty() -> Node:
    """The node of these tests as it had booted, which others put back before they use it."""
    name = "driver-" + KERNEL.replace(".", "-")
    up = ("--nodes", "1", "--kernel", KERNEL, "--nic", "e1000e", "--nic", "igb", "--snapshot", "booted")
    return Node(name, *up)


def test_a_program_that_drops_everything_is_taken_away(faulty: Node) -> None:
    """It cuts the very connection, and a second controller that came before is refused meanwhile."""
    former = faulty.state()
    mtu = json.dumps({"name": NIC, "mtu": 1300})
    made = faulty.do("nic", mtu, "900")
    assert "waits for its confirmation" in faulty.do("program", f"{THERE}/drop.bpf.o", NIC, "900")["problem"]
    assert faulty.do("checkpoint", "reverted", made["checkpoint"])["status"] == "reverted"
    with faulty.doing("program", f"{THERE}/drop.bpf.o", NIC, "10") as running:
        running.communicate()
    now = faulty.state()
    assert same(now, former) and "not confirmed in 10 s" in now["checkpoint"]["reason"]
    assert any(f"{NIC}-ingress = None" in line for line in now["checkpoint"]["reverted"])
