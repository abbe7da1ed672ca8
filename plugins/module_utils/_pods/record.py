# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What this boot has of ours: namespaces, each owner's routes, and a lock. Private to this collection."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator

from .._kernel import netns
from .model import Route

RUN = "/run/podnet"


def made_namespaces() -> dict[str, str]:
    """Return path and owner of the namespaces that this collection made."""
    made = {}
    folder = f"{RUN}/netns"
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(folder):
            with contextlib.suppress(FileNotFoundError), open(f"{folder}/{name}", encoding="utf-8") as marker:
                made[netns.path_of(name)] = marker.read().strip()
    return made


def marker_of(path: str) -> str:
    """Return the path of the marker, which holds the owner, of a namespace that this collection made."""
    return f"{RUN}/netns/{os.path.basename(path)}"


def recorded_routes(owner: str) -> frozenset[Route]:
    """Return the host routes that an owner added since the boot."""
    try:
        with open(f"{RUN}/routes/{owner}.json", encoding="utf-8") as file:
            return frozenset(Route(*entry) for entry in json.load(file))
    except (FileNotFoundError, ValueError, TypeError):
        return frozenset()


def record_routes(owner: str, routes: frozenset[Route]) -> None:
    """Replace the record of an owner's host routes."""
    path = f"{RUN}/routes/{owner}.json"
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    with open(path + ".new", "w", encoding="utf-8") as file:
        json.dump(sorted(routes), file)
    os.replace(path + ".new", path)


@contextlib.contextmanager
def locked(wanted: bool = True) -> Iterator[None]:
    """Keep other calls out (a second play, a CNI plugin) for the length of a block, if ``wanted``."""
    if not wanted:
        yield
        return
    os.makedirs(RUN, mode=0o755, exist_ok=True)
    with open(f"{RUN}/lock", "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
