# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The programs' maps: what they hold, what they are to hold, and how that changes at once for packets.

Private to this collection. What must change together stands in two banks. ``plan`` compares the bank that
holds with an ``Image`` and, where they differ, says what makes the other bank hold it; ``apply`` writes that
and turns over by one store into ``config``. Rulesets, tables and backends are shared by the banks: only
elements that the holding bank does not use are ever written.

Source: config.h, endpoints.h, identity.h, policy.h, services.h, masquerade.h, reasons.h of the programs.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import mmap
import os
import struct
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ansible_collections.podnet.datapath.plugins.module_utils import _bpf, _maglev
from ansible_collections.podnet.datapath.plugins.module_utils._bpf import BpfError
from ansible_collections.podnet.datapath.plugins.module_utils._datapath_model import Address, Network, Ports
from ansible_collections.podnet.datapath.plugins.module_utils._datapath_policy import Ruleset

LAYOUT = 1  # LAYOUT of config.h
NOBODY = 0xFFFFFFFF  # an identity that no policy has
MAGLEV_SIZE, MAX_RANGES = 251, 16
FEATURE_SERVICES, FEATURE_MASQUERADE = 1, 2
ENFORCE, DENY = (1, 2), (4, 8)  # by direction
POD_NETKIT, POD_L2, POD_MASQUERADE, POD_ANY_SOURCE = 1, 2, 4, 8
CIDR_NO_MASQUERADE = 1
POD_SLOTS, REASONS = 1024, 64

_CONFIG = struct.Struct("=II")  # generation, features
_ENDPOINT = struct.Struct("=II2I2HHH")  # ifindex, owner, identity[2], enforce[2], slot, flags
_POD = struct.Struct("=IHH2I2H6s6xQ")  # owner, slot, flags, identity[2], enforce[2], mac, rate
_CIDR = struct.Struct("=II")  # identity, flags
_POLICY_KEY = struct.Struct("=IIBBxx")  # subject, peer, bank, direction
_RULESET = struct.Struct("=BBxx")  # verdict, ranges; then the ranges
_RANGE = struct.Struct("=BBHH")  # proto, verdict, first, last
_SERVICE_KEY = struct.Struct("=16s2sBBI")  # address, port, proto, family, bank
_SERVICE = struct.Struct("=II")  # table, id
_TABLE = struct.Struct(f"={MAGLEV_SIZE}I8s")  # backends, digest
_BACKEND = struct.Struct("=16s2sxx")  # address, port (struct place)
_NODE = struct.Struct("=4sHH16s")  # masquerade4, first_port, last_port, masquerade6
_INDEX = struct.Struct("=I")
_RULESET_SIZE = _RULESET.size + MAX_RANGES * _RANGE.size
_VERDICTS = {True: 1, False: 2}

# Key and value sizes of the maps that are written here. Programs write the others.
SIZES: dict[str, tuple[int, int]] = {
    "config": (4, _CONFIG.size),
    "endpoints4": (4, _ENDPOINT.size),
    "endpoints6": (16, _ENDPOINT.size),
    "pods": (4, _POD.size),
    "cidrs4": (12, _CIDR.size),
    "cidrs6": (24, _CIDR.size),
    "policy": (_POLICY_KEY.size, 4),
    "rulesets": (4, _RULESET_SIZE),
    "services": (_SERVICE_KEY.size, _SERVICE.size),
    "tables": (4, _TABLE.size),
    "backends": (4, _BACKEND.size),
    "node": (4, _NODE.size),
}
ARRAYS = ("rulesets", "tables", "backends", "node")
HASHES = ("endpoints4", "endpoints6", "pods", "cidrs4", "cidrs6", "policy", "services")


# ---------------------------------------------------------------- what maps are to hold


class Endpoint(NamedTuple):
    """What the programs know of a Pod's address."""

    ifindex: int
    owner: int
    identity: int
    enforce: int
    slot: int
    flags: int


class Device(NamedTuple):
    """What the programs know of a Pod's device."""

    owner: int
    slot: int
    flags: int
    identity: int
    enforce: int
    mac: bytes
    rate: int


@dataclass
class Image:
    """What the maps say, with nothing in it of banks and places in arrays.

    ``policy`` has rulesets as the programs read them, ``services`` (by address, port, protocol and
    family) a number and the digest of the backends, ``backends`` by digest each one's weight.
    """

    endpoints: dict[bytes, Endpoint] = field(default_factory=dict)
    pods: dict[int, Device] = field(default_factory=dict)
    cidrs: dict[tuple[int, bytes], tuple[int, int]] = field(default_factory=dict)
    policy: dict[tuple[int, int, int], bytes] = field(default_factory=dict)
    services: dict[tuple[bytes, bytes, int, int], tuple[int, bytes]] = field(default_factory=dict)
    backends: dict[bytes, dict[bytes, int]] = field(default_factory=dict)
    node: bytes = bytes(_NODE.size)
    features: int = 0


