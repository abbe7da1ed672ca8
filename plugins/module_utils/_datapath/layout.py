# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Structs and constants that BPF programs and this collection share. Private to this collection.

``verify`` compares these declarations with the object's before the object is loaded.
Source: the header files of the role bpf_datapath.
"""

from __future__ import annotations

import hashlib
import struct
import sys
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from .._kernel.btf import Field
from .identity import HOST, WORLD
from .model import EGRESS, INGRESS, Address, Network, Ports
from .policy import Ruleset

LAYOUT = 1  # LAYOUT of config.h
NOBODY = 0xFFFFFFFF  # an identity that no policy has
MAGLEV_SIZE, MAX_RANGES = 251, 16
FEATURE_SERVICES, FEATURE_MASQUERADE = 1, 2
ENFORCE, DENY = (1, 2), (4, 8)  # by direction
POD_NETKIT, POD_L2, POD_MASQUERADE, POD_ANY_SOURCE = 1, 2, 4, 8
CIDR_NO_MASQUERADE = 1
POD_SLOTS, REASONS = 1024, 64
_VERDICTS = {True: 1, False: 2}


class Record:
    """A struct of the programs: its fields in order, each with a format character of module struct.

    The format may have a count, as for an array. A nested record is a tuple of the record and a count.
    """

    def __init__(self, **fields: str | tuple[Record, int]) -> None:
        self.fields: dict[str, Field] = {}
        self.form: str = "="
        self.size: int = 0
        for name, given in fields.items():
            if isinstance(given, tuple):
                record, count = given
                size, form = record.size, record.form[1:] * count
                for inner, field_ in record.fields.items():
                    self.fields[f"{name}.{inner}"] = replace(field_, offset=self.size + field_.offset)
            else:
                count, size, form = int(given[:-1] or 1), struct.calcsize("=" + given[-1]), given
            self.fields[name] = Field(self.size, size, count)
            self.form += form
            self.size += size * count
        self._struct = struct.Struct(self.form)

    def pack(self, *values: Any) -> bytes:
        """Return the struct's bytes."""
        return self._struct.pack(*values)

    def unpack(self, raw: bytes) -> tuple[Any, ...]:
        """Return the fields' values; padding has none."""
        return self._struct.unpack(raw)


def _scalar(form: str) -> Record:
    """Return a record for a key or value that is no struct."""
    return Record(**{"": form})


INDEX = _scalar("I")
CONFIG = Record(generation="I", features="I")
ENDPOINT = Record(ifindex="I", owner="I", identity="2I", enforce="2H", slot="H", flags="H")
POD = Record(
    owner="I", slot="H", flags="H", identity="2I", enforce="2H", mac="6s", pad="6x", rate="Q"
)  # fmt: skip
CIDR4_KEY = Record(prefixlen="I", buffer="I", address="4s")
CIDR6_KEY = Record(prefixlen="I", buffer="I", address="16s")
CIDR = Record(identity="I", flags="I")
POLICY_KEY = Record(subject="I", peer="I", buffer="B", direction="B", pad="2x")
_RANGE = Record(proto="B", verdict="B", first="H", last="H")
_RULESET = Record(verdict="B", ranges="B", pad="2x", range=(_RANGE, MAX_RANGES))
SERVICE_KEY = Record(address="16s", port="2s", proto="B", family="B", buffer="I")
SERVICE = Record(table="I", id="I")
TABLE = Record(backend=f"{MAGLEV_SIZE}I", digest="8s")
_BACKEND = Record(address="16s", port="2s", pad="2x")
_NODE = Record(masquerade4="4s", first_port="H", last_port="H", masquerade6="16s")
_COUNTERS = Record(packets=f"{REASONS}Q")
_TUPLE = Record(src="16s", dst="16s", sport="2s", dport="2s", proto="B", family="B", kind="H")
DROP_EVENT = Record(
    time="Q", tuple=(_TUPLE, 1), ifindex="I", len="I", peer="I", slot="H", reason="B", direction="B"
)

