# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run the programs on single packets and return verdict, packet and counters. Requires root.

BPF_PROG_TEST_RUN does not show the device of a redirect; tests/netns covers that.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import re
import socket
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.podnet.datapath.plugins.module_utils._datapath import layout
from ansible_collections.podnet.datapath.plugins.module_utils._kernel import bpf, libbpf

SOURCES = Path(__file__).resolve().parents[2] / "roles/bpf_datapath/files"

BPF_PROG_TEST_RUN = 10
# struct __sk_buff (include/uapi/linux/bpf.h): size, and offsets of fields that tests set
SKB_SIZE, SKB_PRIORITY, SKB_INGRESS_IFINDEX, SKB_IFINDEX, SKB_TSTAMP = 192, 32, 36, 40, 152
SKB_GSO_SEGS, SKB_GSO_SIZE = 164, 176

SLOTS = (0, 1, 2)  # no Pod, pod1, pod2

PASS, REDIRECT = -1, 7  # TC_ACT_UNSPEC, TC_ACT_REDIRECT

# MAC address of all ingress devices; frames to other addresses become PACKET_OTHERHOST.
MAC = "02:00:00:00:00:01"
NEIGHBOUR = "02:00:00:00:00:99"

TOPOLOGY = f"""\
link add pod1 address {MAC} type veth peer name pod1p
link add pod2 type veth peer name pod2p
link add small mtu 1300 type veth peer name smallp
link add closed address {MAC} type veth peer name closedp
link add wire0 address {MAC} type veth peer name wire0p
link add wire1 mtu 1300 type veth peer name wire1p
addr add 172.31.0.1/29 dev wire0
addr add fd31::1/64 dev wire0 nodad
addr add 172.31.0.9/29 dev wire1
addr add fd31:0:0:1::1/64 dev wire1 nodad
link set pod1 up
link set pod1p up
link set closed up
link set closedp up
link set wire0 up
link set wire0p up
link set wire1 up
link set wire1p up
neigh add 172.31.0.2 lladdr {NEIGHBOUR} dev wire0
neigh add fd31::2 lladdr {NEIGHBOUR} dev wire0
neigh add 172.31.0.10 lladdr {NEIGHBOUR} dev wire1
neigh add fd31:0:0:1::2 lladdr {NEIGHBOUR} dev wire1
route add 10.31.2.0/24 via 172.31.0.2
route add fd31:2::/64 via fd31::2
route add 10.31.3.0/24 via 172.31.0.3
route add fd31:3::/64 via fd31::3
route add 10.31.4.0/24 via inet6 fd31::2
route add unreachable 10.31.5.0/24
route add unreachable fd31:5::/64
route add blackhole 10.31.6.0/24
route add blackhole fd31:6::/64
route add prohibit 10.31.7.0/24
route add prohibit fd31:7::/64
route add 10.31.8.0/24 via 172.31.0.10
route add fd31:8::/64 via fd31:0:0:1::2
route add 10.31.9.0/24 encap seg6 mode encap segs fd31::2 dev wire0
route add fd31:9::/64 encap seg6 mode encap segs fd31::2 dev wire0
route add 10.31.10.0/24 via 172.31.0.2 mtu lock 1300
route add fd31:10::/64 via fd31::2 mtu lock 1300
route add 10.31.20.1 dev pod1
route add fd31:20::1 dev pod1
route add 0.0.0.0/8 via 172.31.0.2
route add 240.0.0.0/4 via 172.31.0.2
"""

# Devices by the last part of Pods' addresses: a small MTU (13), a deleted device (14), forwarding disabled
# (15), a second address of pod1 (16).
ENDPOINTS = {11: "pod1", 12: "pod2", 13: "small", 14: None, 15: "closed", 16: "pod1"}
GONE = 0x7FFFFFFF


