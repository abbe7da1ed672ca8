# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Send netlink requests without pyroute2, for code that has to start fast.

Source: rtnetlink(7), netlink(7), linux/if_link.h, linux/net_namespace.h, net/core/rtnetlink.c.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import link_kinds

NETLINK_ROUTE = 0
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_GETNSID = 90
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP, NLM_F_EXCL, NLM_F_CREATE = 0x1, 0x4, 0x300, 0x200, 0x400
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLMSGERR_ATTR_MSG = 1
SOL_NETLINK, NETLINK_CAP_ACK, NETLINK_EXT_ACK = 270, 10, 11
IFLA_IFNAME, IFLA_LINKINFO, IFLA_IFALIAS = 3, 18, 20
IFLA_INFO_KIND, IFLA_INFO_DATA = 1, 2
NETNSA_NSID, NETNSA_FD = 1, 3

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
IFINFO = struct.Struct("=BxHiII")  # ifinfomsg: family, type, index, flags, change
_ATTRIBUTE = struct.Struct("=HH")  # nlattr: length, type


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


class KernelRefusal(OSError):
    """The error with which the kernel rejected a request, with its extack message if there is one."""


def text(raw: bytes) -> str:
    """Return a string attribute."""
    return raw.split(b"\0", 1)[0].decode(errors="replace")


def messages(data: bytes) -> list[tuple[int, bytes]]:
    """Return type and payload of each netlink message in ``data``."""
    found = []
    while len(data) >= _HEADER.size:
        length, kind, _flags, _sequence, _port = _HEADER.unpack_from(data)
        if not _HEADER.size <= length <= len(data):
            break
        found.append((kind, data[_HEADER.size : length]))
        data = data[(length + 3) & ~3 :]
    return found


def refusal(kind: int, body: bytes) -> KernelRefusal | None:
    """Return the error in the payload of NLMSG_ERROR or NLMSG_DONE, None for success.

    Requires NETLINK_CAP_ACK on the socket, so that NLMSG_ERROR contains only the header of the request.
    """
    code = -struct.unpack_from("=i", body)[0]
    if code <= 0:
        return None
    message = attributes(body[4 + _HEADER.size :] if kind == NLMSG_ERROR else body[4:]).get(NLMSGERR_ATTR_MSG)
    reason = os.strerror(code)
    return KernelRefusal(code, f"{text(message)} ({reason})" if message else reason)


def exchange(kind: int, flags: int, payload: bytes, protocol: int = NETLINK_ROUTE) -> list[bytes]:
    """Send one request and return the payloads of the replies. Raises ``KernelRefusal``."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol) as sock:
        sock.settimeout(5)
        sock.bind((0, 0))
        for option in (NETLINK_CAP_ACK, NETLINK_EXT_ACK):
            sock.setsockopt(SOL_NETLINK, option, 1)
        sock.send(_HEADER.pack(_HEADER.size + len(payload), kind, flags | NLM_F_REQUEST, 1, 0) + payload)
        answers: list[bytes] = []
        while True:
            for answer, body in messages(sock.recv(1 << 16)):
                if answer not in (NLMSG_ERROR, NLMSG_DONE):
                    answers.append(body)
                    continue
                refused = refusal(answer, body)
                if refused:
                    raise refused
                return answers


def has_link_kind(kind: str) -> bool:
    """Return whether the running kernel supports links of ``kind``, without creating one.

    Only for pair kinds (netkit, veth, meta), whose attribute 1 contains the peer's ``ifinfomsg``. The
    request carries one that is too short. A kernel that supports the kind rejects the attribute before
    it creates a link; other kernels return EOPNOTSUPP. The kernel may load ``rtnl-link-<kind>``.

    Raises ``PermissionError`` without CAP_NET_ADMIN.
    """
    name = f"probe{os.getpid()}".encode()
    info = attribute(IFLA_INFO_KIND, kind.encode() + b"\0")
    info += attribute(IFLA_INFO_DATA, attribute(1, bytes(4)))
    link = IFINFO.pack(0, 0, 0, 0, 0) + attribute(IFLA_IFNAME, name + b"\0")
    try:
        exchange(RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, link + attribute(IFLA_LINKINFO, info))
    except KernelRefusal as refused:
        if refused.errno in (errno.EPERM, errno.EACCES):
            raise PermissionError(refused.errno, refused.strerror) from None
        return refused.errno != errno.EOPNOTSUPP
    # Unexpected success: no pair kind ignores the attribute. Delete the link.
    exchange(RTM_DELLINK, NLM_F_ACK, link)
    return True


def known_attributes(kind: str, names: Sequence[str]) -> list[str]:
    """Return the attributes of ``names`` that the running kernel supports for a link kind.

    Creates no link, because the request uses the existing name ``lo``. The kernel validates attributes
    first: a supported attribute is too short (ERANGE), an unsupported one is ignored (EEXIST).
    """
    numbers = {name: number for name, number, dummy in link_kinds.ATTRIBUTES[kind]}
    known = []
    for name in names:
        data = attribute(IFLA_INFO_KIND, kind.encode() + b"\0")
        data += attribute(IFLA_INFO_DATA, attribute(numbers[name], b"\xff"))
        link = IFINFO.pack(0, 0, 0, 0, 0) + attribute(IFLA_IFNAME, b"lo\0")
        try:
            exchange(
                RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, link + attribute(IFLA_LINKINFO, data)
            )
        except KernelRefusal as refused:
            if refused.errno == errno.ERANGE:
                known.append(name.lower())
    return known


@dataclass(frozen=True)
class Link:
    """A link of a pair kind. ``alias`` is IFLA_IFALIAS; ``settings`` are from IFLA_INFO_DATA."""

    name: str
    index: int
    alias: str
    settings: Mapping[str, Any]

    @property
    def primary(self) -> bool:
        """Return whether this end is the primary device of the pair."""
        return bool(self.settings.get("primary", True))


def links_of_kind(kind: str) -> list[Link]:
    """Return the links of ``kind`` in the current network namespace."""
    wanted = attribute(IFLA_LINKINFO, attribute(IFLA_INFO_KIND, kind.encode() + b"\0"))
    links = []
    for answer in exchange(RTM_GETLINK, NLM_F_DUMP, IFINFO.pack(0, 0, 0, 0, 0) + wanted):
        found = attributes(answer[IFINFO.size :])
        info = attributes(found.get(IFLA_LINKINFO, b""))
        # The kernel does not filter by a kind that it does not support.
        if text(info.get(IFLA_INFO_KIND, b"")) == kind:
            data = attributes(info.get(IFLA_INFO_DATA, b""))
            links.append(
                Link(
                    text(found[IFLA_IFNAME]),
                    IFINFO.unpack_from(answer)[2],
                    text(found.get(IFLA_IFALIAS, b"")),
                    link_kinds.readable(kind, data),
                )
            )
    return links


def netns_id(path: str) -> int:
    """Return the ID of a namespace in the current one, as in IFLA_LINK_NETNSID, -1 if it has none.

    Raises ``OSError`` if the path does not exist.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        request = bytes(4) + attribute(NETNSA_FD, struct.pack("=I", descriptor))  # struct rtgenmsg
        (answer, *_unused) = exchange(RTM_GETNSID, NLM_F_ACK, request)
    finally:
        os.close(descriptor)
    return int(struct.unpack("=i", attributes(answer[4:])[NETNSA_NSID])[0])


def delete_link(index: int) -> None:
    """Delete a link and thereby its peer."""
    exchange(RTM_DELLINK, NLM_F_ACK, IFINFO.pack(0, 0, index, 0, 0))
