# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Declare the structs and constants that the BPF programs and this collection share.

``verify`` compares these declarations with the BTF of an object before it is loaded.
Source: the header files of the role bpf_datapath.
"""

from __future__ import annotations

import hashlib
import struct
import sys
import zlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .._kernel.btf import Field
from . import limits
from .identity import ANY, HOST, WORLD
from .model import EGRESS, INGRESS, Address, Network, Ports
from .policy import Ruleset

LAYOUT = 4  # LAYOUT of config.h
MAGLEV_SIZE, DRAINING_MAX, MAX_RANGES = 251, 64, 64
TABLE_SIZE = MAGLEV_SIZE + DRAINING_MAX
FEATURE_SERVICES, FEATURE_MASQUERADE, FEATURE_STACK_NAT = 1, 2, 4
FEATURE_NODE_PORTS, FEATURE_EXTERNAL, FEATURE_HOST_BACKENDS = 8, 16, 32
ENFORCE, DENY = (1, 2), (4, 8)  # by direction
POD_NETKIT, POD_L2, POD_MASQUERADE, POD_ANY_SOURCE, POD_META = 1, 2, 4, 8, 16
CIDR_NO_MASQUERADE, CIDR_STACK_NAT = 1, 2
SERVICE_LISTED, SERVICE_SOURCES, SERVICE_NODE = 1, 2, 4
POD_SLOTS, REASONS = 1024, 64
PACING_PACKETS = 500
_VERDICTS = {True: 1, False: 2}


class Record:
    """A struct: its members in order, each with a format character of Python's module struct.

    The format may have a count, as for an array. A nested struct is a tuple of its record and a count.
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
        """Return the bytes of the struct."""
        return self._struct.pack(*values)

    def unpack(self, raw: bytes) -> tuple[Any, ...]:
        """Return the values of the members, without padding."""
        return self._struct.unpack(raw)


def _scalar(form: str) -> Record:
    """Return the record of a key or value that is not a struct."""
    return Record(**{"": form})


INDEX = _scalar("I")
CONFIG = Record(generation="I", features="I")
ENDPOINT = Record(ifindex="I", owner="I", identity="2I", enforce="2H", slot="H", flags="H", since="I")
POD = Record(
    owner="I", slot="H", flags="H", identity="2I", enforce="2H", mac="6s", pad="2x", netns="I", rate="Q"
)  # fmt: skip
CIDR4_KEY = Record(prefixlen="I", buffer="I", address="4s")
CIDR6_KEY = Record(prefixlen="I", buffer="I", address="16s")
CIDR = Record(identity="I", flags="I")
POLICY_KEY = Record(subject="I", peer="I", buffer="B", direction="B", pad="2x")
_RANGE = Record(proto="B", verdict="B", first="H", last="H")
_RULESET = Record(verdict="B", ranges="B", pad="2x", range=(_RANGE, MAX_RANGES))
SERVICE_KEY = Record(address="16s", port="2s", proto="B", family="B", buffer="I")
SOURCE_KEY = Record(prefixlen="I", service=(SERVICE_KEY, 1), client="16s")
SERVICE = Record(table="I", external="I", id="I", affinity="I", flags="I")
TABLE = Record(backend=f"{TABLE_SIZE}I", digest="8s")
_BACKEND = Record(address="16s", port="2s", pad="2x")
NODE_ADDRESS = Record(address="16s", family="I")
NODE = Record(masquerade4="4s", first_port="H", last_port="H", masquerade6="16s")
_COUNTERS = Record(packets=f"{REASONS}Q")
_TUPLE = Record(src="16s", dst="16s", sport="2s", dport="2s", proto="B", family="B", icmp="B", pad="x")
DROP_EVENT = Record(
    time="Q", tuple=(_TUPLE, 1), ifindex="I", len="I", peer="I", slot="H", reason="B", direction="B"
)
STALE_SOCKET = Record(request="56s", netns="I")

# Keys and values of the maps that user space writes. Programs write the other maps.
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
    "sources": (SOURCE_KEY, INDEX),
    "maglev": (INDEX, TABLE),
    "backends": (INDEX, _BACKEND),
    "node": (INDEX, NODE),
    "node_addresses": (NODE_ADDRESS, INDEX),
}
# Keys and values of the maps that user space reads or writes
MAPS = {**WRITTEN, "layout": (INDEX, INDEX), "metrics": (INDEX, _COUNTERS)}
# Structs of a ring buffer and an iterator, which have no keys and values
STRUCTS = {"drop_event": DROP_EVENT, "stale_socket": STALE_SOCKET}
# max_entries of maps that user space relies on
ENTRIES = {
    "layout": LAYOUT,
    "config": 1,
    "metrics": POD_SLOTS,
    "pacing": POD_SLOTS,
    "node": 2,
    "services": limits.SERVICES,
    "sources": limits.SOURCES,
    "maglev": limits.TABLES,
    "backends": limits.BACKENDS,
    "cidrs4": limits.CIDRS,
    "cidrs6": limits.CIDRS,
    "policy": limits.POLICY,
    "rulesets": limits.RULESETS,
}
ENUMS: dict[str, dict[str, int]] = {
    "cidr_flag": {"CIDR_NO_MASQUERADE": CIDR_NO_MASQUERADE, "CIDR_STACK_NAT": CIDR_STACK_NAT},
    "config_feature": {
        "FEATURE_SERVICES": FEATURE_SERVICES,
        "FEATURE_MASQUERADE": FEATURE_MASQUERADE,
        "FEATURE_STACK_NAT": FEATURE_STACK_NAT,
        "FEATURE_NODE_PORTS": FEATURE_NODE_PORTS,
        "FEATURE_EXTERNAL": FEATURE_EXTERNAL,
        "FEATURE_HOST_BACKENDS": FEATURE_HOST_BACKENDS,
    },
    "endpoint_enforce": {
        "ENFORCE_INGRESS": ENFORCE[INGRESS],
        "ENFORCE_EGRESS": ENFORCE[EGRESS],
        "DENY_INGRESS": DENY[INGRESS],
        "DENY_EGRESS": DENY[EGRESS],
    },
    "identity": {"IDENTITY_WORLD": WORLD, "IDENTITY_HOST": HOST, "IDENTITY_ANY": ANY},
    "pacing_limit": {"PACING_PACKETS": PACING_PACKETS},
    "pod_flag": {
        "POD_NETKIT": POD_NETKIT,
        "POD_L2": POD_L2,
        "POD_MASQUERADE": POD_MASQUERADE,
        "POD_ANY_SOURCE": POD_ANY_SOURCE,
        "POD_META": POD_META,
    },
    "policy_direction": {"POLICY_INGRESS": INGRESS, "POLICY_EGRESS": EGRESS},
    "service_flag": {
        "SERVICE_LISTED": SERVICE_LISTED,
        "SERVICE_SOURCES": SERVICE_SOURCES,
        "SERVICE_NODE": SERVICE_NODE,
    },
    "verdict": {"VERDICT_ALLOW": _VERDICTS[True], "VERDICT_DENY": _VERDICTS[False]},
}
# Reasons of packets that a Pod receives. Their values are read from the running programs.
INBOUND_REASONS = ("REASON_INBOUND", "REASON_HOST", "REASON_DROP_POLICY_INGRESS")

