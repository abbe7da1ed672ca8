# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run random operations on the driver under traffic, in the debug kernel.

usage: random_operations SEED MINUTES

The seed determines the order of all operations that a host or a Pod can do with a pair, while all Pods
exchange UDP and TCP. At the end of each round the module is removed under traffic. Prints a JSON object;
/run/host/operations logs each operation at its start.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import signal
import socket
import struct
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.support import driver_node as node
from tests.support.driver_node import (
    Action,
    Meta,
    Namespace,
    NetlinkError,
    Programs,
    Rtnl,
    attribute,
    run,
    s32,
    text,
    u16,
    u32,
)

ROUND = 30  # seconds between removals of the module
PAIRS = 8
PODS = [f"pod{number}" for number in range(1, 6)]
WIRE, WIRE_6 = "10.9.1.2", "fd09:1::2"
NO_SUCH_INDEX = 9999
LOOPBACK = 1
RTM_NEWADDR, RTM_NEWROUTE = 20, 24
SET = 0x500  # NLM_F_CREATE | NLM_F_REPLACE, because it may exist
IFF_UP, IFF_PROMISC = 0x1, 0x100
PINNED = "/sys/fs/bpf/random_operations_ingress"


def addresses(pod: str) -> tuple[str, str]:
    number = pod.removeprefix("pod")
    return f"10.9.0.{number}", f"fd09::{number}"


EVERYONE = [address for pod in PODS for address in addresses(pod)] + [WIRE, WIRE_6, "10.9.3.1"]


def family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def traffic(namespace: Namespace, chance: random.Random) -> int:
    """Start a process that sends and serves UDP and TCP in the namespace; return its PID."""
    pid = os.fork()
    if pid:
        return pid
    try:
        with namespace.inside():
            os.closerange(3, 1 << 12)  # among them other namespaces, which would stay alive
            _send_and_serve(chance)
    finally:
        os._exit(1)


def _send_and_serve(chance: random.Random) -> None:
    datagrams, listener = (
        socket.socket(socket.AF_INET6, kind) for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM)
    )
    for server, port in ((datagrams, 9), (listener, 7)):
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("::", port))
        server.setblocking(False)
    listener.listen(16)
    served: list[socket.socket] = []
    streams: list[socket.socket] = []
    data = os.urandom(60000)
    while True:
        time.sleep(chance.random() / 50)
        with contextlib.suppress(OSError):
            address = chance.choice(EVERYONE)
            with socket.socket(family(address), socket.SOCK_DGRAM) as udp:
                udp.setblocking(False)
                udp.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, chance.randrange(4))
                for dummy in range(chance.randrange(60)):
                    udp.sendto(data[: chance.choice((0, 1, 100, 700, 1400, 9000, 50000))], (address, 9))
        with contextlib.suppress(OSError):
            stream = socket.socket(family(address), socket.SOCK_STREAM)
            stream.setblocking(False)
            streams.append(stream)
            stream.connect_ex((address, 7))
        with contextlib.suppress(OSError):
            served.append(listener.accept()[0])
        while len(streams) > 6 or len(served) > 12:
            (streams if len(streams) > 6 else served).pop(0).close()
        readable, writable, dummy = select.select([datagrams, *served], streams, [], 0)
        for stream in readable:
            with contextlib.suppress(OSError):
                stream.recv(1 << 18)
        for stream in writable:
            with contextlib.suppress(OSError):
                stream.send(data)


@dataclass
class Pair:
    """A primary in the host's namespace and its peer in a Pod's; either may be deleted by an operation."""

    name: str
    peer: str
    pod: str
    index: int


