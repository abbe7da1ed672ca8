# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The agent attaches containers by meta, by netkit if the node's kernel has it, and by veth."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.driver.agent_checks import CHECKS
from tests.support.checkout import CHECKOUT
from tests.support.lab_node import LabNode, assert_passed
from tests.support.node_checks import Outcome

# netkit was added in 6.7
KINDS = {"6.1": ("meta", "veth")}.get(os.environ.get("PODNET_KERNEL", "6.1"), ("meta", "netkit", "veth"))


@pytest.fixture(scope="module")
def outcomes(
    node: LabNode, module: Path, datapath_object: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Outcome]:
    """Run all checks in one process on the node; return their outcomes."""
    ipam = tmp_path_factory.mktemp("ipam") / "fixed"
    subprocess.run(["gcc", "-O2", "-static", "-o", ipam, CHECKOUT / "bench/cni/fixed.c"], check=True)
    files = (module, datapath_object, ipam)
    arguments = (module.name, datapath_object.name, ipam.name, *KINDS)
    return node.run_checks("tests.driver.agent_checks", *arguments, files=files)


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("kind", KINDS)
def test_on_node(outcomes: dict[str, Outcome], kind: str, check: str) -> None:
    """Pass a check of agent_checks.py."""
    assert_passed(outcomes[f"{kind}: {check}"])
