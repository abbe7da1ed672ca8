# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A cgroup of version 2 of a test. Programs of sockets apply to sockets that its processes create."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from ansible_collections.podnet.datapath.plugins.module_utils._kernel.mounts import cgroup2_mount


def _own() -> Path:
    """Return the cgroup of this process."""
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    (path,) = (line[len("0::") :] for line in lines if line.startswith("0::"))
    return Path(cgroup2_mount() + path)


@contextlib.contextmanager
def cgroup(name: str) -> Iterator[str]:
    """Create a cgroup and move this process there during the block; yield its path."""
    home = _own()
    path = Path(cgroup2_mount()) / f"podnet-test-{os.getpid()}-{name}"
    path.mkdir()
    try:
        (path / "cgroup.procs").write_text(str(os.getpid()))
        yield str(path)
    finally:
        (home / "cgroup.procs").write_text(str(os.getpid()))
        path.rmdir()
