# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plan the writes of services: the maps ``services``, ``maglev`` and ``backends``."""

from __future__ import annotations

from collections.abc import Mapping

from .image import Image
from .layout import INDEX, MAGLEV_SIZE, NO_TABLE, NODE_ADDRESS, SERVICE, SERVICE_KEY, TABLE
from .maglev import maglev_table
from .snapshot import Services
from .writes import SlotAllocator, Writer

SERVICES = ("services", "node_addresses", "maglev", "backends", "node")  # the maps


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
    _write_node_addresses(writer, image)


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


def _encode_table(weights: Mapping[bytes, int], digest: bytes, backends: SlotAllocator) -> bytes:
    """Return struct maglev_table."""
    indexes = {raw.hex(): backends.index_of(raw) for raw in sorted(weights)}
    table = maglev_table({raw.hex(): weight for raw, weight in weights.items()}, MAGLEV_SIZE)
    return TABLE.pack(*(indexes[name] for name in table), digest)
