# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""nic_tuning on a node: on netdevsim, e1000e and igb, and after a reboot."""

from __future__ import annotations

import os

import pytest

from tests.driver.linux_source import netdevsim
from tests.driver.nic_checks import CHECKS
from tests.support.lab_node import LabNode, assert_passed
from tests.support.node_checks import Outcome


@pytest.fixture(scope="module")
def outcomes(node: LabNode) -> dict[str, Outcome]:
    """Run all checks in one process on the node; return their outcomes."""
    module = netdevsim(node, os.environ.get("PODNET_KERNEL", "6.1"))
    return node.run_checks("tests.driver.nic_checks", module.name, files=[module])


@pytest.mark.parametrize("check", CHECKS)
def test_on_node(outcomes: dict[str, Outcome], check: str) -> None:
    """Pass a check of nic_checks.py."""
    assert_passed(outcomes[check])


def test_settings_survive_driver_reload_and_reboot(node: LabNode) -> None:
    """Settings of nic_tuning win over those of networkd and udev, see nic_boot_checks.py."""
    node.send("tests/driver", name="nic_boot_checks")
    checks = "cd nic_boot_checks && exec python3 -m tests.driver.nic_boot_checks"
    try:
        for step in ("keep", "reload"):
            node.ssh(f"{checks} {step}", timeout=300)
        node.reboot()
        node.ssh(f"{checks} verify", timeout=300)
    finally:
        # Other tests share the node.
        node.restore()
