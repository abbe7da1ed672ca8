# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""revert restores the complete state of a node, and the arguments with which GRUB boots it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.support.lab_node import LabNode


@pytest.fixture(scope="module")
def tuned(node: LabNode) -> Iterator[LabNode]:
    """Yield the node in the state of its first boot, with administrators' settings of GRUB."""
    node.restore()
    node.send("tests/driver", name="revert_checks")
    do(node, "prepare")
    yield node
    node.restore()  # Other tests share the node.


def do(node: LabNode, *steps: str) -> None:
    checks = "cd revert_checks && exec python3 -m tests.driver.revert_checks"
    node.ssh(f"{checks} {' '.join(steps)}", timeout=600)


def test_all_sysctls_nics_and_files_are_restored(tuned: LabNode) -> None:
    do(tuned, "complete")


@pytest.mark.skipif(
    os.environ.get("PODNET_KERNEL", "6.1") != "6.12",
    reason="takes 2 min in the emulated node, so it runs on 6.12 only: make test-driver KERNEL=6.12",
)
def test_grub_boots_with_the_arguments_and_without_them_after_the_rollback(tuned: LabNode) -> None:
    do(tuned, "refused", "set")
    tuned.reboot()
    do(tuned, "booted", "revert")
    tuned.reboot()
    do(tuned, "restored")
