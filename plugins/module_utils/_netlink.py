# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two questions to rtnetlink that need no pyroute2 and change nothing. Private to this collection.

Source: rtnetlink(7), linux/if_link.h, net/core/rtnetlink.c.
"""

from __future__ import annotations

import errno
import os
import socket
import struct

NETLINK_ROUTE = 0
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP, NLM_F_EXCL, NLM_F_CREATE = 0x1, 0x4, 0x300, 0x200, 0x400
NLMSG_ERROR, NLMSG_DONE = 2, 3
IFLA_IFNAME, IFLA_LINKINFO = 3, 18
IFLA_INFO_KIND, IFLA_INFO_DATA = 1, 2

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_IFINFO = struct.Struct("=BxHiII")  # ifinfomsg: family, type, index, flags, change
_ATTRIBUTE = struct.Struct("=HH")  # nlattr: length, type


def attribute(kind: int, payload: bytes) -> bytes:
    """Return one netlink attribute, padded to 4 bytes."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(payload), kind) + payload + bytes(-len(payload) % 4)


def attributes(data: bytes) -> dict[int, bytes]:
    """Return the attributes in ``data`` by their type; a malformed rest is left out."""
    found: dict[int, bytes] = {}
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if not _ATTRIBUTE.size <= length <= len(data):
            break
        found[kind & 0x3FFF] = data[_ATTRIBUTE.size : length]
        data = data[(length + 3) & ~3 :]
    return found


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


def _exchange(kind: int, flags: int, payload: bytes) -> tuple[int, list[bytes]]:
    """Send one request; return the kernel's errno (0: none) and the payloads of what it answered."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE) as sock:
        sock.settimeout(5)
        sock.bind((0, 0))
        request = _HEADER.pack(_HEADER.size + len(payload), kind, flags | NLM_F_REQUEST, 1, 0) + payload
        sock.send(request)
        answers: list[bytes] = []
        while True:
            for answer, body in messages(sock.recv(1 << 16)):
                if answer in (NLMSG_ERROR, NLMSG_DONE):
                    return -struct.unpack_from("=i", body)[0], answers
                answers.append(body)


def has_link_kind(kind: str) -> bool:
    """Tell whether the running kernel makes links of ``kind``, without making one.

    For the pair kinds (netkit, veth, meta), whose attribute 1 holds the peer's ``ifinfomsg``: the
    request carries one that is too short, so a kernel that knows the kind refuses the attribute
    before it makes anything, and a kernel that does not answers EOPNOTSUPP.
    The kernel may ask modprobe for ``rtnl-link-<kind>`` on the way.

    Raises ``PermissionError`` without CAP_NET_ADMIN.
    """
    name = f"probe{os.getpid()}".encode()
    info = attribute(IFLA_INFO_KIND, kind.encode() + b"\0")
    info += attribute(IFLA_INFO_DATA, attribute(1, bytes(4)))
    link = _IFINFO.pack(0, 0, 0, 0, 0) + attribute(IFLA_IFNAME, name + b"\0")
    error, dummy = _exchange(
        RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, link + attribute(IFLA_LINKINFO, info)
    )
    if error in (errno.EPERM, errno.EACCES):
        raise PermissionError(error, os.strerror(error))
    if error == 0:  # A kind that ignores its attributes: no pair kind does, but never leave a link behind.
        _exchange(RTM_DELLINK, NLM_F_ACK, link)
    return error != errno.EOPNOTSUPP


def links_of_kind(kind: str) -> list[str]:
    """Return the names of this network namespace's links of ``kind``."""
    wanted = attribute(IFLA_LINKINFO, attribute(IFLA_INFO_KIND, kind.encode() + b"\0"))
    dummy, links = _exchange(RTM_GETLINK, NLM_F_DUMP, _IFINFO.pack(0, 0, 0, 0, 0) + wanted)
    names = []
    for link in links:
        found = attributes(link[_IFINFO.size :])
        info = attributes(found.get(IFLA_LINKINFO, b""))
        # A kernel that does not know the kind does not filter by it.
        if info.get(IFLA_INFO_KIND, b"").rstrip(b"\0").decode() == kind:
            names.append(found[IFLA_IFNAME].rstrip(b"\0").decode())
    return names
