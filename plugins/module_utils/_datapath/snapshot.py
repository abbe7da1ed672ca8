# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The content of the maps, and how to decode it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .image import Device, Endpoint, Frontend, Image
from .layout import (
    CIDR,
    CIDR4_KEY,
    CIDR6_KEY,
    ENDPOINT,
    HASHES,
    INDEX,
    NO_BACKEND,
    NO_TABLE,
    NODE_ADDRESS,
    POD,
    POLICY_KEY,
    SERVICE,
    SERVICE_KEY,
    SIZES,
    SOURCE_KEY,
    SOURCE_PREFIX,
    TABLE,
)


@dataclass
class Snapshot:
    """All maps as bytes, read at one time: entries of ``hashes``, and complete ``arrays``."""

    hashes: dict[str, dict[bytes, bytes]] = field(default_factory=lambda: {name: {} for name in HASHES})
    arrays: dict[str, bytes] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    generation: int = 0
    features: int = 0

    @property
    def buffer(self) -> int:
        """Return the active buffer."""
        return self.generation & 1

    @property
    def next_generation(self) -> int:
        """Return the generation of the next commit."""
        return (self.generation + 1) & 0xFFFFFFFF

    def element(self, name: str, index: int) -> bytes:
        """Return an element of an array; zeros beyond its end."""
        size = SIZES[name][1]
        return self.arrays.get(name, b"")[index * size : (index + 1) * size].ljust(size, b"\0")


class Services:
    """Services of both buffers, and their Maglev tables by index: digest and indexes of backends.

    ``entries`` have table, table for external clients, number, affinity and flags; the table is NO_TABLE
    without backends. ``sources`` are services and networks of clients, as in an image. A process that was
    killed may have left networks without the service.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self.sources: tuple[set[tuple[Any, tuple[int, bytes]]], ...] = (set(), set())
        for key in snapshot.hashes["sources"]:
            length, *service, buffer, client = SOURCE_KEY.unpack(key)
            self.sources[buffer & 1].add((tuple(service), (length - SOURCE_PREFIX, client)))
        self.entries: tuple[dict[Any, tuple[int, int, int, int, int]], ...] = ({}, {})
        self.tables: dict[int, tuple[bytes, frozenset[int]]] = {}
        for key, value in snapshot.hashes["services"].items():
            address, port, protocol, family, buffer = SERVICE_KEY.unpack(key)
            entry = SERVICE.unpack(value)
            self.entries[buffer & 1][address, port, protocol, family] = entry
            for table in {*entry[:2]} - {NO_TABLE} - self.tables.keys():
                raw = snapshot.element("maglev", table)
                at = TABLE.fields["digest"].offset
                indexes = frozenset(memoryview(raw)[:at].cast("I")) - {NO_BACKEND}
                self.tables[table] = raw[at : at + 8], indexes

    def used_tables(self, buffer: int) -> set[int]:
        """Return the indexes of the tables that services of a buffer refer to."""
        return {table for entry in self.entries[buffer].values() for table in entry[:2]} - {NO_TABLE}

    def digest(self, table: int) -> bytes:
        """Return the digest of a table's backends, empty for NO_TABLE."""
        return self.tables[table][0] if table in self.tables else b""


def services_of(snapshot: Snapshot) -> dict[Any, tuple[int, tuple[int, ...]]]:
    """Return the active services: their number, and the elements of their table."""
    found = {}
    for key, (table, _external, number, *_others) in Services(snapshot).entries[snapshot.buffer].items():
        *indexes, dummy = TABLE.unpack(snapshot.element("maglev", table)) if table != NO_TABLE else (b"",)
        found[key] = (number, tuple(indexes))
    return found


def decode_image(snapshot: Snapshot, buffer: int) -> Image:
    """Return the content of one buffer."""
    image = Image(node=snapshot.element("node", buffer), features=snapshot.features)
    for name in ("endpoints4", "endpoints6"):
        for key, value in snapshot.hashes[name].items():
            e = ENDPOINT.unpack(value)
            image.endpoints[key] = Endpoint(e[0], e[1], e[2 + buffer], e[4 + buffer], e[6], e[7])
    for key, value in snapshot.hashes["pods"].items():
        p = POD.unpack(value)
        image.pods[INDEX.unpack(key)[0]] = Device(
            p[0], p[1], p[2], p[3 + buffer], p[5 + buffer], p[7], p[8], p[9]
        )
    for name, record in (("cidrs4", CIDR4_KEY), ("cidrs6", CIDR6_KEY)):
        for key, value in snapshot.hashes[name].items():
            length, of, address = record.unpack(key)
            if of == buffer:
                identity, flags = CIDR.unpack(value)
                image.cidrs[length - 32, address] = (identity, flags)
    for key, value in snapshot.hashes["policy"].items():
        subject, peer, of, direction = POLICY_KEY.unpack(key)
        if of == buffer:
            image.policy[subject, peer, direction] = snapshot.element("rulesets", INDEX.unpack(value)[0])
    services = Services(snapshot)
    sources: dict[Any, set[tuple[int, bytes]]] = {}
    for service, source in services.sources[buffer]:
        sources.setdefault(service, set()).add(source)
    for service, (table, external, number, affinity, flags) in services.entries[buffer].items():
        digests = services.digest(table), services.digest(external)
        clients = frozenset(sources.get(service, ()))
        image.services[service] = Frontend(number, *digests, affinity, flags, clients)
    for table in services.used_tables(buffer):
        digest, indexes = services.tables[table]
        backends = (snapshot.element("backends", index) for index in indexes)
        image.backends.setdefault(digest, dict.fromkeys(backends, 1))
    for key in snapshot.hashes["node_addresses"]:
        address, family = NODE_ADDRESS.unpack(key)
        image.node_addresses |= {(address, family)}
    return image
