# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Change and read links, addresses, routes and neighbours.

Source: rtnetlink(7), linux/if_link.h.
"""

from __future__ import annotations

import errno
import socket
import struct
from typing import Any, NamedTuple

from .messages import message_types
from .netlink import NETLINK_ROUTE, SKIP_STATS, KernelRefusal, Socket, decode

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
RTM_SETNEIGHTBL = 67
REPLACE, EXCL, CREATE = 0x100, 0x200, 0x400  # NLM_F_*
TABLE_MAIN, SCOPE_UNIVERSE, SCOPE_LINK = 254, 0, 253  # RT_TABLE_*, RT_SCOPE_*
UP = 0x1  # IFF_UP
_UNICAST = 1  # RTN_UNICAST
PERMANENT = 0x80  # NUD_PERMANENT


class NextHop(NamedTuple):
    """Where the kernel sends packets to an address: an interface, and a gateway unless it is on the link.

    ``source`` is the address that its own packets have.
    """

    interface: str
    gateway: str = ""
    source: str = ""


def nested(*attributes: tuple[str, Any]) -> dict[str, Any]:
    """Return the value of an attribute that contains ``attributes``."""
    return {"attrs": list(attributes)}


class Rtnl(Socket):
    """An rtnetlink socket in the network namespace at ``path``, or in the current one."""

    _empty = (errno.ENOENT,)  # a routing table without routes

    def __init__(self, path: str | None = None) -> None:
        super().__init__(NETLINK_ROUTE, path)

    def __enter__(self) -> Rtnl:
        return self

    def link(self, name: str = "", index: int = 0) -> Any:
        """Return an interface by name or index. Raises ``KernelRefusal`` if it does not exist."""
        message = message_types().link()
        message["index"] = index
        message["attrs"] = [*([("IFLA_IFNAME", name)] if name else []), ("IFLA_EXT_MASK", SKIP_STATS)]
        return decode(type(message), self.get(message, RTM_GETLINK))

    def next_hop(self, address: str) -> NextHop | None:
        """Return the next hop of the kernel's route to an address, None if there is no unicast route."""
        message = message_types().route()
        message["family"] = socket.AF_INET6 if ":" in address else socket.AF_INET
        message["dst_len"] = 128 if ":" in address else 32
        message["attrs"] = [("RTA_DST", address)]
        try:
            found = decode(type(message), self.get(message, RTM_GETROUTE))
        except KernelRefusal:
            return None
        index = found.get_attr("RTA_OIF")
        if found["type"] != _UNICAST or not index:
            return None
        name = str(self.link(index=index).get_attr("IFLA_IFNAME"))
        return NextHop(name, found.get_attr("RTA_GATEWAY") or "", found.get_attr("RTA_PREFSRC") or "")

    def index_of(self, name: str) -> int:
        """Return the index of an interface. Raises ``KernelRefusal`` if it does not exist."""
        message = message_types().link()
        message["attrs"] = [("IFLA_IFNAME", name), ("IFLA_EXT_MASK", SKIP_STATS)]
        return int(struct.unpack_from("=i", self.get(message, RTM_GETLINK), 20)[0])
