# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plan the writes of services: the maps ``services``, ``sources``, ``maglev`` and ``backends``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .image import Image
from .layout import (
    INDEX,
    MAGLEV_SIZE,
    NO_BACKEND,
    NO_TABLE,
    NODE_ADDRESS,
    SERVICE,
    SERVICE_KEY,
    SOURCE_KEY,
    SOURCE_PREFIX,
    TABLE,
    TABLE_SIZE,
)
from .maglev import maglev_table
from .snapshot import Services, Snapshot
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
    entries = {}
    for (address, port, protocol, family), service in image.services.items():
        key = SERVICE_KEY.pack(address, port, protocol, family, writer.inactive)
        table, external = (
            tables.index_of(digest) if digest else NO_TABLE for digest in (service.digest, service.external)
        )
        entries[key] = SERVICE.pack(table, external, service.number, service.affinity, service.flags)
    for index, digest in tables.new.items():
        tables.new[index] = _encode_table(image.backends[digest], digest, backends)
    writer.write_new("backends", backends, "services")
    writer.write_new("maglev", tables, "services")
    writer.fill_buffer("services", entries, "services")
    sources = (_encode_source(one, writer.inactive) for one in _sources_of(image))
    writer.fill_buffer("sources", dict.fromkeys(sources, INDEX.pack(0)), "services")
    _write_node_addresses(writer, image)


class LiveServices:
    """What both buffers have of services, so that a change writes only what differs."""

    def __init__(self, snapshot: Snapshot) -> None:
        """``snapshot`` has all maps of services."""
        current = Services(snapshot)
        self._active, self._inactive = current.entries[snapshot.buffer], current.entries[1 - snapshot.buffer]
        self._active_sources = current.sources[snapshot.buffer]
        self._inactive_sources = current.sources[1 - snapshot.buffer]
        used = current.used_tables(snapshot.buffer)
        self._tables = {current.tables[index][0]: index for index in used}
        indexes = {index for table in used for index in current.tables[table][1]}
        self._backends = {snapshot.element("backends", index): index for index in indexes}
        self._used = indexes

    def synchronized(self) -> None:
        """Note that both buffers have the same services."""
        self._inactive, self._inactive_sources = self._active, self._active_sources

    def add_writes(self, writer: Writer, image: Image) -> None:
        """Add the writes of services; the snapshot of ``writer`` needs only ``node_addresses``.

        They have to be made before the next call.
        """
        sizes = writer.snapshot.sizes
        used_tables = {table for entry in self._active.values() for table in entry[:2]}
        tables = SlotAllocator(sizes["maglev"], used_tables, self._tables)
        backends = SlotAllocator(sizes["backends"], self._used, self._backends)
        entries: dict[Any, tuple[int, int, int, int, int]] = {}
        for key, service in image.services.items():
            table = tables.index_of(service.digest) if service.digest else NO_TABLE
            external = tables.index_of(service.external) if service.external else NO_TABLE
            entries[key] = (table, external, service.number, service.affinity, service.flags)
        for index, digest in tables.new.items():
            tables.new[index] = _encode_table(image.backends[digest], digest, backends)
        former = self._inactive
        differing = [key for key in {*former, *entries} if former.get(key) != entries.get(key)]
        writer.write_new("backends", backends, "services")
        writer.write_new("maglev", tables, "services")
        writer.write_entries(
            "services",
            {
                SERVICE_KEY.pack(*key, writer.inactive): SERVICE.pack(*entries[key])
                if key in entries
                else None
                for key in differing
            },
            len(self._active) + len(entries),
            "services",
        )
        sources = _sources_of(image)
        writer.write_entries(
            "sources",
            {
                _encode_source(one, writer.inactive): INDEX.pack(0) if one in sources else None
                for one in sources ^ self._inactive_sources
            },
            len(self._active_sources) + len(sources),
            "services",
        )
        _write_node_addresses(writer, image)
        digests = {
            one for service in image.services.values() for one in (service.digest, service.external) if one
        }
        self._active, self._inactive = entries, self._active
        self._active_sources, self._inactive_sources = sources, self._active_sources
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


def _sources_of(image: Image) -> set[tuple[Any, tuple[int, bytes]]]:
    """Return the services of an image and the networks of their clients."""
    return {(key, source) for key, service in image.services.items() for source in service.sources}


def _encode_source(source: tuple[Any, tuple[int, bytes]], buffer: int) -> bytes:
    """Return struct source_key."""
    service, (length, address) = source
    return SOURCE_KEY.pack(SOURCE_PREFIX + length, *service, buffer, address)


def _encode_table(weights: Mapping[bytes, int], digest: bytes, backends: SlotAllocator) -> bytes:
    """Return struct maglev_table."""
    indexes = {raw.hex(): backends.index_of(raw) for raw in sorted(weights)}
    assigned = {raw.hex(): weight for raw, weight in weights.items() if weight}
    names = maglev_table(assigned, MAGLEV_SIZE) if assigned else [""] * MAGLEV_SIZE
    names += [name for name in indexes if name not in assigned]
    names += [""] * (TABLE_SIZE - len(names))
    return TABLE.pack(*(indexes.get(name, NO_BACKEND) for name in names), digest)
