# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Policies and services on the devices that only a node has: the same checks as on veth.

Every second check, which is some of each subject; all of them with PODNET_CASES=all (make test-datapath).
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from driver_lab import SHARED, Node, bring
from policy_checks import CHECKS

# netkit came with 6.7
KINDS = {"6.1": ("meta",)}.get(os.environ.get("PODNET_KERNEL", "6.1"), ("meta", "netkit"))
EVERY = 1 if os.environ.get("PODNET_CASES") == "all" else 2


@pytest.fixture(scope="module")
def outcomes(
    node: Node, module: Path, datapath_object: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """What went wrong on the node by check, "" where nothing did; all checks are one process there."""
    folder = tmp_path_factory.mktemp("datapath")
    cases: list[Any] = yaml.safe_load((SHARED / "policy_cases.yml").read_text())
    (folder / "policy_cases.json").write_text(json.dumps(cases))
    files = (*SHARED.glob("*.py"), folder / "policy_cases.json", datapath_object, module)
    there = bring(node, folder, "datapath_checks.py", *files)
    words = " ".join(("python3 datapath_checks.py", module.name, datapath_object.name, str(EVERY), *KINDS))
    output = node.ssh(f"cd {there} && exec {words}", timeout=1800)
    return {one["check"]: one["failure"] for one in map(json.loads, output.splitlines())}


@pytest.mark.parametrize("name", list(CHECKS)[::EVERY])
@pytest.mark.parametrize("kind", KINDS)
def test_policy(outcomes: dict[str, str], kind: str, name: str) -> None:
    """A case of policy_cases.yml, or a check of policy_checks.py."""
    failure = outcomes[f"{kind}: {name}"]
    assert not failure, f"\n{failure}"
