# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Find the interfaces of default routes, and those that IPv6 uses.

/proc/net/route shows only the first next hop of a multipath route, and none of a nexthop object.

Sources: rtnetlink(7), linux/rtnetlink.h, linux/nexthop.h; fib_dump_info() of net/ipv4/fib_semantics.c.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from . import netlink

_GETADDR, _GETROUTE, _GETNEXTHOP = 22, 26, 106  # RTM_*
_ADDRESS = struct.Struct("=BBBBi")  # ifaddrmsg: family, prefix length, flags, scope, interface
_ROUTE = struct.Struct("=BBBBBBBBI")  # rtmsg
_NEXT_HOP = struct.Struct("=HBBi")  # rtnexthop: length, flags, weight, interface
_NEXTHOP_OBJECT = struct.Struct("=BBBxI")  # nhmsg
_GROUP_MEMBER = struct.Struct("=IBBH")  # nexthop_grp: ID, weight, reserved
_RTA_OIF, _RTA_MULTIPATH, _RTA_TABLE, _RTA_NH_ID = 4, 9, 15, 30
_NHA_ID, _NHA_GROUP, _NHA_OIF = 1, 2, 5
_TABLES = (253, 254)  # RT_TABLE_DEFAULT, RT_TABLE_MAIN
_SCOPE_LINK, _SCOPE_HOST = 253, 254  # RT_SCOPE_*
_UNICAST, _KERNEL, _ROUTER_ADVERTISEMENT = 1, 2, 9  # RTN_UNICAST, RTPROT_KERNEL, RTPROT_RA


@dataclass(frozen=True)
class DefaultRoute:
    """A default route of the tables main and default. ``learned``: from a router advertisement."""

    interfaces: frozenset[str]
    ipv6: bool = False
    learned: bool = False


def default_routes() -> list[DefaultRoute]:
    """Return the default routes in the network namespace of the calling thread."""
    found = []
    members: dict[int, frozenset[int]] | None = None
    for family in (socket.AF_INET, socket.AF_INET6):
        for answer in _dump(_GETROUTE, _ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)):
            header = _ROUTE.unpack_from(answer)
            its_family, length, table, protocol, kind = header[0], header[1], *header[4:6], header[7]
            route = netlink.attributes(answer[_ROUTE.size :])
            table = _number(route[_RTA_TABLE]) if _RTA_TABLE in route else table
            if (its_family, length, kind) != (family, 0, _UNICAST) or table not in _TABLES:
                continue
            indexes = _interfaces(route)
            if not indexes and _RTA_NH_ID in route:
                members = _nexthop_objects() if members is None else members
                indexes = members.get(_number(route[_RTA_NH_ID]), frozenset())
            names = frozenset(_names(indexes))
            if names:
                learned = protocol == _ROUTER_ADVERTISEMENT
                found.append(DefaultRoute(names, family == socket.AF_INET6, learned))
    return found


def default_interfaces() -> set[str]:
    """Return the interfaces that carry an IPv4 or IPv6 default route, all next hops included."""
    return {name for route in default_routes() for name in route.interfaces}


def ipv6_in_use() -> set[str]:
    """Return the interfaces with IPv6 addresses or routes that the kernel does not create by itself."""
    indexes = set()
    for answer in _dump(_GETADDR, _ADDRESS.pack(socket.AF_INET6, 0, 0, 0, 0)):
        family, dummy, dummy, scope, index = _ADDRESS.unpack_from(answer)
        if family == socket.AF_INET6 and scope not in (_SCOPE_LINK, _SCOPE_HOST):
            indexes.add(index)
    for answer in _dump(_GETROUTE, _ROUTE.pack(socket.AF_INET6, 0, 0, 0, 0, 0, 0, 0, 0)):
        header = _ROUTE.unpack_from(answer)
        if (header[0], header[7]) == (socket.AF_INET6, _UNICAST) and header[5] != _KERNEL:
            indexes |= _interfaces(netlink.attributes(answer[_ROUTE.size :]))
    return {*_names(indexes)}


def _dump(kind: int, payload: bytes) -> list[bytes]:
    """Return the replies; none if the kernel has no such objects, for example without IPv6."""
    try:
        return netlink.exchange(kind, netlink.NLM_F_DUMP, payload)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EAFNOSUPPORT):
            return []
        raise


def _number(data: bytes) -> int:
    return int(struct.unpack("=I", data)[0])


def _interfaces(route: Mapping[int, bytes]) -> frozenset[int]:
    """Return the interfaces of a route's next hops."""
    found = {_number(route[_RTA_OIF])} if _RTA_OIF in route else set()
    data = route.get(_RTA_MULTIPATH, b"")
    while len(data) >= _NEXT_HOP.size:
        length, dummy, dummy, index = _NEXT_HOP.unpack_from(data)
        if not _NEXT_HOP.size <= length <= len(data):
            break
        found.add(index)
        data = data[(length + 3) & ~3 :]
    return frozenset(found)


def _nexthop_objects() -> dict[int, frozenset[int]]:
    """Return the interfaces of each nexthop object, groups included."""
    single: dict[int, frozenset[int]] = {}
    groups: dict[int, list[int]] = {}
    for answer in _dump(_GETNEXTHOP, _NEXTHOP_OBJECT.pack(0, 0, 0, 0)):
        nexthop = netlink.attributes(answer[_NEXTHOP_OBJECT.size :])
        if _NHA_OIF in nexthop:
            single[_number(nexthop[_NHA_ID])] = frozenset({_number(nexthop[_NHA_OIF])})
        data = nexthop.get(_NHA_GROUP, b"")
        if data:
            groups[_number(nexthop[_NHA_ID])] = [member[0] for member in _GROUP_MEMBER.iter_unpack(data)]
    for number, members in groups.items():
        single[number] = frozenset().union(*(single.get(member, frozenset()) for member in members))
    return single


def _names(indexes: Iterable[int]) -> Iterator[str]:
    for index in indexes:
        with contextlib.suppress(OSError):  # It was deleted meanwhile.
            yield socket.if_indextoname(index)
