# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A cgroup of version 2 of a test. Programs of sockets apply to sockets that its processes create."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ansible_collections.podnet.datapath.plugins.module_utils._kernel.mounts import cgroup2_mount
from tests.support.namespaces import command


@contextlib.contextmanager
def _hierarchy() -> Iterator[Path]:
    """Yield where cgroup v2 is mounted; mount it during the block if it is not."""
    mounted = cgroup2_mount()
    if mounted:
        yield Path(mounted)
        return
    with tempfile.TemporaryDirectory() as folder:
        command("mount", "-t", "cgroup2", "none", folder)
        try:
            yield Path(folder)
        finally:
            command("umount", folder)


@contextlib.contextmanager
def cgroup(name: str) -> Iterator[str]:
    """Create a cgroup and move this process there during the block; yield its path."""
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    (own,) = (line[len("0::") :] for line in lines if line.startswith("0::"))
    with _hierarchy() as root:
        path = root / f"podnet-test-{os.getpid()}-{name}"
        path.mkdir()
        try:
            (path / "cgroup.procs").write_text(str(os.getpid()))
            yield str(path)
        finally:
            (root / own.lstrip("/") / "cgroup.procs").write_text(str(os.getpid()))
            path.rmdir()
