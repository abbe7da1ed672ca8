# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""List the TCP connections of a network namespace and the window scale that each announces; end sockets.

Source: sock_diag(7), linux/inet_diag.h, struct tcp_info of linux/tcp.h.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from .messages import connection_types
from .netlink import NETLINK_SOCK_DIAG, KernelRefusal, Socket, decode

_SOCK_DIAG_BY_FAMILY, _SOCK_DESTROY = 20, 21
_INFO = 2  # INET_DIAG_INFO
_ESTABLISHED, _FIN_WAIT1, _FIN_WAIT2, _CLOSE_WAIT = 1, 4, 5, 8  # states that receive
_STATES = sum(1 << state for state in (_ESTABLISHED, _FIN_WAIT1, _FIN_WAIT2, _CLOSE_WAIT))
_OPT_WSCALE = 4  # TCPI_OPT_WSCALE: both ends support window scaling


@dataclass(frozen=True)
class Connection:
    """A connection, and the window scale that its local end announced; None without window scaling."""

    local: str
    remote: str
    scale: int | None


def _end(family: int, address: str, port: int) -> str:
    return f"{address}:{port}" if family == socket.AF_INET else f"[{address}]:{port}"


def connection(message: Any) -> Connection | None:
    """Return the connection in a reply; None if it has no INET_DIAG_INFO."""
    info = message.get_attr("INET_DIAG_INFO") or b""
    if len(info) < 7:
        return None
    # struct tcp_info: byte 5 is tcpi_options, byte 6 is tcpi_snd_wscale:4 and tcpi_rcv_wscale:4.
    little = struct.pack("=H", 1)[0]
    scale = (info[6] >> 4 if little else info[6] & 15) if info[5] & _OPT_WSCALE else None
    family = message["idiag_family"]
    return Connection(
        _end(family, message["idiag_src"], message["idiag_sport"]),
        _end(family, message["idiag_dst"], message["idiag_dport"]),
        scale,
    )


def connections() -> list[Connection]:
    """Return the TCP connections of the current network namespace.

    Raises ``OSError`` if the kernel cannot list them (no CONFIG_INET_TCP_DIAG).
    """
    types = connection_types()
    found = []
    with Socket(NETLINK_SOCK_DIAG) as sock:
        for family in (socket.AF_INET, socket.AF_INET6):
            request = types.request()
            request["sdiag_family"], request["sdiag_protocol"] = family, socket.IPPROTO_TCP
            request["idiag_ext"], request["idiag_states"] = 1 << (_INFO - 1), _STATES
            replies = sock.dump_bytes(request, _SOCK_DIAG_BY_FAMILY)
            found += [connection(decode(types.reply, reply)) for reply in replies]
    return sorted(filter(None, found), key=lambda one: (one.local, one.remote))


def destroy(requests: Sequence[bytes], path: str | None = None) -> list[KernelRefusal | None]:
    """End sockets of the network namespace at ``path``, or of the current one; return the error of each.

    Each request is a struct inet_diag_req_v2 with all addresses and the cookie of a socket. Its process gets
    ECONNABORTED. Raises ``OSError`` if the namespace does not exist.
    """
    with Socket(NETLINK_SOCK_DIAG, path) as sock:
        return sock.send([(request, _SOCK_DESTROY, 0) for request in requests])


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