class Operations:
    """The namespaces, and the operations on pairs between them."""

    def __init__(self, programs: Programs, chance: random.Random) -> None:
        self.programs = programs
        self.chance = chance
        self.count = 0
        self.pairs: list[Pair] = []
        self.namespaces: dict[str, Namespace] = {}
        self.processes: dict[str, int] = {}
        self.actions: set[tuple[str, int]] = set()
        for name in ("host", "far", *PODS):
            self._make_namespace(name)
        host, far = self.host, self.namespaces["far"]
        for sysctl in ("ipv4/ip_forward", "ipv6/conf/all/forwarding", "ipv4/conf/all/proxy_arp"):
            host.write(sysctl, 1)
        self._ip("host", "address add 10.9.3.1/32 dev lo", "link add wire type veth peer name eth0 netns far")
        self._ip("host", "link set wire up", "address add 10.9.1.1/24 dev wire")
        self._ip("host", "address add fd09:1::1/64 dev wire nodad")
        self._ip(
            "far", "link set eth0 up", f"address add {WIRE}/24 dev eth0", "route add default via 10.9.1.1"
        )
        self._ip("far", f"address add {WIRE_6}/64 dev eth0 nodad", "route add ::/0 via fd09:1::1")
        self.rtnl = Rtnl(host)
        self.wire = self.rtnl.get("wire").index
        programs.pin("ingress", PINNED)
        with host.inside():
            run("tc", "qdisc", "add", "dev", "wire", "clsact")
            run("tc", "filter", "add", "dev", "wire", "ingress", "bpf", "da", "pinned", PINNED)
        Path(PINNED).unlink()
        programs.set_action("ingress", self.wire, Action.VERDICT, Meta.PASS)
        for name, namespace in (("host", host), ("far", far)):
            self.processes[name] = traffic(namespace, random.Random(chance.random()))

    @property
    def host(self) -> Namespace:
        return self.namespaces["host"]

    def _ip(self, namespace: str, *commands: str) -> None:
        run("ip", "-n", namespace, "-batch", "-", stdin="\n".join(commands) + "\n")

    def _make_namespace(self, name: str) -> None:
        run("ip", "netns", "add", name)
        namespace = self.namespaces[name] = Namespace(name)
        self._ip(name, "link set lo up")
        if name in PODS:
            self.processes[name] = traffic(namespace, random.Random(self.chance.random()))

    def _stop_traffic(self, name: str) -> None:
        pid = self.processes.pop(name)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

    def _pair(self) -> Pair:
        if not self.pairs:
            self.create()
        return self.chance.choice(self.pairs)

    def _program(self, *names: str) -> int:
        name = self.chance.choice([*names, ""])
        return self.programs.fd(name) if name else -1

    def _address(self, rtnl: Rtnl, index: int, pod: str) -> None:
        for address in addresses(pod):
            kind, raw = family(address), socket.inet_pton(family(address), address)
            message = struct.pack("=BBBBI", kind, len(raw) * 8, 2, 0, index)  # IFA_F_NODAD
            rtnl.request(RTM_NEWADDR, SET, message + attribute(2, raw) + attribute(1, raw))

    def _route(self, rtnl: Rtnl, index: int, *targets: str) -> None:
        for target in targets:
            kind = family(target)
            raw = b"" if target in ("0.0.0.0", "::") else socket.inet_pton(kind, target)
            scope = 253 if kind == socket.AF_INET else 0  # link
            message = struct.pack("=BBBBBBBBI", kind, len(raw) * 8, 0, 0, 254, 3, scope, 1, 0)
            more = (attribute(1, raw) if raw else b"") + u32(4, index)
            rtnl.request(RTM_NEWROUTE, SET, message + more)

    def _set_flags(self, rtnl: Rtnl, index: int, flags: int, change: int) -> None:
        rtnl.request(node.RTM_NEWLINK, 0, struct.pack("=BxHiII", 0, 0, index, flags, change))

    def _configure(self, pair: Pair) -> None:
        """Set both ends up; if the peer is in a Pod, add its addresses and routes."""
        self._set_flags(self.rtnl, pair.index, IFF_UP, IFF_UP)
        with Rtnl(self.namespaces[pair.pod]) as pod:
            index = pod.get(pair.peer).index
            self._set_flags(pod, index, IFF_UP, IFF_UP)
            if pair.pod not in PODS:
                return
            self._address(pod, index, pair.pod)
            self._route(pod, index, "0.0.0.0", "::")
        self._route(self.rtnl, pair.index, *addresses(pair.pod))

    # Operations. A refused one tests the kernel as well.

    def create(self) -> None:
        if len(self.pairs) >= PAIRS:
            return self.delete_by_host()
        self.count += 1
        pod = self.chance.choice(PODS)
        pair = Pair(f"m{self.count}", f"e{self.count}", pod, 0)
        data = [u32(Meta.MODE, self.chance.choice((Meta.L2, Meta.L3, Meta.L3)))]
        if self.chance.random() < 0.8:
            data.append(s32(Meta.PROG_FD, self._program("to_pod", "to_pod")))
            data.append(s32(Meta.PEER_PROG_FD, self._program("from_pod", "from_pod_alt")))
        for kind in (Meta.POLICY, Meta.PEER_POLICY):
            data.append(u32(kind, self.chance.choice((Meta.PASS, Meta.DROP))))
        for kind in (Meta.SCRUB, Meta.PEER_SCRUB):
            data.append(u32(kind, self.chance.randrange(2)))
        for kind in (Meta.HEADROOM, Meta.TAILROOM):
            data.append(u16(kind, self.chance.choice((0, 0, 16, 300))))
        peer = text(node.IFLA_IFNAME, pair.peer) + s32(node.IFLA_NET_NS_FD, self.namespaces[pod].fd)
        self.rtnl.create(pair.name, *data, peer=peer)
        pair.index = self.rtnl.get(pair.name).index
        self.pairs.append(pair)
        self._set_action("from_pod", pair.index)
        self._set_action("to_pod", pair.index)
        self._configure(pair)
        return None

    def delete_by_host(self) -> None:
        self.rtnl.delete(self._pair().name)

    def delete_by_pod(self) -> None:
        pair = self._pair()
        with Rtnl(self.namespaces[pair.pod]) as pod:
            pod.delete(pair.peer)

    def move_peer(self) -> None:
        """Move a peer to another Pod or to the host's namespace."""
        pair = self._pair()
        target = self.chance.choice([*PODS, "host"])
        with Rtnl(self.namespaces[pair.pod]) as pod:
            fd = s32(node.IFLA_NET_NS_FD, self.namespaces[target].fd)
            pod.link_request(node.RTM_NEWLINK, 0, pair.peer, fd)
        pair.pod = target
        self._configure(pair)

    def move_primary_and_back(self) -> None:
        pair = self._pair()
        far = self.namespaces["far"]
        self.rtnl.link_request(node.RTM_NEWLINK, 0, pair.name, s32(node.IFLA_NET_NS_FD, far.fd))
        with Rtnl(far) as rtnl:
            rtnl.change(pair.name, s32(Meta.PEER_PROG_FD, self._program("from_pod")))
            rtnl.link_request(node.RTM_NEWLINK, 0, pair.name, s32(node.IFLA_NET_NS_FD, self.host.fd))
        pair.index = self.rtnl.get(pair.name).index
        self._configure(pair)

    def replace_programs(self) -> None:
        data = [
            s32(Meta.PROG_FD, self._program("to_pod")),
            s32(Meta.PEER_PROG_FD, self._program("from_pod_alt")),
        ]
        self.rtnl.change(self._pair().name, *self.chance.sample(data, self.chance.choice((1, 2))))

    def change_policies(self) -> None:
        kind = self.chance.choice((Meta.POLICY, Meta.PEER_POLICY))
        self.rtnl.change(self._pair().name, u32(kind, self.chance.choice((Meta.PASS, Meta.DROP))))

    def _set_action(self, program: str, index: int) -> None:
        """Set a random action of a program, with valid and invalid targets."""
        present = {pair.index for pair in self.pairs}
        for name, other in [key for key in self.actions if key[1] not in present | {index}]:
            self.programs.clear_action(name, other)
            self.actions.discard((name, other))
        action = self.chance.choice(
            (*range(9), Action.REDIRECT_PEER, Action.REDIRECT_NEIGH, Action.REDIRECT, Action.VERDICT)
        )
        if action == Action.VERDICT:
            argument = self.chance.choice((Meta.PASS, Meta.PASS, Meta.DROP, -1, 5))
        else:
            argument = self.chance.choice((*present, self.wire, self.wire, NO_SUCH_INDEX, LOOPBACK))
        self.programs.set_action(program, index, action, argument, self.chance.choice(("", WIRE, WIRE_6)))
        self.actions.add((program, index))

    def change_action(self) -> None:
        self._set_action(self.chance.choice(("from_pod", "to_pod")), self._pair().index)

    def change_wire_action(self) -> None:
        action = self.chance.choice((Action.REDIRECT_PEER, Action.REDIRECT, Action.VERDICT))
        self.programs.set_action(
            "ingress", self.wire, action, 0 if action == Action.VERDICT else self._pair().index
        )

    def change_flags(self) -> None:
        """Change flags of either end; IFF_UP is set more often than cleared."""
        pair = self._pair()
        flag = self.chance.choice((IFF_UP, IFF_UP, IFF_PROMISC, node.IFF_NOARP))
        flags = flag if self.chance.random() < 0.6 else 0
        if self.chance.random() < 0.5:
            self._set_flags(self.rtnl, pair.index, flags, flag)
        else:
            with Rtnl(self.namespaces[pair.pod]) as pod:
                self._set_flags(pod, pod.get(pair.peer).index, flags, flag)
        if flag == IFF_UP and flags:
            self._configure(pair)

    def change_mtu(self) -> None:
        mtu = u32(node.IFLA_MTU, self.chance.choice((68, 576, 1280, 1500, 9000, 65535)))
        self.rtnl.link_request(node.RTM_NEWLINK, 0, self._pair().name, mtu)

    def set_wire_down_and_up(self) -> None:
        self._set_flags(self.rtnl, self.wire, 0, IFF_UP)
        self._set_flags(self.rtnl, self.wire, IFF_UP, IFF_UP)

    def dump_links(self) -> None:
        present = set(self.rtnl.names())
        self.pairs = [pair for pair in self.pairs if pair.name in present]
        for pair in self.pairs:
            self.rtnl.get(pair.name)
            with Rtnl(self.namespaces[pair.pod]) as pod:
                pod.names()

    def send_invalid_requests(self) -> None:
        pair = self._pair()
        kind, size = self.chance.randrange(40), self.chance.choice((0, 1, 2, 4, 8, 40))
        data = attribute(kind, self.chance.randbytes(size))
        where = self.chance.choice(("host", pair.pod))
        with Rtnl(self.namespaces[where]) as rtnl:
            if self.chance.random() < 0.5:
                rtnl.create("nonsense", data, peer=data if self.chance.random() < 0.5 else None)
                rtnl.delete("nonsense")
            else:
                rtnl.change(pair.name if where == "host" else pair.peer, data)

    def send_random_frames(self) -> None:
        """Send frames of random content and length by a packet socket of either end."""
        pair = self._pair()
        where, name = self.chance.choice((("host", pair.name), (pair.pod, pair.peer)))
        with self.namespaces[where].raw() as raw:
            for dummy in range(20):
                kind = self.chance.choice((0x0800, 0x86DD, 0x0806, 0x8100, self.chance.randrange(65536)))
                frame = self.chance.randbytes(12) + struct.pack("!H", kind) + self.chance.randbytes(20)
                frame += self.chance.randbytes(self.chance.choice((0, 1, 40, 1400)))
                frame = bytes(12) + frame[12:] if self.chance.random() < 0.5 else frame
                with contextlib.suppress(OSError):
                    raw.sendto(frame[: self.chance.choice((13, 14, 15, 33, 34, 60, 2000))], (name, kind))

    def send_checksum_complete(self) -> None:
        """Send a packet with CHECKSUM_COMPLETE, which only a module can build."""
        pair = self._pair()
        with self.namespaces[pair.pod].inside():
            source, target = (addresses(self.chance.choice(PODS))[0] for dummy in range(2))
            run(
                "insmod", "/mnt/inject.ko", f"device={pair.peer}", f"source={source}", f"destination={target}"
            )
            run("rmmod", "inject")

    def change_offloads(self) -> None:
        pair = self._pair()
        with self.host.inside():
            feature = self.chance.choice(("tx", "rx", "sg", "tso", "gso", "gro"))
            run("ethtool", "-K", pair.name, feature, self.chance.choice(("on", "off")))

    def recreate_namespace(self) -> None:
        """Delete and create a Pod's namespace; traffic ends before, or holds the namespace for some time."""
        name = self.chance.choice(PODS)
        traffic_first = self.chance.random() < 0.5
        if traffic_first:
            self._stop_traffic(name)
        run("ip", "netns", "del", name)
        self.namespaces[name].close()
        if not traffic_first:
            self._stop_traffic(name)
        self._make_namespace(name)

    WEIGHTS = (
        *((create, 10), (delete_by_host, 3), (delete_by_pod, 2), (move_peer, 4)),
        *((move_primary_and_back, 2), (replace_programs, 12), (change_policies, 6)),
        *((change_action, 20), (change_wire_action, 4), (change_flags, 5), (change_mtu, 2)),
        *((set_wire_down_and_up, 1), (dump_links, 4), (send_invalid_requests, 4), (send_random_frames, 8)),
        *((send_checksum_complete, 1), (change_offloads, 1), (recreate_namespace, 1)),
    )

    def one(self, log: int, done: Counter[str], refused: Counter[str]) -> None:
        functions, weights = zip(*self.WEIGHTS, strict=True)
        operation = self.chance.choices(functions, weights)[0]
        os.write(log, f"{sum(done.values())} {operation.__name__}\n".encode())
        try:
            operation(self)
        except (NetlinkError, OSError, AssertionError):
            # The chosen device may be deleted already, or the request is invalid.
            refused[operation.__name__] += 1
            present = set(self.rtnl.names())
            self.pairs = [pair for pair in self.pairs if pair.name in present]
        done[operation.__name__] += 1

    def reload(self, done: Counter[str]) -> None:
        """Remove the module with all its pairs, and load it again."""
        run("rmmod", "meta")
        names = self.rtnl.names()
        assert not [pair for pair in self.pairs if pair.name in names], names
        self.pairs.clear()
        run("insmod", "/mnt/meta.ko")
        done["reload"] += 1

    def close(self) -> None:
        for name in list(self.processes):
            self._stop_traffic(name)
        self.rtnl.__exit__()
        for name, namespace in self.namespaces.items():
            namespace.close()
            run("ip", "netns", "del", name)


def main() -> None:
    seed, minutes = int(sys.argv[1]), float(sys.argv[2])
    complaints = node.watch_kernel_log()
    run("insmod", "/mnt/meta.ko")
    programs = Programs("/mnt/driver.bpf.o")
    programs.clear_records()
    log = os.open("/run/host/operations", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    done: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    operations = Operations(programs, random.Random(seed))
    start = reloaded = time.monotonic()
    logged = ""
    while not logged and time.monotonic() - start < minutes * 60:
        for dummy in range(20):
            operations.one(log, done, refused)
        logged = complaints()
        if time.monotonic() - reloaded > ROUND:
            operations.reload(done)
            reloaded = time.monotonic()
    seconds = time.monotonic() - start
    packets = sum(programs.record(number)["packets"] for number in range(4))
    operations.close()
    programs.close()
    facts = {"seconds": round(seconds), "packets": packets, "complaints": logged}
    print(json.dumps({**facts, "done": dict(done), "refused": dict(refused)}))


if __name__ == "__main__":
    main()
