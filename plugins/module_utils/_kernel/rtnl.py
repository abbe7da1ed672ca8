# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Send rtnetlink messages in batches.

pyroute2 encodes and decodes the messages. The sockets are those of the standard library, because pyroute2
enters a namespace through a slow child process, and its request functions differ between 0.7 and 0.9.

Source: rtnetlink(7), netlink(7), linux/if_link.h.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib.util
import socket
import struct
import sys
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from . import link_kinds, netlink, netns
from .netlink import KernelRefusal

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
REPLACE, EXCL, CREATE = 0x100, 0x200, 0x400  # NLM_F_*
TABLE_MAIN, SCOPE_UNIVERSE, SCOPE_LINK = 254, 0, 253  # RT_TABLE_*, RT_SCOPE_*
UP = 0x1  # IFF_UP
_UNICAST = 1  # RTN_UNICAST
PERMANENT = 0x80  # NUD_PERMANENT
SKIP_STATS = 8  # RTEXT_FILTER_SKIP_STATS

_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
_DUMP_INTR = 0x10
_ERROR, _DONE = 2, 3
_SOL_NETLINK, _CAP_ACK, _EXT_ACK, _STRICT = 270, 10, 11, 12
_BATCH = 64  # requests; more replies could overflow the default receive buffer


# Messages


@dataclass(frozen=True)
class MessageTypes:
    """The message classes of pyroute2 that this file uses."""

    link: Any
    address: Any
    route: Any
    neighbour: Any


@contextlib.contextmanager
def _without_init(name: str) -> Iterator[None]:
    """Run a block in which importing submodules of a package does not run the package's ``__init__``.

    The one of pyroute2 imports 130 modules, which takes five seconds on an emulated node; the messages take
    a quarter of that. Importing the package after the block runs its ``__init__`` as usual.
    """
    spec = importlib.util.find_spec(name)
    if name in sys.modules or spec is None or not spec.submodule_search_locations:
        yield
        return
    bare = types.ModuleType(name)
    bare.__path__ = list(spec.submodule_search_locations)
    sys.modules[name] = bare
    try:
        yield
    finally:
        del sys.modules[name]


@functools.cache
def message_types() -> MessageTypes:
    """Import the message classes of pyroute2 and register the link kinds meta and netkit."""
    with _without_init("pyroute2"):
        from pyroute2.netlink import nla
        from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
        from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg, ifinfveth
        from pyroute2.netlink.rtnl.ndmsg import ndmsg
        from pyroute2.netlink.rtnl.rtmsg import rtmsg

    link_kinds.register(ifinfmsg, nla, ifinfveth)

    class link(ifinfmsg):  # type: ignore[misc]
        """A link with the attributes that this collection uses; pyroute2's table lacks some of them."""

        nla_map = (
            (1, "IFLA_ADDRESS", "l2addr"),
            (3, "IFLA_IFNAME", "asciiz"),
            (4, "IFLA_MTU", "uint32"),
            (5, "IFLA_LINK", "uint32"),
            (18, "IFLA_LINKINFO", "ifinfo"),
            (20, "IFLA_IFALIAS", "asciiz"),
            (26, "IFLA_AF_SPEC", "families"),
            (27, "IFLA_GROUP", "uint32"),
            (28, "IFLA_NET_NS_FD", "uint32"),
            (29, "IFLA_EXT_MASK", "uint32"),
            (37, "IFLA_LINK_NETNSID", "int32"),
            (41, "IFLA_GSO_MAX_SIZE", "uint32"),
            (58, "IFLA_GRO_MAX_SIZE", "uint32"),
            (63, "IFLA_GSO_IPV4_MAX_SIZE", "uint32"),
            (64, "IFLA_GRO_IPV4_MAX_SIZE", "uint32"),
        )

        class families(nla):  # type: ignore[misc]
            nla_map = ((10, "AF_INET6", "inet6"),)

            class inet6(nla):  # type: ignore[misc]
                nla_map = ((8, "IFLA_INET6_ADDR_GEN_MODE", "uint8"),)

    return MessageTypes(link, ifaddrmsg, rtmsg, ndmsg)


class NextHop(NamedTuple):
    """Where the kernel sends packets to an address: an interface, and a gateway unless it is on the link."""

    interface: str
    gateway: str = ""


class TooManyObjects(Exception):
    """A dump has more objects than the caller reads; the socket cannot be used any more."""


def nested(*attributes: tuple[str, Any]) -> dict[str, Any]:
    return {"attrs": list(attributes)}


# Sockets


