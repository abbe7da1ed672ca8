# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the programs' maps hold, read at one time. Private to this collection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .layout import (
    CIDR,
    CIDR4_KEY,
    CIDR6_KEY,
    ENDPOINT,
    HASHES,
    INDEX,
    POD,
    POLICY_KEY,
    SERVICE,
    SERVICE_KEY,
    SIZES,
    TABLE,
    Device,
    Endpoint,
    Image,
)


@dataclass
class Snapshot:
    """All that the maps held at one time, as bytes; ``arrays`` are whole."""

    hashes: dict[str, dict[bytes, bytes]] = field(default_factory=lambda: {name: {} for name in HASHES})
    arrays: dict[str, bytes] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    generation: int = 0
    features: int = 0

    @property
    def bank(self) -> int:
        """The bank that holds."""
        return self.generation & 1

    def element(self, name: str, index: int) -> bytes:
        """Return an array's element; zeros where the array is not that long."""
        size = SIZES[name][1]
        return self.arrays.get(name, b"")[index * size : (index + 1) * size].ljust(size, b"\0")


class Services:
    """Services of both banks: their tables by place, with the places of their backends."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.entries: tuple[dict[Any, tuple[int, int]], ...] = ({}, {})
        self.tables: dict[int, tuple[bytes, frozenset[int]]] = {}
        for key, value in snapshot.hashes["services"].items():
            address, port, protocol, family, bank = SERVICE_KEY.unpack(key)
            table, number = SERVICE.unpack(value)
            self.entries[bank & 1][address, port, protocol, family] = (table, number)
            if table not in self.tables:
                *backends, digest = TABLE.unpack(snapshot.element("tables", table))
                self.tables[table] = digest, frozenset(backends)

    def used(self, bank: int) -> set[int]:
        return {table for table, dummy in self.entries[bank].values()}


def services_of(snapshot: Snapshot, bank: int) -> dict[Any, tuple[int, tuple[int, ...]]]:
    """Return number and table of one bank's services; a table has places of backends."""
    found = {}
    for key, (table, number) in Services(snapshot).entries[bank].items():
        *places, dummy = TABLE.unpack(snapshot.element("tables", table))
        found[key] = (number, tuple(places))
    return found


def held(snapshot: Snapshot, bank: int) -> Image:
    """Return what one bank says."""
    image = Image(node=snapshot.element("node", bank), features=snapshot.features)
    for name in ("endpoints4", "endpoints6"):
        for key, value in snapshot.hashes[name].items():
            e = ENDPOINT.unpack(value)
            image.endpoints[key] = Endpoint(e[0], e[1], e[2 + bank], e[4 + bank], e[6], e[7])
    for key, value in snapshot.hashes["pods"].items():
        p = POD.unpack(value)
        image.pods[INDEX.unpack(key)[0]] = Device(p[0], p[1], p[2], p[3 + bank], p[5 + bank], p[7], p[8])
    for name, record in (("cidrs4", CIDR4_KEY), ("cidrs6", CIDR6_KEY)):
        for key, value in snapshot.hashes[name].items():
            length, of, address = record.unpack(key)
            if of == bank:
                identity, flags = CIDR.unpack(value)
                image.cidrs[length - 32, address] = (identity, flags)
    for key, value in snapshot.hashes["policy"].items():
        subject, peer, of, direction = POLICY_KEY.unpack(key)
        if of == bank:
            image.policy[subject, peer, direction] = snapshot.element("rulesets", INDEX.unpack(value)[0])
    services = Services(snapshot)
    for service, (table, number) in services.entries[bank].items():
        digest, backends = services.tables[table]
        image.services[service] = (number, digest)
        image.backends.setdefault(
            digest, dict.fromkeys((snapshot.element("backends", i) for i in backends), 1)
        )
    return image


def differences(has: Image, wants: Image) -> dict[str, int]:
    """Return how many entries differ, by kind; empty where all is as wanted."""
    found = {}
    for kind in ("endpoints", "pods", "cidrs", "policy", "services"):
        one, other = getattr(has, kind), getattr(wants, kind)
        if one != other:
            found[kind] = sum(one.get(key) != other.get(key) for key in {*one, *other})
    # A backend with a small weight may have no place in its table.
    broken = [d for d in wants.backends if not has.backends.get(d, {}).keys() <= wants.backends[d].keys()]
    if broken:
        found["backends"] = len(broken)
    for kind in ("node", "features"):
        if getattr(has, kind) != getattr(wants, kind):
            found[kind] = 1
    return found
