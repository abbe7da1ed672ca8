# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The programs' maps byte by byte, and an image of what they say. Private to this collection.

Source: config.h, endpoints.h, identity.h, policy.h, lb.h, masquerade.h, metrics.h of the programs.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from .model import Address, Network, Ports
from .policy import Ruleset

LAYOUT = 1  # LAYOUT of config.h
NOBODY = 0xFFFFFFFF  # an identity that no policy has
MAGLEV_SIZE, MAX_RANGES = 251, 16
FEATURE_SERVICES, FEATURE_MASQUERADE = 1, 2
ENFORCE, DENY = (1, 2), (4, 8)  # by direction
POD_NETKIT, POD_L2, POD_MASQUERADE, POD_ANY_SOURCE = 1, 2, 4, 8
CIDR_NO_MASQUERADE = 1
POD_SLOTS, REASONS = 1024, 64

CONFIG = struct.Struct("=II")  # generation, features
ENDPOINT = struct.Struct("=II2I2HHH")  # ifindex, owner, identity[2], enforce[2], slot, flags
POD = struct.Struct("=IHH2I2H6s6xQ")  # owner, slot, flags, identity[2], enforce[2], mac, rate
CIDR = struct.Struct("=II")  # identity, flags
POLICY_KEY = struct.Struct("=IIBBxx")  # subject, peer, bank, direction
_RULESET = struct.Struct("=BBxx")  # verdict, ranges; then the ranges
_RANGE = struct.Struct("=BBHH")  # proto, verdict, first, last
SERVICE_KEY = struct.Struct("=16s2sBBI")  # address, port, proto, family, bank
SERVICE = struct.Struct("=II")  # table, id
TABLE = struct.Struct(f"={MAGLEV_SIZE}I8s")  # backends, digest
_BACKEND = struct.Struct("=16s2sxx")  # address, port (struct addr_port)
_NODE = struct.Struct("=4sHH16s")  # masquerade4, first_port, last_port, masquerade6
INDEX = struct.Struct("=I")
_RULESET_SIZE = _RULESET.size + MAX_RANGES * _RANGE.size
_VERDICTS = {True: 1, False: 2}

# Key and value sizes of the maps that are written here. Programs write the others.
SIZES: dict[str, tuple[int, int]] = {
    "config": (4, CONFIG.size),
    "endpoints4": (4, ENDPOINT.size),
    "endpoints6": (16, ENDPOINT.size),
    "pods": (4, POD.size),
    "cidrs4": (12, CIDR.size),
    "cidrs6": (24, CIDR.size),
    "policy": (POLICY_KEY.size, 4),
    "rulesets": (4, _RULESET_SIZE),
    "services": (SERVICE_KEY.size, SERVICE.size),
    "tables": (4, TABLE.size),
    "backends": (4, _BACKEND.size),
    "node": (4, _NODE.size),
}
ARRAYS = ("rulesets", "tables", "backends", "node")
HASHES = ("endpoints4", "endpoints6", "pods", "cidrs4", "cidrs6", "policy", "services")


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
