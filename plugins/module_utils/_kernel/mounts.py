# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Find mounted file systems, and cgroups of version 2.

Source: proc_pid_mountinfo(5), Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

CGROUP2 = "cgroup2"


def _mounts() -> Iterator[tuple[str, str]]:
    """Yield mount point and type of each mount, in the order of mounting."""
    with open("/proc/self/mountinfo", encoding="utf-8") as f:
        for line in f:
            # The mount point is field 5; the type follows the separator "-".
            fields = line.split(" ")
            point = re.sub(r"\\(\d{3})", lambda m: chr(int(m[1], 8)), fields[4])
            yield point, fields[fields.index("-") + 1]


def filesystem(path: str) -> str:
    """Return the type of the file system that ``path``, which need not exist, is on."""
    path = os.path.realpath(path)
    best, found = "", ""
    for point, kind in _mounts():
        below = path == point or path.startswith(point.rstrip("/") + "/")
        if below and len(point) >= len(best):
            best, found = point, kind
    return found


def cgroup2_mount() -> str:
    """Return where the cgroup v2 hierarchy is mounted, empty if it is not.

    Programs like systemd mount it at /sys/fs/cgroup, or at /sys/fs/cgroup/unified beside version 1.
    """
    points = [point for point, kind in _mounts() if kind == CGROUP2 and filesystem(point) == CGROUP2]
    return min(points, key=lambda point: (not point.startswith("/sys/fs/cgroup"), len(point)), default="")


def cgroup_id(path: str) -> int:
    """Return the kernel's ID of a cgroup of version 2, 0 if ``path`` is none."""
    try:
        found = os.stat(path)
    except OSError:
        return 0
    return found.st_ino if os.path.isdir(path) and filesystem(path) == CGROUP2 else 0
