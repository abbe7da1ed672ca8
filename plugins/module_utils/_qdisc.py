# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The queueing discipline of a NIC: which, and another one. Private to this collection.

On a NIC with several queues the root is ``mq`` and each queue has one of its own; those count then.
Sources: tc(8), linux/rtnetlink.h, net/sched/sch_api.c, net/sched/sch_mq.c.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

from ansible_collections.podnet.datapath.plugins.module_utils import _netlink

# Without settings or classes of somebody's, so that another one may take their place.
PLAIN = frozenset({"bfifo", "fq", "fq_codel", "noqueue", "pfifo", "pfifo_fast"})

_NEW, _GET = 36, 38  # RTM_NEWQDISC, RTM_GETQDISC
_REPLACE, _CREATE = 0x100, 0x400
_KIND = 1  # TCA_KIND
_ROOT, _INGRESS = 0xFFFFFFFF, 0xFFFFFFF1
_OURS = 0x00010000  # the handle 1: of the mq that carries ours

_TCMSG = struct.Struct("=BxxxiIII")  # family, ifindex, handle, parent, info


def _request(kind: int, flags: int, payload: bytes) -> Iterator[bytes]:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _netlink.NETLINK_ROUTE) as sock:
        sock.settimeout(10)
        flags |= _netlink.NLM_F_REQUEST
        sock.send(struct.pack("=IHHII", 16 + len(payload), kind, flags, 1, 0) + payload)
        while True:
            for answer, body in _netlink.messages(sock.recv(1 << 18)):
                if answer == _netlink.NLMSG_DONE:
                    return
                if answer == _netlink.NLMSG_ERROR:
                    error = -struct.unpack_from("=i", body)[0]
                    if error:
                        raise OSError(error, os.strerror(error))
                    return
                yield body


def _present(index: int) -> list[tuple[int, int, str]]:
    """Return handle, parent and kind of a NIC's disciplines for sending."""
    found = []
    for body in _request(_GET, _netlink.NLM_F_DUMP, _TCMSG.pack(0, index, 0, 0, 0)):
        dummy, owner, handle, parent, dummy = _TCMSG.unpack_from(body)
        kind = _netlink.attributes(body[_TCMSG.size :]).get(_KIND, b"").rstrip(b"\0").decode()
        if owner == index and parent != _INGRESS:
            found.append((handle, parent, kind))
    return found


def kind_of(present: list[tuple[int, int, str]]) -> str:
    """Return the discipline: that of the root, below an mq that of the queues, ``a+b`` where they differ."""
    root = next((kind for dummy, parent, kind in present if parent == _ROOT), "")
    below = sorted({kind for dummy, parent, kind in present if parent not in (_ROOT, 0)})
    return "+".join(below) if root == "mq" and below else root


def read(index: int) -> str:
    """Return the discipline of a NIC, empty where none is shown; raises ``OSError``."""
    return kind_of(_present(index))


def _replace(index: int, handle: int, parent: int, kind: str) -> None:
    message = _TCMSG.pack(0, index, handle, parent, 0) + _netlink.attribute(_KIND, kind.encode() + b"\0")
    for dummy in _request(_NEW, _netlink.NLM_F_ACK | _REPLACE | _CREATE, message):
        pass


def write(index: int, kind: str) -> None:
    """Give a NIC, or each of its queues, the discipline ``kind``; raises ``OSError``."""
    present = _present(index)
    root = next(((handle, name) for handle, parent, name in present if parent == _ROOT), (0, ""))
    if root[1] != "mq":
        _replace(index, 0, _ROOT, kind)
        return
    handle = root[0]
    if not handle:  # The one that the kernel made cannot be changed; the same kind of our own can.
        handle = _OURS
        _replace(index, handle, _ROOT, "mq")
    for dummy, parent, _kind in _present(index):
        if parent & 0xFFFF0000 == handle and parent != _ROOT:
            _replace(index, 0, parent, kind)
