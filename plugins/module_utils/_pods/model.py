# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pods' devices and routes, the current ones and the desired ones, and what else is on the node."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from .._kernel import netns

# Next hops of Pods in L2 mode: assigned to no interface, resolved by permanent neighbour entries.
GATEWAYS = {4: "169.254.1.1", 6: "fe80::1"}
DEFAULT_ROUTES = {4: "0.0.0.0/0", 6: "::/0"}
SIZES = ("gso_max_size", "gro_max_size", "gso_ipv4_max_size", "gro_ipv4_max_size")

UNKNOWN_PROGRAM = -1  # a program that is not loaded yet (check mode only)
NO_PROGRAM = 0


class Route(NamedTuple):
    """A route by its destination (CIDR), next hop and device; the latter two may be empty.

    ``advmss`` is the MSS that TCP advertises on it, 0 to derive it from the MTU.
    """

    to: str
    via: str = ""
    dev: str = ""
    advmss: int = 0

    def __str__(self) -> str:
        words = [f"{word} {value}" for word, value in self._asdict().items() if value]
        return " ".join(words).removeprefix("to ")


@dataclass(frozen=True)
class End:
    """One end of a device pair. ``settings`` holds only managed ones: mtu, mac, up, loopback and SIZES."""

    settings: Mapping[str, object] = field(default_factory=dict)
    addresses: frozenset[str] = frozenset()
    neighbours: frozenset[tuple[str, str]] = frozenset()
    routes: frozenset[Route] = frozenset()


@dataclass(frozen=True)
class Device:
    """A Pod's device: a pair with one end on the host and one in the Pod.

    ``driver_settings`` holds the managed ones of: policy, peer_policy (pass or drop), from_pod and to_pod
    (program IDs). ``complete`` is false if the Pod's end of an existing device was not found.
    """

    name: str
    driver: str
    mode: str
    netns: str
    interface: str
    host_interface: str
    driver_settings: Mapping[str, object]
    host: End
    pod: End
    complete: bool = True


def down(device: Device) -> Device:
    """Return the device with both ends down, so without routes and neighbours."""

    def end(one: End) -> End:
        return End({**one.settings, "up": False}, one.addresses)

    return replace(device, host=end(device.host), pod=end(device.pod))


@dataclass(frozen=True)
class State:
    """All objects of one owner: devices by Pod, created namespaces, routes of the host."""

    devices: Mapping[str, Device] = field(default_factory=dict)
    namespaces: frozenset[str] = frozenset()
    host_routes: frozenset[Route] = frozenset()


@dataclass(frozen=True)
class Desired:
    """The desired state; ``existing_namespaces`` are those given by path, which must exist."""

    state: State
    existing_namespaces: frozenset[str]


def restrict(state: State, desired: State, names: Collection[str] | None) -> State:
    """Return the part of a state that a call for the Pods ``names`` manages, everything if that is None.

    Namespaces belong to it if one of these Pods uses or needs them, host routes if ``desired`` has any.
    """
    if names is None:
        return state
    devices = {key: device for key, device in state.devices.items() if device.name in names}
    paths = {device.netns for device in devices.values()} | desired.namespaces
    paths |= {netns.path_of(name) for name in names}
    paths -= {device.netns for key, device in state.devices.items() if key not in devices}
    routes = state.host_routes if desired.host_routes else frozenset()
    return State(devices, state.namespaces & paths, routes)


# The node


@dataclass(frozen=True)
class Interface:
    """A link as far as conflicts depend on it; ``owner`` and ``pod`` are empty if it has no managed alias.

    ``group`` is that of a device whose creation was interrupted, see ``creation_group``.
    """

    index: int
    peer: int
    kind: str
    owner: str
    pod: str
    group: int = 0

    def belongs_to(self, owner: str) -> bool:
        """Return whether an owner created the device."""
        return self.owner == owner or (not self.owner and self.group == creation_group(owner))


def creation_group(owner: str) -> int:
    """Return the group of a device until it has its alias, which the kernel does not accept at creation."""
    return 1 << 30 | zlib.crc32(owner.encode()) >> 2


class NodeRoute(NamedTuple):
    """A route of a main table. Two routes to one destination conflict only if their priorities are equal.

    ``mtu`` is the route's own MTU in bytes, 0 if it has none.
    """

    route: Route
    priority: int
    mtu: int = 0


@dataclass(frozen=True)
class Namespace:
    """What exists at a namespace's path: ``state`` is absent, live, or other (a file, not a namespace).

    If a Pod of the owner has its device here, only that device is read. ``unreadable`` is why the namespace
    was not read, empty if it was.
    """

    state: str
    interfaces: Mapping[str, Interface] = field(default_factory=dict)
    routes: tuple[NodeRoute, ...] = ()
    unreadable: str = ""


@dataclass(frozen=True)
class Node:
    """Everything on the node that a desired state can conflict with.

    ``created_namespaces`` maps paths to owners. ``sizes`` has MTU and SIZES of interfaces that are not
    managed. ``controller`` is the address of the Ansible controller, empty if that is this node.
    """

    interfaces: Mapping[str, Interface]
    addresses: frozenset[str]
    routes: tuple[NodeRoute, ...]
    namespaces: Mapping[str, Namespace]
    created_namespaces: Mapping[str, str]
    supported_sizes: frozenset[str]
    sizes: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    controller: str = ""
