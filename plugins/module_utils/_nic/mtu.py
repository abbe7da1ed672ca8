# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a lower MTU takes from a node, and a higher one does not give back. Private to this collection.

Sources: addrconf_notify() of net/ipv6/addrconf.c, vlan_device_event() of net/8021q/vlan.c,
macvlan_device_event() of drivers/net/macvlan.c, br_mtu_auto_adjust() of net/bridge/br_if.c.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .._kernel import netlink

IPV6_MIN_MTU = 1280
# Kinds whose MTU the kernel lowers along with that of the interface below, and the bytes that they add.
_CLAMPED = {"macsec": 32, "macvlan": 0, "macvtap": 0, "vlan": 0}
_IFLA_MTU, _IFLA_LINK, _IFLA_MASTER, _IFLA_LINK_NETNSID = 4, 5, 10, 37


@dataclass(frozen=True)
class Interface:
    """An interface, and the indexes of those whose lower MTU it gets, too.

    ``clamped``: it keeps that when they get a larger one again; a bridge does not. It needs ``overhead``
    bytes of theirs.
    """

    name: str
    index: int
    mtu: int
    below: frozenset[int]
    clamped: bool = True
    overhead: int = 0


def above() -> list[Interface]:
    """Return this network namespace's interfaces that are lowered along with others of it."""
    bridged: dict[int, set[int]] = {}
    links = []
    for answer in netlink.exchange(
        netlink.RTM_GETLINK, netlink.NLM_F_DUMP, netlink.IFINFO.pack(0, 0, 0, 0, 0)
    ):
        link = netlink.attributes(answer[netlink.IFINFO.size :])
        index = netlink.IFINFO.unpack_from(answer)[2]
        links.append((index, link))
        if _IFLA_MASTER in link:
            bridged.setdefault(_number(link[_IFLA_MASTER]), set()).add(index)
    found = []
    for index, link in links:
        info = netlink.attributes(link.get(netlink.IFLA_LINKINFO, b""))
        kind = netlink.text(info.get(netlink.IFLA_INFO_KIND, b""))
        name, mtu = netlink.text(link[netlink.IFLA_IFNAME]), _number(link[_IFLA_MTU])
        if kind == "bridge":
            found.append(Interface(name, index, mtu, frozenset(bridged.get(index, ())), clamped=False))
        elif kind in _CLAMPED and _IFLA_LINK in link and _IFLA_LINK_NETNSID not in link:
            below = frozenset({_number(link[_IFLA_LINK])})
            found.append(Interface(name, index, mtu, below, overhead=_CLAMPED[kind]))
    return found


def _number(data: bytes) -> int:
    return int(struct.unpack("=I", data)[0])


def with_ipv6() -> frozenset[str]:
    """Return the interfaces that have IPv6 addresses."""
    try:
        with open("/proc/net/if_inet6", encoding="ascii") as file:
            return frozenset(line.split()[-1] for line in file)
    except FileNotFoundError:  # The kernel has no IPv6.
        return frozenset()


def problems(
    lowered: Mapping[str, tuple[int, int]],
    wished: Mapping[str, int],
    others: Sequence[Interface],
    ipv6: frozenset[str],
) -> list[str]:
    """Return what lower MTUs would take along that no way back would bring.

    ``lowered``: index and new MTU by NIC; ``wished``: the MTU of every NIC that is given one in this call;
    ``others``: as ``above`` returns them.
    """
    found = []
    for nic, (index, mtu) in lowered.items():
        reached = _reached(index, mtu, others)
        for name in [nic, *(one.name for one in reached)]:
            if mtu < IPV6_MIN_MTU and name in ipv6:
                found.append(
                    f"nics: {nic}: mtu = {mtu} would take IPv6 addresses and routes of {name} away, as IPv6"
                    f" needs {IPV6_MIN_MTU}: give at least that, or switch IPv6 off on it"
                    f" (net.ipv6.conf.{name}.disable_ipv6)"
                )
        for one in reached:
            room = mtu - one.overhead
            if one.clamped and wished.get(one.name, one.mtu) > room:
                found.append(
                    f"nics: {nic}: mtu = {mtu} would lower {one.name} from {one.mtu} along with it, and"
                    f" nothing would raise that again: give {one.name} an mtu of {room} or less in nics, too"
                )
    return found


def _reached(index: int, mtu: int, others: Sequence[Interface]) -> list[Interface]:
    """Return the interfaces that an MTU of the one below would lower, those on them as well."""
    direct = [one for one in others if index in one.below and one.mtu > mtu - one.overhead]
    further = [more for one in direct for more in _reached(one.index, mtu, others)]
    return list(dict.fromkeys([*direct, *further]))