def number_of(name: str) -> int:
    """Return the number that stands for an owner or a service in the maps."""
    return zlib.crc32(name.encode())


def encode_ruleset(ruleset: Ruleset) -> bytes:
    """Return a ruleset as the programs read it; raise ValueError where it has too many ranges."""
    if len(ruleset.ranges) > MAX_RANGES:
        raise ValueError(f"{len(ruleset.ranges)} ranges of ports, more than {MAX_RANGES}")
    ranges = b"".join(
        _RANGE.pack(r.protocol, _VERDICTS[not ruleset.allow], r.first, r.last) for r in ruleset.ranges
    )
    raw = _RULESET.pack(_VERDICTS[ruleset.allow], len(ruleset.ranges)) + ranges
    return raw.ljust(_RULESET_SIZE, b"\0")


def decode_ruleset(raw: bytes) -> Ruleset:
    """Return what ``encode_ruleset`` made."""
    verdict, count = _RULESET.unpack_from(raw)
    ranges = []
    for index in range(count):
        protocol, dummy, first, last = _RANGE.unpack_from(raw, _RULESET.size + index * _RANGE.size)
        ranges.append(Ports(protocol, first, last))
    return Ruleset(verdict == _VERDICTS[True], tuple(ranges))


def encode_service(address: Address, port: int, protocol: int) -> tuple[bytes, bytes, int, int]:
    """Return a service's key in an image."""
    family = 2 if address.version == 4 else 10  # AF_INET, AF_INET6
    return (address.packed.ljust(16, b"\0"), port.to_bytes(2, "big"), protocol, family)


def encode_backend(address: Address, port: int) -> bytes:
    """Return a backend as the programs read it."""
    return _BACKEND.pack(address.packed, port.to_bytes(2, "big"))


def decode_backend(raw: bytes, version: int) -> tuple[bytes, int]:
    """Return packed address and port of a backend."""
    address, port = _BACKEND.unpack(raw)
    return address[: 4 if version == 4 else 16], int.from_bytes(port, "big")


def digest_of(weights: Mapping[bytes, int]) -> bytes:
    """Return what tells the table of these backends from others."""
    text = b"".join(raw + weight.to_bytes(2, "big") for raw, weight in sorted(weights.items()))
    return hashlib.blake2b(text, digest_size=8).digest()


def encode_cidr(network: Network) -> tuple[int, bytes]:
    """Return a prefix's key in an image."""
    return network.prefixlen, network.network_address.packed


def encode_node(ipv4: Address | None, ipv6: Address | None, ports: tuple[int, int]) -> bytes:
    """Return the node's own entry."""
    return _NODE.pack(ipv4.packed if ipv4 else bytes(4), *ports, ipv6.packed if ipv6 else bytes(16))


# ---------------------------------------------------------------- what maps hold


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


class _Services:
    """Services of both banks: their tables by place, with the places of their backends."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.entries: tuple[dict[Any, tuple[int, int]], ...] = ({}, {})
        self.tables: dict[int, tuple[bytes, frozenset[int]]] = {}
        for key, value in snapshot.hashes["services"].items():
            address, port, protocol, family, bank = _SERVICE_KEY.unpack(key)
            table, number = _SERVICE.unpack(value)
            self.entries[bank & 1][address, port, protocol, family] = (table, number)
            if table not in self.tables:
                *backends, digest = _TABLE.unpack(snapshot.element("tables", table))
                self.tables[table] = digest, frozenset(backends)

    def used(self, bank: int) -> set[int]:
        return {table for table, dummy in self.entries[bank].values()}


def services_of(snapshot: Snapshot, bank: int) -> dict[Any, tuple[int, tuple[int, ...]]]:
    """Return number and table of one bank's services; a table has places of backends."""
    found = {}
    for key, (table, number) in _Services(snapshot).entries[bank].items():
        *places, dummy = _TABLE.unpack(snapshot.element("tables", table))
        found[key] = (number, tuple(places))
    return found


