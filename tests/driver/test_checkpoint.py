# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A node rolls back a change that is not confirmed. tests/faults interrupts changes in more ways."""

from __future__ import annotations

import json
import os

import pytest

from tests.support.faulty_node import NIC, REMOTE, FaultyNode, same

KERNEL = os.environ.get("PODNET_KERNEL", "6.1")


@pytest.fixture(scope="module")
def faulty() -> FaultyNode:
    """Return the node of the driver's tests, restored to its first boot."""
    name = "driver-" + KERNEL.replace(".", "-")
    up = ("--nodes", "1", "--kernel", KERNEL, "--nic", "e1000e", "--nic", "igb", "--snapshot", "booted")
    return FaultyNode(name, *up)


def test_program_that_drops_all_packets_is_rolled_back(faulty: FaultyNode) -> None:
    """The program cuts the controller's connection. It is rejected while another checkpoint is pending."""
    former = faulty.state()
    mtu = json.dumps({"name": NIC, "mtu": 1300})
    made = faulty.do("nic", mtu, "900")
    assert "is pending confirmation" in faulty.do("program", f"{REMOTE}/drop.bpf.o", NIC, "900")["problem"]
    assert faulty.do("checkpoint", "reverted", made["checkpoint"])["status"] == "reverted"
    with faulty.doing("program", f"{REMOTE}/drop.bpf.o", NIC, "10") as running:
        running.communicate()
    now = faulty.state()
    assert same(now, former) and "not confirmed in 10 s" in now["checkpoint"]["reason"]
    assert any(f"{NIC}-ingress = None" in line for line in now["checkpoint"]["reverted"])
