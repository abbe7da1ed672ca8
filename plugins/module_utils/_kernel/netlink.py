# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Send netlink requests of any family, and read and delete links.

``Socket`` has the only request loop of this collection. ``messages`` has the classes of pyroute2 that encode
and decode the messages. The sockets are those of the standard library, because pyroute2 enters a namespace
through a slow child process, and its request functions differ between 0.7 and 0.9.

Source: rtnetlink(7), netlink(7), linux/if_link.h, linux/net_namespace.h, net/core/rtnetlink.c.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import link_kinds, netns
from .messages import message_types, namespace_type

NETLINK_ROUTE, NETLINK_SOCK_DIAG, NETLINK_XFRM, NETLINK_GENERIC = 0, 4, 6, 16
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_GETNSID = 90
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP, NLM_F_EXCL, NLM_F_CREATE = 0x1, 0x4, 0x300, 0x200, 0x400
NLM_F_DUMP_INTR = 0x10
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLMSGERR_ATTR_MSG = 1
SOL_NETLINK, NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK = 270, 10, 11, 12
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_MASTER = 1, 3, 4, 5, 10
IFLA_LINKINFO, IFLA_IFALIAS, IFLA_LINK_NETNSID = 18, 20, 37
IFLA_INFO_KIND, IFLA_INFO_DATA = 1, 2
NETNSA_NSID = 1
SKIP_STATS = 8  # RTEXT_FILTER_SKIP_STATS of IFLA_EXT_MASK

TIMEOUT = 10  # seconds until a reply, and for repeating an interrupted dump
_ATTEMPTS = 10  # of an interrupted dump, even if they take longer
_BATCH = 64  # requests; more replies could overflow the default receive buffer
_BUFFER = 1 << 16  # bytes; the kernel uses at most 32 KiB for a part of a dump

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_IFINFO = struct.Struct("=BxHiII")  # ifinfomsg: family, type, index, flags, change
_ATTRIBUTE = struct.Struct("=HH")  # nlattr: length, type

Message = Any  # an object of a class in ``messages``, or the bytes after the header


class KernelRefusal(OSError):
    """The error with which the kernel rejected a request, with its extack message if there is one."""


class TooManyObjects(Exception):
    """A dump has more objects than the caller reads; the socket cannot be used any more."""


def attribute(kind: int, payload: bytes) -> bytes:
    """Return one netlink attribute, padded to 4 bytes."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(payload), kind) + payload + bytes(-len(payload) % 4)


def attributes(data: bytes) -> dict[int, bytes]:
    """Return the attributes in ``data`` by their type, up to the first malformed one."""
    found: dict[int, bytes] = {}
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if not _ATTRIBUTE.size <= length <= len(data):
            break
        found[kind & 0x3FFF] = data[_ATTRIBUTE.size : length]
        data = data[(length + 3) & ~3 :]
    return found


def text(raw: bytes) -> str:
    """Return a string attribute."""
    return raw.split(b"\0", 1)[0].decode(errors="replace")


def link_message(*attributes: bytes, index: int = 0, flags: int = 0, change: int = 0) -> bytes:
    """Return a message for one link: struct ifinfomsg and its attributes.

    ``change`` are those of the IFF_* that become as in ``flags``.
    """
    return _IFINFO.pack(0, 0, index, flags, change) + b"".join(attributes)


def split(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield type, flags, sequence number and bytes, header included, of each message in ``data``."""
    start = 0
    while len(data) - start >= _HEADER.size:
        length, kind, flags, sequence, _port = _HEADER.unpack_from(data, start)
        if not _HEADER.size <= length <= len(data) - start:
            return
        yield kind, flags, sequence, data[start : start + length]
        start += (length + 3) & ~3


