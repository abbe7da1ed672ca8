# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read and replace the qdiscs of a NIC.

On a NIC with several queues the root is ``mq`` and each queue has a qdisc, which this file reads and
replaces. Sources: tc(8), linux/rtnetlink.h, net/sched/sch_api.c, net/sched/sch_mq.c.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .messages import traffic_control_type
from .rtnl import CREATE, REPLACE, Rtnl

# Without classes, and seldom with parameters, so that they may be replaced.
PLAIN = frozenset({"bfifo", "fq", "fq_codel", "noqueue", "pfifo", "pfifo_fast"})

_NEW, _GET = 36, 38  # RTM_NEWQDISC, RTM_GETQDISC
_ROOT, _INGRESS = 0xFFFFFFFF, 0xFFFFFFF1
_MQ_HANDLE = 0x00010000  # handle 1: of an mq that write() creates


@dataclass(frozen=True)
class Queue:
    """A qdisc that holds packets. ``limit``: in packets; known for fq only, else 0."""

    kind: str
    limit: int = 0


def _dump(index: int) -> list[Any]:
    """Return the qdiscs of a device, that for ingress included. Raises ``OSError``."""
    message = traffic_control_type()()
    message["index"] = index
    with Rtnl() as rtnl:
        return [one for one in rtnl.dump(message, _GET) if one["index"] == index]


def ingress_kind(index: int) -> str:
    """Return the kind of a device's qdisc for filters, ``clsact`` or ``ingress``; empty without one."""
    return next((_kind(one) for one in _dump(index) if one["parent"] == _INGRESS), "")


def _kind(message: Any) -> str:
    return str(message.get_attr("TCA_KIND") or "")


def _qdiscs(index: int) -> list[tuple[int, int, str]]:
    """Return handle, parent and kind of each egress qdisc of a NIC."""
    return [(one["handle"], one["parent"], _kind(one)) for one in _dump(index) if one["parent"] != _INGRESS]


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
    return queues_of(_dump(index))


def queues_of(messages: Iterable[Any]) -> list[Queue]:
    """Return the root qdisc of a device from its qdiscs, for mq those of its queues."""
    found = [(one["parent"], _queue(one)) for one in messages if one["parent"] not in (0, _INGRESS)]
    root = [one for parent, one in found if parent == _ROOT]
    below = [one for parent, one in found if parent != _ROOT]
    return below if below and root and root[0].kind == "mq" else root


def _queue(message: Any) -> Queue:
    kind = _kind(message)
    options = message.get_attr("TCA_OPTIONS") if kind == "fq" else None
    return Queue(kind, (options.get_attr("TCA_FQ_PLIMIT") or 0) if options else 0)


def kinds(qdisc: str) -> list[str]:
    """Return the kind of each queue from a result of ``kind_of``; one element if all are equal."""
    parts = [part.partition("*") for part in qdisc.split("+")]
    return [one for kind, dummy, count in parts for one in [kind] * int(count or 1)]


def read(index: int) -> str:
    """Return the qdisc of a NIC as ``kind_of`` does, empty if it has none. Raises ``OSError``."""
    return kind_of(_qdiscs(index))


def _replace(index: int, handle: int, parent: int, kind: str) -> None:
    message = traffic_control_type()()
    message["index"], message["handle"], message["parent"] = index, handle, parent
    message["attrs"] = [("TCA_KIND", kind)]
    with Rtnl() as rtnl:
        rtnl.request(message, _NEW, REPLACE | CREATE)


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
