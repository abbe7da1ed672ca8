# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""nic_tuning in a node: on netdevsim, e1000e and igb, and after a boot."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from pathlib import Path

import pytest
from driver_lab import HERE, Node, bring, lab
from linux_source import netdevsim

CHECKS = re.findall(r"^@check\ndef (\w+)", (HERE / "nic_checks.py").read_text(), re.MULTILINE)


@pytest.fixture(scope="module")
def outcomes(node: Node, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What went wrong on the node by check, "" where nothing did; all checks are one process there."""
    module = netdevsim(node, os.environ.get("PODNET_KERNEL", "6.1"))
    folder = bring(node, tmp_path_factory.mktemp("archive"), "nic_checks.py", module)
    output = node.ssh(f"cd {folder} && exec python3 nic_checks.py {module.name}", timeout=1200)
    return {one["check"]: one["failure"] for one in map(json.loads, output.splitlines())}


@pytest.mark.parametrize("check", CHECKS)
def test_on_node(outcomes: dict[str, str], check: str) -> None:
    """One of nic_checks.py, which says what it is about."""
    assert not outcomes[check], f"\n{outcomes[check]}"


def reboot(node: Node) -> None:
    """Boot the node and wait until it is there again."""
    ask = "cat /proc/sys/kernel/random/boot_id"
    before = node.ssh(ask)
    with contextlib.suppress(RuntimeError):  # the connection may end first
        node.ssh("systemctl reboot")
    end = time.monotonic() + 900
    while time.monotonic() < end:
        with contextlib.suppress(RuntimeError):
            if node.ssh(ask) != before:
                return
        time.sleep(1)
    raise AssertionError("the node did not come back")


def test_settings_outlive_a_driver_s_reload_and_a_boot(node: Node, tmp_path: Path) -> None:
    """As nic_boot_checks.py says, with owners that want something else."""
    folder = bring(node, tmp_path, "nic_boot_checks.py")
    try:
        for step in ("keep", "reload"):
            node.ssh(f"cd {folder} && exec python3 nic_boot_checks.py {step}", timeout=300)
        reboot(node)
        node.ssh(f"cd {folder} && exec python3 nic_boot_checks.py look", timeout=300)
    finally:
        # The node is others' too.
        lab("restore", "--name", node.lab, "booted")
