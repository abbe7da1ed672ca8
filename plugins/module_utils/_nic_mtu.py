# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a lower MTU takes from a node, and a higher one does not give back. Private to this collection.

Sources: addrconf_notify() of net/ipv6/addrconf.c, vlan_device_event() of net/8021q/vlan.c,
macvlan_device_event() of drivers/net/macvlan.c.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ansible_collections.podnet.datapath.plugins.module_utils import _netlink

IPV6_MIN_MTU = 1280
# Kinds whose MTU the kernel lowers along with that of the interface below; others follow it both ways.
_CLAMPED = frozenset({"macvlan", "macvtap", "vlan"})
_IFLA_MTU, _IFLA_LINK, _IFLA_LINK_NETNSID = 4, 5, 37


@dataclass(frozen=True)
class Interface:
    """An interface that the kernel may lower along with the one of the index ``below``."""

    name: str
    index: int
    below: int
    mtu: int


def clamped() -> list[Interface]:
    """Return this network namespace's interfaces that are lowered along with another one of it."""
    found = []
    for answer in _netlink.exchange(
        _netlink.RTM_GETLINK, _netlink.NLM_F_DUMP, _netlink.IFINFO.pack(0, 0, 0, 0, 0)
    ):
        link = _netlink.attributes(answer[_netlink.IFINFO.size :])
        info = _netlink.attributes(link.get(_netlink.IFLA_LINKINFO, b""))
        kind = _netlink.text(info.get(_netlink.IFLA_INFO_KIND, b""))
        if kind in _CLAMPED and _IFLA_LINK in link and _IFLA_LINK_NETNSID not in link:
            below, mtu = (struct.unpack("=I", link[number])[0] for number in (_IFLA_LINK, _IFLA_MTU))
            name = _netlink.text(link[_netlink.IFLA_IFNAME])
            found.append(Interface(name, _netlink.IFINFO.unpack_from(answer)[2], below, mtu))
    return found


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
    above: Iterable[Interface],
    ipv6: frozenset[str],
) -> list[str]:
    """Return what lower MTUs would take along that no way back would bring.

    ``lowered``: index and new MTU by NIC; ``wished``: the MTU of every NIC that is given one in this call.
    """
    above = list(above)
    found = []
    for nic, (index, mtu) in lowered.items():
        if mtu < IPV6_MIN_MTU and nic in ipv6:
            found.append(
                f"nics: {nic}: mtu = {mtu} would take its IPv6 addresses and routes away, as IPv6 needs"
                f" {IPV6_MIN_MTU}: give at least that, or switch IPv6 off on it"
                f" (net.ipv6.conf.{nic}.disable_ipv6)"
            )
        for one in _on(index, above):
            if one.mtu > mtu and wished.get(one.name, one.mtu) > mtu:
                found.append(
                    f"nics: {nic}: mtu = {mtu} would lower {one.name} from {one.mtu} along with it, and"
                    f" nothing would raise that again: give {one.name} an mtu of {mtu} or less in nics, too"
                )
    return found


def _on(index: int, above: Sequence[Interface]) -> list[Interface]:
    """Return the interfaces on another one, and those on them."""
    direct = [one for one in above if one.below == index]
    return [*direct, *(further for one in direct for further in _on(one.index, above))]
