# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Network of a driver check: the host, two Pods, a host behind a wire, and traffic between them."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from tests.support import driver_node as node
from tests.support.background import background
from tests.support.driver_node import (
    Action,
    Meta,
    Namespace,
    NetlinkError,
    Programs,
    Rtnl,
    run,
    s32,
    text,
    u32,
)

HOST, POD1, POD2, WIRE, FAR = "10.9.3.1", "10.9.0.1", "10.9.0.2", "10.9.1.2", "10.9.2.2"
POD1_6, POD2_6, WIRE_6, FAR_6 = "fd09::1", "fd09::2", "fd09:1::2", "fd09:2::2"
GATEWAY, GATEWAY_6 = "10.9.1.1", "fd09:1::1"
PINNED = "/sys/fs/bpf/driver_checks_ingress"


class Topology:
    """The namespaces of a check; ``pods()`` and ``wire()`` add devices."""

    NAMES = ("host", "pod1", "pod2", "far")

    def __init__(self, module: str, programs: Programs) -> None:
        self.module = module
        self.programs = programs
        self.remove()  # namespaces of an interrupted check
        run("ip", "-batch", "-", stdin="".join(f"netns add {name}\n" for name in self.NAMES))
        self.host, self.pod1, self.pod2, self.far = self.namespaces = [Namespace(name) for name in self.NAMES]
        self.rtnl = Rtnl(self.host)
        self.host.write("ipv4/ip_forward", 1)
        self.host.write("ipv6/conf/all/forwarding", 1)
        self.ip(self.host, "link set lo up", f"address add {HOST}/32 dev lo")
        programs.clear_records()

    def close(self) -> None:
        self.rtnl.__exit__()
        for namespace in self.namespaces:
            namespace.close()
        self.remove()

    def remove(self) -> None:
        present = [name for name in self.NAMES if Path("/run/netns", name).exists()]
        run("ip", "-batch", "-", stdin="".join(f"netns del {name}\n" for name in present))

    def ip(self, namespace: Namespace, *commands: str) -> None:
        run("ip", "-n", namespace.name, "-batch", "-", stdin="\n".join(commands) + "\n")

    def pair(self, name: str, pod: Namespace, *data: bytes) -> None:
        """Create a pair whose peer is eth0 of ``pod``."""
        peer = text(node.IFLA_IFNAME, "eth0") + s32(node.IFLA_NET_NS_FD, pod.fd)
        self.rtnl.create(name, *data, peer=peer)

    def pods(self, *data: bytes, mode: int = Meta.L3) -> tuple[int, int]:
        """Create p1 and p2 with both programs, addresses and routes; return the primaries' ifindexes.

        The programs pass all packets until set_action() changes that.
        """
        programs = (
            s32(Meta.PROG_FD, self.programs.fd("to_pod")),
            s32(Meta.PEER_PROG_FD, self.programs.fd("from_pod")),
        )
        via, via_6 = ("", "") if mode == Meta.L3 else ("via 169.254.1.1 onlink", "via fe80::1")
        indexes = []
        for name, pod, v4, v6 in (("p1", self.pod1, POD1, POD1_6), ("p2", self.pod2, POD2, POD2_6)):
            self.pair(name, pod, *programs, u32(Meta.MODE, mode), *data)
            index = self.rtnl.get(name).index
            self.set_action("to_pod", index, Action.VERDICT, Meta.PASS)
            self.set_action("from_pod", index, Action.VERDICT, Meta.PASS)
            indexes.append(index)
            commands = [f"link set {name} up", f"route add {v4} dev {name}", f"route add {v6} dev {name}"]
            if mode == Meta.L2:
                commands.append(f"address add 169.254.1.1/32 dev {name}")
                commands.append(f"address add fe80::1/64 dev {name} nodad")
            self.ip(self.host, *commands)
            self.ip(
                pod,
                "link set lo up",
                "link set eth0 up",
                f"address add {v4}/32 dev eth0",
                f"address add {v6}/128 dev eth0 nodad",
                f"route add default {via} dev eth0",
                f"route add ::/0 {via_6} dev eth0",
            )
            self.wait_running(name)
        return indexes[0], indexes[1]

    def wire(self) -> int:
        """Connect host and far by a veth; return the ifindex of the host's end. FAR is routed via WIRE."""
        self.ip(
            self.host,
            "link add wire type veth peer name eth0 netns far",
            "link set wire up",
            f"address add {GATEWAY}/24 dev wire",
            f"address add {GATEWAY_6}/64 dev wire nodad",
        )
        self.ip(
            self.far,
            "link set lo up",
            "link set eth0 up",
            f"address add {WIRE}/24 dev eth0",
            f"address add {WIRE_6}/64 dev eth0 nodad",
            f"address add {FAR}/32 dev lo",
            f"address add {FAR_6}/128 dev lo nodad",
            f"route add 10.9.0.0/24 via {GATEWAY}",
            f"route add fd09::/64 via {GATEWAY_6}",
        )
        self.ip(self.host, f"route add {FAR} via {WIRE}", f"route add {FAR_6} via {WIRE_6}")
        return self.rtnl.get("wire").index

    def tun(self) -> tuple[int, int]:
        """Create tun0 on the host, which has no MAC address; return its file descriptor and ifindex."""
        tunsetiff, iff_tun, iff_no_pi = 0x400454CA, 0x0001, 0x1000
        with self.host.inside():
            tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            fcntl.ioctl(tun, tunsetiff, struct.pack("16sH22x", b"tun0", iff_tun | iff_no_pi))
        self.ip(self.host, "link set tun0 up", "address add 10.9.9.1/24 dev tun0")
        return tun, self.rtnl.get("tun0").index

    def wait_running(self, name: str) -> None:
        """Wait until a device of the host is running; before that it silently drops packets."""
        node.wait_until(lambda: self.rtnl.get(name).flags & node.IFF_RUNNING, f"{name} runs")

    def set_ipv6(self, enabled: bool) -> None:
        """Enable or disable IPv6, whose own packets would disturb checks that count packets."""
        for namespace in self.namespaces:
            namespace.write("ipv6/conf/all/disable_ipv6", int(not enabled))

    def attach_ingress(self, namespace: Namespace, device: str) -> None:
        """Attach the program "ingress" at a device's tc ingress hook."""
        self.programs.pin("ingress", PINNED)
        with namespace.inside():  # tc -n would hide /sys/fs/bpf
            run("tc", "qdisc", "add", "dev", device, "clsact")
            run("tc", "filter", "add", "dev", device, "ingress", "bpf", "da", "pinned", PINNED)
        Path(PINNED).unlink()

    def set_action(
        self, program: str, ifindex: int, action: int, argument: int = 0, nexthop: str = ""
    ) -> None:
        self.programs.set_action(program, ifindex, action, argument, nexthop)


