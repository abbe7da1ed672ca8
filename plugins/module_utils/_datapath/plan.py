# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What makes the programs' maps hold an image, at once for packets. Private to this collection.

What must change together stands in two banks. ``plan`` compares the bank that holds with an ``Image`` and,
where they differ, says what makes the other bank hold it. Rulesets, tables and backends are shared by the
banks: only elements that the holding bank does not use are ever written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from . import maglev
from .layout import (
    CIDR,
    CIDR4_KEY,
    CIDR6_KEY,
    DENY,
    ENDPOINT,
    ENFORCE,
    INDEX,
    MAGLEV_SIZE,
    NOBODY,
    POD,
    POLICY_KEY,
    SERVICE,
    SERVICE_KEY,
    TABLE,
    Image,
    Record,
    buffer_offset,
)
from .snapshot import Services, Snapshot, differences, held


@dataclass
class Plan:
    """What to write, in this order: deletions and updates of the idle bank, ``config``, what is gone."""

    delete: dict[str, list[bytes]] = field(default_factory=dict)
    update: dict[str, dict[bytes, bytes]] = field(default_factory=dict)
    config: tuple[int, int] = (0, 0)
    gone: dict[str, list[bytes]] = field(default_factory=dict)
    fresh_slots: list[int] = field(default_factory=list)

    @property
    def writes(self) -> int:
        """Entries written and deleted, without ``config``."""
        return sum(
            len(entries) for part in (self.delete, self.update, self.gone) for entries in part.values()
        )


class _Shelf:
    """Places in an array that both banks share; what the holding bank uses is never given out again."""

    def __init__(self, size: int, used: Iterable[int], known: Mapping[bytes, int]) -> None:
        self.known, self.size = dict(known), size
        self._taken = {*used, *self.known.values()}
        self._next = 0
        self.new: dict[int, bytes] = {}

    def place(self, content: bytes) -> int:
        """Return the place of ``content``; beyond the end where there is none left."""
        if content not in self.known:
            while self._next in self._taken:
                self._next += 1
            self._taken.add(self._next)
            self.known[content] = self._next
            self.new[self._next] = content
        return self.known[content]

    @property
    def overflow(self) -> bool:
        return any(index >= self.size for index in self.new)


