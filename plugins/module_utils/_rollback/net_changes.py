# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Net changes: the difference between the state before the first record of a journal and after the last one.

All functions are pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .._core.files import Metadata, digest
from .._core.plan import Change, Value
from .journal import Record


@dataclass(frozen=True)
class Key:
    """A setting or file of the node.

    ``scope`` is a NIC, a network namespace or a pin directory, empty for the node. ``name`` is a file's path.
    """

    subsystem: str
    scope: str
    name: str


@dataclass(frozen=True)
class NetChange:
    """The value before this collection's first change and after its last one.

    ``unfinished`` has the values of changes whose end is not recorded: each may or may not have happened.
    ``metadata`` are those of a file before the first change, None if it did not exist.
    """

    before: Value
    after: Value
    unfinished: frozenset[Value] = frozenset()
    metadata: Metadata | None = None


@dataclass(frozen=True)
class NetChanges:
    """Everything that differs from before the first record. A file's ``after`` is a digest."""

    settings: Mapping[Key, NetChange]
    files: Mapping[Key, NetChange]

    def __bool__(self) -> bool:
        return bool(self.settings or self.files)


def _add(
    nets: dict[Key, NetChange],
    key: Key,
    change: Change,
    finished: bool,
    comparable: Callable[[Any], Any],
    metadata: Metadata | None = None,
) -> None:
    """Add one recorded change. ``comparable`` converts a former value to the form of ``after``."""
    net = nets.pop(key, NetChange(change.before, comparable(change.before), metadata=metadata))
    unfinished = frozenset() if finished else (net.unfinished | {net.after}) - {comparable(net.before)}
    if comparable(net.before) != change.after or unfinished:
        nets[key] = NetChange(net.before, change.after, unfinished, net.metadata)


def net_changes(records: Iterable[Record]) -> NetChanges:
    """Return what differs from before the first record.

    A setting that was restored drops out, so a later change starts from its value at that time. A change or
    rollback without a recorded end counts as planned and is marked as unfinished.
    """
    records = list(records)
    ends = {record["run"]: record for record in records if "end" in record}
    settings: dict[Key, NetChange] = {}
    files: dict[Key, NetChange] = {}
    for record in records:
        if "changes" not in record or "end" in record:
            continue
        end = ends.get(record["run"], {})
        for item in end.get("changes", record["changes"]):
            key = Key(record["subsystem"], item["scope"], item["name"])
            change = Change(key.name, item["before"], item["after"])
            _add(settings, key, change, "changes" in end, lambda value: value)
        for path, file in record["files"].items():
            if path in end.get("files_unchanged", ()):
                continue
            key = Key(record["subsystem"], "", path)
            kept = Metadata.from_dict(file["metadata"]) if "metadata" in file else None
            _add(files, key, Change(path, file["before"], file["after"]), bool(end), digest, kept)
    return NetChanges(settings, files)
