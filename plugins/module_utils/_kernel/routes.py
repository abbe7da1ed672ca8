# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Find the interfaces of default routes, and those that IPv6 uses.

/proc/net/route shows only the first next hop of a multipath route, and none of a nexthop object.

Sources: rtnetlink(7), linux/rtnetlink.h, linux/nexthop.h; fib_dump_info() of net/ipv4/fib_semantics.c.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
import struct
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Union

from .messages import message_types, next_hop_types
from .rtnl import RTM_GETADDR, RTM_GETROUTE, Rtnl

_RTM_GETNEXTHOP = 106
_GROUP_MEMBER = struct.Struct("=IBBH")  # nexthop_grp: ID, weight, reserved
_DESTINATION_LENGTH = 17  # offset of rtm_dst_len in a message
_TABLES = (253, 254)  # RT_TABLE_DEFAULT, RT_TABLE_MAIN
_SCOPE_LINK, _SCOPE_HOST = 253, 254  # RT_SCOPE_*
# linux/if_addr.h: IFA_F_SECONDARY (IPv6: IFA_F_TEMPORARY), IFA_F_DADFAILED, IFA_F_DEPRECATED, IFA_F_TENTATIVE
_NOT_PREFERRED = 0x01 | 0x08 | 0x20 | 0x40
_UNICAST, _KERNEL, _ROUTER_ADVERTISEMENT = 1, 2, 9  # RTN_UNICAST, RTPROT_KERNEL, RTPROT_RA


Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]


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
    with Rtnl() as rtnl:
        for family in (socket.AF_INET, socket.AF_INET6):
            for route in _routes(rtnl, family, _is_default):
                table = route.get_attr("RTA_TABLE") or route["table"]
                if (route["family"], route["type"]) != (family, _UNICAST) or table not in _TABLES:
                    continue
                indexes = _interfaces(route)
                if not indexes and route.get_attr("RTA_NH_ID"):
                    members = _nexthop_objects(rtnl) if members is None else members
                    indexes = members.get(route.get_attr("RTA_NH_ID"), frozenset())
                names = frozenset(_names(indexes))
                if names:
                    learned = route["proto"] == _ROUTER_ADVERTISEMENT
                    found.append(DefaultRoute(names, family == socket.AF_INET6, learned))
    return found


def default_interfaces() -> set[str]:
    """Return the interfaces that carry an IPv4 or IPv6 default route, all next hops included."""
    return {name for route in default_routes() for name in route.interfaces}


def local_addresses() -> frozenset[Address]:
    """Return the addresses of this network namespace that other hosts can reach."""
    with Rtnl() as rtnl:
        return frozenset(address for address, _message in _reachable(rtnl))


def source_addresses(interfaces: Collection[str]) -> frozenset[Address]:
    """Return the addresses of interfaces that may be sources for long: neither secondary nor temporary."""
    found = set()
    with Rtnl() as rtnl:
        for address, message in _reachable(rtnl):
            own = any(name in interfaces for name in _names([message["index"]]))
            if own and not message["flags"] & _NOT_PREFERRED:
                found.add(address)
    return frozenset(found)


def _reachable(rtnl: Rtnl) -> Iterator[tuple[Address, Any]]:
    """Yield the addresses that other hosts can reach, each with its message."""
    for message in _dump(rtnl, message_types().address(), RTM_GETADDR):
        value = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
        if value and message["scope"] not in (_SCOPE_LINK, _SCOPE_HOST):
            yield ipaddress.ip_address(value), message


def ipv6_in_use() -> set[str]:
    """Return the interfaces with IPv6 addresses or routes that the kernel does not create by itself."""
    indexes = set()
    with Rtnl() as rtnl:
        message = message_types().address()
        message["family"] = socket.AF_INET6
        for address in _dump(rtnl, message, RTM_GETADDR):
            if address["family"] == socket.AF_INET6 and address["scope"] not in (_SCOPE_LINK, _SCOPE_HOST):
                indexes.add(address["index"])
        for route in _routes(rtnl, socket.AF_INET6):
            if (route["family"], route["type"]) == (socket.AF_INET6, _UNICAST) and route["proto"] != _KERNEL:
                indexes |= _interfaces(route)
    return {*_names(indexes)}


def _dump(rtnl: Rtnl, message: Any, kind: int, keep: Callable[[bytes], bool] | None = None) -> list[Any]:
    """Return the replies; none if the kernel has no such objects, for example without IPv6."""
    try:
        return rtnl.dump(message, kind, keep=keep)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EAFNOSUPPORT):
            return []
        raise


def _routes(rtnl: Rtnl, family: int, keep: Callable[[bytes], bool] | None = None) -> list[Any]:
    message = next_hop_types().route()
    message["family"] = family
    return _dump(rtnl, message, RTM_GETROUTE, keep)


def _is_default(message: bytes) -> bool:
    """Return whether a route matches all addresses; decoding a million routes would take minutes."""
    return message[_DESTINATION_LENGTH] == 0


def _interfaces(route: Any) -> frozenset[int]:
    """Return the interfaces of a route's next hops."""
    index = route.get_attr("RTA_OIF")
    several = route.get_attr("RTA_MULTIPATH") or ()
    return frozenset([*([index] if index else []), *(hop["oif"] for hop in several)])


def _nexthop_objects(rtnl: Rtnl) -> dict[int, frozenset[int]]:
    """Return the interfaces of each nexthop object, groups included."""
    single: dict[int, frozenset[int]] = {}
    groups: dict[int, list[int]] = {}
    for nexthop in _dump(rtnl, next_hop_types().nexthop(), _RTM_GETNEXTHOP):
        identifier = nexthop.get_attr("NHA_ID")
        index, members = nexthop.get_attr("NHA_OIF"), nexthop.get_attr("NHA_GROUP")
        if index:
            single[identifier] = frozenset({index})
        if members:
            groups[identifier] = [member[0] for member in _GROUP_MEMBER.iter_unpack(members)]
    for identifier, found in groups.items():
        single[identifier] = frozenset().union(*(single.get(member, frozenset()) for member in found))
    return single


def _names(indexes: Iterable[int]) -> Iterator[str]:
    for index in indexes:
        with contextlib.suppress(OSError):  # It was deleted meanwhile.
            yield socket.if_indextoname(index)
