# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plan the writes of Pods: the maps ``endpoints4``, ``endpoints6`` and ``pods``.

Their values have identity and default verdicts of both buffers. Until the commit, a new entry of this node
has no identity and denies all traffic under policy; after it, a removed entry does, until it is deleted. An
address of another node has the identity of its prefix meanwhile.
"""

from __future__ import annotations

from .identity import NO_IDENTITY, WORLD
from .image import Endpoint, Image
from .layout import DENY, ENDPOINT, ENFORCE, INDEX, POD, Record
from .writes import Writer


class _Buffers:
    """Changes identity and enum endpoint_enforce of the inactive buffer in values of a map.

    ``first`` is the index of identity[0] among the members; identity[1], enforce[0] and enforce[1] follow.
    """

    def __init__(self, record: Record, first: int, inactive: int) -> None:
        self._record, self._first, self._inactive = record, first, inactive

    def updated(self, raw: bytes | None, identity: int, enforce: int, unknown: int) -> list[int]:
        """Return the members of both buffers. ``raw`` is the current value; without one, ``unknown`` is the
        identity until the commit.
        """
        if raw:
            values = list(self._record.unpack(raw)[self._first : self._first + 4])
        else:
            closed = enforce | sum(deny for bit, deny in zip(ENFORCE, DENY) if enforce & bit)
            values = [unknown, unknown, closed, closed]
        values[self._inactive], values[2 + self._inactive] = identity, enforce
        return values

    def removed(self, raw: bytes, unknown: int = NO_IDENTITY) -> bytes:
        """Return the value with the identity ``unknown`` and all traffic denied."""
        values = list(self._record.unpack(raw))
        at = self._first + self._inactive
        values[at], values[at + 2] = unknown, sum(ENFORCE + DENY)
        return self._record.pack(*values)


class _Prefixes:
    """Finds the identity of addresses that no Pod has."""

    def __init__(self, image: Image) -> None:
        self._tables: dict[int, dict[int, dict[int, int]]] = {4: {}, 16: {}}
        for (length, packed), (identity, dummy) in image.cidrs.items():
            shift = len(packed) * 8 - length
            self._tables[len(packed)].setdefault(shift, {})[int.from_bytes(packed, "big") >> shift] = identity

    def identity(self, packed: bytes) -> int:
        number, tables = int.from_bytes(packed, "big"), self._tables[len(packed)]
        matching = (tables[shift].get(number >> shift) for shift in sorted(tables))
        return next((identity for identity in matching if identity is not None), WORLD)


def since(raw: bytes | None, endpoint: Endpoint, generation: int) -> int:
    """Return the generation in which a Pod of this node got the address; ``raw`` is the current value.

    Older connections of the address are another Pod's.
    """
    if not endpoint.ifindex:
        return 0
    if raw:
        ifindex, owner, *dummy, slot, _flags, former = ENDPOINT.unpack(raw)
        if (ifindex, owner, slot) == (endpoint.ifindex, endpoint.owner, endpoint.slot):
            return int(former)
    return generation


def write_endpoints(writer: Writer, active: Image, image: Image, generation: int) -> None:
    """Add the writes of Pods by address. ``active`` is the current image; new Pods have their addresses from
    ``generation``.
    """
    buffers = _Buffers(ENDPOINT, 2, writer.inactive)
    before, after = _Prefixes(active), _Prefixes(image)

    def removed(key: bytes, raw: bytes) -> bytes:
        remote = not ENDPOINT.unpack(raw)[0]
        return buffers.removed(raw, after.identity(key)) if remote else buffers.removed(raw)

    for name, size in (("endpoints4", 4), ("endpoints6", 16)):
        current = writer.snapshot.hashes[name]
        entries = {}
        for key, e in image.endpoints.items():
            if len(key) != size:
                continue
            raw = known = current.get(key)
            # The verdicts of another Pod that has or had the address must not apply to a Pod of this node.
            if raw and e.ifindex and ENDPOINT.unpack(raw)[0] != e.ifindex:
                known = None
            unknown = NO_IDENTITY if e.ifindex or raw else before.identity(key)
            both = buffers.updated(known, e.identity, e.enforce, unknown)
            entries[key] = ENDPOINT.pack(
                e.ifindex, e.owner, *both, e.slot, e.flags, since(raw, e, generation)
            )
        writer.replace_entries(name, entries, removed, "endpoints")


def write_pods(writer: Writer, image: Image) -> None:
    """Add the writes of Pods of this node by device."""
    buffers = _Buffers(POD, 3, writer.inactive)
    current = writer.snapshot.hashes["pods"]
    entries = {}
    for ifindex, d in image.pods.items():
        key = INDEX.pack(ifindex)
        both = buffers.updated(current.get(key), d.identity, d.enforce, NO_IDENTITY)
        entries[key] = POD.pack(d.owner, d.slot, d.flags, *both, d.mac, d.netns, d.rate)
    writer.replace_entries("pods", entries, lambda _key, raw: buffers.removed(raw), "endpoints")
    used = {POD.unpack(value)[1] for value in current.values()}
    writer.writes.reset_slots = sorted({d.slot for d in image.pods.values()} - used - {0})


def synchronize_pods(writer: Writer) -> None:
    """Add the writes that give the inactive buffer the identities and verdicts of the active one."""
    for name, record, first in (("endpoints4", ENDPOINT, 2), ("endpoints6", ENDPOINT, 2), ("pods", POD, 3)):
        changed = {}
        for key, raw in writer.snapshot.hashes[name].items():
            values = list(record.unpack(raw))
            active, inactive = first + writer.active, first + writer.inactive
            values[inactive], values[inactive + 2] = values[active], values[active + 2]
            desired = record.pack(*values)
            if desired != raw:
                changed[key] = desired
        writer.writes.update[name] = changed
