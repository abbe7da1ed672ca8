# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Store what a cluster's API declares, beside the declarations of the owners.

The first line of the file has all objects, each further line a change, so that a change of one Pod among
thousands appends a line. When the changes are larger than the objects, the file is replaced::

    /run/podnet/datapath/<pin path>/cluster.log
"""

from __future__ import annotations

import contextlib
import json
import os

from .._core.files import replace_file
from .cluster import Cluster, ClusterChanges
from .codec import Json, decode, encode
from .model import Pod, Policy, Service

_MIN_CHANGES = 1 << 18  # bytes; fewer are kept, however small the objects are
_KINDS = (("policies", Policy), ("services", Service))


class ClusterStore:
    """The file in the directory of the declarations. Callers hold their lock."""

    def __init__(self, folder: str) -> None:
        self._path = os.path.join(folder, "cluster.log")
        self._objects = (0, 0)  # inode of the file, size of its first line

    def token(self) -> tuple[int, ...]:
        """Return what changes if another process changes the file."""
        try:
            status = os.stat(self._path)
        except FileNotFoundError:
            return ()
        return status.st_ino, status.st_size

    def read(self) -> Cluster | None:
        """Return the objects; None if the API has never been read."""
        try:
            with open(self._path, encoding="utf-8") as file:
                cluster = Cluster()
                for line in file:
                    if line.endswith("\n"):  # else a process was killed while it wrote the line
                        _decode_changes(json.loads(line)).apply(cluster)
                return cluster
        except FileNotFoundError:
            return None

    def replace(self, cluster: Cluster) -> None:
        """Store all objects."""
        everything = ClusterChanges({**cluster.pods}, {**cluster.policies}, {**cluster.services})
        os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
        replace_file(self._path, _line(everything), 0o600)

    def remove(self) -> None:
        """Remove the file."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)

    def append(self, changes: ClusterChanges, cluster: Cluster) -> None:
        """Store changes, of which ``cluster`` is the result."""
        line = _line(changes)
        with open(self._path, "r+b") as file:
            size = _complete_size(file.fileno())
            inode = os.fstat(file.fileno()).st_ino
            if inode != self._objects[0]:
                self._objects = (inode, len(file.readline()))
            if size > self._objects[1] + max(self._objects[1], _MIN_CHANGES):
                self.replace(cluster)
                return
            file.truncate(size)
            file.seek(size)
            file.write(line)


def _complete_size(fd: int) -> int:
    """Return the size of a file without a last line that is incomplete."""
    size = os.fstat(fd).st_size
    while size:
        start = max(size - 4096, 0)
        end = os.pread(fd, size - start, start).rfind(b"\n")
        if end >= 0:
            return start + end + 1
        size = start
    return 0


_to_json = json.JSONEncoder(separators=(",", ":")).encode


def _line(changes: ClusterChanges) -> bytes:
    """Return the line of changes. It encodes one object after the other: all at once need much memory."""
    kinds = []
    for kind in ("pods", *(kind for kind, _type in _KINDS)):
        objects = getattr(changes, kind)
        if objects:
            items = (f"{_to_json(name)}:{_to_json(encode(one))}" for name, one in objects.items())
            kinds.append(f'"{kind}":{{{",".join(items)}}}')
    return f"{{{','.join(kinds)}}}\n".encode()


def _decode_changes(raw: Json) -> ClusterChanges:
    changes = ClusterChanges()
    for name, pod in raw.get("pods", {}).items():
        changes.pods[name] = None if pod is None else decode(Pod, pod)
    for kind, type_ in _KINDS:
        for name, ones in raw.get(kind, {}).items():
            value = None if ones is None else tuple(decode(type_, one) for one in ones)
            getattr(changes, kind)[name] = value
    return changes
