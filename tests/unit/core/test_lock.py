# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Locks that only their owner can hold."""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._core import lock
from ansible_collections.podnet.datapath.plugins.module_utils._core.plan import Problem


@pytest.mark.parametrize("mode", [None, 0o644, 0o666])
def test_only_the_owner_can_open_the_lock(tmp_path: Path, mode: int | None) -> None:
    """A file of an older version, which any user could have opened, is replaced."""
    path = tmp_path / "podnet" / "lock"
    path.parent.mkdir()
    path.parent.chmod(0o755)
    if mode is not None:
        path.write_text("")
        path.chmod(mode)
    with lock.locked(str(path)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_lock_that_others_hold_from_before_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.write_text("")
    path.chmod(0o644)
    with path.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with lock.locked(str(path), timeout=0):
            pass
        # The replacement keeps later runs apart.
        with lock.locked(str(path)), pytest.raises(Problem), lock.locked(str(path), timeout=0):
            pass


def test_the_error_names_the_holder(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    with (
        lock.locked(path),
        pytest.raises(Problem, match=rf"this node, process {os.getpid()}\): run this again"),
        lock.locked(path, timeout=0.1),
    ):
        pytest.fail("entered")
    with lock.locked(path, timeout=0):
        pass


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("kept")
    (tmp_path / "lock").symlink_to(target)
    with pytest.raises(OSError, match="symbolic links"), lock.locked(str(tmp_path / "lock")):
        pytest.fail("entered")
    assert target.read_text() == "kept"
