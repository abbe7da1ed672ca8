# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""List the TCP connections of a network namespace and the window scale that each announces.

Source: sock_diag(7), linux/inet_diag.h, struct tcp_info of linux/tcp.h.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from . import netlink

_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY = 4, 20
_INFO = 2  # INET_DIAG_INFO
_ESTABLISHED, _FIN_WAIT1, _FIN_WAIT2, _CLOSE_WAIT = 1, 4, 5, 8  # states that receive
_STATES = sum(1 << state for state in (_ESTABLISHED, _FIN_WAIT1, _FIN_WAIT2, _CLOSE_WAIT))
_OPT_WSCALE = 4  # TCPI_OPT_WSCALE: both ends support window scaling

_MESSAGE = struct.Struct("=BBBB2s2s16s16s")  # inet_diag_msg up to its addresses
_MESSAGE_SIZE = 72


@dataclass(frozen=True)
class Connection:
    """A connection, and the window scale that its local end announced; None without window scaling."""

    local: str
    remote: str
    scale: int | None


def _end(family: int, address: bytes, port: bytes) -> str:
    number = int.from_bytes(port, "big")
    if family == socket.AF_INET:
        return f"{socket.inet_ntop(family, address[:4])}:{number}"
    return f"[{socket.inet_ntop(family, address)}]:{number}"


def parse(payload: bytes) -> Connection | None:
    """Return the connection in an ``inet_diag_msg``; None if it has no INET_DIAG_INFO."""
    family, dummy, dummy, dummy, local_port, remote_port, local, remote = _MESSAGE.unpack_from(payload)
    info = netlink.attributes(payload[_MESSAGE_SIZE:]).get(_INFO, b"")
    if len(info) < 7:
        return None
    # struct tcp_info: byte 5 is tcpi_options, byte 6 is tcpi_snd_wscale:4 and tcpi_rcv_wscale:4.
    little = struct.pack("=H", 1)[0]
    scale = (info[6] >> 4 if little else info[6] & 15) if info[5] & _OPT_WSCALE else None
    return Connection(_end(family, local, local_port), _end(family, remote, remote_port), scale)


def _dump(family: int) -> Iterator[bytes]:
    request = struct.pack("=BBBxI48x", family, socket.IPPROTO_TCP, 1 << (_INFO - 1), _STATES)
    flags = netlink.NLM_F_REQUEST | netlink.NLM_F_DUMP
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as sock:
        sock.settimeout(10)
        sock.send(struct.pack("=IHHII", 16 + len(request), _SOCK_DIAG_BY_FAMILY, flags, 1, 0) + request)
        while True:
            for kind, body in netlink.messages(sock.recv(1 << 18)):
                if kind == netlink.NLMSG_DONE:
                    return
                if kind == netlink.NLMSG_ERROR:
                    error = -struct.unpack_from("=i", body)[0]
                    raise OSError(error, os.strerror(error))
                yield body


def connections() -> list[Connection]:
    """Return the TCP connections of the current network namespace.

    Raises ``OSError`` if the kernel cannot list them (no CONFIG_INET_TCP_DIAG).
    """
    found = [parse(body) for family in (socket.AF_INET, socket.AF_INET6) for body in _dump(family)]
    return sorted(filter(None, found), key=lambda one: (one.local, one.remote))


def by_scale(
    found: Iterable[Connection], wanted: int | None = None, examples: int = 5
) -> list[dict[str, object]]:
    """Return the number of connections by window scale, except those with ``wanted``, and some examples.

    Connections without window scaling, which depends on the remote end, count only without ``wanted``.
    """
    others: dict[int | None, list[Connection]] = {}
    for connection in found:
        if wanted is None or connection.scale not in (None, wanted):
            others.setdefault(connection.scale, []).append(connection)
    return [
        {
            "scale": scale,
            "count": len(those),
            "examples": [f"{one.local} {one.remote}" for one in those[:examples]],
        }
        for scale, those in sorted(others.items(), key=lambda item: item[0] or 0)
    ]
