# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Guest side of datapath.py: instructions per packet of the programs, and rate limits.

Runs as init, so that no other process executes instructions. Each result is a line of JSON on the console.
The guest's clock counts instructions: one is a nanosecond.
"""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import itertools
import json
import os
import random
import re
import socket
import statistics
import struct
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ansible_collections.podnet.datapath.plugins.module_utils._datapath import apply, metrics
from ansible_collections.podnet.datapath.plugins.module_utils._kernel import bpf
from ansible_collections.podnet.datapath.plugins.module_utils._programs import attach
from ansible_collections.podnet.datapath.plugins.module_utils._programs.resolve import Request
from bench.icount.guest import print_result, run_as_init
from tests.support.namespaces import Namespaces, command
from tests.support.pod_nodes import NODES, Devices, Nodes, Pod

OBJECT = str(Path("datapath.o").resolve())
PINS = "/sys/fs/bpf/podnet"
SO_RCVBUFFORCE = 33  # asm-generic/socket.h

# Instructions per packet

BPF_PROG_TEST_RUN = 10
SKB_SIZE, SKB_IFINDEX = 192, 40  # struct __sk_buff (include/uapi/linux/bpf.h)
REDIRECT = 7  # TC_ACT_REDIRECT
POLICY_BUFFER = 8  # policy.h: offset in struct policy_key
FOLLOWING = 10  # measured packets of a flow after its first one
PAIRS = 200  # of Pods; the cost of a hash map's look-up depends on the key's position in its bucket
APPS = 100  # labels of Pods on the large scale
CIDRS = 96  # CIDRs of each policy: with two peers per direction 10,000 entries on the node
FEATURES = ("routing", "policy", "service", "rate")
OUTSIDE, VIP, PORT = "192.0.2.10", "10.96.0.10", 80


def pod_address(number: int) -> str:
    return f"10.{31 + (number >> 8)}.{number & 255}.10"


def declaration(pods: int, feature: str) -> dict[str, Any]:
    """Return bpf_state's options for a node whose Pods all use the feature."""
    many = pods > 2
    apps = min(APPS, pods) if many else 1
    declared: dict[str, Any] = {
        "endpoints": [
            {
                "name": f"p{n}",
                "device": f"p{n}",
                "addresses": [pod_address(n)],
                "labels": {"app": f"a{n % apps}"},
                "rate": "100gbit" if feature == "rate" else None,
            }
            for n in range(pods)
        ]
    }
    if feature == "policy":
        others = [{"cidr": f"198.18.{n}.0/24"} for n in range(CIDRS if many else 0)]
        rules = {"ports": [{"protocol": "udp", "port": PORT}]}
        declared["policies"] = []
        for app in range(apps):
            own: dict[str, Any] = {"labels": {"app": f"a{app}"}}
            peers = [own, {"cidr": OUTSIDE}]
            declared["policies"].append(
                {
                    "name": f"p{app}",
                    "pods": own,
                    "ingress": [{"from": [*peers, *others]}],
                    "egress": [{"to": peers, **rules}],
                }
            )
    if feature == "service":
        declared["services"] = [
            {
                "name": f"s{n}",
                "address": str(ipaddress.ip_address(VIP) + n),
                "port": PORT,
                "protocol": "udp",
                "backends": [{"address": OUTSIDE, "port": PORT}],
            }
            for n in range(pods)
        ]
    return declared


