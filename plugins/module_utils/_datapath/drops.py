# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read drop events from the programs' ring buffer.

The ring buffer has one consumer position, so each event is delivered to one reader only.
Source: kernel/bpf/ringbuf.c; drops.h and tuple.h of the programs.
"""

from __future__ import annotations

import ipaddress
import mmap
import os
import select
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from .._kernel import bpf
from .layout import DROP_EVENT
from .model import PROTOCOLS

# linux/bpf.h: BPF_RINGBUF_BUSY_BIT, BPF_RINGBUF_DISCARD_BIT, BPF_RINGBUF_HDR_SZ
_BUSY, _DISCARD = 1 << 31, 1 << 30
_HEADER = 8
_NAMES = {number: name for name, number in PROTOCOLS.items()}
AF_INET, AF_INET6 = 2, 10


@dataclass(frozen=True)
class Drop:
    """A dropped packet."""

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

    @property
    def remote(self) -> str:
        """Return the address of the peer."""
        address = self.source if self.ingress else self.target
        return address[1:].partition("]")[0] if address[0] == "[" else _without_port(address)


def _without_port(address: str) -> str:
    """Return an address without its port, which IPv6 addresses have only in brackets."""
    return address if address.count(":") > 1 else address.partition(":")[0]


def _address_port(packed: bytes, port: bytes, family: int, has_port: bool) -> str:
    if family == AF_INET6:
        address = str(ipaddress.IPv6Address(packed))
        return f"[{address}]:{int.from_bytes(port, 'big')}" if has_port else address
    address = str(ipaddress.IPv4Address(packed[:4]))
    return f"{address}:{int.from_bytes(port, 'big')}" if has_port else address


def decode(raw: bytes) -> Drop:
    """Return the drop of a struct drop_event."""
    when, src, dst, sport, dport, protocol, family, dummy, ifindex, length, peer, slot, reason, direction = (
        DROP_EVENT.unpack(raw)
    )
    has_ports = protocol in (6, 17, 132)
    known = family in (AF_INET, AF_INET6)
    return Drop(
        when,
        _address_port(src, sport, family, has_ports) if known else "?",
        _address_port(dst, dport, family, has_ports) if known else "?",
        protocol,
        ifindex,
        length,
        peer,
        slot,
        reason,
        direction == 0,
    )


class Ring:
    """The pinned ring buffer."""

    def __init__(self, pin_path: str) -> None:
        self._fd = bpf.obj_get(os.path.join(pin_path, "maps", "drops"))
        self._size = bpf.map_info(self._fd).layout.max_entries
        page = mmap.PAGESIZE
        self._consumer = mmap.mmap(self._fd, page)
        # The kernel maps the data twice in a row, so that each record is contiguous.
        self._producer = mmap.mmap(self._fd, page + 2 * self._size, prot=mmap.PROT_READ, offset=page)

    def close(self) -> None:
        """Close the ring buffer."""
        self._consumer.close()
        self._producer.close()
        os.close(self._fd)

    def read(self) -> Iterator[Drop]:
        """Yield the available drops, and consume them."""
        (position,) = struct.unpack_from("=Q", self._consumer)
        while position < struct.unpack_from("=Q", self._producer)[0]:
            at = mmap.PAGESIZE + (position & (self._size - 1))
            (length,) = struct.unpack_from("=I", self._producer, at)
            if length & _BUSY:
                return
            size = length & ~_DISCARD
            record = self._producer[at + _HEADER : at + _HEADER + size]
            position += (size + _HEADER + 7) & ~7
            struct.pack_into("=Q", self._consumer, 0, position)
            if not length & _DISCARD:
                yield decode(record)

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for drops; return False after ``seconds``."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        return bool(poll.poll(None if seconds is None else seconds * 1000))


def line(
    drop: Drop,
    reasons: Mapping[int, str],
    pods: Mapping[int, str],
    devices: Mapping[int, str],
    peer: str = "",
    policies: Sequence[str] = (),
) -> str:
    """Return a drop as one line: time, reason, Pod, direction, device, addresses, length, peer, policies.

    ``peer`` is the name of the Pod that sent the packet or was to receive it, if there is one.
    """
    since_boot = time.time() - time.monotonic()
    when = since_boot + drop.time / 1e9
    clock = time.strftime("%H:%M:%S", time.localtime(when)) + f".{int(when % 1 * 1e6):06d}"
    reason = reasons.get(drop.reason, f"reason {drop.reason}").replace("DROP_", "").replace("_", " ").lower()
    pod = pods.get(drop.slot, "no Pod")
    device = devices.get(drop.ifindex, f"ifindex {drop.ifindex}")
    protocol = _NAMES.get(drop.protocol, f"protocol {drop.protocol}")
    direction = "ingress" if drop.ingress else "egress"
    return (
        f"{clock} drop ({reason}) {pod} {direction} at {device}: {drop.source} -> {drop.target} {protocol},"
        f" {drop.length} bytes, peer {peer or f'identity {drop.peer}'}"
        + (f", policies {', '.join(policies)}" if policies else "")
    )
