# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plan the writes of Pods: the maps ``endpoints4``, ``endpoints6`` and ``pods``.

Their values have identity and default verdicts of both buffers. Until the commit, a new entry has no identity
and denies all traffic under policy; after it, a removed entry does, until it is deleted.
"""

from __future__ import annotations

from .image import Endpoint, Image
from .layout import DENY, ENDPOINT, ENFORCE, INDEX, NO_IDENTITY, POD, Record
from .writes import Writer


class _Buffers:
    """Changes identity and enum endpoint_enforce of the inactive buffer in values of a map.

    ``first`` is the index of identity[0] among the members; identity[1], enforce[0] and enforce[1] follow.
    """

    def __init__(self, record: Record, first: int, inactive: int) -> None:
        self._record, self._first, self._inactive = record, first, inactive

    def updated(self, raw: bytes | None, identity: int, enforce: int) -> list[int]:
        """Return the members of both buffers; ``raw`` is the current value."""
        if raw:
            values = list(self._record.unpack(raw)[self._first : self._first + 4])
        else:
            closed = enforce | sum(deny for bit, deny in zip(ENFORCE, DENY) if enforce & bit)
            values = [NO_IDENTITY, NO_IDENTITY, closed, closed]
        values[self._inactive], values[2 + self._inactive] = identity, enforce
        return values

    def denied(self, raw: bytes) -> bytes:
        """Return the value with no identity and all traffic denied."""
        values = list(self._record.unpack(raw))
        at = self._first + self._inactive
        values[at], values[at + 2] = NO_IDENTITY, sum(ENFORCE + DENY)
        return self._record.pack(*values)


def _since(raw: bytes | None, endpoint: Endpoint, generation: int) -> int:
    """Return the generation in which the Pod got the address; ``raw`` is the current value.

    Older connections of the address are another Pod's.
    """
    if raw:
        ifindex, owner, *dummy, slot, _flags, since = ENDPOINT.unpack(raw)
        if (ifindex, owner, slot) == (endpoint.ifindex, endpoint.owner, endpoint.slot):
            return int(since)
    return generation


def write_endpoints(writer: Writer, image: Image, since: int) -> None:
    """Add the writes of Pods by address; new ones have it from the generation ``since``."""
    buffers = _Buffers(ENDPOINT, 2, writer.inactive)
    for name, size in (("endpoints4", 4), ("endpoints6", 16)):
        current = writer.snapshot.hashes[name]
        entries = {
            key: ENDPOINT.pack(
                e.ifindex,
                e.owner,
                *buffers.updated(current.get(key), e.identity, e.enforce),
                e.slot,
                e.flags,
                _since(current.get(key), e, since),
            )
            for key, e in image.endpoints.items()
            if len(key) == size
        }
        writer.replace_entries(name, entries, buffers.denied, "endpoints")


def write_pods(writer: Writer, image: Image) -> None:
    """Add the writes of Pods of this node by device."""
    buffers = _Buffers(POD, 3, writer.inactive)
    current = writer.snapshot.hashes["pods"]
    entries = {}
    for ifindex, d in image.pods.items():
        key = INDEX.pack(ifindex)
        both = buffers.updated(current.get(key), d.identity, d.enforce)
        entries[key] = POD.pack(d.owner, d.slot, d.flags, *both, d.mac, d.rate)
    writer.replace_entries("pods", entries, buffers.denied, "endpoints")
    used = {POD.unpack(value)[1] for value in current.values()}
    writer.writes.reset_slots = sorted({d.slot for d in image.pods.values()} - used - {0})
