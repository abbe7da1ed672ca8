# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read and replace the qdiscs of a NIC.

On a NIC with several queues the root is ``mq`` and each queue has a qdisc, which this file reads and
replaces. Sources: tc(8), linux/rtnetlink.h, net/sched/sch_api.c, net/sched/sch_mq.c.
"""

from __future__ import annotations

import itertools
import os
import socket
import struct
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from . import netlink

# Without classes, and seldom with parameters, so that they may be replaced.
PLAIN = frozenset({"bfifo", "fq", "fq_codel", "noqueue", "pfifo", "pfifo_fast"})

_NEW, _GET = 36, 38  # RTM_NEWQDISC, RTM_GETQDISC
_REPLACE, _CREATE = 0x100, 0x400
_KIND, _OPTIONS = 1, 2  # TCA_*
_FQ_LIMIT = 1  # TCA_FQ_PLIMIT
_ROOT, _INGRESS = 0xFFFFFFFF, 0xFFFFFFF1
_MQ_HANDLE = 0x00010000  # handle 1: of an mq that write() creates

_TCMSG = struct.Struct("=BxxxiIII")  # family, ifindex, handle, parent, info


@dataclass(frozen=True)
class Queue:
    """A qdisc that holds packets. ``limit``: in packets; known for fq only, else 0."""

    kind: str
    limit: int = 0


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


def _qdiscs(index: int) -> list[tuple[int, int, str]]:
    """Return handle, parent and kind of each egress qdisc of a NIC."""
    found = []
    for body in _request(_GET, netlink.NLM_F_DUMP, _TCMSG.pack(0, index, 0, 0, 0)):
        dummy, owner, handle, parent, dummy = _TCMSG.unpack_from(body)
        kind = netlink.attributes(body[_TCMSG.size :]).get(_KIND, b"").rstrip(b"\0").decode()
        if owner == index and parent != _INGRESS:
            found.append((handle, parent, kind))
    return found


def kind_of(present: list[tuple[int, int, str]]) -> str:
    """Return the kind of the root qdisc; for mq, the kind of its queues.

    If the queues differ, return all kinds in queue order, for example ``fq*4+pfifo_fast*2``. This occurs
    when a driver adds queues.
    """
    root = next((kind for dummy, parent, kind in present if parent == _ROOT), "")
    below = sorted((parent, kind) for dummy, parent, kind in present if parent not in (_ROOT, 0))
    if root != "mq" or not below:
        return root
    runs = [(kind, len([*run])) for kind, run in itertools.groupby(kind for dummy, kind in below)]
    return runs[0][0] if len(runs) == 1 else "+".join(f"{kind}*{count}" for kind, count in runs)


def queues(index: int) -> list[Queue]:
    """Return the root qdisc of a device, for mq those of its queues. Raises ``OSError``."""
    found = []
    for body in _request(_GET, netlink.NLM_F_DUMP, _TCMSG.pack(0, index, 0, 0, 0)):
        dummy, owner, dummy, parent, dummy = _TCMSG.unpack_from(body)
        if owner == index and parent not in (0, _INGRESS):
            found.append((parent, _queue(netlink.attributes(body[_TCMSG.size :]))))
    root = [queue for parent, queue in found if parent == _ROOT]
    below = [queue for parent, queue in found if parent != _ROOT]
    return below if below and root and root[0].kind == "mq" else root


def _queue(attributes: Mapping[int, bytes]) -> Queue:
    kind = netlink.text(attributes.get(_KIND, b""))
    limit = netlink.attributes(attributes.get(_OPTIONS, b"")).get(_FQ_LIMIT, b"") if kind == "fq" else b""
    return Queue(kind, int.from_bytes(limit, sys.byteorder))


def kinds(qdisc: str) -> list[str]:
    """Return the kind of each queue from a result of ``kind_of``; one element if all are equal."""
    parts = [part.partition("*") for part in qdisc.split("+")]
    return [one for kind, dummy, count in parts for one in [kind] * int(count or 1)]


def read(index: int) -> str:
    """Return the qdisc of a NIC as ``kind_of`` does, empty if it has none. Raises ``OSError``."""
    return kind_of(_qdiscs(index))


def _replace(index: int, handle: int, parent: int, kind: str) -> None:
    message = _TCMSG.pack(0, index, handle, parent, 0) + netlink.attribute(_KIND, kind.encode() + b"\0")
    for dummy in _request(_NEW, netlink.NLM_F_ACK | _REPLACE | _CREATE, message):
        pass


def write(index: int, qdisc: str) -> None:
    """Replace the qdisc of a NIC or of each of its queues; ``qdisc`` is as ``read`` returns it.

    Raises ``OSError``.
    """
    desired = kinds(qdisc)
    current = _qdiscs(index)
    root = next(((handle, name) for handle, parent, name in current if parent == _ROOT), (0, ""))
    if root[1] != "mq":
        _replace(index, 0, _ROOT, desired[0])
        return
    handle = root[0]
    if not handle:  # The default mq of the kernel has no handle and cannot be modified: replace it.
        handle = _MQ_HANDLE
        _replace(index, handle, _ROOT, "mq")
    queues = sorted(parent for dummy, parent, _kind in _qdiscs(index) if parent & 0xFFFF0000 == handle)
    for number, parent in enumerate(queues):
        _replace(index, 0, parent, desired[min(number, len(desired) - 1)])
