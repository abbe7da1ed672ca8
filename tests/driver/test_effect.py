# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The effect of tuning on packets: TCP zero-copy maps pages, and packets exceed 64 KiB."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.driver.effect_checks import CHECKS
from tests.driver.linux_source import tcp_mmap
from tests.support.lab_node import LabNode, assert_passed
from tests.support.node_checks import Outcome

if os.environ.get("PODNET_KERNEL", "6.1") != "6.12":
    pytest.skip(
        "takes minutes in the emulated node, so it runs on 6.12 only: make test-driver KERNEL=6.12",
        allow_module_level=True,
    )


@pytest.fixture(scope="module")
def outcomes(node: LabNode, module: Path, datapath_object: Path) -> dict[str, Outcome]:
    """Run all checks in one process on the node; return their outcomes."""
    files = (tcp_mmap(), module, datapath_object)
    arguments = (module.name, datapath_object.name)
    return node.run_checks("tests.driver.effect_checks", *arguments, files=files, timeout=1800)


@pytest.mark.parametrize("check", CHECKS)
def test_on_node(outcomes: dict[str, Outcome], check: str) -> None:
    """Pass a check of effect_checks.py."""
    print(outcomes[check].measured)
    assert_passed(outcomes[check])