class Programs:
    """The programs of a node and their declarations."""

    def __init__(self) -> None:
        attach.present(attach.Desired(PINS, [Request("host_ingress", "wire0", "ingress")]), OBJECT, {})
        self.program = bpf.obj_get(f"{PINS}/progs/pod_egress")
        self.config = bpf.obj_get(f"{PINS}/maps/config")
        self.policy = bpf.obj_get(f"{PINS}/maps/policy")

    def declare(self, pods: int, feature: str) -> int:
        """Apply a declaration; return the number of policy entries."""
        options = {**declaration(pods, feature), "node": "node"}
        apply.configure(apply.Desired(PINS, "site", options))
        buffer = struct.unpack_from("=I", bpf.map_lookup(self.config, bytes(4), 8))[0] % 2
        return sum(key[POLICY_BUFFER] == buffer for key in bpf.map_read(self.policy))

    def end_decisions(self) -> None:
        """Invalidate cached decisions by a new generation."""
        generation, features = struct.unpack("=II", bpf.map_lookup(self.config, bytes(4), 8))
        bpf.map_update(self.config, {bytes(4): struct.pack("=II", generation + 2, features)})

    def cost(self, device: int, packet: bytes) -> int:
        """Return the instructions of one run.

        Each call is one run: a repeated run would get the packet that the first one modified.
        """
        context = bytearray(SKB_SIZE)
        struct.pack_into("=I", context, SKB_IFINDEX, device)
        data = ctypes.create_string_buffer(packet, len(packet))
        ctx = ctypes.create_string_buffer(bytes(context), SKB_SIZE)
        attr = bytearray(
            struct.pack(
                "=IIIIQQIIIIQQIII",
                *(self.program, 0, len(packet), 0, ctypes.addressof(data), 0, 1, 0, SKB_SIZE, 0),
                *(ctypes.addressof(ctx), 0, 0, 0, 0),
            )
        )
        bpf.bpf(BPF_PROG_TEST_RUN, attr)
        verdict, duration = struct.unpack_from("=i24xI", attr, 4)[0], struct.unpack_from("=I", attr, 36)[0]
        assert verdict == REDIRECT, f"verdict {verdict}, not {REDIRECT}"
        return int(duration)


def datagram(mac: bytes, source: str, target: str, sport: int) -> bytes:
    """Return an Ethernet frame with a UDP datagram over IPv4."""
    udp = struct.pack("!HHHH", sport, PORT, 8 + 64, 0) + bytes(64)
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 255, 17, 0)
    header += socket.inet_aton(source) + socket.inet_aton(target)
    total = sum(struct.unpack("!10H", header))
    total = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    return mac + bytes(6) + b"\x08\0" + header[:10] + struct.pack("!H", total) + header[12:] + udp


