# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The programs on the running kernel: one packet in, verdict, packet and counters out. Root is needed.

BPF_PROG_TEST_RUN never shows where a redirect leads; tests/netns do that.
"""

from __future__ import annotations

import ctypes
import os
import re
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils import _bpf

SOURCES = Path(__file__).resolve().parents[2] / "roles/bpf_datapath/files"

BPF_PROG_TEST_RUN = 10
# struct __sk_buff (include/uapi/linux/bpf.h): its size and the offsets that a test may set
SKB_SIZE, SKB_IFINDEX, SKB_GSO_SIZE = 192, 40, 176

REASONS = 64  # reasons.h: counters of a Pod

PASS, REDIRECT = -1, 7  # TC_ACT_UNSPEC, TC_ACT_REDIRECT

# Every device that packets come in through has this address, or the kernel calls them another host's.
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
"""

# Pods by the last part of their addresses: pod2, one with a small MTU, one whose device is gone.
ENDPOINTS = {12: "pod2", 13: "small", 14: None}
GONE = 0x7FFFFFFF


def reason_names() -> list[str]:
    """The names in the order of the enum."""
    text = (SOURCES / "reasons.h").read_text()
    return re.findall(r"^\tREASON_(\w+),", text, re.MULTILINE)[:-1]


def possible_cpus() -> int:
    """Processors that a per-CPU map has a value for."""
    text = Path("/sys/devices/system/cpu/possible").read_text().strip()
    return sum(
        int(last or first) - int(first) + 1
        for first, dummy, last in (part.partition("-") for part in text.split(","))
    )


@dataclass(frozen=True)
class Result:
    """What a program did with a packet."""

    verdict: int
    packet: bytes
    counted: dict[str, int]


class Datapath:
    """The loaded programs and a network namespace that they look at."""

    def __init__(self, path: str, netns: str, reached: set[str], **rodata: int) -> None:
        self.netns, self.reached = netns, reached
        self.generation = 0
        self.object = _bpf.BpfObject(path, rodata)
        self.object.load()
        self.names = reason_names()
        with self.inside():
            for number, device in ENDPOINTS.items():
                ifindex = self.ifindex(device) if device else GONE
                value = struct.pack("=II16x", ifindex, 1)
                v4 = bytes([10, 31, 1, number])
                v6 = bytes.fromhex(f"fd310001{'0' * 20}{int(str(number), 16):04x}")
                _bpf.map_update(self.object.maps["endpoints4"], {v4: value})
                _bpf.map_update(self.object.maps["endpoints6"], {v6: value})

    def inside(self) -> Entered:
        return Entered(self.netns)

    def ifindex(self, device: str) -> int:
        import socket

        return socket.if_nametoindex(device)

    def counters(self) -> list[int]:
        raw = _bpf.map_lookup(self.object.maps["metrics"], bytes(4), 8 * REASONS * possible_cpus())
        values = struct.unpack(f"={len(raw) // 8}Q", raw)
        return [sum(values[number::REASONS]) for number in range(len(self.names))]

    def test_run(self, program: str, packet: bytes, device: str, gso_size: int = 0) -> tuple[int, bytes]:
        """Run a program over a packet that came in through ``device``."""
        context = bytearray(SKB_SIZE)
        with self.inside():
            struct.pack_into("=I", context, SKB_IFINDEX, self.ifindex(device))
            struct.pack_into("=I", context, SKB_GSO_SIZE, gso_size)
            data = ctypes.create_string_buffer(packet, len(packet))
            out = ctypes.create_string_buffer(len(packet) + 64)
            ctx = ctypes.create_string_buffer(bytes(context), SKB_SIZE)
            attr = bytearray(
                struct.pack(
                    "=IIIIQQIIIIQQIII",
                    *(self.object.programs[program], 0, len(packet), len(out)),
                    *(ctypes.addressof(data), ctypes.addressof(out), 1, 0, SKB_SIZE, 0),
                    *(ctypes.addressof(ctx), 0, 0, 0, 0),
                )
            )
            _bpf.bpf(BPF_PROG_TEST_RUN, attr)
        verdict, dummy, size = struct.unpack_from("=iII", attr, 4)
        return verdict, out.raw[:size]

    def forget(self) -> None:
        """End what was decided for flows, as whoever changes the endpoints does."""
        self.generation += 1
        _bpf.map_update(self.object.maps["config"], {bytes(4): struct.pack("=II", self.generation, 0)})

    def run(
        self, program: str, packet: bytes, device: str = "", gso_size: int = 0, remembering: bool = False
    ) -> Result:
        """Run a program over one packet and say what was counted; its flow is new, unless ``remembering``."""
        if not remembering:
            self.forget()
        device = device or ("wire0" if program == "host_ingress" else "pod1")
        before = self.counters()
        verdict, out = self.test_run(program, packet, device, gso_size)
        after = self.counters()
        counted = {name: a - b for name, a, b in zip(self.names, after, before) if a != b}
        self.reached.update(counted)
        return Result(verdict, out, counted)


class Entered:
    """The calling thread in a network namespace."""

    def __init__(self, name: str) -> None:
        self.path = f"/run/netns/{name}"

    def __enter__(self) -> None:
        self.home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        self._enter(os.open(self.path, os.O_RDONLY))

    def __exit__(self, *_: object) -> None:
        self._enter(self.home)

    def _enter(self, fd: int) -> None:
        with _bpf.closing(fd):
            if ctypes.CDLL(None, use_errno=True).setns(fd, 0x40000000):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@pytest.fixture(scope="session")
def reached() -> set[str]:
    """Every reason that a test saw counted."""
    return set()


@pytest.fixture(scope="session")
def netns() -> Iterator[str]:
    """A namespace with Pods' devices, two wires and routes of every kind."""
    if os.geteuid() != 0:
        pytest.fail("tests/bpf load programs: run them as root (sudo make test-fast)")
    name = f"t{os.getpid()}-bpf"
    subprocess.run(["ip", "netns", "add", name], check=True)
    inside = ["nsenter", f"--net=/run/netns/{name}"]
    switches = [
        *("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"),
        *("net.ipv4.conf.closed.forwarding=0", "net.ipv6.conf.closed.forwarding=0"),
    ]
    try:
        subprocess.run([*inside, "ip", "-batch", "-"], input=TOPOLOGY, text=True, check=True)
        subprocess.run([*inside, "sysctl", "-qw", *switches], check=True)
        yield name
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


@pytest.fixture(scope="session")
def datapath_object(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The compiled programs."""
    out = tmp_path_factory.mktemp("object")
    subprocess.run(["make", "-s", "-C", str(SOURCES), f"OUT={out}"], check=True)
    return str(out / "datapath.o")


@pytest.fixture(scope="session")
def datapath(datapath_object: str, netns: str, reached: set[str]) -> Iterator[Datapath]:
    """The programs as they are attached to meta, tcx and clsact."""
    loaded = Datapath(datapath_object, netns, reached)
    yield loaded
    loaded.object.close()


@pytest.fixture(scope="session")
def netkit_datapath(datapath_object: str, netns: str, reached: set[str]) -> Iterator[Datapath]:
    """The programs as they are attached to netkit."""
    loaded = Datapath(datapath_object, netns, reached, netkit_source=1)
    yield loaded
    loaded.object.close()
