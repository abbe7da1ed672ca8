# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plan the writes that change the maps to an image, atomically for packets.

Identities, policy and services are double-buffered: the inactive buffer is filled, then committed by one
store to ``config``. Both buffers share rulesets, Maglev tables and backends, of which only those are written
that the active buffer does not use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from .layout import INDEX, buffer_offset
from .snapshot import Snapshot


@dataclass
class MapWrites:
    """Keys to delete and entries to write, by map, in this order; then ``config`` and ``delete_after``.

    ``config`` are the new generation and features, ``delete_after`` the entries that only the former
    generation used, ``reset_slots`` the slots of ``metrics`` to set to zero. ``loses_udp_backends``: sockets
    may be connected to removed backends.
    """

    delete: dict[str, list[bytes]] = field(default_factory=dict)
    update: dict[str, dict[bytes, bytes]] = field(default_factory=dict)
    config: tuple[int, int] = (0, 0)
    delete_after: dict[str, list[bytes]] = field(default_factory=dict)
    reset_slots: list[int] = field(default_factory=list)
    loses_udp_backends: bool = False


class SlotAllocator:
    """Allocates elements of an array; elements that the active buffer uses are never written.

    ``used`` are the indexes that the active buffer uses, ``known`` the indexes of contents that can be
    shared.
    """

    def __init__(self, size: int, used: Iterable[int], known: Mapping[bytes, int]) -> None:
        self.size = size
        self.new: dict[int, bytes] = {}  # contents to write, by index
        self._known = dict(known)
        self._used = {*used, *known.values()}
        self._next = 0

    def index_of(self, content: bytes) -> int:
        """Return the index of an element with this content; beyond the end if the array is full."""
        if content not in self._known:
            while self._next in self._used:
                self._next += 1
            self._used.add(self._next)
            self._known[content] = self._next
            self.new[self._next] = content
        return self._known[content]

    @property
    def overflow(self) -> bool:
        """Return whether more elements were allocated than the array has."""
        return any(index >= self.size for index in self.new)


class Writer:
    """Collects the writes of all maps, and a problem for each map that is too small.

    ``option`` is the option of bpf_state that the problem names.
    """

    def __init__(self, snapshot: Snapshot, features: int) -> None:
        self.snapshot = snapshot
        self.active = snapshot.buffer
        self.inactive = 1 - snapshot.buffer
        self.writes = MapWrites(config=(snapshot.next_generation, features))
        self.problems: list[str] = []

    def fill_buffer(self, name: str, entries: dict[bytes, bytes], option: str) -> None:
        """Replace the entries of a map in the inactive buffer. Their keys contain the buffer."""
        current, at = self.snapshot.hashes[name], buffer_offset(name)
        self.writes.delete[name] = [key for key in current if key[at] == self.inactive and key not in entries]
        self.writes.update[name] = {k: value for k, value in entries.items() if current.get(k) != value}
        active = sum(key[at] != self.inactive for key in current)
        size = self.snapshot.sizes[name]
        if active + len(entries) > size:
            self.problems.append(
                f"{option}: {len(entries)} entries exceed the map {name} of {size} entries, of which"
                f" {active} are in use; declare fewer {option}"
            )

    def write_entries(
        self, name: str, entries: Mapping[bytes, bytes | None], total: int, option: str
    ) -> None:
        """Write single entries of a map in the inactive buffer, None to delete one.

        ``total`` is how many entries the map has afterwards.
        """
        self.writes.delete[name] = [key for key, value in entries.items() if value is None]
        self.writes.update[name] = {key: value for key, value in entries.items() if value is not None}
        size = self.snapshot.sizes[name]
        if total > size:
            self.problems.append(
                f"{option}: {total} entries exceed the map {name} of {size} entries; declare fewer {option}"
            )

    def replace_entries(
        self,
        name: str,
        entries: dict[bytes, bytes],
        removed_value: Callable[[bytes, bytes], bytes],
        option: str,
    ) -> None:
        """Replace the entries of a map whose values contain both buffers.

        ``removed_value`` returns that of a removed entry for the new generation, until it is deleted.
        """
        current = self.snapshot.hashes[name]
        removed = [key for key in current if key not in entries]
        self.writes.delete_after[name] = removed
        self.writes.update[name] = {
            **{key: value for key, value in entries.items() if current.get(key) != value},
            **{key: removed_value(key, current[key]) for key in removed},
        }
        size = self.snapshot.sizes[name]
        if len(current) + len(entries.keys() - current.keys()) > size:
            self.problems.append(
                f"{option}: {len(entries)} entries exceed the map {name} of {size} entries, of which"
                f" {len(removed)} are in use; declare fewer {option}"
            )

    def write_new(self, name: str, allocator: SlotAllocator, option: str) -> None:
        """Write the newly allocated elements of an array."""
        self.writes.update[name] = {INDEX.pack(i): content for i, content in allocator.new.items()}
        if allocator.overflow:
            self.problems.append(
                f"{option}: {len(allocator.new)} more entries exceed the map {name} of {allocator.size}"
                f" entries; declare fewer {option}"
            )
