# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""This node's devices and addresses, as far as the programs' maps need them. Private to this collection.

Source: rtnetlink(7), linux/if_addr.h.
"""

from __future__ import annotations

import ipaddress
import struct

from .._kernel import netlink
from .compile import Interface
from .model import Address

RTM_GETADDR, RTM_GETQDISC = 22, 38
IFLA_ADDRESS, IFA_ADDRESS, IFA_LOCAL, TCA_KIND = 1, 1, 2, 1
IFF_NOARP = 0x80


def read_interfaces() -> dict[str, Interface]:
    """Return all devices of this network namespace by name."""
    found = {}
    request = netlink.IFINFO.pack(0, 0, 0, 0, 0)
    for answer in netlink.exchange(netlink.RTM_GETLINK, netlink.NLM_F_DUMP, request):
        dummy, dummy, ifindex, flags, dummy = netlink.IFINFO.unpack_from(answer)
        link = netlink.attributes(answer[netlink.IFINFO.size :])
        info = netlink.attributes(link.get(netlink.IFLA_LINKINFO, b""))
        mac = link.get(IFLA_ADDRESS, b"")
        found[netlink.text(link[netlink.IFLA_IFNAME])] = Interface(
            ifindex,
            netlink.text(info.get(netlink.IFLA_INFO_KIND, b"")),
            mac if len(mac) == 6 else bytes(6),
            not flags & IFF_NOARP,
        )
    return found


def read_addresses() -> list[Address]:
    """Return the node's own addresses but those of loopback and link scope, in order."""
    found = set()
    for answer in netlink.exchange(RTM_GETADDR, netlink.NLM_F_DUMP, struct.pack("=BBBBI", 0, 0, 0, 0, 0)):
        values = netlink.attributes(answer[8:])
        raw = values.get(IFA_LOCAL) or values.get(IFA_ADDRESS)  # a peer's address is not ours
        if raw:
            address = ipaddress.ip_address(raw)
            if not (address.is_loopback or address.is_link_local):
                found.add(address)
    return sorted(found, key=lambda address: (address.version, address))


def can_pace() -> bool:
    """Tell whether some device holds packets until the time that their sender's rate gives them."""
    request = struct.pack("=BxxxiIII", 0, 0, 0, 0, 0)  # struct tcmsg
    answers = netlink.exchange(RTM_GETQDISC, netlink.NLM_F_DUMP, request)
    return any(netlink.text(netlink.attributes(a[20:]).get(TCA_KIND, b"")) == "fq" for a in answers)
