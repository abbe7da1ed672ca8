# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What tuning does to packets: TCP zero-copy maps whole pages, and packets grow beyond 64 KiB."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from driver_lab import HERE, SHARED, Node, bring
from linux_source import tcp_mmap

CHECKS = re.findall(r"^@check\ndef (\w+)", (HERE / "effect_checks.py").read_text(), re.MULTILINE)


if os.environ.get("PODNET_KERNEL", "6.1") != "6.12":
    pytest.skip(
        "minutes of emulated streams, run on 6.12 alone: make test-driver KERNEL=6.12",
        allow_module_level=True,
    )


@pytest.fixture(scope="module")
def outcomes(
    node: Node, module: Path, datapath_object: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What came of each check; all are one process in the node."""
    files = (*SHARED.glob("*.py"), tcp_mmap(), module, datapath_object)
    folder = bring(node, tmp_path_factory.mktemp("archive"), "effect_checks.py", *files)
    words = f"python3 effect_checks.py {module.name} {datapath_object.name}"
    output = node.ssh(f"cd {folder} && exec {words}", timeout=1800)
    return {one["check"]: one for one in map(json.loads, output.splitlines())}


@pytest.mark.parametrize("check", CHECKS)
def test_on_node(outcomes: dict[str, Any], check: str) -> None:
    """One of effect_checks.py, which says what it is about."""
    print(outcomes[check]["measured"])
    assert not outcomes[check]["failure"], f"\n{outcomes[check]['failure']}"