def held(snapshot: Snapshot, bank: int) -> Image:
    """Return what one bank says."""
    image = Image(node=snapshot.element("node", bank), features=snapshot.features)
    for name in ("endpoints4", "endpoints6"):
        for key, value in snapshot.hashes[name].items():
            e = _ENDPOINT.unpack(value)
            image.endpoints[key] = Endpoint(e[0], e[1], e[2 + bank], e[4 + bank], e[6], e[7])
    for key, value in snapshot.hashes["pods"].items():
        p = _POD.unpack(value)
        image.pods[_INDEX.unpack(key)[0]] = Device(p[0], p[1], p[2], p[3 + bank], p[5 + bank], p[7], p[8])
    for name in ("cidrs4", "cidrs6"):
        for key, value in snapshot.hashes[name].items():
            length, of = struct.unpack_from("=II", key)
            if of == bank:
                image.cidrs[length - 32, key[8:]] = _CIDR.unpack(value)
    for key, value in snapshot.hashes["policy"].items():
        subject, peer, of, direction = _POLICY_KEY.unpack(key)
        if of == bank:
            image.policy[subject, peer, direction] = snapshot.element("rulesets", _INDEX.unpack(value)[0])
    services = _Services(snapshot)
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


# ---------------------------------------------------------------- from the one to the other


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

    def banked(name: str, entries: dict[bytes, bytes], is_idle: Any, option: str) -> None:
        """Make the idle bank's entries of a map ``entries``."""
        current = snapshot.hashes[name]
        stale = [key for key in current if is_idle(key) and key not in entries]
        found.delete[name] = stale
        found.update[name] = {key: value for key, value in entries.items() if current.get(key) != value}
        other = sum(not is_idle(key) for key in current)
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
        found.update[name] = {_INDEX.pack(index): content for index, content in shelf.new.items()}
        if shelf.overflow:
            problems.append(
                f"{option}: {len(shelf.new)} more are more than the map {name} holds ({shelf.size})"
            )

    # policy
    places = {key: _INDEX.unpack(value)[0] for key, value in snapshot.hashes["policy"].items()}
    in_use = {index for key, index in places.items() if key[8] == bank}
    wanted_rulesets = set(wants.policy.values())
    known: dict[bytes, int] = {}
    for index in sorted(set(places.values())):
        content = snapshot.element("rulesets", index)
        if content in wanted_rulesets:
            known.setdefault(content, index)
    rulesets = _Shelf(snapshot.sizes["rulesets"], in_use, known)
    policy = {
        _POLICY_KEY.pack(subject, peer, idle, direction): _INDEX.pack(rulesets.place(content))
        for (subject, peer, direction), content in wants.policy.items()
    }
    shelved("rulesets", rulesets, "policies")
    banked("policy", policy, lambda key: key[8] == idle, "policies")

    # services
    services = _Services(snapshot)
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
        key = _SERVICE_KEY.pack(address, port, protocol, family, idle)
        entries[key] = _SERVICE.pack(tables.place(digest), number)
    for index, digest in tables.new.items():
        tables.new[index] = _table(wants.backends[digest], digest, shelf)
    shelved("backends", shelf, "services")
    shelved("tables", tables, "services")
    banked("services", entries, lambda key: key[20] == idle, "services")

    # cidrs
    for name, size in (("cidrs4", 4), ("cidrs6", 16)):
        cidrs = {
            struct.pack("=II", length + 32, idle) + packed: _CIDR.pack(*value)
            for (length, packed), value in wants.cidrs.items()
            if len(packed) == size
        }
        banked(name, cidrs, lambda key: key[4] == idle, "policies")

    # Pods
    def closed(at: int) -> Any:
        """Return a function that makes an entry mean nobody in the idle bank: it is on its way out."""
        layout = _ENDPOINT if at == 2 else _POD

        def of(raw: bytes) -> bytes:
            values = list(layout.unpack(raw))
            values[at + idle], values[at + 2 + idle] = NOBODY, sum(ENFORCE + DENY)
            return layout.pack(*values)

        return of

    for name, size in (("endpoints4", 4), ("endpoints6", 16)):
        endpoints = {
            key: _ENDPOINT.pack(
                e.ifindex,
                e.owner,
                *_both(_ENDPOINT, snapshot.hashes[name].get(key), 2, bank, e.identity, e.enforce),
                e.slot,
                e.flags,
            )
            for key, e in wants.endpoints.items()
            if len(key) == size
        }
        unbanked(name, endpoints, closed(2), "endpoints")
    pods = {}
    for ifindex, d in wants.pods.items():
        key = _INDEX.pack(ifindex)
        both = _both(_POD, snapshot.hashes["pods"].get(key), 3, bank, d.identity, d.enforce)
        pods[key] = _POD.pack(d.owner, d.slot, d.flags, *both, d.mac, d.rate)
    unbanked("pods", pods, closed(3), "endpoints")
    before = {_POD.unpack(value)[1] for value in snapshot.hashes["pods"].values()}
    found.fresh_slots = sorted({d.slot for d in wants.pods.values()} - before - {0})

    if snapshot.element("node", idle) != wants.node:
        found.update["node"] = {_INDEX.pack(idle): wants.node}
    return found, problems