def trimmed_mean(samples: list[float]) -> float:
    """Return the mean of all but the highest 5 % of the values, which include interrupts."""
    return statistics.mean(sorted(samples)[: len(samples) * 19 // 20])


# Each flow has a port of its own: a connection to a service would get another one if its own were used.
sports = itertools.count(1024)


def costs(programs: Programs, mac: bytes, pods: int, feature: str) -> None:
    entries = programs.declare(pods, feature)
    index = [socket.if_nametoindex(f"p{n}") for n in range(pods)]
    chosen = random.Random(pods)
    for path in ("wire", "local"):
        if path == "local" and feature in ("service", "rate"):
            continue
        first: list[float] = []
        following: list[float] = []
        for _pair in range(PAIRS):
            source = chosen.randrange(pods)
            other = (source + (APPS if pods > APPS else 1)) % pods  # with the same label
            target = OUTSIDE if path == "wire" else pod_address(other)
            if feature == "service":
                target = str(ipaddress.ip_address(VIP) + other)
            packet = datagram(mac, pod_address(source), target, next(sports))
            programs.end_decisions()
            first.append(programs.cost(index[source], packet))
            following += [programs.cost(index[source], packet) for dummy in range(FOLLOWING)]
        print_result(
            "cost",
            pods=pods,
            entries=entries,
            feature=feature,
            path=path,
            first=trimmed_mean(first),
            following=trimmed_mean(following),
        )


def measure_costs(scales: list[int]) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.mkdir(PINS)
    command("ip", "link", "add", "wire0", "type", "veth", "peer", "name", "wire1")
    mac = bytes.fromhex(Path("/sys/class/net/wire0/address").read_text().strip().replace(":", ""))
    lines = [
        *("addr add 172.31.0.1/30 dev wire0", "link set wire0 up", "link set wire1 up"),
        *("neigh add 172.31.0.2 lladdr 02:00:00:00:00:99 dev wire0", "route add 192.0.2.0/24 via 172.31.0.2"),
        *(f"link add p{n} address {mac.hex(':')} type dummy" for n in range(max(scales))),
        *(f"link set p{n} up" for n in range(max(scales))),
    ]
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    command("tc", "qdisc", "replace", "dev", "wire0", "root", "fq")  # rates need fq
    programs = Programs()
    for feature in FEATURES:
        for pods in scales:
            costs(programs, mac, pods, feature)
    attach.absent(PINS)


# Rate limits

PACED = {
    "fast": Pod("node1", "10.31.1.11", "fd31:1::11"),
    "target": Pod("node2", "10.31.2.11", "fd31:2::11"),
}
WARM, SECONDS = 0.5, 2.0
STREAMS = 4
# Size of TCP's packets: 64 KiB for a near peer, or by rate (net.ipv4.tcp_tso_rtt_log).
SEGMENTS = {"64 KiB": "9", "by rate": "0"}
DATAGRAM = 1400


class Paced(Nodes):
    """Two nodes with Pods on meta; one Pod, or the uplink of its node, has a rate limit."""

    def __init__(self, namespaces: Namespaces) -> None:
        super().__init__(namespaces, PACED, Devices("meta"))
        for node in NODES:
            with self.ns.inside(self.names[node]):
                attach.present(attach.Desired(f"{PINS}-{node}", self.entries(node)), OBJECT, {})
            self.declare(node, None)

    def entries(self, node: str) -> list[Request]:
        return [Request(*words) for words in self.attachments(node)]

    def declare(self, node: str, rate: str | None) -> None:
        pods = [
            {"name": name, "device": name, "addresses": [PACED[name].v4, PACED[name].v6], "rate": rate}
            for name in self.pods_of(node)
        ]
        with self.ns.inside(self.names[node]):
            apply.configure(apply.Desired(f"{PINS}-{node}", "site", {"endpoints": pods, "node": node}))

    def qdisc(self, *words: str) -> None:
        command("tc", "qdisc", "replace", "dev", "wire0", "root", *words, netns=self.names["node1"])

    def dropped(self) -> int:
        """Return the packets that the uplink's qdisc has dropped."""
        text = command("tc", "-s", "qdisc", "show", "dev", "wire0", netns=self.names["node1"])
        return sum(map(int, re.findall(r"dropped (\d+)", text)))

    def retransmitted(self) -> int:
        """Return the segments that the Pod's TCP has retransmitted."""
        lines = command("cat", "/proc/net/snmp", netns=self.names["fast"]).splitlines()
        names, values = (line.split() for line in lines if line.startswith("Tcp:"))
        return int(dict(zip(names, values))["RetransSegs"])

    def refused(self) -> int:
        """Return the packets that the programs have dropped."""
        with self.ns.inside(self.names["node1"]):
            counted = metrics.read_counters(f"{PINS}-node1")
        return sum(n for of in counted.values() for name, n in of.items() if name.startswith("DROP"))

    def remove(self) -> None:
        for node in NODES:
            with self.ns.inside(self.names[node]):
                attach.absent(f"{PINS}-{node}")
        self.ns.delete()


@contextlib.contextmanager
def stream(lab: Paced, protocol: str, address: str) -> Iterator[Mapping[str, int]]:
    """Stream from the Pod to the target as fast as possible; yield the counts of sent and received bytes."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with lab.ns.inside(lab.names["target"]):
        server = socket.socket(family, kind)
    with lab.ns.inside(lab.names["fast"]):
        client = socket.socket(family, kind)
    count = {"sent": 0, "received": 0}
    stop = threading.Event()
    server.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 4 << 20)
    server.bind((address, 0))
    if protocol == "tcp":
        server.listen()
    client.connect(server.getsockname()[:2])
    receiver = server.accept()[0] if protocol == "tcp" else server

    def send() -> None:
        data = bytes(1 << 16 if protocol == "tcp" else DATAGRAM)
        while not stop.is_set():
            count["sent"] += client.send(data)

    def receive() -> None:
        receiver.settimeout(3)
        with contextlib.suppress(TimeoutError):
            while got := len(receiver.recv(1 << 18)):
                count["received"] += got

    threads = [threading.Thread(target=one) for one in (send, receive)]
    for thread in threads:
        thread.start()
    try:
        yield count
    finally:
        stop.set()
        threads[0].join()
        client.close()
        threads[1].join()
        server.close()


def throughput(lab: Paced, protocol: str, address: str, rate: int) -> None:
    """Print throughput in Mbit/s on the wire, and losses."""
    dropped, refused = lab.dropped(), lab.refused()
    with stream(lab, protocol, address) as count:
        time.sleep(WARM)
        began, before = time.monotonic(), count["received"]
        time.sleep(SECONDS)
        took, got = time.monotonic() - began, count["received"] - before
    headers = (66 if protocol == "tcp" else 42) + (20 if ":" in address else 0)
    data = 1514 - headers if protocol == "tcp" else DATAGRAM
    print_result(
        "rate",
        requested=rate,
        protocol=protocol,
        family=6 if ":" in address else 4,
        measured=got * 8 * (data + headers) / data / took / 1e6,
        lost=count["sent"] - count["received"],
        dropped=lab.dropped() - dropped + lab.refused() - refused,
    )


def latency(lab: Paced, shaper: str, rate: int, segments: str) -> None:
    """Print the latency of a ping beside streams in ms, and TCP's retransmissions."""
    with lab.ns.inside(lab.names["fast"]):
        Path("/proc/sys/net/ipv4/tcp_tso_rtt_log").write_text(SEGMENTS[segments])
    again = lab.retransmitted()
    with contextlib.ExitStack() as streams:
        for dummy in range(STREAMS):
            streams.enter_context(stream(lab, "tcp", PACED["target"].v4))
        time.sleep(WARM)
        words = ("ping", "-n", "-c", "40", "-i", "0.05", "-W", "5", PACED["target"].v4)
        output = command(*words, netns=lab.names["fast"])
    times = sorted(float(value) for value in re.findall(r"time=([\d.]+) ms", output))
    at_99 = times[len(times) * 99 // 100]
    print_result(
        "latency",
        shaper=shaper,
        segments=segments,
        requested=rate,
        median=statistics.median(times),
        p99=at_99,
        lost=lab.retransmitted() - again,
    )


def measure_rates(rates: list[int]) -> None:
    lab = Paced(Namespaces())
    try:
        lab.qdisc("fq")
        for rate in rates:
            lab.declare("node1", f"{rate}mbit")
            for protocol in ("tcp", "udp"):
                for address in (PACED["target"].v4, PACED["target"].v6):
                    throughput(lab, protocol, address, rate)
        for rate in rates:
            lab.qdisc("fq")
            lab.declare("node1", f"{rate}mbit")
            for segments in SEGMENTS:
                latency(lab, "programs and fq", rate, segments)
            lab.declare("node1", None)
            # the minimal burst for a timer of 1 kHz (tc-tbf(8)); the latency is that of its example
            lab.qdisc("tbf", "rate", f"{rate}mbit", "burst", str(max(rate * 125, 3200)), "latency", "50ms")
            for segments in SEGMENTS:
                latency(lab, "tbf, 50 ms", rate, segments)
    finally:
        lab.remove()


def main() -> None:
    plan = json.loads(Path("plan.json").read_text())
    command("insmod", "meta.ko")
    Path("/run/netns").mkdir(exist_ok=True)
    command("ip", "link", "set", "lo", "up")
    print_result("start", kernel=os.uname().release)
    if plan["rates"]:
        measure_rates(plan["rates"])
    if plan["scales"]:
        measure_costs(plan["scales"])
    print_result("end")


if __name__ == "__main__":
    run_as_init(main)
