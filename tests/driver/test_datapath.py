# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Policies and services on the devices that only a node has: the same checks as on veth.

Every second check runs, so each subject is covered; PODNET_CASES=all (make test-datapath) runs all of them.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.support.lab_node import LabNode, assert_passed
from tests.support.node_checks import Outcome
from tests.support.policy_checks import read_cases
from tests.support.stack_nat_checks import CHECKS

# netkit was added in 6.7
KINDS = {"6.1": ("meta",)}.get(os.environ.get("PODNET_KERNEL", "6.1"), ("meta", "netkit"))
EVERY = 1 if os.environ.get("PODNET_CASES") == "all" else 2


@pytest.fixture(scope="module")
def outcomes(
    node: LabNode, module: Path, datapath_object: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Outcome]:
    """Run all checks in one process on the node; return their outcomes."""
    cases = tmp_path_factory.mktemp("cases") / "policy_cases.json"
    cases.write_text(json.dumps(read_cases()))
    files = (cases, datapath_object, module)
    arguments = (module.name, datapath_object.name, str(EVERY), *KINDS)
    return node.run_checks("tests.driver.datapath_checks", *arguments, files=files, timeout=1800)


@pytest.mark.parametrize("name", list(CHECKS)[::EVERY])
@pytest.mark.parametrize("kind", KINDS)
def test_policy(outcomes: dict[str, Outcome], kind: str, name: str) -> None:
    """Pass a case of policy_cases.yml or a check of policy_checks.py."""
    assert_passed(outcomes[f"{kind}: {name}"])
