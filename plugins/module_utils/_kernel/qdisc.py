# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The queueing discipline of a NIC: which, and another one. Private to this collection.

On a NIC with several queues the root is ``mq`` and each queue has one of its own; those count then.
Sources: tc(8), linux/rtnetlink.h, net/sched/sch_api.c, net/sched/sch_mq.c.
"""

from __future__ import annotations

import itertools
import os
import socket
import struct
from collections.abc import Iterator

from . import netlink

# Without settings or classes of somebody's, so that another one may take their place.
PLAIN = frozenset({"bfifo", "fq", "fq_codel", "noqueue", "pfifo", "pfifo_fast"})

_NEW, _GET = 36, 38  # RTM_NEWQDISC, RTM_GETQDISC
_REPLACE, _CREATE = 0x100, 0x400
_KIND = 1  # TCA_KIND
_ROOT, _INGRESS = 0xFFFFFFFF, 0xFFFFFFF1
_OURS = 0x00010000  # the handle 1: of the mq that carries ours

_TCMSG = struct.Struct("=BxxxiIII")  # family, ifindex, handle, parent, info


def _request(kind: int, flags: int, payload: bytes) -> Iterator[bytes]:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, netlink.NETLINK_ROUTE) as sock:
        sock.settimeout(10)
        flags |= netlink.NLM_F_REQUEST
        sock.send(struct.pack("=IHHII", 16 + len(payload), kind, flags, 1, 0) + payload)
        while True:
            for answer, body in netlink.messages(sock.recv(1 << 18)):
                if answer == netlink.NLMSG_DONE:
                    return
                if answer == netlink.NLMSG_ERROR:
                    error = -struct.unpack_from("=i", body)[0]
                    if error:
                        raise OSError(error, os.strerror(error))
                    return
                yield body


def _present(index: int) -> list[tuple[int, int, str]]:
    """Return handle, parent and kind of a NIC's disciplines for sending."""
    found = []
    for body in _request(_GET, netlink.NLM_F_DUMP, _TCMSG.pack(0, index, 0, 0, 0)):
        dummy, owner, handle, parent, dummy = _TCMSG.unpack_from(body)
        kind = netlink.attributes(body[_TCMSG.size :]).get(_KIND, b"").rstrip(b"\0").decode()
        if owner == index and parent != _INGRESS:
            found.append((handle, parent, kind))
    return found


def kind_of(present: list[tuple[int, int, str]]) -> str:
    """Return the discipline: that of the root, below an mq that of the queues.

    Where they differ it is all of them in the order of the queues, as ``fq*4+pfifo_fast*2``: so a driver
    leaves it that was given more queues.
    """
    root = next((kind for dummy, parent, kind in present if parent == _ROOT), "")
    below = sorted((parent, kind) for dummy, parent, kind in present if parent not in (_ROOT, 0))
    if root != "mq" or not below:
        return root
    runs = [(kind, len([*run])) for kind, run in itertools.groupby(kind for dummy, kind in below)]
    return runs[0][0] if len(runs) == 1 else "+".join(f"{kind}*{count}" for kind, count in runs)


def kinds(discipline: str) -> list[str]:
    """Return the kinds in what ``kind_of`` returned, queue by queue; one where they are alike."""
    parts = [part.partition("*") for part in discipline.split("+")]
    return [one for kind, dummy, count in parts for one in [kind] * int(count or 1)]


def read(index: int) -> str:
    """Return the discipline of a NIC, empty where none is shown; raises ``OSError``."""
    return kind_of(_present(index))


def _replace(index: int, handle: int, parent: int, kind: str) -> None:
    message = _TCMSG.pack(0, index, handle, parent, 0) + netlink.attribute(_KIND, kind.encode() + b"\0")
    for dummy in _request(_NEW, netlink.NLM_F_ACK | _REPLACE | _CREATE, message):
        pass


def write(index: int, discipline: str) -> None:
    """Give a NIC, or each of its queues, a discipline, as ``read`` returns it; raises ``OSError``."""
    wanted = kinds(discipline)
    present = _present(index)
    root = next(((handle, name) for handle, parent, name in present if parent == _ROOT), (0, ""))
    if root[1] != "mq":
        _replace(index, 0, _ROOT, wanted[0])
        return
    handle = root[0]
    if not handle:  # The one that the kernel made cannot be changed; the same kind of our own can.
        handle = _OURS
        _replace(index, handle, _ROOT, "mq")
    queues = sorted(parent for dummy, parent, _kind in _present(index) if parent & 0xFFFF0000 == handle)
    for number, parent in enumerate(queues):
        _replace(index, 0, parent, wanted[min(number, len(wanted) - 1)])
