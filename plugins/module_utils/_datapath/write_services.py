# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plan the writes of services: the maps ``services``, ``sources``, ``maglev`` and ``backends``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .image import Image
from .layout import (
    INDEX,
    MAGLEV_SIZE,
    NO_TABLE,
    NODE_ADDRESS,
    SERVICE,
    SERVICE_KEY,
    SOURCE_KEY,
    SOURCE_PREFIX,
    TABLE,
)
from .maglev import maglev_table
from .snapshot import ServiceEntry, Services, Snapshot
from .writes import SlotAllocator, Writer

NODE_MAPS = ("node_addresses", "node")


def write_services(writer: Writer, image: Image) -> None:
    """Add the writes of services, their Maglev tables and backends."""
    snapshot = writer.snapshot
    current = Services(snapshot)
    used_tables = current.used_tables(writer.active)
    known_tables: dict[bytes, int] = {}
    for index in sorted(current.tables):
        digest, indexes = current.tables[index]
        weights = image.backends.get(digest)
        if weights and all(snapshot.element("backends", i) in weights for i in indexes):
            known_tables.setdefault(digest, index)
    used = {i for table in {*used_tables, *known_tables.values()} for i in current.tables[table][1]}
    known = {snapshot.element("backends", index): index for index in sorted(used)}
    backends = SlotAllocator(snapshot.sizes["backends"], used, known)
    tables = SlotAllocator(snapshot.sizes["maglev"], used_tables, known_tables)
    entries, sources = {}, {}
    for service_key, service in image.services.items():
        key = SERVICE_KEY.pack(*service_key, writer.inactive)
        table, external = (
            tables.index_of(digest) if digest else NO_TABLE for digest in (service.digest, service.external)
        )
        entries[key] = SERVICE.pack(table, external, service.number, service.affinity, service.flags)
        sources.update(_encode_sources(key, service.sources))
    for index, digest in tables.new.items():
        tables.new[index] = _encode_table(image.backends[digest], digest, backends)
    writer.write_new("backends", backends, "services")
    writer.write_new("maglev", tables, "services")
    writer.fill_buffer("services", entries, "services")
    writer.fill_buffer("sources", sources, "services")
    _write_node_addresses(writer, image)


class LiveServices:
    """What both buffers have of services, so that a change writes only what differs."""

    def __init__(self, snapshot: Snapshot) -> None:
        """``snapshot`` has all maps of services."""
        current = Services(snapshot)
        self._active, self._inactive = current.entries[snapshot.buffer], current.entries[1 - snapshot.buffer]
        used = current.used_tables(snapshot.buffer)
        self._tables = {current.tables[index][0]: index for index in used}
        indexes = {index for table in used for index in current.tables[table][1]}
        self._backends = {snapshot.element("backends", index): index for index in indexes}
        self._used = indexes

    def synchronized(self) -> None:
        """Note that both buffers have the same services."""
        self._inactive = self._active

    def add_writes(self, writer: Writer, image: Image) -> None:
        """Add the writes of services; the snapshot of ``writer`` needs only ``node_addresses``.

        They have to be made before the next call.
        """
        sizes = writer.snapshot.sizes
        used_tables = {table for entry in self._active.values() for table in entry[:2]}
        tables = SlotAllocator(sizes["maglev"], used_tables, self._tables)
        backends = SlotAllocator(sizes["backends"], self._used, self._backends)
        entries: dict[Any, ServiceEntry] = {}
        for key, service in image.services.items():
            table = tables.index_of(service.digest) if service.digest else NO_TABLE
            external = tables.index_of(service.external) if service.external else NO_TABLE
            entries[key] = (
                *(table, external, service.number, service.affinity, service.flags),
                service.sources,
            )
        for index, digest in tables.new.items():
            tables.new[index] = _encode_table(image.backends[digest], digest, backends)
        former = self._inactive
        differing = [key for key in {*former, *entries} if former.get(key) != entries.get(key)]
        writer.write_new("backends", backends, "services")
        writer.write_new("maglev", tables, "services")
        written: dict[bytes, bytes | None] = {}
        sources: dict[bytes, bytes | None] = {}
        for service_key in differing:
            key = SERVICE_KEY.pack(*service_key, writer.inactive)
            before, after = former.get(service_key), entries.get(service_key)
            written[key] = SERVICE.pack(*after[:-1]) if after else None
            sources.update(dict.fromkeys(_encode_sources(key, before[-1] if before else ())))
            sources.update(_encode_sources(key, after[-1] if after else ()))
        total = len(self._active) + len(entries)
        writer.write_entries("services", written, total, "services")
        total = sum(len(entry[-1]) for some in (self._active, entries) for entry in some.values())
        writer.write_entries("sources", sources, total, "services")
        _write_node_addresses(writer, image)
        digests = {
            one for service in image.services.values() for one in (service.digest, service.external) if one
        }
        self._active, self._inactive = entries, self._active
        self._tables = {digest: tables.index_of(digest) for digest in digests}
        self._backends = {raw: backends.index_of(raw) for digest in digests for raw in image.backends[digest]}
        self._used = {*self._backends.values()}


def _write_node_addresses(writer: Writer, image: Image) -> None:
    """Add the writes of ``node_addresses``, which both buffers share."""
    wanted = {NODE_ADDRESS.pack(*address) for address in image.node_addresses}
    current = writer.snapshot.hashes["node_addresses"].keys()
    size = writer.snapshot.sizes["node_addresses"]
    if len(wanted | current) > size:
        writer.problems.append(
            f"services: the node's {len(wanted)} addresses exceed the map node_addresses of {size} entries;"
            " remove addresses of the node, or services of all its addresses"
        )
    writer.writes.update["node_addresses"] = dict.fromkeys(wanted - current, INDEX.pack(0))
    writer.writes.delete_after["node_addresses"] = sorted(current - wanted)


def _encode_sources(service: bytes, sources: Iterable[tuple[int, bytes]]) -> dict[bytes, bytes]:
    """Return the entries of the clients of a service, a struct service_key."""
    fields = SERVICE_KEY.unpack(service)
    return {
        SOURCE_KEY.pack(SOURCE_PREFIX + length, *fields, address): INDEX.pack(0)
        for length, address in sources
    }


def _encode_table(weights: Mapping[bytes, int], digest: bytes, backends: SlotAllocator) -> bytes:
    """Return struct maglev_table."""
    indexes = {raw.hex(): backends.index_of(raw) for raw in sorted(weights)}
    table = maglev_table({raw.hex(): weight for raw, weight in weights.items()}, MAGLEV_SIZE)
    return TABLE.pack(*(indexes[name] for name in table), digest)
