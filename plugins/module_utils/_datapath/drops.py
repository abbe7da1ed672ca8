# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Dropped packets as they happen, from the programs' ring buffer. Private to this collection.

A drop is told to one reader only: of two readers each gets some.
Source: kernel/bpf/ringbuf.c; drops.h, tuple.h of the programs.
"""

from __future__ import annotations

import ipaddress
import mmap
import os
import select
import struct
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from .._kernel import bpf
from .layout import DROP_EVENT
from .model import PROTOCOLS

_BUSY, _DISCARD = 1 << 31, 1 << 30
_HEADER = 8
_NAMES = {number: name for name, number in PROTOCOLS.items()}
AF_INET, AF_INET6 = 2, 10


@dataclass(frozen=True)
class Drop:
    """A packet that a program dropped."""

    time: int  # ns since boot
    source: str
    target: str
    protocol: int
    ifindex: int
    length: int
    peer: int
    slot: int
    reason: int
    ingress: bool


def _end(packed: bytes, port: bytes, family: int, has_port: bool) -> str:
    if family == AF_INET6:
        address = str(ipaddress.IPv6Address(packed))
        return f"[{address}]:{int.from_bytes(port, 'big')}" if has_port else address
    address = str(ipaddress.IPv4Address(packed[:4]))
    return f"{address}:{int.from_bytes(port, 'big')}" if has_port else address


def decode(raw: bytes) -> Drop:
    """Return a record of the ring."""
    when, src, dst, sport, dport, protocol, family, dummy, ifindex, length, peer, slot, reason, direction = (
        DROP_EVENT.unpack(raw)
    )
    has_ports = protocol in (6, 17, 132)
    known = family in (AF_INET, AF_INET6)
    return Drop(
        when,
        _end(src, sport, family, has_ports) if known else "?",
        _end(dst, dport, family, has_ports) if known else "?",
        protocol,
        ifindex,
        length,
        peer,
        slot,
        reason,
        direction == 0,
    )


class Ring:
    """The pinned ring buffer of drops."""

    def __init__(self, pin_path: str) -> None:
        self._fd = bpf.obj_get(os.path.join(pin_path, "maps", "drops"))
        self._size = bpf.map_info(self._fd).layout.max_entries
        page = mmap.PAGESIZE
        self._consumer = mmap.mmap(self._fd, page)
        # the data is there twice in a row, so that no record is cut in two
        self._producer = mmap.mmap(self._fd, page + 2 * self._size, prot=mmap.PROT_READ, offset=page)

    def close(self) -> None:
        """Leave the ring to the next reader."""
        self._consumer.close()
        self._producer.close()
        os.close(self._fd)

    def read(self) -> Iterator[Drop]:
        """Yield the drops that are there now."""
        (place,) = struct.unpack_from("=Q", self._consumer)
        while place < struct.unpack_from("=Q", self._producer)[0]:
            at = mmap.PAGESIZE + (place & (self._size - 1))
            (length,) = struct.unpack_from("=I", self._producer, at)
            if length & _BUSY:
                return
            size = length & ~_DISCARD
            record = self._producer[at + _HEADER : at + _HEADER + size]
            place += (size + _HEADER + 7) & ~7
            struct.pack_into("=Q", self._consumer, 0, place)
            if not length & _DISCARD:
                yield decode(record)

    def wait(self, seconds: float | None = None) -> bool:
        """Return once there may be something to read; False after ``seconds``."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        return bool(poll.poll(None if seconds is None else seconds * 1000))


def line(drop: Drop, reasons: Mapping[int, str], pods: Mapping[int, str], devices: Mapping[int, str]) -> str:
    """Return a drop as one line: when, why, which Pod, who to whom."""
    since_boot = time.time() - time.monotonic()
    when = since_boot + drop.time / 1e9
    clock = time.strftime("%H:%M:%S", time.localtime(when)) + f".{int(when % 1 * 1e6):06d}"
    reason = reasons.get(drop.reason, f"reason {drop.reason}").replace("DROP_", "").replace("_", " ").lower()
    pod = pods.get(drop.slot, "no Pod")
    device = devices.get(drop.ifindex, f"ifindex {drop.ifindex}")
    protocol = _NAMES.get(drop.protocol, f"protocol {drop.protocol}")
    way = "ingress" if drop.ingress else "egress"
    return (
        f"{clock} drop ({reason}) {pod} {way} at {device}: {drop.source} -> {drop.target} {protocol},"
        f" {drop.length} bytes, peer identity {drop.peer}"
    )
