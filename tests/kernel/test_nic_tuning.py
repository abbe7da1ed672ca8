# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""nic_tuning in a node: on netdevsim, e1000e and igb, and after a boot."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from driver_lab import HERE, Node, run
from linux_source import netdevsim

CHECKS = re.findall(r"^@check\ndef (\w+)", (HERE / "nic_checks.py").read_text(), re.MULTILINE)
UTILS = "plugins/module_utils"


@pytest.fixture(scope="module")
def outcomes(node: Node, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What went wrong on the node by check, "" where nothing did; all checks are one process there."""
    module = netdevsim(node, os.environ.get("PODNET_KERNEL", "6.1"))
    archive = tmp_path_factory.mktemp("archive") / "checks.tar"
    place = "ansible_collections/podnet/datapath"
    run(
        *("tar", "-cf", str(archive), "--exclude=__pycache__"),
        *(f"--transform=s,^{UTILS},{place}/{UTILS},", "-C", str(HERE.parents[1]), UTILS),
        *("-C", str(HERE), "nic_checks.py", "-C", str(module.parent), module.name),
    )
    command = f"mkdir -p nics && cd nics && tar -x && exec python3 nic_checks.py {module.name}"
    with Path(archive).open("rb") as data:
        output = node.ssh(command, stdin=data, timeout=1200)
    return {one["check"]: one["failure"] for one in map(json.loads, output.splitlines())}


@pytest.mark.parametrize("check", CHECKS)
def test_on_node(outcomes: dict[str, str], check: str) -> None:
    """One of nic_checks.py, which says what it is about."""
    assert not outcomes[check], f"\n{outcomes[check]}"
