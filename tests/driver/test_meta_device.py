# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""meta_device with meta, and netkit if the node's kernel has it, with the node's pyroute2."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.driver.meta_device_checks import CHECKS
from tests.support.lab_node import LabNode, assert_passed
from tests.support.node_checks import Outcome


@pytest.fixture(scope="module")
def outcomes(node: LabNode, module: Path) -> dict[str, Outcome]:
    """Run all checks in one process on the node; return their outcomes."""
    return node.run_checks("tests.driver.meta_device_checks", module.name, files=[module])


@pytest.mark.parametrize("check", CHECKS)
def test_on_node(outcomes: dict[str, Outcome], check: str) -> None:
    """Pass a check of meta_device_checks.py."""
    assert_passed(outcomes[check])