CHECKS: dict[str, Callable[[Topology], None]] = {}


def check(function: Callable[[Topology], None]) -> Callable[[Topology], None]:
    CHECKS[function.__name__] = function
    return function


@contextlib.contextmanager
def refusal(number: int, message: str = "") -> Iterator[None]:
    """Assert that the kernel refuses a request of the block with this errno and message (or a part of it)."""
    try:
        yield
    except NetlinkError as refused:
        wrong = f"expected {errno.errorcode[number]} {message!r}, got {refused}"
        assert refused.errno == number and message in refused.message, wrong
    else:
        raise AssertionError(f"not refused: {errno.errorcode[number]} {message!r}")


def datagram(source: str, destination: str, data: bytes) -> bytes:
    """Return an IPv4 packet with a UDP datagram from port 9 to port 9."""
    udp = struct.pack("!HHHH", 9, 9, 8 + len(data), 0) + data
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0)
    header += socket.inet_aton(source) + socket.inet_aton(destination)
    total = sum(struct.unpack("!10H", header))
    total = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    return header[:10] + struct.pack("!H", total) + header[12:] + udp


def send(udp: socket.socket, address: str, data: bytes = b"x") -> None:
    """Send a datagram and ignore errors: some sockets report a drop as ENOBUFS."""
    with contextlib.suppress(OSError):
        udp.sendto(data, (address, 9))


def transfer(server: Namespace, client: Namespace, address: str, amount: int = 1 << 20) -> None:
    """Send ``amount`` bytes, at least 1 MiB, over TCP and assert that the server receives them unchanged."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    data = os.urandom(1 << 20)
    received = hashlib.sha256()

    def serve(listener: socket.socket) -> None:
        connection, _peer = listener.accept()
        with connection:
            connection.settimeout(60)
            while chunk := connection.recv(1 << 18):
                received.update(chunk)
            connection.sendall(b"done")

    listener = server.open(family, socket.SOCK_STREAM)
    sender = client.open(family, socket.SOCK_STREAM)
    with listener, sender:
        listener.settimeout(60)
        listener.bind((address, 7))
        listener.listen()
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        sender.settimeout(60)
        sender.connect((address, 7))
        for dummy in range(amount >> 20):
            sender.sendall(data)
        sender.shutdown(socket.SHUT_WR)
        assert sender.recv(4) == b"done"
        thread.join(60)
    assert received.hexdigest() == hashlib.sha256(data * (amount >> 20)).hexdigest()


@contextlib.contextmanager
def flood(sender: Namespace, *addresses: str) -> Iterator[None]:
    """Send UDP from a namespace as fast as possible during the block, ignoring errors."""

    def blast(udp: socket.socket, address: str, stop: threading.Event) -> None:
        while not stop.is_set():
            send(udp, address, b"x" * 700)

    with contextlib.ExitStack() as sockets:
        blasts = [partial(blast, sockets.enter_context(sender.udp()), address) for address in addresses]
        with background(*blasts):
            yield


@contextlib.contextmanager
def drop_reasons() -> Iterator[Callable[[], str]]:
    """Trace skb:kfree_skb during the block; yield a function that returns the trace."""
    tracing = Path("/sys/kernel/tracing")
    event = tracing / "events/skb/kfree_skb/enable"
    (tracing / "trace").write_text("")
    event.write_text("1")
    try:
        yield (tracing / "trace").read_text
    finally:
        event.write_text("0")
