# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes of keys that exclude each other; tests/netns and tests/driver write to real kernels."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._core.plan import Change, Problem
from ansible_collections.podnet.datapath.plugins.module_utils._sysctl.tree import Tree

BYTES, RATIO = "vm/dirty_bytes", "vm/dirty_ratio"


class DirtyPages(Tree):
    """The kernel sets one of both keys to 0 when the other one is written, and accepts no 0 for the bytes."""

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        (root / "vm").mkdir()
        self._set(BYTES, "0")
        self._set(RATIO, "20")

    def _set(self, path: str, value: str) -> None:
        Path(self.root, path).write_text(value)

    def write(self, path: str, value: str) -> None:
        if path == BYTES and int(value) < 8192:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self._set(path, value)
        self._set(RATIO if path == BYTES else BYTES, "0")


def test_a_value_that_only_another_write_can_set_is_reached(tmp_path: Path) -> None:
    tree = DirtyPages(tmp_path)
    assert tree.apply([Change("vm.dirty_bytes", "0", "100000")], {BYTES: "100000"}) == {
        BYTES: "0",
        RATIO: "20",
    }
    assert tree.values([BYTES, RATIO]) == {BYTES: "100000", RATIO: "0"}
    changes = [Change("vm.dirty_bytes", "100000", "0"), Change("vm.dirty_ratio", "0", "20")]
    tree.apply(changes, {BYTES: "0", RATIO: "20"})
    assert tree.values([BYTES, RATIO]) == {BYTES: "0", RATIO: "20"}


def test_a_refused_value_restores_all(tmp_path: Path) -> None:
    tree = DirtyPages(tmp_path)
    with pytest.raises(Problem, match=r"the kernel refuses vm.dirty_bytes = 1: Invalid argument\.\nEvery"):
        tree.apply([Change("vm.dirty_bytes", "0", "1")], {BYTES: "1"})
    assert tree.values([BYTES, RATIO]) == {BYTES: "0", RATIO: "20"}
