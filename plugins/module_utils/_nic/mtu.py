# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Find the interfaces whose MTUs depend on each other, and effects of a lower MTU that remain.

Sources: addrconf_notify() of net/ipv6/addrconf.c, vlan_device_event() of net/8021q/vlan.c,
macvlan_device_event() of drivers/net/macvlan.c, ipvlan_adjust_mtu() of drivers/net/ipvlan/ipvlan_main.c,
br_mtu_auto_adjust() of net/bridge/br_if.c, bond_change_mtu() of drivers/net/bonding/bond_main.c,
team_change_mtu() of drivers/net/team/team.c, vxlan_change_mtu() of drivers/net/vxlan/vxlan_core.c.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from .._core.plan import reason
from .._kernel import netlink

IPV6_MIN_MTU = 1280
# Kinds whose MTU the kernel lowers with that of the lower device, and their overhead in bytes.
_CLAMPED = {"macsec": 32, "macvlan": 0, "macvtap": 0, "vlan": 0}
# Kinds whose MTU follows that of the lower device in both directions.
_FOLLOWING = ("hsr", "ipvlan", "ipvtap")
# Kinds whose MTU the kernel limits to that of the lower device, less their overhead, only when it is set.
_LIMITED = ("vxlan",)
# Kinds that set the MTU of their ports.
_LEADING = ("bond", "team")
_IFLA_VXLAN_LINK = 3


@dataclass(frozen=True)
class Device:
    """An interface of this network namespace; ``lower`` and ``master`` are indexes, 0 without one."""

    name: str
    index: int
    mtu: int
    kind: str = ""
    lower: int = 0
    master: int = 0


@dataclass(frozen=True)
class Interface:
    """An interface whose MTU follows that of ``lower`` devices, less ``overhead`` bytes.

    With ``clamped`` the kernel lowers its MTU but does not raise it again; otherwise it follows both ways, as
    a bridge its ports, and a port its bond.
    """

    name: str
    index: int
    mtu: int
    lower: frozenset[int]
    clamped: bool = True
    overhead: int = 0


def devices() -> list[Device]:
    """Return the interfaces of this network namespace."""
    return [
        Device(link.name, link.index, link.mtu, link.kind, _lower(link), link.master)
        for link in netlink.links()
    ]


def _lower(link: netlink.Link) -> int:
    if link.link_netns:
        return 0
    return netlink.number(link.data.get(_IFLA_VXLAN_LINK, b"")) if link.kind == "vxlan" else link.link


def stacked(found: Sequence[Device]) -> list[Interface]:
    """Return the interfaces whose MTU follows that of others."""
    kinds = {device.index: device.kind for device in found}
    interfaces = []
    for device in found:
        identity = (device.name, device.index, device.mtu)
        if device.kind == "bridge":
            ports = frozenset(port.index for port in found if port.master == device.index)
            interfaces.append(Interface(*identity, ports, clamped=False))
        elif device.lower and device.kind in _CLAMPED:
            interfaces.append(Interface(*identity, frozenset({device.lower}), overhead=_CLAMPED[device.kind]))
        elif device.lower and device.kind in _FOLLOWING:
            interfaces.append(Interface(*identity, frozenset({device.lower}), clamped=False))
        if kinds.get(device.master) in _LEADING:
            interfaces.append(Interface(*identity, frozenset({device.master}), clamped=False))
    return interfaces


def related(names: Iterable[str], found: Sequence[Device]) -> dict[str, Device]:
    """Return the interfaces ``names`` and all whose MTUs depend on theirs, in the order of the writes.

    A bond comes before its ports, as it sets their MTU, and a lower device before those on top. A bridge
    comes last, as it follows its ports until its own MTU is set.
    """
    by_index = {device.index: device for device in found}
    linked: dict[int, set[int]] = {}
    for one in stacked(found):
        for lower in one.lower:
            linked.setdefault(one.index, set()).add(lower)
            linked.setdefault(lower, set()).add(one.index)
    for device in found:
        if device.kind in _LIMITED and device.lower:
            linked.setdefault(device.index, set()).add(device.lower)
            linked.setdefault(device.lower, set()).add(device.index)
    seen: set[int] = set()
    waiting = [device.index for device in found if device.name in {*names}]
    while waiting:
        index = waiting.pop()
        if index not in seen and index in by_index:
            seen.add(index)
            waiting += linked.get(index, ())

    def order(device: Device) -> tuple[int, int, str]:
        depth, below = 0, device
        # The link of a veth is its peer, not a lower device.
        while (
            below.kind in (*_CLAMPED, *_FOLLOWING, *_LIMITED)
            and below.lower in by_index
            and depth < len(found)
        ):
            depth, below = depth + 1, by_index[below.lower]
        return _rank(device), depth, device.name

    ordered = sorted((by_index[index] for index in seen), key=order)
    return {device.name: device for device in ordered}


def _rank(device: Device) -> int:
    return 0 if device.kind in _LEADING else 2 if device.kind == "bridge" else 1


def followers(planned: Mapping[str, int], found: Sequence[Device]) -> dict[str, tuple[int, int]]:
    """Return the MTUs, before and after, of interfaces that follow those in ``planned`` on their own."""
    after = {device.index: planned.get(device.name, device.mtu) for device in found}
    followed = {}
    for dummy in found:  # a chain is at most this long
        for one in stacked(found):
            room = min((after[lower] for lower in one.lower if lower in after), default=one.mtu)
            changed = any(after[x.index] != x.mtu for x in found if x.index in one.lower)
            room = max(room - one.overhead, 0)
            if one.name not in planned and changed and (not one.clamped or after[one.index] > room):
                after[one.index] = room
    for device in found:
        if device.name not in planned and after[device.index] != device.mtu:
            followed[device.name] = (device.mtu, after[device.index])
    return followed


def write_all(
    current: Callable[[], Mapping[str, int]], write: Callable[[str, int], None], desired: Mapping[str, int]
) -> list[str]:
    """Set MTUs that depend on each other; return errors.

    The kernel refuses an MTU above that of the lower device, and changes the MTUs of other devices along. So
    all MTUs that differ are written until none does, or until this changes nothing.
    """
    errors: list[str] = []
    seen: list[Mapping[str, int]] = []
    while True:
        now = current()
        state = {name: now[name] for name in desired if name in now}
        due = [name for name, value in state.items() if value != desired[name]]
        if not due or state in seen:
            return errors if due else []
        seen.append(state)
        errors = []
        for name in due:
            if current().get(name) == desired[name]:  # An earlier write changed it along.
                continue
            try:
                write(name, desired[name])
            except OSError as error:
                errors.append(f"nics: {name}: the kernel refuses mtu = {desired[name]}: {reason(error)}")


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
    result of ``stacked``.
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
