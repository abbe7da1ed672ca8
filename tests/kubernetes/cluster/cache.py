# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Layers of the machines' roots: folders in the cache, named by the hash of their inputs."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from lablib import common


def folder() -> Path:
    """Return the folder of everything that the cluster builds."""
    return common.cache_dir() / "kubernetes"


def layer(name: str, recipe: str, build: Callable[[Path], None]) -> Path:
    """Return the layer ``name``; build it unless it is cached.

    Removes older builds of the same name, except those that a running machine has in its root.
    """
    key = hashlib.sha256(recipe.encode()).hexdigest()[:12]
    target = folder() / f"{name}-{key}"
    with common.lock(f"kubernetes-{name}"):
        if not target.exists():
            with common.built_dir(target) as work:
                build(work)
            for old in target.parent.glob(f"{name}-{'?' * len(key)}"):
                if old != target and not _in_use(old):
                    common.remove_tree(old)
    return target


def _in_use(path: Path) -> bool:
    """Return whether a machine holds a lock on a layer, see machine.sh."""
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False