def _both(
    layout: struct.Struct, raw: bytes | None, at: int, bank: int, identity: int, enforce: int
) -> list[int]:
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
    table = _maglev.table({raw.hex(): weight for raw, weight in weights.items()}, MAGLEV_SIZE)
    return _TABLE.pack(*(places[name] for name in table), digest)


# ---------------------------------------------------------------- reading and writing


def wait_for_programs() -> None:
    """Return once every program that runs now has ended.

    The kernel does so before an update of a map of maps returns: maybe_wait_bpf_programs() in
    kernel/bpf/syscall.c, for this very purpose.
    """
    with contextlib.ExitStack() as files:
        inner = _bpf.map_create(_bpf.BPF_MAP_TYPE_ARRAY, 4, 4, 1)
        files.callback(os.close, inner)
        outer = _bpf.map_create(_bpf.BPF_MAP_TYPE_ARRAY_OF_MAPS, 4, 4, 1, inner)
        files.callback(os.close, outer)
        _bpf.map_update_one(outer, bytes(4), _INDEX.pack(inner))


class Maps:
    """Descriptors of all maps that are written here."""

    def __init__(self, fds: Mapping[str, int]) -> None:
        self.fds = fds

    @classmethod
    def pinned(cls, pin_path: str, files: contextlib.ExitStack) -> Maps:
        """Open the pinned maps, for as long as ``files``.

        Raises BpfError, naming all, where some are not there or of another layout.
        """
        fds = {}
        wrong = []
        for name, sizes in {**SIZES, "layout": (4, 4)}.items():
            path = os.path.join(pin_path, "maps", name)
            try:
                fds[name] = _bpf.obj_get(path)
            except OSError as e:
                raise BpfError(
                    f"pin_path: there is no map at '{path}' ({e.strerror}); load the programs first"
                    " (bpf_attach), and mind that 'ip netns exec' hides /sys/fs/bpf"
                ) from e
            files.callback(os.close, fds[name])
            layout = _bpf.map_info(fds[name]).layout
            if (layout.key_size, layout.value_size) != sizes:
                wrong.append(
                    f"'{path}' has keys of {layout.key_size} and values of {layout.value_size} bytes, this"
                    f" version {sizes[0]} and {sizes[1]}"
                )
            elif name == "layout" and layout.max_entries != LAYOUT:
                wrong.append(f"the maps have layout {layout.max_entries}, this version {LAYOUT}")
        if wrong:
            raise BpfError(f"pin_path: {'; '.join(wrong)}: load this version's programs (bpf_attach)")
        return cls(fds)

    def read(self) -> Snapshot:
        """Return all that the maps hold."""
        snapshot = Snapshot(
            {name: _bpf.map_read(self.fds[name]) for name in HASHES},
            {name: _bpf.array_read(self.fds[name]) for name in ARRAYS},
            {name: _bpf.map_info(self.fds[name]).layout.max_entries for name in SIZES},
        )
        raw = _bpf.map_lookup(self.fds["config"], bytes(4), _CONFIG.size)
        snapshot.generation, snapshot.features = _CONFIG.unpack(raw)
        return snapshot

    def apply(self, changes: Plan) -> None:
        """Write a plan. Whoever dies on the way leaves the bank that holds as it is."""
        # Programs may still read the idle bank since it last held.
        wait_for_programs()
        if "metrics" in self.fds and changes.fresh_slots:
            size = REASONS * 8 * _bpf.possible_cpus()
            _bpf.map_update(self.fds["metrics"], {_INDEX.pack(s): bytes(size) for s in changes.fresh_slots})
        for name, keys in changes.delete.items():
            _bpf.map_delete(self.fds[name], keys)
        # What others point to comes first.
        for name in sorted(changes.update, key=lambda name: name not in ("backends", "rulesets")):
            _bpf.map_update(self.fds[name], changes.update[name])
        with contextlib.closing(mmap.mmap(self.fds["config"], mmap.PAGESIZE)) as page:
            word = ctypes.c_uint64.from_buffer(page)
            word.value = int.from_bytes(_CONFIG.pack(*changes.config), "little")
            del word
        if any(changes.gone.values()):
            wait_for_programs()
            for name, keys in changes.gone.items():
                _bpf.map_delete(self.fds[name], keys)