def plan(snapshot: Snapshot, wants: Image) -> tuple[Plan | None, list[str]]:
    """Return what makes the maps hold ``wants`` (None: they do), and each map that it does not fit in."""
    bank = snapshot.bank
    idle = 1 - bank
    if snapshot.arrays and not differences(held(snapshot, bank), wants):
        return None, []
    problems: list[str] = []
    found = Plan(config=((snapshot.generation + 1) & 0xFFFFFFFF, wants.features))

    def banked(name: str, entries: dict[bytes, bytes], option: str) -> None:
        """Make the idle bank's entries of a map ``entries``."""
        current, at = snapshot.hashes[name], buffer_offset(name)
        stale = [key for key in current if key[at] == idle and key not in entries]
        found.delete[name] = stale
        found.update[name] = {key: value for key, value in entries.items() if current.get(key) != value}
        other = sum(key[at] != idle for key in current)
        if other + len(entries) > snapshot.sizes[name]:
            problems.append(
                f"{option}: {len(entries)} entries are more than the map {name} holds beside the {other}"
                f" in use ({snapshot.sizes[name]})"
            )

    def unbanked(name: str, entries: dict[bytes, bytes], closed: Any, option: str) -> None:
        current = snapshot.hashes[name]
        gone = [key for key in current if key not in entries]
        found.gone[name] = gone
        found.update[name] = {
            **{key: value for key, value in entries.items() if current.get(key) != value},
            **{key: closed(current[key]) for key in gone},
        }
        if len(current) + len(entries.keys() - current.keys()) > snapshot.sizes[name]:
            problems.append(
                f"{option}: {len(entries)} entries are more than the map {name} holds beside the {len(gone)}"
                f" that go ({snapshot.sizes[name]})"
            )

    def shelved(name: str, shelf: _Shelf, option: str) -> None:
        found.update[name] = {INDEX.pack(index): content for index, content in shelf.new.items()}
        if shelf.overflow:
            problems.append(
                f"{option}: {len(shelf.new)} more are more than the map {name} holds ({shelf.size})"
            )

    # policy
    places = {key: INDEX.unpack(value)[0] for key, value in snapshot.hashes["policy"].items()}
    at = buffer_offset("policy")
    in_use = {index for key, index in places.items() if key[at] == bank}
    wanted_rulesets = set(wants.policy.values())
    known: dict[bytes, int] = {}
    for index in sorted(set(places.values())):
        content = snapshot.element("rulesets", index)
        if content in wanted_rulesets:
            known.setdefault(content, index)
    rulesets = _Shelf(snapshot.sizes["rulesets"], in_use, known)
    policy = {
        POLICY_KEY.pack(subject, peer, idle, direction): INDEX.pack(rulesets.place(content))
        for (subject, peer, direction), content in wants.policy.items()
    }
    shelved("rulesets", rulesets, "policies")
    banked("policy", policy, "policies")

    # services
    services = Services(snapshot)
    in_use = services.used(bank)
    kept: dict[bytes, int] = {}
    for index in sorted(services.tables):
        digest, backends = services.tables[index]
        weights = wants.backends.get(digest)
        if weights and all(snapshot.element("backends", i) in weights for i in backends):
            kept.setdefault(digest, index)
    held_backends = {i for t in {*in_use, *kept.values()} for i in services.tables[t][1]}
    known = {snapshot.element("backends", i): i for i in sorted(held_backends)}
    shelf = _Shelf(snapshot.sizes["backends"], held_backends, known)
    tables = _Shelf(snapshot.sizes["tables"], in_use, kept)
    entries = {}
    for (address, port, protocol, family), (number, digest) in wants.services.items():
        key = SERVICE_KEY.pack(address, port, protocol, family, idle)
        entries[key] = SERVICE.pack(tables.place(digest), number)
    for index, digest in tables.new.items():
        tables.new[index] = _table(wants.backends[digest], digest, shelf)
    shelved("backends", shelf, "services")
    shelved("tables", tables, "services")
    banked("services", entries, "services")

    # cidrs
    for name, size, record in (("cidrs4", 4, CIDR4_KEY), ("cidrs6", 16, CIDR6_KEY)):
        cidrs = {
            record.pack(length + 32, idle, packed): CIDR.pack(*value)
            for (length, packed), value in wants.cidrs.items()
            if len(packed) == size
        }
        banked(name, cidrs, "policies")

    # Pods
    def closed(at: int) -> Any:
        """Return a function that makes an entry mean nobody in the idle bank: it is on its way out."""
        layout = ENDPOINT if at == 2 else POD

        def of(raw: bytes) -> bytes:
            values = list(layout.unpack(raw))
            values[at + idle], values[at + 2 + idle] = NOBODY, sum(ENFORCE + DENY)
            return layout.pack(*values)

        return of

    for name, size in (("endpoints4", 4), ("endpoints6", 16)):
        endpoints = {
            key: ENDPOINT.pack(
                e.ifindex,
                e.owner,
                *_both(ENDPOINT, snapshot.hashes[name].get(key), 2, bank, e.identity, e.enforce),
                e.slot,
                e.flags,
            )
            for key, e in wants.endpoints.items()
            if len(key) == size
        }
        unbanked(name, endpoints, closed(2), "endpoints")
    pods = {}
    for ifindex, d in wants.pods.items():
        key = INDEX.pack(ifindex)
        both = _both(POD, snapshot.hashes["pods"].get(key), 3, bank, d.identity, d.enforce)
        pods[key] = POD.pack(d.owner, d.slot, d.flags, *both, d.mac, d.rate)
    unbanked("pods", pods, closed(3), "endpoints")
    before = {POD.unpack(value)[1] for value in snapshot.hashes["pods"].values()}
    found.fresh_slots = sorted({d.slot for d in wants.pods.values()} - before - {0})

    if snapshot.element("node", idle) != wants.node:
        found.update["node"] = {INDEX.pack(idle): wants.node}
    return found, problems


def _both(layout: Record, raw: bytes | None, at: int, bank: int, identity: int, enforce: int) -> list[int]:
    """Return identity and enforce of both banks; who is new is nobody, and closed, until the turn."""
    if raw:
        values = list(layout.unpack(raw)[at : at + 4])
    else:
        shut = sum(deny for on, deny in zip(ENFORCE, DENY) if enforce & on)
        values = [NOBODY, NOBODY, enforce | shut, enforce | shut]
    values[1 - bank], values[3 - bank] = identity, enforce
    return values


def _table(weights: Mapping[bytes, int], digest: bytes, backends: _Shelf) -> bytes:
    """Return a service's table as the programs read it."""
    places = {raw.hex(): backends.place(raw) for raw in sorted(weights)}
    table = maglev.table({raw.hex(): weight for raw, weight in weights.items()}, MAGLEV_SIZE)
    return TABLE.pack(*(places[name] for name in table), digest)
