# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""meta_device with meta, and netkit where the node's kernel has it, on the node's own pyroute2."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from driver_lab import HERE, Node, run

CHECKS = re.findall(r"^@check\ndef (\w+)", (HERE / "meta_device_checks.py").read_text(), re.MULTILINE)
UTILS = "plugins/module_utils"


@pytest.fixture(scope="module")
def outcomes(node: Node, module: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What went wrong on the node by check, "" where nothing did; all checks are one process there."""
    archive = tmp_path_factory.mktemp("archive") / "checks.tar"
    place = "ansible_collections/podnet/datapath"
    run(
        *("tar", "-cf", str(archive), "--exclude=__pycache__"),
        *(f"--transform=s,^{UTILS},{place}/{UTILS},", "-C", str(HERE.parents[1]), UTILS),
        *("-C", str(HERE), "meta_device_checks.py", "-C", str(module.parent), module.name),
    )
    command = f"mkdir -p pods && cd pods && tar -x && exec python3 meta_device_checks.py {module.name}"
    with archive.open("rb") as data:
        output = node.ssh(command, stdin=data, timeout=1200)
    found = [json.loads(line) for line in output.splitlines()]
    return {result["check"]: result["failure"] for result in found}


@pytest.mark.parametrize("check", CHECKS)
def test_on_node(outcomes: dict[str, str], check: str) -> None:
    """One of meta_device_checks.py, which says what it is about."""
    assert not outcomes[check], f"\n{outcomes[check]}"