# Bits of struct source_key before the address of the client
SOURCE_PREFIX = 8 * SERVICE_KEY.size
# Table of a service without backends: an index beyond `maglev`, so that the programs drop new connections
NO_TABLE = 0xFFFFFFFF
# Unused element of a table: an index beyond `backends`
NO_BACKEND = 0xFFFFFFFF

# Key and value sizes of the maps that user space writes
SIZES = {name: (key.size, value.size) for name, (key, value) in WRITTEN.items()}
ARRAYS = ("rulesets", "maglev", "backends", "node")
HASHES = (
    "endpoints4",
    "endpoints6",
    "pods",
    "cidrs4",
    "cidrs6",
    "policy",
    "services",
    "sources",
    "node_addresses",
)


def buffer_offset(name: str) -> int:
    """Return the offset of the byte in a map's keys that has the number of their buffer."""
    fields = WRITTEN[name][0].fields
    field_ = fields.get("buffer") or fields["service.buffer"]
    return field_.offset + (field_.size - 1 if sys.byteorder == "big" else 0)


def number_of(name: str) -> int:
    """Return the number of an owner or a service in the maps."""
    return zlib.crc32(name.encode())


def encode_ruleset(ruleset: Ruleset) -> bytes:
    """Return struct ruleset. Raises ``ValueError`` if it has too many ranges."""
    if len(ruleset.ranges) > MAX_RANGES:
        raise ValueError(f"{len(ruleset.ranges)} port ranges exceed the maximum of {MAX_RANGES}")
    verdict = _VERDICTS[not ruleset.allow]
    values = [value for r in ruleset.ranges for value in (r.protocol, verdict, r.first, r.last)]
    values += [0] * (len(_RANGE.fields) * MAX_RANGES - len(values))
    return _RULESET.pack(_VERDICTS[ruleset.allow], len(ruleset.ranges), *values)


def decode_ruleset(raw: bytes) -> Ruleset:
    """Return the ruleset of a struct ruleset."""
    verdict, count, *values = _RULESET.unpack(raw)
    ranges = [Ports(values[i], *values[i + 2 : i + 4]) for i in range(0, 4 * count, 4)]
    return Ruleset(verdict == _VERDICTS[True], tuple(ranges))


def encode_service(address: Address, port: int, protocol: int) -> tuple[bytes, bytes, int, int]:
    """Return the key of a service in an image: address, port, protocol, address family."""
    return (address.packed.ljust(16, b"\0"), port.to_bytes(2, "big"), protocol, family_of(address))


def encode_source(network: Network) -> tuple[int, bytes]:
    """Return a network of clients as an image has it: prefix length, address."""
    return network.prefixlen, network.network_address.packed.ljust(16, b"\0")


def family_of(address: Address) -> int:
    """Return AF_INET or AF_INET6."""
    return 2 if address.version == 4 else 10


def encode_backend(address: Address, port: int) -> bytes:
    """Return struct addr_port."""
    return _BACKEND.pack(address.packed, port.to_bytes(2, "big"))


def encode_netns(cookie: int) -> bytes:
    """Return the address of struct node_address that stands for a network namespace."""
    return cookie.to_bytes(8, sys.byteorder).ljust(16, b"\0")


def decode_backend(raw: bytes, version: int) -> tuple[bytes, int]:
    """Return packed address and port of a struct addr_port."""
    address, port = _BACKEND.unpack(raw)
    return address[: 4 if version == 4 else 16], int.from_bytes(port, "big")


def digest_of(weights: Mapping[bytes, int]) -> bytes:
    """Return a digest of backends and weights, which identifies their Maglev table."""
    text = b"".join(raw + weight.to_bytes(2, "big") for raw, weight in sorted(weights.items()))
    return hashlib.blake2b(text, digest_size=8).digest()


def encode_cidr(network: Network) -> tuple[int, bytes]:
    """Return the key of a prefix in an image: length, packed address."""
    return network.prefixlen, network.network_address.packed
