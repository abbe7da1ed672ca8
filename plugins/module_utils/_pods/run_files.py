# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files in /run/podnet: created namespaces, host routes of each owner, and a lock. A boot deletes them."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator

from .._core import lock
from .._core.files import replace_file
from .._kernel import netns
from .model import Route

RUN = "/run/podnet"


def created_namespaces() -> dict[str, str]:
    """Return path and owner of the namespaces that this collection created."""
    created = {}
    folder = f"{RUN}/netns"
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(folder):
            with contextlib.suppress(FileNotFoundError), open(f"{folder}/{name}", encoding="utf-8") as file:
                created[netns.path_of(name)] = file.read().strip()
    return created


def owner_file(path: str) -> str:
    """Return the path of the file that holds the owner of a created namespace."""
    return f"{RUN}/netns/{os.path.basename(path)}"


def read_host_routes(owner: str) -> frozenset[Route]:
    """Return the host routes that an owner has added since the boot."""
    try:
        with open(f"{RUN}/routes/{owner}.json", encoding="utf-8") as file:
            return frozenset(Route(*entry) for entry in json.load(file))
    except (FileNotFoundError, ValueError, TypeError):
        return frozenset()


def write_host_routes(owner: str, routes: frozenset[Route]) -> None:
    """Replace the list of an owner's host routes."""
    path = f"{RUN}/routes/{owner}.json"
    lock.private_folder(RUN)
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    replace_file(path, json.dumps(sorted(routes)).encode(), 0o600)


@contextlib.contextmanager
def locked(exclusive: bool = True) -> Iterator[None]:
    """Hold the lock that all calls need to change Pods; without ``exclusive``, do nothing."""
    if not exclusive:
        yield
        return
    with lock.locked(f"{RUN}/lock"):
        yield