def reason_names() -> list[str]:
    """Return the reasons in the order of the enum."""
    text = (SOURCES / "metrics.h").read_text()
    return re.findall(r"^\tREASON_(\w+),", text, re.MULTILINE)[:-1]


def address(number: int, family: int, node: int = 1) -> bytes:
    """Return the address that tests write as ``<node>.<number>``, packed."""
    if family == 4:
        return bytes([10, 31, node, number])
    return bytes.fromhex(f"fd31{node:04x}{'0' * 20}{int(str(number), 16):04x}")


def possible_cpus() -> int:
    """Return how many values an entry of a per-CPU map has."""
    text = Path("/sys/devices/system/cpu/possible").read_text().strip()
    return sum(
        int(last or first) - int(first) + 1
        for first, dummy, last in (part.partition("-") for part in text.split(","))
    )


@dataclass(frozen=True)
class Result:
    """The result of a program: verdict, packet, counters that changed, departure time and priority."""

    verdict: int
    packet: bytes
    counted: dict[str, int]
    tstamp: int = 0
    priority: int = 0


class Datapath:
    """The loaded programs, and the network namespace that they run in."""

    def __init__(
        self, path: str, netns: str, covered: set[str], maps: Mapping[str, int] | None = None
    ) -> None:
        self.netns, self.covered = netns, covered
        self.generation = 0
        self.features = 0
        self.context = bytes(SKB_SIZE)
        self.object = libbpf.BpfObject(path)
        self.object.load(maps)
        self.names = reason_names()
        with self.inside():
            for number, device in ENDPOINTS.items():
                self.endpoint(number, self.ifindex(device) if device else GONE)

    def endpoint(
        self,
        number: int,
        ifindex: int,
        identity: int = 0,
        enforce: int = 0,
        slot: int = 0,
        flags: int = 0,
        node: int = 1,
        since: int = 0,
    ) -> None:
        """Write the endpoints of a Pod's two addresses, the same in both buffers."""
        value = layout.ENDPOINT.pack(ifindex, 1, identity, identity, enforce, enforce, slot, flags, since)
        for family in (4, 6):
            bpf.map_update(self.object.maps[f"endpoints{family}"], {address(number, family, node): value})

    def inside(self) -> Entered:
        return Entered(self.netns)

    def ifindex(self, device: str) -> int:
        return socket.if_nametoindex(device)

    def counters(self, slot: int = 0) -> list[int]:
        """Return the packets of a slot by reason; slot 0 counts packets of no Pod."""
        key = struct.pack("=I", slot)
        raw = bpf.map_lookup(self.object.maps["metrics"], key, 8 * layout.REASONS * possible_cpus())
        values = struct.unpack(f"={len(raw) // 8}Q", raw)
        return [sum(values[number :: layout.REASONS]) for number in range(len(self.names))]

    def test_run(
        self,
        program: str,
        packet: bytes,
        device: str,
        gso_size: int = 0,
        gso_segs: int = 0,
        tstamp: int = 0,
        priority: int = 0,
        ingress_ifindex: int = 0,
    ) -> tuple[int, bytes]:
        """Run a program on a packet of ``device``, which entered the node by ``ingress_ifindex``.

        Store its context.
        """
        context = bytearray(SKB_SIZE)
        with self.inside():
            struct.pack_into("=I", context, SKB_IFINDEX, self.ifindex(device))
            struct.pack_into("=I", context, SKB_INGRESS_IFINDEX, ingress_ifindex)
            struct.pack_into("=I", context, SKB_GSO_SIZE, gso_size)
            struct.pack_into("=I", context, SKB_GSO_SEGS, gso_segs)
            struct.pack_into("=Q", context, SKB_TSTAMP, tstamp)
            struct.pack_into("=I", context, SKB_PRIORITY, priority)
            data = ctypes.create_string_buffer(packet, len(packet))
            out = ctypes.create_string_buffer(len(packet) + 64)
            ctx = ctypes.create_string_buffer(bytes(context), SKB_SIZE)
            attr = bytearray(
                struct.pack(
                    "=IIIIQQIIIIQQIII",
                    *(self.object.programs[program], 0, len(packet), len(out)),
                    *(ctypes.addressof(data), ctypes.addressof(out), 1, 0, SKB_SIZE, SKB_SIZE),
                    *(ctypes.addressof(ctx), ctypes.addressof(ctx), 0, 0, 0),
                )
            )
            bpf.bpf(BPF_PROG_TEST_RUN, attr)
        verdict, dummy, size = struct.unpack_from("=iII", attr, 4)
        self.context = ctx.raw
        return verdict, out.raw[:size]

    def drops(self) -> list[dict[str, Any]]:
        """Consume all drop events of the ring buffer."""
        page = mmap.PAGESIZE
        fd = self.object.maps["drops"]
        size = bpf.map_info(fd).layout.max_entries
        found = []
        with (
            mmap.mmap(fd, page) as consumer,
            mmap.mmap(fd, page + 2 * size, prot=mmap.PROT_READ, offset=page) as ring,
        ):
            at = struct.unpack_from("=Q", consumer)[0]
            end = struct.unpack_from("=Q", ring)[0]
            while at < end:
                place = page + at % size
                length = struct.unpack_from("=I", ring, place)[0] & 0x3FFFFFFF
                found.append(layout.DROP_EVENT.unpack(ring[place + 8 : place + 8 + layout.DROP_EVENT.size]))
                at += 8 + (length + 7) // 8 * 8
            struct.pack_into("=Q", consumer, 0, at)
        fields = (
            *("time", "src", "dst", "sport", "dport", "proto", "family", "kind"),
            *("ifindex", "len", "peer", "slot", "reason", "direction"),
        )
        records = [dict(zip(fields, record)) for record in found]
        for record in records:
            for name in ("sport", "dport"):
                record[name] = int.from_bytes(record[name], "big")
        return records

    def new_generation(self) -> None:
        """Invalidate the flow cache, as a commit of new state does."""
        self.generation += 1
        bpf.map_update(
            self.object.maps["config"], {bytes(4): struct.pack("=II", self.generation, self.features)}
        )

    def all_counters(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for slot in SLOTS:
            found.update(dict(zip(self.names, self.counters(slot))))
        return found

    def run(
        self, program: str, packet: bytes, device: str = "", cached: bool = False, **fields: int
    ) -> Result:
        """Run a program on one packet; invalidate the flow cache first, unless ``cached``.

        ``fields``: gso_size, gso_segs, tstamp, priority and ingress_ifindex.
        """
        if not cached:
            self.new_generation()
        return self.run_after(None, program, packet, device, **fields)

    def run_after(
        self, first: bytes | None, program: str, packet: bytes, device: str = "", **fields: int
    ) -> Result:
        """Run a program on a packet right after another packet, whose counters are not included."""
        device = device or ("wire0" if program == "host_ingress" else "pod1")
        alone = Counter(self.run(program, first, device).counted) if first else Counter()
        before = self.all_counters()
        if first:
            self.test_run(program, first, device)
        verdict, out = self.test_run(program, packet, device, **fields)
        counted = dict(self.all_counters() - before - alone)
        self.covered.update(counted)
        tstamp = struct.unpack_from("=Q", self.context, SKB_TSTAMP)[0]
        return Result(verdict, out, counted, tstamp, self.context[SKB_PRIORITY])


class Entered:
    """Run the calling thread in a network namespace."""

    def __init__(self, name: str) -> None:
        self.path = f"/run/netns/{name}"

    def __enter__(self) -> None:
        self.home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        self._enter(os.open(self.path, os.O_RDONLY))

    def __exit__(self, *_: object) -> None:
        self._enter(self.home)

    def _enter(self, fd: int) -> None:
        with bpf.closing(fd):
            if ctypes.CDLL(None, use_errno=True).setns(fd, 0x40000000):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