# Keys and values of the maps that the collection writes. Programs write the others.
WRITTEN: dict[str, tuple[Record, Record]] = {
    "config": (INDEX, CONFIG),
    "endpoints4": (_scalar("4s"), ENDPOINT),
    "endpoints6": (_scalar("16s"), ENDPOINT),
    "pods": (INDEX, POD),
    "cidrs4": (CIDR4_KEY, CIDR),
    "cidrs6": (CIDR6_KEY, CIDR),
    "policy": (POLICY_KEY, INDEX),
    "rulesets": (INDEX, _RULESET),
    "services": (SERVICE_KEY, SERVICE),
    "tables": (INDEX, TABLE),
    "backends": (INDEX, _BACKEND),
    "node": (INDEX, _NODE),
}
# All maps whose content the collection knows
MAPS = {**WRITTEN, "layout": (INDEX, INDEX), "metrics": (INDEX, _COUNTERS)}
# Structs that are in no map's definition
STRUCTS = {"drop_event": DROP_EVENT}
# Sizes of maps that the collection relies on
ENTRIES = {"layout": LAYOUT, "config": 1, "metrics": POD_SLOTS, "pacing": POD_SLOTS, "node": 2}
ENUMS: dict[str, dict[str, int]] = {
    "cidr_flag": {"CIDR_NO_MASQUERADE": CIDR_NO_MASQUERADE},
    "config_feature": {"FEATURE_SERVICES": FEATURE_SERVICES, "FEATURE_MASQUERADE": FEATURE_MASQUERADE},
    "endpoint_enforce": {
        "ENFORCE_INGRESS": ENFORCE[INGRESS],
        "ENFORCE_EGRESS": ENFORCE[EGRESS],
        "DENY_INGRESS": DENY[INGRESS],
        "DENY_EGRESS": DENY[EGRESS],
    },
    "identity": {"IDENTITY_WORLD": WORLD, "IDENTITY_HOST": HOST},
    "pod_flag": {
        "POD_NETKIT": POD_NETKIT,
        "POD_L2": POD_L2,
        "POD_MASQUERADE": POD_MASQUERADE,
        "POD_ANY_SOURCE": POD_ANY_SOURCE,
    },
    "policy_direction": {"POLICY_INGRESS": INGRESS, "POLICY_EGRESS": EGRESS},
    "verdict": {"VERDICT_ALLOW": _VERDICTS[True], "VERDICT_DENY": _VERDICTS[False]},
}
# Names in enum reason, whose values are read from the running programs
INBOUND_REASONS = ("REASON_INBOUND", "REASON_HOST", "REASON_DROP_POLICY_INGRESS")

# Key and value sizes of the maps that the collection writes
SIZES = {name: (key.size, value.size) for name, (key, value) in WRITTEN.items()}
ARRAYS = ("rulesets", "tables", "backends", "node")
HASHES = ("endpoints4", "endpoints6", "pods", "cidrs4", "cidrs6", "policy", "services")


def buffer_offset(name: str) -> int:
    """Return where a map's keys have the number of their buffer; the byte is enough for it."""
    field_ = WRITTEN[name][0].fields["buffer"]
    return field_.offset + (field_.size - 1 if sys.byteorder == "big" else 0)


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
    verdict = _VERDICTS[not ruleset.allow]
    values = [value for r in ruleset.ranges for value in (r.protocol, verdict, r.first, r.last)]
    values += [0] * (len(_RANGE.fields) * MAX_RANGES - len(values))
    return _RULESET.pack(_VERDICTS[ruleset.allow], len(ruleset.ranges), *values)


def decode_ruleset(raw: bytes) -> Ruleset:
    """Return what ``encode_ruleset`` made."""
    verdict, count, *values = _RULESET.unpack(raw)
    ranges = [Ports(values[i], *values[i + 2 : i + 4]) for i in range(0, 4 * count, 4)]
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
