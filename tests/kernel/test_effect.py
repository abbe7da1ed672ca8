# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What tuning does to packets: TCP zero-copy maps whole pages, at every page-aligned MTU."""

from __future__ import annotations

import json
import os
import re
from typing import Any

import pytest
from driver_lab import HERE, Node, bring
from linux_source import tcp_mmap

CHECKS = re.findall(r"^@check\ndef (\w+)", (HERE / "effect_checks.py").read_text(), re.MULTILINE)


if os.environ.get("PODNET_KERNEL", "6.1") != "6.12":
    pytest.skip(
        "minutes of emulated streams, run on 6.12 alone: make test-driver KERNEL=6.12",
        allow_module_level=True,
    )


@pytest.fixture(scope="module")
def outcomes(node: Node, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What came of each check; all are one process in the node."""
    folder = bring(node, tmp_path_factory.mktemp("archive"), "effect_checks.py", tcp_mmap())
    output = node.ssh(f"cd {folder} && exec python3 effect_checks.py", timeout=1800)
    return {one["check"]: one for one in map(json.loads, output.splitlines())}


@pytest.mark.parametrize("check", CHECKS)
def test_on_node(outcomes: dict[str, Any], check: str) -> None:
    """One of effect_checks.py, which says what it is about."""
    print(outcomes[check]["measured"])
    assert not outcomes[check]["failure"], f"\n{outcomes[check]['failure']}"
