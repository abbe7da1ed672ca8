# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read the network devices of this node, and the ports that its own connections leave free.

Source: rtnetlink(7).
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from .._kernel import netlink
from .masquerade import masquerade_ports

RTM_GETQDISC = 38
IFLA_ADDRESS, TCA_KIND = 1, 1
IFF_NOARP = 0x80
_PLANNED_IFINDEX = 1 << 31  # The kernel's indexes are positive int.


@dataclass(frozen=True)
class Interface:
    """A network device: what the map ``pods`` has of it."""

    ifindex: int
    kind: str = ""
    mac: bytes = bytes(6)
    has_arp: bool = True


@dataclass(frozen=True)
class Node:
    """The network devices of this network namespace by name, and its ports for masqueraded Pods.

    ``has_fq`` says whether a device has the qdisc fq, which delays packets until their departure time.
    """

    interfaces: Mapping[str, Interface] = field(default_factory=dict)
    masquerade_ports: tuple[int, int] = (1, 0)
    has_fq: bool = False

    def with_planned(self, devices: Collection[str]) -> Node:
        """Return the node with those of ``devices`` that do not exist yet."""
        new = sorted(set(devices) - self.interfaces.keys())
        planned = {name: Interface(_PLANNED_IFINDEX + number) for number, name in enumerate(new)}
        return replace(self, interfaces={**self.interfaces, **planned})


def read_node() -> Node:
    """Return the devices and free ports of this network namespace."""
    return Node(read_interfaces(), masquerade_ports(read_port_range()), _has_fq())


def read_interfaces() -> dict[str, Interface]:
    """Return all devices of this network namespace by name."""
    interfaces = {}
    request = netlink.IFINFO.pack(0, 0, 0, 0, 0)
    for answer in netlink.exchange(netlink.RTM_GETLINK, netlink.NLM_F_DUMP, request):
        dummy, dummy, ifindex, flags, dummy = netlink.IFINFO.unpack_from(answer)
        link = netlink.attributes(answer[netlink.IFINFO.size :])
        info = netlink.attributes(link.get(netlink.IFLA_LINKINFO, b""))
        mac = link.get(IFLA_ADDRESS, b"")
        interfaces[netlink.text(link[netlink.IFLA_IFNAME])] = Interface(
            ifindex,
            netlink.text(info.get(netlink.IFLA_INFO_KIND, b"")),
            mac if len(mac) == 6 else bytes(6),
            not flags & IFF_NOARP,
        )
    return interfaces


def read_port_range() -> tuple[int, int]:
    """Return first and last port that the node's own connections use (ip-sysctl.rst)."""
    with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as f:
        first, last = map(int, f.read().split())
    return first, last


def _has_fq() -> bool:
    request = struct.pack("=BxxxiIII", 0, 0, 0, 0, 0)  # struct tcmsg
    answers = netlink.exchange(RTM_GETQDISC, netlink.NLM_F_DUMP, request)
    return any(netlink.text(netlink.attributes(a[20:]).get(TCA_KIND, b"")) == "fq" for a in answers)
