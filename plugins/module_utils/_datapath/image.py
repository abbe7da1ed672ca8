# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The content of the maps, independent of buffers and array indexes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from socket import IPPROTO_UDP
from typing import NamedTuple

from .layout import NODE


class Endpoint(NamedTuple):
    """An address of a Pod, as in struct endpoint."""

    ifindex: int
    owner: int
    identity: int
    enforce: int
    slot: int
    flags: int


class Frontend(NamedTuple):
    """A service, as in struct service: digests of its backends, empty if there are none.

    ``sources`` are the networks of its clients, by prefix length and packed address, padded to 16 bytes.
    """

    number: int
    digest: bytes
    external: bytes
    affinity: int
    flags: int
    sources: frozenset[tuple[int, bytes]] = frozenset()


class Device(NamedTuple):
    """The device of a Pod on this node, as in struct pod."""

    owner: int
    slot: int
    flags: int
    identity: int
    enforce: int
    mac: bytes
    netns: int
    rate: int


PolicyKey = tuple[int, int, int]  # subject, peer, direction


@dataclass
class ImageChanges:
    """Entries of an image that single Pods change; None for those that they remove."""

    endpoints: dict[bytes, Endpoint | None] = field(default_factory=dict)
    pods: dict[int, Device | None] = field(default_factory=dict)
    policy: dict[PolicyKey, bytes | None] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.endpoints or self.pods or self.policy)


@dataclass
class Image:
    """The content of one buffer of all maps.

    ``endpoints`` are by packed address, ``pods`` by ifindex, ``cidrs`` (identity, flags) by prefix length and
    packed address, ``policy`` (struct ruleset) by subject, peer and direction. ``services`` refer to
    ``backends``, which have the weight of each struct addr_port by digest. ``node_addresses`` are needed for
    ports of the node.
    """

    endpoints: dict[bytes, Endpoint] = field(default_factory=dict)
    pods: dict[int, Device] = field(default_factory=dict)
    cidrs: dict[tuple[int, bytes], tuple[int, int]] = field(default_factory=dict)
    policy: dict[PolicyKey, bytes] = field(default_factory=dict)
    services: dict[tuple[bytes, bytes, int, int], Frontend] = field(default_factory=dict)
    backends: dict[bytes, Mapping[bytes, int]] = field(default_factory=dict)
    node_addresses: frozenset[tuple[bytes, int]] = frozenset()
    node: bytes = bytes(NODE.size)
    features: int = 0


def loses_udp_backends(current: Image, desired: Image) -> bool:
    """Return whether a UDP service, or a backend of one, is missing in the desired image."""
    for key, before in current.services.items():
        after = desired.services.get(key)
        if key[2] != IPPROTO_UDP or not before.digest or (after and after.digest == before.digest):
            continue
        remaining = desired.backends[after.digest] if after and after.digest else {}
        if not current.backends[before.digest].keys() <= remaining.keys():
            return True
    return False


def differences(current: Image, desired: Image) -> dict[str, int]:
    """Return the number of entries that differ, by kind; empty if none differs."""
    found = {}
    for kind in ("endpoints", "pods", "cidrs", "policy", "services"):
        before, after = getattr(current, kind), getattr(desired, kind)
        if before != after:
            found[kind] = sum(before.get(key) != after.get(key) for key in {*before, *after})
    # Weights are not in the maps, and a backend with a low weight may have no entry in the Maglev table.
    drifted = [
        digest
        for digest, weights in desired.backends.items()
        if not current.backends.get(digest, {}).keys() <= weights.keys()
    ]
    if drifted:
        found["backends"] = len(drifted)
    for kind in ("node", "node_addresses", "features"):
        if getattr(current, kind) != getattr(desired, kind):
            found[kind] = 1
    return found
