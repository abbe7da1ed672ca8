# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read the network devices and addresses of this node.

Source: rtnetlink(7), linux/if_addr.h.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from .._kernel import netlink
from .model import Address

RTM_GETADDR, RTM_GETQDISC = 22, 38
IFLA_ADDRESS, IFA_ADDRESS, IFA_LOCAL, TCA_KIND = 1, 1, 2, 1
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
    """The network devices by name and the addresses of this network namespace.

    ``has_fq`` says whether a device has the qdisc fq, which delays packets until their departure time.
    """

    interfaces: Mapping[str, Interface] = field(default_factory=dict)
    addresses: Sequence[Address] = ()
    has_fq: bool = False

    def with_planned(self, devices: Collection[str]) -> Node:
        """Return the node with those of ``devices`` that do not exist yet."""
        new = sorted(set(devices) - self.interfaces.keys())
        planned = {name: Interface(_PLANNED_IFINDEX + number) for number, name in enumerate(new)}
        return replace(self, interfaces={**self.interfaces, **planned})


def read_node() -> Node:
    """Return the devices and addresses of this network namespace."""
    return Node(read_interfaces(), read_addresses(), _has_fq())


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


def read_addresses() -> list[Address]:
    """Return the node's addresses in order, without loopback and link-local addresses."""
    addresses = set()
    for answer in netlink.exchange(RTM_GETADDR, netlink.NLM_F_DUMP, struct.pack("=BBBBI", 0, 0, 0, 0, 0)):
        values = netlink.attributes(answer[8:])
        raw = values.get(IFA_LOCAL) or values.get(IFA_ADDRESS)  # With a peer, IFA_ADDRESS is the peer's.
        if raw:
            address = ipaddress.ip_address(raw)
            if not (address.is_loopback or address.is_link_local):
                addresses.add(address)
    return sorted(addresses, key=lambda address: (address.version, address))


def _has_fq() -> bool:
    request = struct.pack("=BxxxiIII", 0, 0, 0, 0, 0)  # struct tcmsg
    answers = netlink.exchange(RTM_GETQDISC, netlink.NLM_F_DUMP, request)
    return any(netlink.text(netlink.attributes(a[20:]).get(TCA_KIND, b"")) == "fq" for a in answers)
