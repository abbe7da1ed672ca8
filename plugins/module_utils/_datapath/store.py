# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Store the declaration of each owner for the lifetime of the maps.

The maps are computed from the declarations of all owners. They are stored on a tmpfs, so that a reboot
removes them together with the maps::

    /run/podnet/datapath/<pin path>/<owner>.json

``cluster_store`` has what the API of a cluster declares.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote

from .._core import lock
from .._core.files import replace_file
from .cluster_store import ClusterStore
from .layout import POD_SLOTS
from .model import Declaration

RUN = "/run/podnet/datapath"
_SUFFIX = ".json"


@dataclass
class Record:
    """The stored options of one owner, and the slots of its Pods by name."""

    options: dict[str, Any] = field(default_factory=dict)
    slots: dict[str, int] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return any(self.options.values())


class Store:
    """The declarations for the maps of one pin path."""

    def __init__(self, pin_path: str) -> None:
        self.folder = os.path.join(RUN, quote(os.path.realpath(pin_path), safe=""))
        self.cluster = ClusterStore(self.folder)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the declarations and the maps against other processes."""
        with lock.locked(os.path.join(self.folder, "lock")):
            yield

    def read(self) -> dict[str, Record]:
        """Return all records by owner."""
        records = {}
        with contextlib.suppress(FileNotFoundError):
            for name in sorted(os.listdir(self.folder)):
                # A killed process may have left an incomplete file, whose name begins with a dot.
                if name.endswith(_SUFFIX) and not name.startswith("."):
                    with open(os.path.join(self.folder, name), encoding="utf-8") as f:
                        raw = json.load(f)
                    records[unquote(name[: -len(_SUFFIX)])] = Record(raw["options"], raw["slots"])
        return records

    def write(self, owner: str, record: Record) -> None:
        """Store an owner's record; remove an empty one."""
        path = os.path.join(self.folder, quote(owner, safe="") + _SUFFIX)
        if record:
            text = json.dumps({"options": record.options, "slots": record.slots}, sort_keys=True)
            replace_file(path, text.encode(), 0o600)
            return
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)

    def forget(self) -> None:
        """Remove all records, after the maps were removed."""
        shutil.rmtree(self.folder, ignore_errors=True)


def stored(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that were set, so that an option added later does not change stored records."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: plain(one) for key, one in value.items() if one is not None}
        if isinstance(value, (list, tuple)):
            return [plain(one) for one in value]
        return value

    return {key: plain(value) for key, value in options.items() if value}


def assign_slots(own: Declaration, records: Mapping[str, Record], owner: str) -> dict[str, int]:
    """Return the slots of the owner's Pods on this node.

    A Pod keeps its slot. New Pods get the lowest free slots, and none if all slots are used: they have no
    counters of their own, and cannot have a rate. Slot 0 counts packets of no Pod.
    """
    names = [pod.name for pod in own.pods if pod.device]
    current = records[owner].slots if owner in records else {}
    slots = {name: current[name] for name in names if name in current}
    used = {slot for name, record in records.items() if name != owner for slot in record.slots.values()}
    used.update(slots.values())
    free = (slot for slot in range(1, POD_SLOTS) if slot not in used)
    slots.update(zip((name for name in names if name not in current), free))
    return slots


def shown_names(records: Mapping[str, Record]) -> dict[int, str]:
    """Return the names of Pods for reports, by slot."""
    shown = {}
    for record in records.values():
        names = {one["name"]: one.get("display_name") for one in record.options.get("endpoints") or ()}
        shown.update({slot: names.get(name) or name for name, slot in record.slots.items()})
    return shown


def all_slots(records: Mapping[str, Record]) -> dict[tuple[str, str], int]:
    """Return the slots of all Pods by owner and name."""
    return {(owner, pod): slot for owner, record in records.items() for pod, slot in record.slots.items()}
