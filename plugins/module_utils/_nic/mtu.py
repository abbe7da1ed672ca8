# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Find the effects of a lower MTU that restoring the former MTU does not undo.

Sources: addrconf_notify() of net/ipv6/addrconf.c, vlan_device_event() of net/8021q/vlan.c,
macvlan_device_event() of drivers/net/macvlan.c, br_mtu_auto_adjust() of net/bridge/br_if.c.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .._kernel import netlink

IPV6_MIN_MTU = 1280
# Kinds whose MTU the kernel lowers with that of the lower device, and their overhead in bytes.
_CLAMPED = {"macsec": 32, "macvlan": 0, "macvtap": 0, "vlan": 0}
_IFLA_MTU, _IFLA_LINK, _IFLA_MASTER, _IFLA_LINK_NETNSID = 4, 5, 10, 37


@dataclass(frozen=True)
class Interface:
    """An interface whose MTU follows that of ``lower`` devices, less ``overhead`` bytes.

    With ``clamped`` the kernel lowers its MTU but does not raise it again; a bridge follows both ways.
    """

    name: str
    index: int
    mtu: int
    lower: frozenset[int]
    clamped: bool = True
    overhead: int = 0


def stacked_interfaces() -> list[Interface]:
    """Return the interfaces of this network namespace whose MTU follows that of lower devices in it."""
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
            lower = frozenset({_number(link[_IFLA_LINK])})
            found.append(Interface(name, index, mtu, lower, overhead=_CLAMPED[kind]))
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
    planned: Mapping[str, int],
    stacked: Sequence[Interface],
    ipv6: frozenset[str],
) -> list[str]:
    """Return an error for each effect of lower MTUs that a rollback would not undo.

    ``lowered`` has index and new MTU by NIC, ``planned`` the MTU of every NIC in this call, ``stacked`` the
    result of ``stacked_interfaces``.
    """
    found = []
    for nic, (index, mtu) in lowered.items():
        affected = _affected(index, mtu, stacked)
        for name in [nic, *(one.name for one in affected)]:
            if mtu < IPV6_MIN_MTU and name in ipv6:
                found.append(
                    f"nics: {nic}: mtu = {mtu} would remove the IPv6 addresses and routes of {name}, as IPv6"
                    f" needs {IPV6_MIN_MTU}: set at least that, or disable IPv6 on it"
                    f" (net.ipv6.conf.{name}.disable_ipv6)"
                )
        for one in affected:
            room = mtu - one.overhead
            if one.clamped and planned.get(one.name, one.mtu) > room:
                found.append(
                    f"nics: {nic}: mtu = {mtu} would also lower {one.name} from {one.mtu}, and a rollback"
                    f" would not raise it again: add {one.name} to nics with an mtu of {room} or less"
                )
    return found


def _affected(index: int, mtu: int, stacked: Sequence[Interface]) -> list[Interface]:
    """Return the interfaces that a lower device's MTU would lower, directly or through others."""
    direct = [one for one in stacked if index in one.lower and one.mtu > mtu - one.overhead]
    further = [more for one in direct for more in _affected(one.index, mtu, stacked)]
    return list(dict.fromkeys([*direct, *further]))