def refusal(kind: int, message: bytes) -> KernelRefusal | None:
    """Return the error in a message of type NLMSG_ERROR or NLMSG_DONE, None for success.

    Requires NETLINK_CAP_ACK on the socket, so that NLMSG_ERROR contains only the header of the request.
    """
    body = message[_HEADER.size :]
    code = -struct.unpack_from("=i", body)[0]
    if code <= 0:
        return None
    start = 4 + _HEADER.size if kind == NLMSG_ERROR else 4
    extended = attributes(body[start:]).get(NLMSGERR_ATTR_MSG)
    reason = os.strerror(code)
    return KernelRefusal(code, f"{text(extended)} ({reason})" if extended else reason)


def decode(cls: type[Any], message: bytes) -> Any:
    """Return a received message, header included, as an object of a class in ``messages``."""
    found = cls(message)
    found.decode()
    return found


class Socket:
    """A netlink socket in the network namespace at ``path``, or in that of the calling thread.

    The kernel checks dump requests strictly and reports errors with extack messages. A request without a
    reply ends after ``timeout`` seconds with ``TimeoutError``.
    """

    _empty: tuple[int, ...] = ()  # errors of a dump that stand for no objects

    def __init__(self, protocol: int, path: str | None = None, timeout: int = TIMEOUT) -> None:
        with netns.entered(path) if path else contextlib.nullcontext():
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._socket.bind((0, 0))
        for option in (NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK):
            self._socket.setsockopt(SOL_NETLINK, option, 1)
        # settimeout() would call poll(2) before each system call.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", timeout, 0))
        self._timeout = timeout
        self._sequence = 0

    def __enter__(self) -> Socket:
        return self

    def __exit__(self, *_unused: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _encode(self, message: Message, kind: int, flags: int) -> bytes:
        self._sequence += 1
        if isinstance(message, bytes):
            size = _HEADER.size + len(message)
            return _HEADER.pack(size, kind, flags | NLM_F_REQUEST, self._sequence, 0) + message
        header = message["header"]
        header["type"], header["flags"] = kind, flags | NLM_F_REQUEST
        header["sequence_number"] = self._sequence
        message.encode()
        data = bytes(message.data)
        return data + bytes(-len(data) % 4)

    def _answers(self, first: int, kind: int) -> Iterator[tuple[int, int, int, bytes]]:
        """Yield type, flags, sequence number and bytes of each received message, endlessly.

        Skips replies to requests before ``first``, for example one that timed out. ``kind`` is the type of
        the request. Raises ``TimeoutError``.
        """
        while True:
            try:
                data = self._socket.recv(_BUFFER)
            except BlockingIOError:
                message = f"the kernel did not reply to netlink request {kind} within {self._timeout} s"
                raise TimeoutError(errno.ETIMEDOUT, message) from None
            for answer in split(data):
                if answer[2] >= first:
                    yield answer

    def send(self, requests: Sequence[tuple[Message, int, int]]) -> list[KernelRefusal | None]:
        """Send requests (message, type, flags) in order; return the error of each, None for success.

        The kernel continues after a request that fails.
        """
        results: list[KernelRefusal | None] = []
        for start in range(0, len(requests), _BATCH):
            batch = requests[start : start + _BATCH]
            first = self._sequence + 1
            self._socket.send(b"".join(self._encode(m, kind, flags | NLM_F_ACK) for m, kind, flags in batch))
            answers: dict[int, KernelRefusal | None] = {}
            for kind, _flags, sequence, answer in self._answers(first, batch[0][1]):
                if kind == NLMSG_ERROR:
                    answers[sequence] = refusal(kind, answer)
                if len(answers) == len(batch):
                    break
            results += [answers[sequence] for sequence in sorted(answers)]
        return results

    def request(self, message: Message, kind: int, flags: int = 0) -> None:
        """Send one request. Raises ``KernelRefusal`` if the kernel rejects it."""
        (refused,) = self.send([(message, kind, flags)])
        if refused is not None:
            raise refused

    def get(self, message: Message, kind: int) -> bytes:
        """Return the reply to a request for one object. Raises ``KernelRefusal``."""
        self._socket.send(self._encode(message, kind, 0))
        for got, _flags, _sequence, answer in self._answers(self._sequence, kind):
            refused = refusal(got, answer) if got == NLMSG_ERROR else None
            if refused:
                raise refused
            return answer
        raise AssertionError  # unreachable: _answers() is endless

    def dump_bytes(
        self, message: Message, kind: int, limit: int = 0, keep: Callable[[bytes], bool] | None = None
    ) -> list[bytes]:
        """Return all objects that match ``message``, as messages with header; with ``keep``, some of them.

        Repeats a dump that changes interrupt. Raises ``TooManyObjects`` for more than ``limit`` objects, 0
        stands for no limit, and ``TimeoutError`` if changes interrupt each dump for ``TIMEOUT`` seconds.
        """
        attempts, end = 0, time.monotonic() + self._timeout
        while attempts < _ATTEMPTS or time.monotonic() < end:
            attempts += 1
            self._socket.send(self._encode(message, kind, NLM_F_DUMP))
            found: list[bytes] = []
            interrupted = False
            for got, flags, _sequence, answer in self._answers(self._sequence, kind):
                interrupted = interrupted or bool(flags & NLM_F_DUMP_INTR)
                if got in (NLMSG_ERROR, NLMSG_DONE):
                    refused = refusal(got, answer)
                    if refused and refused.errno not in self._empty:
                        raise refused
                    break
                if limit and len(found) == limit:
                    raise TooManyObjects
                if keep is None or keep(answer):
                    found.append(answer)
            if not interrupted:
                return found
        raise TimeoutError(
            errno.ETIMEDOUT, f"changes interrupted {attempts} dumps (netlink request {kind}): try again"
        )

    def dump(
        self, message: Message, kind: int, limit: int = 0, keep: Callable[[bytes], bool] | None = None
    ) -> list[Any]:
        """Return the result of ``dump_bytes`` as objects of the class of ``message``."""
        return [decode(type(message), one) for one in self.dump_bytes(message, kind, limit, keep)]


def has_link_kind(kind: str) -> bool:
    """Return whether the running kernel supports links of ``kind``, without creating one.

    Only for pair kinds (netkit, veth, meta), whose attribute 1 contains the peer's ``ifinfomsg``. The
    request carries one that is too short. A kernel that supports the kind rejects the attribute before
    it creates a link; other kernels return EOPNOTSUPP. The kernel may load ``rtnl-link-<kind>``.

    Raises ``PermissionError`` without CAP_NET_ADMIN.
    """
    name = attribute(IFLA_IFNAME, f"probe{os.getpid()}".encode() + b"\0")
    with Socket(NETLINK_ROUTE) as rtnl:
        try:
            probe = link_message(name, link_info(kind, attribute(1, bytes(4))))
            rtnl.request(probe, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL)
        except KernelRefusal as refused:
            if refused.errno in (errno.EPERM, errno.EACCES):
                raise PermissionError(refused.errno, refused.strerror) from None
            return refused.errno != errno.EOPNOTSUPP
        # Unexpected success: no pair kind ignores the attribute. Delete the link.
        rtnl.request(link_message(name), RTM_DELLINK)
    return True


def known_attributes(kind: str, names: Sequence[str]) -> list[str]:
    """Return the attributes of ``names`` that the running kernel supports for a link kind.

    Creates no link, because the request uses the existing name ``lo``. The kernel validates attributes
    first: a supported attribute is too short (ERANGE), an unsupported one is ignored (EEXIST).
    """
    numbers = {name: number for name, number, dummy in link_kinds.ATTRIBUTES[kind]}
    loopback, new = attribute(IFLA_IFNAME, b"lo\0"), NLM_F_CREATE | NLM_F_EXCL
    requests = [
        (link_message(loopback, link_info(kind, attribute(numbers[name], b"\xff"))), RTM_NEWLINK, new)
        for name in names
    ]
    with Socket(NETLINK_ROUTE) as rtnl:
        results = rtnl.send(requests)
    return [
        name.lower() for name, refused in zip(names, results) if refused and refused.errno == errno.ERANGE
    ]


def link_info(kind: str, data: bytes) -> bytes:
    """Return IFLA_LINKINFO of a link of ``kind`` with IFLA_INFO_DATA."""
    info = attribute(IFLA_INFO_KIND, kind.encode() + b"\0") + attribute(IFLA_INFO_DATA, data)
    return attribute(IFLA_LINKINFO, info)


@dataclass(frozen=True)
class Link:
    """A link, with indexes of other links that are 0 if it has none.

    ``hardware`` is ARPHRD_*, ``flags`` IFF_*, ``alias`` IFLA_IFALIAS; ``kind`` and ``data`` are from
    IFLA_LINKINFO. ``link`` is the lower device, or the other end of a pair; with ``link_netns`` it is in
    another namespace.
    """

    name: str
    index: int
    hardware: int
    flags: int
    mtu: int
    mac: bytes
    alias: str
    kind: str
    data: Mapping[int, bytes]
    link: int
    link_netns: bool
    master: int

    @property
    def settings(self) -> dict[str, Any]:
        """Return IFLA_INFO_DATA of a meta or netkit device by name."""
        return link_kinds.readable(self.kind, self.data)

    @property
    def primary(self) -> bool:
        """Return whether this end is the primary device of the pair."""
        return bool(self.settings.get("primary", True))


def decode_link(message: bytes) -> Link:
    """Return a link from a message of the kernel, header included."""
    _family, hardware, index, flags, _change = _IFINFO.unpack_from(message, _HEADER.size)
    found = attributes(message[_HEADER.size + _IFINFO.size :])
    info = attributes(found.get(IFLA_LINKINFO, b""))
    return Link(
        text(found[IFLA_IFNAME]),
        index,
        hardware,
        flags,
        number(found.get(IFLA_MTU, b"")),
        found.get(IFLA_ADDRESS, b""),
        text(found.get(IFLA_IFALIAS, b"")),
        text(info.get(IFLA_INFO_KIND, b"")),
        attributes(info.get(IFLA_INFO_DATA, b"")),
        number(found.get(IFLA_LINK, b"")),
        IFLA_LINK_NETNSID in found,
        number(found.get(IFLA_MASTER, b"")),
    )


def number(data: bytes) -> int:
    """Return an unsigned integer attribute in native byte order, 0 for no data."""
    return int.from_bytes(data, sys.byteorder)


def links(kind: str = "") -> list[Link]:
    """Return the links in the current network namespace, all or those of ``kind``."""
    message = message_types().link()
    message["attrs"] = [("IFLA_EXT_MASK", SKIP_STATS)]
    if kind:
        message["attrs"].append(("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", kind)]}))
    with Socket(NETLINK_ROUTE) as rtnl:
        found = [decode_link(one) for one in rtnl.dump_bytes(message, RTM_GETLINK)]
    # The kernel does not filter by a kind that it does not support.
    return [link for link in found if not kind or link.kind == kind]


def links_of_kind(kind: str) -> list[Link]:
    """Return the links of ``kind`` in the current network namespace."""
    return links(kind)


def netns_id(path: str, rtnl: Socket | None = None) -> int:
    """Return the ID of a namespace in the current one, as in IFLA_LINK_NETNSID, -1 if it has none.

    ``rtnl`` is an open socket for several calls.

    Raises ``OSError`` if the path does not exist.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        message = namespace_type()()
        message["attrs"] = [("NETNSA_FD", descriptor)]
        with contextlib.nullcontext(rtnl) if rtnl else Socket(NETLINK_ROUTE) as sock:
            found = attributes(sock.get(message, RTM_GETNSID)[_HEADER.size + 4 :])  # struct rtgenmsg
    finally:
        os.close(descriptor)
    return int.from_bytes(found[NETNSA_NSID], sys.byteorder, signed=True)


def delete_link(index: int) -> None:
    """Delete a link and thereby its peer."""
    message = message_types().link()
    message["index"] = index
    with Socket(NETLINK_ROUTE) as rtnl:
        rtnl.request(message, RTM_DELLINK)
