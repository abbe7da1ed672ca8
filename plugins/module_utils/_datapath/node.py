# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read the network devices of this node, and the ports that its own connections leave free.

Source: rtnetlink(7).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from .._kernel import netlink, netns, qdisc
from .._kernel.qdisc import Queue
from .._kernel.routes import default_interfaces, local_addresses, source_addresses
from .._kernel.rtnl import Rtnl
from .masquerade import masquerade_ports
from .model import Address, Masquerade

IFF_NOARP = 0x80
# Devices without queues of their own, and ports that lead to Pods or virtual machines
_ON_TOP, _WITH_PORTS = ("ipvlan", "macsec", "macvlan", "vlan"), ("bond", "bridge", "team")
_NO_UPLINK = ("meta", "netkit", "tun", "veth")
_PLANNED_IFINDEX = 1 << 31  # The kernel's indexes are positive int.


@dataclass(frozen=True)
class Interface:
    """A network device: what the map ``pods`` has of it, and the devices below and above it by index."""

    ifindex: int
    kind: str = ""
    mac: bytes = bytes(6)
    has_arp: bool = True
    link: int = 0
    master: int = 0


@dataclass(frozen=True)
class Node:
    """The network devices of this network namespace by name, and its ports for masqueraded Pods.

    ``uplinks`` has the qdiscs of the devices by which packets leave the node. ``addresses`` are those of the
    node itself, ``sources`` those of connections from the wire to other nodes. ``netns_cookie`` is that of
    the network namespace. ``has_egress`` is whether each device with a program at ingress has one at egress,
    which translates replies of the node's own processes.
    """

    interfaces: Mapping[str, Interface] = field(default_factory=dict)
    masquerade_ports: tuple[int, int] = (1, 0)
    uplinks: Mapping[str, Sequence[Queue]] = field(default_factory=dict)
    addresses: frozenset[Address] = frozenset()
    sources: Masquerade = field(default_factory=Masquerade)
    netns_cookie: int = 0
    has_egress: bool = False

    @property
    def of_host(self) -> tuple[object, ...]:
        """Return what can change without a change of Pods or services."""
        return self.addresses, self.sources, self.masquerade_ports, self.has_egress

    def with_planned(self, devices: Collection[str]) -> Node:
        """Return the node with those of ``devices`` that do not exist yet."""
        new = sorted(set(devices) - self.interfaces.keys())
        planned = {name: Interface(_PLANNED_IFINDEX + number) for number, name in enumerate(new)}
        return replace(self, interfaces={**self.interfaces, **planned})


def read_node(pin_path: str) -> Node:
    """Return the devices, free ports, uplinks and addresses of this network namespace."""
    interfaces = read_interfaces()
    uplinks = read_uplinks(pin_path, interfaces)
    ports, addresses = masquerade_ports(read_port_range()), local_addresses()
    ingress, egress = (_attached_devices(pin_path, hook) for hook in ("ingress", "egress"))
    return Node(
        *(interfaces, ports, uplinks, addresses, _sources(addresses, ingress), netns.own_cookie()),
        has_egress=bool(egress) and ingress <= egress,
    )


def _sources(addresses: Collection[Address], uplinks: Collection[str]) -> Masquerade:
    """Return the node's source addresses for connections that it forwards from the wire to other nodes.

    Replies must arrive on an uplink, which has programs: the default route may leave by a management network.
    So these are the ones on the default routes by an uplink, else the lowest addresses of the uplinks.
    """
    on_uplinks = source_addresses(uplinks)
    found: dict[int, Any] = {}
    for version, any_host in ((4, "203.0.113.1"), (6, "2001:db8:ffff::1")):
        with Rtnl() as rtnl:
            route = rtnl.next_hop(any_host)
        default = [ipaddress.ip_address(route.source)] if route and route.source else []
        lowest, other = (
            sorted(one for one in some if one.version == version) for some in (on_uplinks, addresses)
        )
        by_uplink = route is not None and route.interface in uplinks
        choices = [*default, *lowest] if by_uplink else [*lowest, *default]
        found[version] = next((one for one in (*choices, *other) if one in addresses), None)
    return Masquerade(found[4], found[6])


def read_interfaces() -> dict[str, Interface]:
    """Return all devices of this network namespace by name."""
    return {
        link.name: Interface(
            link.index,
            link.kind,
            link.mac if len(link.mac) == 6 else bytes(6),
            not link.flags & IFF_NOARP,
            0 if link.link_netns else link.link,
            link.master,
        )
        for link in netlink.links()
    }


def read_port_range() -> tuple[int, int]:
    """Return first and last port that the node's own connections use (ip-sysctl.rst)."""
    with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as f:
        first, last = map(int, f.read().split())
    return first, last


def read_uplinks(pin_path: str, interfaces: Mapping[str, Interface]) -> dict[str, list[Queue]]:
    """Return the qdiscs of devices with a default route or a program at ingress, Pods' devices included."""
    names = (default_interfaces() | _attached_devices(pin_path, "ingress")) & interfaces.keys()
    return {name: _queues(name, interfaces) for name in sorted(names)}


def _attached_devices(pin_path: str, hook: str) -> set[str]:
    """Return the devices with a pinned attachment (links/<owner>/<device>-<hook>) at a hook."""
    return {unquote(pin.name[: -len(hook) - 1]) for pin in Path(pin_path).glob(f"links/*/*-{hook}")}


def _queues(name: str, interfaces: Mapping[str, Interface]) -> list[Queue]:
    """Return the qdiscs of a device; if it has none, those of the devices below it."""
    device = interfaces[name]
    found = qdisc.queues(device.ifindex)
    if any(queue.kind not in ("", "noqueue") for queue in found):
        return found
    if device.kind in _WITH_PORTS:
        below = [n for n, i in interfaces.items() if i.master == device.ifindex and i.kind not in _NO_UPLINK]
    elif device.kind in _ON_TOP:
        below = [n for n, i in interfaces.items() if i.ifindex == device.link]
    else:
        below = []
    return [queue for lower in below for queue in _queues(lower, interfaces)] or found