class Rtnl:
    """An rtnetlink socket in the network namespace at ``path``, or in the current one."""

    def __init__(self, path: str | None = None) -> None:
        with netns.entered(path) if path else contextlib.nullcontext():
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.bind((0, 0))
        for option in (_CAP_ACK, _EXT_ACK, _STRICT):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)
        self._sequence = 0

    def __enter__(self) -> Rtnl:
        return self

    def __exit__(self, *_unused: object) -> None:
        self._socket.close()

    def _encode(self, message: Any, kind: int, flags: int) -> bytes:
        self._sequence += 1
        header = message["header"]
        header["type"], header["flags"], header["sequence_number"] = kind, flags | _REQUEST, self._sequence
        message.encode()
        data = bytes(message.data)
        return data + bytes(-len(data) % 4)

    def _answers(self) -> Iterator[tuple[int, int, int, bytes]]:
        """Yield type, flags, sequence number and bytes (with header) of each received message, endlessly."""
        while True:
            data = self._socket.recv(1 << 20)
            while len(data) >= 16:
                length, kind, flags, sequence = struct.unpack_from("=IHHI", data)
                yield kind, flags, sequence, data[:length]
                data = data[(length + 3) & ~3 :]

    def send(self, requests: Sequence[tuple[Any, int, int]]) -> list[KernelRefusal | None]:
        """Send requests (message, type, flags) in order; return the error of each, None for success.

        The kernel continues after a request that fails.
        """
        results: list[KernelRefusal | None] = []
        for start in range(0, len(requests), _BATCH):
            batch = requests[start : start + _BATCH]
            first = self._sequence + 1
            self._socket.send(b"".join(self._encode(m, kind, flags | _ACK) for m, kind, flags in batch))
            answers: dict[int, KernelRefusal | None] = {}
            for kind, _flags, sequence, answer in self._answers():
                if kind == _ERROR and sequence >= first:
                    answers[sequence] = netlink.refusal(kind, answer[16:])
                if len(answers) == len(batch):
                    break
            results += [answers[sequence] for sequence in sorted(answers)]
        return results

    def request(self, message: Any, kind: int, flags: int = 0) -> None:
        """Send one request. Raises ``KernelRefusal`` if the kernel rejects it."""
        (refusal,) = self.send([(message, kind, flags)])
        if refusal is not None:
            raise refusal

    def dump(self, message: Any, kind: int, limit: int = 0) -> list[Any]:
        """Return all objects that match ``message``; retry on NLM_F_DUMP_INTR, 10 attempts at most.

        Raises ``TooManyObjects`` for more than ``limit`` objects; 0 stands for no limit.
        """
        for _attempt in range(10):
            self._socket.send(self._encode(message, kind, _DUMP))
            found: list[Any] = []
            interrupted = False
            for got, flags, sequence, answer in self._answers():
                if sequence != self._sequence:
                    continue
                interrupted = interrupted or bool(flags & _DUMP_INTR)
                if got in (_ERROR, _DONE):
                    refusal = netlink.refusal(got, answer[16:])
                    if refusal and refusal.errno != errno.ENOENT:  # a routing table without routes
                        raise refusal
                    break
                if limit and len(found) == limit:
                    raise TooManyObjects
                one = type(message)(answer)
                one.decode()
                found.append(one)
            if not interrupted:
                return found
        return found

    def link(self, name: str = "", index: int = 0) -> Any:
        """Return an interface by name or index. Raises ``KernelRefusal`` if it does not exist."""
        message = message_types().link()
        message["index"] = index
        message["attrs"] = [*([("IFLA_IFNAME", name)] if name else []), ("IFLA_EXT_MASK", SKIP_STATS)]
        answer = self._one(message, RTM_GETLINK)
        found = type(message)(answer)
        found.decode()
        return found

    def next_hop(self, address: str) -> NextHop | None:
        """Return the next hop of the kernel's route to an address, None if there is no unicast route."""
        message = message_types().route()
        message["family"] = socket.AF_INET6 if ":" in address else socket.AF_INET
        message["dst_len"] = 128 if ":" in address else 32
        message["attrs"] = [("RTA_DST", address)]
        try:
            answer = self._one(message, RTM_GETROUTE)
        except KernelRefusal:
            return None
        found = type(message)(answer)
        found.decode()
        index = found.get_attr("RTA_OIF")
        if found["type"] != _UNICAST or not index:
            return None
        return NextHop(
            str(self.link(index=index).get_attr("IFLA_IFNAME")), found.get_attr("RTA_GATEWAY") or ""
        )

    def index_of(self, name: str) -> int:
        """Return the index of an interface. Raises ``KernelRefusal`` if it does not exist."""
        message = message_types().link()
        message["attrs"] = [("IFLA_IFNAME", name), ("IFLA_EXT_MASK", SKIP_STATS)]
        return int(struct.unpack_from("=i", self._one(message, RTM_GETLINK), 20)[0])

    def _one(self, message: Any, kind: int) -> bytes:
        self._socket.send(self._encode(message, kind, 0))
        for got, _flags, sequence, answer in self._answers():
            if sequence == self._sequence:
                refusal = netlink.refusal(got, answer[16:]) if got == _ERROR else None
                if refusal:
                    raise refusal
                return answer
        raise AssertionError  # unreachable: _answers() is endless
