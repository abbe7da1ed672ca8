# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Control groups of a cluster, in all hierarchies of cgroup v1 or in the one of cgroup v2.

All processes of a cluster, containers included, are in groups below its own, so that a later process can kill
them all.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from lablib.common import LabError


def _hierarchies(version: str = "") -> list[Path]:
    """Return the mount points: one per controller of cgroup v1, or one for cgroup v2, or both.

    ``version`` 2 selects the one of cgroup v2.
    """
    mounts = (line.partition(" - ") for line in Path("/proc/self/mountinfo").read_text().splitlines())
    return [Path(left.split()[4]) for left, dummy, right in mounts if right.startswith(f"cgroup{version}")]


def create(group: str) -> None:
    """Create a group with all controllers, which contains no processes itself, and its child ``init``."""
    for hierarchy in _hierarchies():
        path = hierarchy
        for name in (*group.split("/"), "init"):
            if (path / "cgroup.controllers").exists():
                _enable_controllers(path)
            path = path / name
            path.mkdir(exist_ok=True)
            # A new cpuset of cgroup v1 is empty.
            for file in ("cpuset.cpus", "cpuset.mems"):
                if (path / "cgroup.clone_children").exists() and (path / file).exists():
                    (path / file).write_text((path.parent / file).read_text())


def _enable_controllers(path: Path) -> None:
    """Enable all controllers of a cgroup v2 for its children."""
    wanted = " ".join(f"+{name}" for name in (path / "cgroup.controllers").read_text().split())
    with contextlib.suppress(OSError):
        (path / "cgroup.subtree_control").write_text(wanted)
        return
    # This computer is a container: the kernel refuses controllers unless its top group has no processes.
    own = path / "init"
    own.mkdir(exist_ok=True)
    for process in (path / "cgroup.procs").read_text().split():
        with contextlib.suppress(ProcessLookupError):
            (own / "cgroup.procs").write_text(process)
    (path / "cgroup.subtree_control").write_text(wanted)


def enter(group: str, *argv: str | Path) -> list[str]:
    """Return the command that runs ``argv`` in the child ``init`` of a group.

    In one hierarchy, and in cgroup v2, from which containers inherit the BPF programs of sockets.
    """
    files = {hierarchy / group / "init/cgroup.procs" for hierarchy in (_hierarchies()[0], *_hierarchies("2"))}
    script = 'for file in $0; do echo 0 >"$file"; done; exec "$@"'
    return ["sh", "-ec", script, " ".join(map(str, files)), *map(str, argv)]


def processes(group: str) -> set[int]:
    """Return the processes of a group and of those below it."""
    return {
        int(process)
        for hierarchy in _hierarchies()
        # Unlike glob(), os.walk() ignores folders that are removed meanwhile.
        for folder, _folders, _files in os.walk(hierarchy / group)
        for process in _read(Path(folder, "cgroup.procs")).split()
    }


def _read(file: Path) -> str:
    with contextlib.suppress(OSError):  # removed meanwhile
        return file.read_text()
    return ""


def kill(group: str) -> None:
    """Kill all processes of a group and of those below it."""
    deadline = time.monotonic() + 30
    while found := processes(group):
        if time.monotonic() > deadline:
            raise LabError(f"processes {sorted(found)} of the cgroup {group} do not end")
        for process in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.05)


def remove(group: str) -> None:
    """Kill all processes of a group and of those below it, and remove the groups; None is no error."""
    kill(group)
    for hierarchy in _hierarchies():
        for folder, _folders, _files in os.walk(hierarchy / group, topdown=False):
            os.rmdir(folder)
