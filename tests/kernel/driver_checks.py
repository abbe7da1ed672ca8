# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The driver's checks, run on a node: ``driver_checks.py meta.ko driver.bpf.o [CHECK...]``.

Prints a JSON object for each check: its name, what went wrong ("" for nothing) and its seconds. Every check
begins with namespaces of its own (the host's, two Pods', one behind a wire) and ends with the kernel's log.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import socket
import struct
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import driver_node as node
from driver_node import How, Meta, Namespace, Programs, Refused, Rtnl, attribute, run, s32, text, u16, u32

HOST, POD1, POD2, WIRE, FAR = "10.9.3.1", "10.9.0.1", "10.9.0.2", "10.9.1.2", "10.9.2.2"
POD1_6, POD2_6, WIRE_6, FAR_6 = "fd09::1", "fd09::2", "fd09:1::2", "fd09:2::2"
GATEWAY, GATEWAY_6 = "10.9.1.1", "fd09:1::1"
PINNED = "/sys/fs/bpf/driver_checks_ingress"

REMOVAL = "the_module_leaves_nothing_behind"  # the last, when all others are done


class World:
    """The namespaces of a check; ``pods()`` and ``wire()`` fill them."""

    NAMES = ("host", "pod1", "pod2", "far")

    def __init__(self, module: str, programs: Programs) -> None:
        self.module = module
        self.programs = programs
        self.remove()  # what a check that was cut off has left
        run("ip", "-batch", "-", stdin="".join(f"netns add {name}\n" for name in self.NAMES))
        self.host, self.pod1, self.pod2, self.far = self.namespaces = [Namespace(name) for name in self.NAMES]
        self.rtnl = Rtnl(self.host)
        self.host.write("ipv4/ip_forward", 1)
        self.host.write("ipv6/conf/all/forwarding", 1)
        self.ip(self.host, "link set lo up", f"address add {HOST}/32 dev lo")
        programs.forget()

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

        The programs pass everything until they are told something else.
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
            self.tell("to_pod", index, How.VERDICT, Meta.PASS)
            self.tell("from_pod", index, How.VERDICT, Meta.PASS)
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
        return indexes[0], indexes[1]

    def wire(self) -> int:
        """Join host and far by a veth; return the host's ifindex of it. FAR is behind WIRE."""
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

    def quiet(self, quiet: bool = True) -> None:
        """End what IPv6 says by itself, for checks that count packets."""
        for namespace in self.namespaces:
            namespace.write("ipv6/conf/all/disable_ipv6", int(quiet))

    def tell(self, program: str, ifindex: int, how: int, argument: int = 0, nexthop: str = "") -> None:
        self.programs.tell(program, ifindex, how, argument, nexthop)


CHECKS: dict[str, Callable[[World], None]] = {}


def check(function: Callable[[World], None]) -> Callable[[World], None]:
    CHECKS[function.__name__] = function
    return function


@contextlib.contextmanager
def refusal(number: int, sentence: str = "") -> Iterator[None]:
    """What is done within must be refused with this errno and a sentence that has this in it."""
    try:
        yield
    except Refused as refused:
        wrong = f"expected {errno.errorcode[number]} {sentence!r}, got {refused}"
        assert refused.errno == number and sentence in refused.sentence, wrong
    else:
        raise AssertionError(f"not refused: {errno.errorcode[number]} {sentence!r}")


def send(udp: socket.socket, address: str, data: bytes = b"x") -> None:
    """Send where a refusal is no matter: a drop comes back as ENOBUFS to some sockets."""
    with contextlib.suppress(OSError):
        udp.sendto(data, (address, 9))


def transfer(server: Namespace, client: Namespace, address: str, amount: int = 1 << 20) -> None:
    """Send bytes over TCP from client to server; they must arrive whole."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    data = os.urandom(1 << 16)
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
        for dummy in range(amount >> 16):
            sender.sendall(data)
        sender.shutdown(socket.SHUT_WR)
        assert sender.recv(4) == b"done"
        thread.join(60)
    assert received.hexdigest() == hashlib.sha256(data * (amount >> 16)).hexdigest()


@contextlib.contextmanager
def flood(sender: Namespace, *addresses: str) -> Iterator[None]:
    """Send UDP from a namespace without end or regard for errors."""
    stop = threading.Event()
    sockets = [sender.udp() for dummy in addresses]

    def blast(udp: socket.socket, address: str) -> None:
        while not stop.is_set():
            send(udp, address, b"x" * 700)

    threads = [threading.Thread(target=blast, args=pair) for pair in zip(sockets, addresses, strict=True)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        for udp in sockets:
            udp.close()


@contextlib.contextmanager
def drop_reasons() -> Iterator[Callable[[], str]]:
    """Trace skb:kfree_skb; the function returns what was traced."""
    tracing = Path("/sys/kernel/tracing")
    event = tracing / "events/skb/kfree_skb/enable"
    (tracing / "trace").write_text("")
    event.write_text("1")
    try:
        yield (tracing / "trace").read_text
    finally:
        event.write_text("0")


@check
def a_pair_is_made_and_its_peer_moved(world: World) -> None:
    """Its peer in the Pod's namespace, both ends report what they are."""
    world.pair("p1", world.pod1)
    link = world.rtnl.get("p1")
    assert link.flags & node.IFF_NOARP
    assert (link.number(Meta.PRIMARY), link.number(Meta.MODE)) == (1, Meta.L3)
    assert (link.number(Meta.POLICY), link.number(Meta.PEER_POLICY)) == (Meta.DROP, Meta.DROP)
    assert (link.number(Meta.SCRUB), link.number(Meta.PEER_SCRUB)) == (1, 1)
    assert link.number(Meta.PROG_ID) is None
    with Rtnl(world.pod1) as pod:
        assert pod.get("eth0").number(Meta.PRIMARY) == 0

    # Made in one namespace, moved later.
    world.rtnl.create("p2", peer=text(node.IFLA_IFNAME, "p2peer"))
    world.rtnl.link_request(node.RTM_NEWLINK, 0, "p2peer", s32(node.IFLA_NET_NS_FD, world.pod2.fd))
    assert "p2peer" not in world.rtnl.names()
    # Everything but the kind may be left to the kernel.
    world.rtnl.create("p3")
    assert "meta0" in world.rtnl.names()


@check
def without_a_program_all_is_dropped_and_counted(world: World) -> None:
    """The default policy of both directions is drop; a policy of pass lets through."""
    world.pods()
    world.quiet()
    world.rtnl.change("p1", s32(Meta.PROG_FD, -1), s32(Meta.PEER_PROG_FD, -1))
    before = world.rtnl.get("p1")
    assert before.number(Meta.PROG_ID) is None and before.number(Meta.PEER_PROG_ID) is None
    with Rtnl(world.pod1) as pod:
        pod_before = pod.get("eth0").stats
        with world.pod1.udp() as up, world.host.udp() as down, drop_reasons() as reasons:
            for dummy in range(10):
                send(up, HOST)
                send(down, POD1)
            traced = reasons()
        pod_after, after = pod.get("eth0").stats, world.rtnl.get("p1").stats
    assert pod_after["tx_dropped"] - pod_before["tx_dropped"] == 10, (pod_before, pod_after)
    assert after["tx_dropped"] - before.stats["tx_dropped"] == 10, (before.stats, after)
    for name in ("tx_packets", "rx_packets"):
        assert pod_after[name] == pod_before[name] and after[name] == before.stats[name]
    assert traced.count("TC_CHAIN_NOTFOUND") >= 20, traced

    world.rtnl.change("p1", u32(Meta.POLICY, Meta.PASS), u32(Meta.PEER_POLICY, Meta.PASS))
    world.pod1.ping(HOST)


@check
def programs_are_attached_by_descriptor(world: World) -> None:
    """Given at creation they run from the first packet on; ids and tags tell which they are."""
    index, dummy = world.pods()
    before = world.rtnl.get("p1")
    for kind, tag, name in (
        (Meta.PROG_ID, Meta.PROG_TAG, "to_pod"),
        (Meta.PEER_PROG_ID, Meta.PEER_PROG_TAG, "from_pod"),
    ):
        info = Path(f"/proc/self/fdinfo/{world.programs.fd(name)}").read_text()
        facts = dict(line.split(":\t", 1) for line in info.splitlines() if ":\t" in line)
        assert before.number(kind) == int(facts["prog_id"])
        assert before.info[tag].hex() == facts["prog_tag"]
    world.pod1.ping(HOST)
    world.host.ping(POD1)
    for program in (Programs.FROM_POD, Programs.TO_POD):
        note = world.programs.note(program)
        assert (note["ifindex"], note["protocol"]) == (index, socket.htons(0x0800)), note
    after = world.rtnl.get("p1").stats
    assert after["tx_dropped"] == 0 and min(after["rx_packets"], after["tx_packets"]) >= 10, after


@check
def pod_to_pod_by_redirect_peer(world: World) -> None:
    """bpf_redirect_peer() from inside the Pod's program: ping and TCP, IPv4 and IPv6, past the host."""
    one, two = world.pods()
    world.tell("from_pod", one, How.PEER, two)
    world.tell("from_pod", two, How.PEER, one)
    world.pod1.ping(POD2)
    world.pod1.ping(POD2_6)
    transfer(world.pod2, world.pod1, POD2)
    transfer(world.pod1, world.pod2, POD1_6)
    stats = world.rtnl.get("p1").stats
    assert stats["rx_bytes"] + stats["tx_bytes"] < 1 << 16, f"the host's end saw the stream: {stats}"
    with Rtnl(world.pod2) as pod:
        stats = pod.get("eth0").stats
    assert stats["tx_dropped"] == 0 and min(stats["rx_bytes"], stats["tx_bytes"]) > 1 << 16, stats


@check
def a_task_delivers_without_a_softirq(world: World) -> None:
    """What a task sends is received within its call, in order; what a softirq sends takes the backlog."""

    def softirqs() -> int:
        line = next(x for x in Path("/proc/softirqs").read_text().splitlines() if "NET_RX" in x)
        return sum(map(int, line.split()[1:]))

    one, two = world.pods()
    world.tell("from_pod", one, How.PEER, two)
    world.tell("from_pod", two, How.PEER, one)
    count = 1000
    with world.pod1.udp() as sender, world.pod2.udp(POD2) as receiver:
        receiver.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)  # SO_RCVBUFFORCE
        before = softirqs()
        for number in range(count):
            sender.sendto(struct.pack("=I", number), (POD2, 9))
        taken = softirqs() - before
        arrived = [struct.unpack("=I", receiver.recv(100))[0] for dummy in range(count)]
    assert arrived == list(range(count))
    assert taken < count / 2, f"{taken} receive softirqs for {count} packets"
    # The echo is sent by the softirq that received the request.
    world.pod1.ping(POD2)


@check
def pod_to_pod_by_plain_redirect(world: World) -> None:
    """bpf_redirect() to the other primary: its own program runs too."""
    one, two = world.pods()
    world.tell("from_pod", one, How.REDIRECT, two)
    world.tell("from_pod", two, How.REDIRECT, one)
    world.pod1.ping(POD2)
    world.pod1.ping(POD2_6)
    transfer(world.pod2, world.pod1, POD2)
    assert world.programs.note(Programs.TO_POD)["packets"] > 10


@check
def pod_to_pod_through_the_hosts_stack(world: World) -> None:
    """A verdict of pass on all four ways: the host routes."""
    world.pods()
    world.pod1.ping(POD2)
    world.pod1.ping(POD2_6)
    transfer(world.pod2, world.pod1, POD2)


@check
def redirect_neigh_resolves(world: World) -> None:
    """bpf_redirect_neigh() without a next hop: the route of the target's namespace gives it."""
    one, dummy = world.pods()
    world.tell("from_pod", one, How.NEIGH, world.wire())
    for address in (WIRE, WIRE_6, FAR, FAR_6):
        world.pod1.ping(address)
    transfer(world.far, world.pod1, WIRE)
    transfer(world.far, world.pod1, WIRE_6)


@check
def redirect_neigh_takes_a_next_hop(world: World) -> None:
    """The next hop given is used, of the packet's family or IPv6 for an IPv4 packet; no route is needed."""
    one, dummy = world.pods()
    wire = world.wire()
    world.ip(world.host, f"route del {FAR}", f"route del {FAR_6}")
    world.tell("from_pod", one, How.NEXTHOP, wire, WIRE)
    world.pod1.ping(FAR)
    world.tell("from_pod", one, How.NEXTHOP, wire, WIRE_6)
    world.pod1.ping(FAR_6)
    world.pod1.ping(FAR)
    transfer(world.far, world.pod1, FAR)


@check
def redirect_neigh_refuses_what_has_no_way(world: World) -> None:
    """A broadcast, a next hop of another family, a protocol without neighbours: dropped, counted, traced."""
    one, dummy = world.pods()
    wire = world.wire()
    udp, udp6 = world.pod1.udp(), world.pod1.udp(POD1_6)
    with udp, udp6, Rtnl(world.pod1) as pod, world.pod1.raw() as raw, drop_reasons() as reasons:
        before = pod.get("eth0").stats["tx_dropped"]
        world.tell("from_pod", one, How.NEIGH, wire)
        send(udp, "10.9.1.255")  # of the wire's network
        with contextlib.suppress(OSError):
            raw.sendto(bytes(12) + b"\x12\x34" + bytes(50), ("eth0", 0x1234))
        world.tell("from_pod", one, How.NEXTHOP, wire, WIRE)
        send(udp6, FAR_6)
        dropped, traced = pod.get("eth0").stats["tx_dropped"] - before, reasons()
    assert dropped >= 3, dropped
    for reason in ("IP_OUTNOROUTES", "UNHANDLED_PROTO", "NEIGH_CREATEFAIL"):
        assert reason in traced, f"{reason}: {traced}"


@check
def fib_lookups_hold_in_the_program(world: World) -> None:
    """bpf_fib_lookup() with skb->ifindex asks the host's routes, on the way from the Pod and to it."""
    one, two = world.pods()
    world.wire()
    world.tell("from_pod", one, How.FIB)
    for address in (WIRE, WIRE_6, FAR, FAR_6):
        world.pod1.ping(address)
    transfer(world.far, world.pod1, FAR)
    # On the way to the Pod a packet is still the host's: the program can send it elsewhere.
    world.tell("to_pod", two, How.FIB)
    world.ip(world.host, "rule add pref 0 iif p2 lookup 77", f"route add {POD2} via {WIRE} table 77")
    with world.host.udp() as udp, Rtnl(world.far) as far:
        before = far.get("eth0").stats["rx_packets"]
        send(udp, POD2)
        assert world.programs.note(Programs.TO_POD)["ifindex"] == two
        node.eventually(lambda: far.get("eth0").stats["rx_packets"] > before, "a packet at the far end")


@check
def tc_ingress_redirects_to_the_peer(world: World) -> None:
    """The kernel's own bpf_redirect_peer() at a device's tc ingress reaches the Pod."""
    one, dummy = world.pods()
    wire = world.wire()
    world.tell("from_pod", one, How.NEIGH, wire)
    world.tell("ingress", wire, How.PEER, one)
    # The neighbours are resolved before every packet is for the Pod.
    world.pod1.ping(WIRE)
    world.pod1.ping(WIRE_6)
    world.programs.pin("ingress", PINNED)
    with world.host.inside():  # not tc -n: it hides /sys/fs/bpf
        run("tc", "qdisc", "add", "dev", "wire", "clsact")
        run("tc", "filter", "add", "dev", "wire", "ingress", "bpf", "da", "pinned", PINNED)
    Path(PINNED).unlink()
    world.programs.forget()
    world.pod1.ping(WIRE)
    world.pod1.ping(WIRE_6)
    transfer(world.far, world.pod1, WIRE)
    assert world.programs.note(Programs.INGRESS)["packets"] > 10
    assert world.programs.note(Programs.TO_POD)["packets"] < 10


@check
def a_device_without_mac_gets_bare_packets(world: World) -> None:
    """Plain and neighbour redirects to a tun device: an IP packet with nothing before it."""
    one, dummy = world.pods()
    with world.host.inside():
        tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        tunsetiff, iff_tun, iff_no_pi = 0x400454CA, 0x0001, 0x1000
        fcntl.ioctl(tun, tunsetiff, struct.pack("16sH22x", b"tun0", iff_tun | iff_no_pi))
    world.ip(world.host, "link set tun0 up", "address add 10.9.9.1/24 dev tun0")
    index = world.rtnl.get("tun0").index
    packets: list[bytes] = []

    def came() -> bool:
        with contextlib.suppress(BlockingIOError):
            while True:
                packets.append(os.read(tun, 4096))
        return any(packet.endswith(b"bare packet") for packet in packets)

    with world.pod1.udp() as udp:
        for how in (How.REDIRECT, How.NEIGH):
            packets.clear()
            world.tell("from_pod", one, how, index)
            send(udp, "10.9.9.2", b"bare packet")
            node.eventually(came, "a packet at tun0")
            packet = next(packet for packet in packets if packet.endswith(b"bare packet"))
            assert packet[:1] == b"\x45", packet.hex()
            assert packet[12:20] == socket.inet_aton(POD1) + socket.inet_aton("10.9.9.2"), packet.hex()
    os.close(tun)


@check
def redirect_to_ingress(world: World) -> None:
    """bpf_redirect() with BPF_F_INGRESS: the host's stack gets the packet as from the target device."""
    one, two = world.pods()
    world.tell("from_pod", one, How.INGRESS, two)
    world.host.write("ipv4/conf/all/rp_filter", 0)
    world.host.write("ipv4/conf/p2/rp_filter", 0)
    with world.host.udp(HOST) as server, world.pod1.udp() as client:
        server.setsockopt(socket.IPPROTO_IP, 8, 1)  # IP_PKTINFO
        send(client, HOST, b"through")
        data, control, _flags, _address = server.recvmsg(100, 100)
    assert data == b"through"
    assert struct.unpack_from("=i", control[0][2])[0] == two, control


@check
def sums_of_the_hardware_stay_right(world: World) -> None:
    """A packet that came with CHECKSUM_COMPLETE keeps it right, or gives it up, whichever way it takes."""
    one, two = world.pods()
    wire = world.wire()
    world.host.write("ipv4/conf/all/rp_filter", 0)
    world.host.write("ipv4/conf/p2/rp_filter", 0)
    for how, target, receiver, address in (
        (How.VERDICT, Meta.PASS, world.host, HOST),
        (How.INGRESS, two, world.host, HOST),
        (How.PEER, two, world.pod2, POD2),
        (How.REDIRECT, two, world.pod2, POD2),
        (How.NEIGH, wire, world.far, WIRE),
    ):
        world.tell("from_pod", one, how, target)
        with receiver.udp(address) as server:
            with world.pod1.inside():
                parameters = ("device=eth0", f"source={POD1}", f"destination={address}")
                run("insmod", str(Path(world.module).with_name("inject.ko")), *parameters)
                run("rmmod", "inject")
            assert server.recv(100) == b"summed by hardware", address
    # A wrong sum would be in the kernel's log: "hw csum failure".


@check
def a_redirect_without_target_is_dropped(world: World) -> None:
    """No such ifindex, a target that is down, a peer where there is none: dropped, counted, traced."""
    one, two = world.pods()
    world.quiet()
    world.ip(world.host, "link add idle type dummy", "link set p2 down")
    idle = world.rtnl.get("idle").index
    targets = [(how, index) for how in (How.REDIRECT, How.NEIGH, How.PEER) for index in (9999, idle)]
    targets.append((How.REDIRECT, two))
    with Rtnl(world.pod1) as pod, world.pod1.udp() as udp, drop_reasons() as reasons:
        before = pod.get("eth0").stats
        for how, target in targets:
            world.tell("from_pod", one, how, target)
            send(udp, POD2)
        after, traced = pod.get("eth0").stats, reasons()
    assert after["tx_dropped"] - before["tx_dropped"] == len(targets), (before, after)
    assert after["tx_packets"] == before["tx_packets"]
    assert traced.count("DEV_READY") + traced.count("NO_TX_TARGET") >= len(targets), traced


@check
def unknown_verdicts_drop(world: World) -> None:
    """Next and pass pass; drop and every verdict that is not known drop."""
    one, dummy = world.pods()
    world.quiet()
    verdicts = (1, 2, 3, 4, 5, 6, 8, 100, -2)
    server, udp = world.host.udp(HOST), world.pod1.udp()
    with udp, server, Rtnl(world.pod1) as pod, drop_reasons() as reasons:
        for verdict in (-1, 0):
            world.tell("from_pod", one, How.VERDICT, verdict)
            send(udp, HOST, str(verdict).encode())
            assert server.recv(10) == str(verdict).encode()
        before = pod.get("eth0").stats["tx_dropped"]
        for verdict in verdicts:
            world.tell("from_pod", one, How.VERDICT, verdict)
            send(udp, HOST)
        dropped, traced = pod.get("eth0").stats["tx_dropped"] - before, reasons()
    assert dropped == len(verdicts), dropped
    assert traced.count("TC_EGRESS") >= len(verdicts), traced


@check
def a_loop_of_redirects_ends(world: World) -> None:
    """Two primaries that redirect to each other: the packet is dropped at a depth, the node lives."""
    one, two = world.pods()
    world.tell("to_pod", one, How.REDIRECT, two)
    world.tell("to_pod", two, How.REDIRECT, one)
    with world.host.udp() as udp:
        for dummy in range(20):
            send(udp, POD1)
    dropped = sum(world.rtnl.get(name).stats["tx_dropped"] for name in ("p1", "p2"))
    assert dropped >= 20, dropped
    assert world.programs.note(Programs.TO_POD)["packets"] >= 60
    world.tell("to_pod", one, How.VERDICT, Meta.PASS)
    world.host.ping(POD1)


@check
def the_pod_changes_nothing(world: World) -> None:
    """Root in the Pod's namespace is refused every change of the pair, and is not told of programs."""
    world.pods()
    before = world.rtnl.get("p1").info
    with Rtnl(world.pod1) as pod:
        for request in (
            [u32(Meta.POLICY, Meta.PASS)],
            [u32(Meta.PEER_POLICY, Meta.PASS)],
            [s32(Meta.PROG_FD, -1)],
            [s32(Meta.PEER_PROG_FD, -1)],
            [s32(Meta.PEER_PROG_FD, world.programs.fd("from_pod"))],
            [u32(Meta.SCRUB, 0)],
            [u32(Meta.MODE, 0)],
            [u16(Meta.HEADROOM, 100)],
            [u32(Meta.PEER_POLICY, Meta.PASS), s32(Meta.PROG_FD, -1), s32(Meta.PEER_PROG_FD, -1)],
            [],
        ):
            with refusal(errno.EACCES, "only the primary can change the pair"):
                pod.change("eth0", *request)
        with refusal(errno.EOPNOTSUPP):  # a MAC address in L3 mode
            pod.link_request(node.RTM_NEWLINK, 0, "eth0", attribute(node.IFLA_ADDRESS, b"\2\0\0\0\0\1"))
        info = pod.get("eth0").info
    for kind in (Meta.PROG_ID, Meta.PEER_PROG_ID, Meta.PROG_TAG, Meta.PEER_PROG_TAG):
        assert kind not in info
    # Nor gets it past the program by what it may do: flags, queues, raw sockets past the queue.
    world.quiet()
    run("tc", "-n", "pod1", "qdisc", "add", "dev", "eth0", "root", "pfifo")
    flags = ("arp on", "promisc on", "allmulticast on", "down", "up")
    world.ip(world.pod1, *(f"link set eth0 {flag}" for flag in flags))
    world.programs.forget()
    with world.pod1.raw() as raw:
        raw.setsockopt(263, 20, 1)  # SOL_PACKET, PACKET_QDISC_BYPASS
        raw.sendto(bytes(12) + b"\x08\x00" + bytes(40), ("eth0", 0x86DD))  # IPv4, called IPv6
    note = world.programs.note(Programs.FROM_POD)
    assert (note["packets"], note["protocol"]) == (1, socket.htons(0x0800)), note
    assert world.rtnl.get("p1").info == before


@check
def bad_changes_are_refused_each_with_its_sentence(world: World) -> None:
    """Malformed, unprivileged and contradictory changes: each has its sentence, none changes anything."""
    world.pods()
    before = world.rtnl.get("p1").info
    not_open, not_bpf = 1000, os.open("/dev/null", os.O_RDONLY)
    wrong_type = world.programs.fd("not_for_meta")
    cases = []
    for kind in (Meta.PROG_FD, Meta.PEER_PROG_FD):
        cases += [
            (errno.EINVAL, "file descriptor is not a BPF program of type sched_cls", [s32(kind, wrong_type)]),
            (errno.EINVAL, "file descriptor is not a BPF program of type sched_cls", [s32(kind, not_bpf)]),
            (errno.EBADF, "file descriptor of the program is not open", [s32(kind, not_open)]),
            (errno.EINVAL, "program must be a file descriptor, or -1 to detach", [s32(kind, -2)]),
            (errno.EINVAL, "invalid attribute length", [attribute(kind, b"\1")]),
        ]
    for kind, whose in ((Meta.POLICY, "meta: policy"), (Meta.PEER_POLICY, "meta: peer policy")):
        for value in (1, 3, 7, 32, 0xFFFFFFFF):
            cases.append((errno.EINVAL, f"{whose} must be 0 (pass) or 2 (drop)", [u32(kind, value)]))
    for given, what in (
        (u32(Meta.MODE, 1), "mode"),
        (u32(Meta.SCRUB, 1), "scrub"),
        (u32(Meta.PEER_SCRUB, 1), "peer scrub"),
        (u16(Meta.HEADROOM, 1), "headroom"),
        (u16(Meta.TAILROOM, 1), "tailroom"),
        (attribute(Meta.PEER_INFO, bytes(16)), "peer"),
    ):
        cases.append((errno.EOPNOTSUPP, f"meta: {what} cannot be changed after creation", [given]))
    for kind, what in (
        (Meta.PRIMARY, "primary attribute"),
        (Meta.PROG_ID, "program id"),
        (Meta.PEER_PROG_ID, "peer program id"),
        (Meta.PROG_TAG, "program tag"),
        (Meta.PEER_PROG_TAG, "peer program tag"),
    ):
        cases.append((errno.EINVAL, f"meta: {what} is read-only", [u32(kind, 1)]))
    cases += [
        (errno.EINVAL, "", [u32(20, 1)]),  # a number that nothing has
        # A good attribute beside a bad one is not carried out.
        (errno.EINVAL, "peer policy", [u32(Meta.POLICY, Meta.PASS), u32(Meta.PEER_POLICY, 5)]),
        (errno.EBADF, "not open", [s32(Meta.PROG_FD, -1), s32(Meta.PEER_PROG_FD, not_open)]),
    ]
    for number, sentence, request in cases:
        with refusal(number, sentence):
            world.rtnl.change("p1", *request)
        assert world.rtnl.get("p1").info == before, sentence
    os.close(not_bpf)


@check
def bad_creations_are_refused_each_with_its_sentence(world: World) -> None:
    """The same for pairs that cannot be made: nothing is left of them."""
    world.pair("p1", world.pod1)
    names = world.rtnl.names()
    not_open, not_bpf = 1000, os.open("/dev/null", os.O_RDONLY)
    l2 = u32(Meta.MODE, Meta.L2)
    good_program = s32(Meta.PROG_FD, world.programs.fd("to_pod"))

    def mac(*address: int) -> bytes:
        return attribute(node.IFLA_ADDRESS, bytes(address))

    for number, sentence, attributes in (
        (errno.EINVAL, "meta: mode must be 0 (L2) or 1 (L3)", u32(Meta.MODE, 2)),
        (errno.EINVAL, "meta: scrub must be 0 (none) or 1 (default)", u32(Meta.SCRUB, 2)),
        (errno.EINVAL, "meta: peer scrub must be 0 (none) or 1 (default)", u32(Meta.PEER_SCRUB, 9)),
        (errno.EINVAL, "meta: policy must be 0 (pass) or 2 (drop)", u32(Meta.POLICY, 7)),
        (errno.EBADF, "program is not open", good_program + s32(Meta.PEER_PROG_FD, not_open)),
        (errno.EINVAL, "of type sched_cls", s32(Meta.PEER_PROG_FD, world.programs.fd("not_for_meta"))),
        (errno.ERANGE, "", attribute(Meta.PEER_INFO, bytes(4))),
    ):
        with refusal(number, sentence):
            world.rtnl.create("new", attributes)
    with refusal(errno.EOPNOTSUPP, "a MAC address can be set in L2 mode only"):
        world.rtnl.create("new", peer=mac(2, 0, 0, 0, 0, 1))
    with refusal(errno.EOPNOTSUPP, "a MAC address can be set in L2 mode only"):
        world.rtnl.create("new", more=mac(2, 0, 0, 0, 0, 1))
    with refusal(errno.EADDRNOTAVAIL, "MAC address must be unicast and not zero"):
        world.rtnl.create("new", l2, more=mac(1, 0, 0, 0, 0, 1))
    with refusal(errno.EADDRNOTAVAIL, "MAC address must be unicast and not zero"):
        world.rtnl.create("new", l2, peer=mac(0, 0, 0, 0, 0, 0))
    with refusal(errno.EINVAL):
        world.rtnl.create("new", l2, more=mac(2, 0, 0))
    with refusal(errno.EEXIST, "cannot register the peer; name or index taken?"):
        world.rtnl.create("new", peer=text(node.IFLA_IFNAME, "p1"))
    with refusal(errno.EINVAL):  # no namespace
        world.rtnl.create("new", peer=text(node.IFLA_IFNAME, "peer") + s32(node.IFLA_NET_NS_FD, not_bpf))
    assert world.rtnl.names() == names
    os.close(not_bpf)


@check
def replacement_loses_nothing(world: World) -> None:
    """Numbered UDP while the program is replaced over and over: all arrive, each program had its share."""
    one, two = world.pods()
    world.tell("from_pod", one, How.PEER, two)
    count, replaced = 3000, 0
    done = threading.Event()
    arrived: set[bytes] = set()
    with world.pod1.udp() as sender, world.pod2.udp(POD2) as receiver:
        receiver.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)  # SO_RCVBUFFORCE
        receiver.settimeout(5)
        world.programs.forget()

        def count_up() -> None:
            for number in range(count):
                sender.sendto(struct.pack("=I", number), (POD2, 9))
            done.set()

        thread = threading.Thread(target=count_up)
        thread.start()
        while not done.is_set():
            name = ("from_pod_too", "from_pod")[replaced % 2]
            world.rtnl.change("p1", s32(Meta.PEER_PROG_FD, world.programs.fd(name)))
            replaced += 1
        thread.join()
        with contextlib.suppress(TimeoutError):
            while len(arrived) < count:
                arrived.add(receiver.recv(100))
    with Rtnl(world.pod1) as pod:
        dropped = pod.get("eth0").stats["tx_dropped"]
    shares = [world.programs.note(p)["packets"] for p in (Programs.FROM_POD, Programs.FROM_POD_TOO)]
    facts = f"{len(arrived)} of {count} arrived, {replaced} replacements, {dropped} dropped, shares {shares}"
    assert len(arrived) == count and dropped == 0, facts
    assert sum(shares) >= count and min(shares) > 0 and replaced > 10, facts


@check
def metadata_ends_at_the_namespace(world: World) -> None:
    """Mark and priority of a socket do not cross to another namespace; with scrub none they do."""
    for scrub in (1, 0):
        world.pods(u32(Meta.SCRUB, scrub), u32(Meta.PEER_SCRUB, scrub))
        for sender, address, program in (
            (world.pod1, HOST, Programs.FROM_POD),
            (world.host, POD1, Programs.TO_POD),
        ):
            world.quiet()
            with sender.udp() as udp:
                udp.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 42)
                udp.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, 5)
                send(udp, address)
            note = world.programs.note(program)
            assert (note["mark"], note["priority"]) == ((0, 0) if scrub else (42, 5)), (scrub, note)
        for name in ("p1", "p2"):
            world.rtnl.delete(name)
        world.quiet(False)
    # Within one namespace there is no boundary.
    to_pod = s32(Meta.PROG_FD, world.programs.fd("to_pod"))
    world.rtnl.create("side1", to_pod, peer=text(node.IFLA_IFNAME, "side2"))
    world.quiet()
    world.ip(world.host, "link set side1 up", "link set side2 up", "address add 10.9.5.1/24 dev side1")
    with world.host.udp() as udp:
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 42)
        send(udp, "10.9.5.2")
    assert world.programs.note(Programs.TO_POD)["mark"] == 42


@check
def the_programs_packet_type_stands(world: World) -> None:
    """L2: a frame for another MAC is not the Pod's unless the program says so. L3: MACs do not matter."""
    datagram = struct.pack("!HHHH", 9, 9, 8 + 4, 0) + b"here"
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(datagram), 0, 0, 64, 17, 0)
    header += socket.inet_aton(HOST) + socket.inet_aton(POD1)
    total = sum(struct.unpack("!10H", header))
    total = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    packet = header[:10] + struct.pack("!H", total) + header[12:] + datagram
    frame = b"\2\0\0\0\0\x63\2\0\0\0\0\x64\x08\0" + packet

    def arrives(how: int) -> bool:
        world.tell("to_pod", index, how, Meta.PASS)
        with world.pod1.udp(POD1) as server, world.host.raw() as raw, contextlib.suppress(TimeoutError):
            server.settimeout(1)
            raw.sendto(frame, ("p1", 0x0800))
            return bool(server.recv(100) == b"here")
        return False

    for mode, pkt_type, arrives_unaided in ((Meta.L3, 0, True), (Meta.L2, 3, False)):  # HOST, OTHERHOST
        index, dummy = world.pods(mode=mode)
        world.quiet()
        assert arrives(How.VERDICT) == arrives_unaided, mode
        assert world.programs.note(Programs.TO_POD)["pkt_type"] == pkt_type
        assert arrives(How.TYPE_HOST), mode
        for name in ("p1", "p2"):
            world.rtnl.delete(name)
        world.quiet(False)


@check
def l2_mode_has_addresses_and_resolves(world: World) -> None:
    """MAC addresses as given or random; ARP and neighbour discovery go through the programs."""
    mac = b"\2\0\0\0\0\x31"
    peer = text(node.IFLA_IFNAME, "m2") + attribute(node.IFLA_ADDRESS, mac)
    world.rtnl.create("m1", u32(Meta.MODE, Meta.L2), peer=peer)
    link, other = world.rtnl.get("m1"), world.rtnl.get("m2")
    assert other.attributes[node.IFLA_ADDRESS] == mac
    assert link.attributes[node.IFLA_ADDRESS] not in (mac, bytes(6))
    assert not (link.flags | other.flags) & node.IFF_NOARP
    one, two = world.pods(mode=Meta.L2)
    world.pod1.ping(POD2)
    world.pod1.ping(POD2_6)
    transfer(world.pod2, world.pod1, POD2)
    assert "lladdr" in run("ip", "-n", "pod1", "neigh", "show", "169.254.1.1")
    # A frame that is redirected to the peer is the Pod's whatever its MAC address.
    world.tell("from_pod", one, How.PEER, two)
    with world.pod2.udp(POD2) as server, world.pod1.udp() as client:
        send(client, POD2, b"for you")
        assert server.recv(10) == b"for you"


@check
def sizes_are_kept(world: World) -> None:
    """Head- and tailroom are set and shown; large MTU and BIG TCP sizes are taken, wrong ones refused."""
    gso = u32(node.IFLA_GSO_MAX_SIZE, 185000)
    peer = text(node.IFLA_IFNAME, "m2") + u32(node.IFLA_MTU, 9000) + gso
    world.rtnl.create("m1", u16(Meta.HEADROOM, 200), u16(Meta.TAILROOM, 60), peer=peer, more=gso)
    for name, mtu in (("m1", 1500), ("m2", 9000)):
        link = world.rtnl.get(name)
        assert (link.number(Meta.HEADROOM), link.number(Meta.TAILROOM)) == (200, 60)
        assert struct.unpack("=I", link.attributes[node.IFLA_GSO_MAX_SIZE])[0] == 185000
        assert struct.unpack("=I", link.attributes[node.IFLA_MTU])[0] == mtu
    for mtu in (10, 70000):
        with refusal(errno.EINVAL, "mtu"):
            world.rtnl.link_request(node.RTM_NEWLINK, 0, "m1", u32(node.IFLA_MTU, mtu))
    with world.host.inside():
        assert "driver: meta" in run("ethtool", "-i", "m1")


@check
def carrier_follows_both_ends(world: World) -> None:
    """There is a carrier only while both ends are up, and traffic comes back with it."""
    world.pods()

    def running() -> bool:
        return bool(world.rtnl.get("p1").flags & node.IFF_RUNNING)

    node.eventually(running, "a carrier")
    world.ip(world.pod1, "link set eth0 down")
    node.eventually(lambda: not running(), "no carrier")
    world.ip(world.pod1, "link set eth0 up", "route add default dev eth0")
    node.eventually(running, "a carrier again")
    world.host.ping(POD1)


@check
def deletion_under_traffic(world: World) -> None:
    """Pairs go while packets fly: by the host, by the Pod (which may), with the Pod's namespace."""
    for who in ("host", "pod", "namespace"):
        one, two = world.pods()
        world.tell("from_pod", one, How.PEER, two)
        world.tell("from_pod", two, How.REDIRECT, one)
        with flood(world.pod1, POD2), flood(world.pod2, POD1), flood(world.host, POD1, POD2):
            time.sleep(0.5)
            if who == "host":
                world.rtnl.delete("p1")
                world.rtnl.delete("p2")
            elif who == "pod":
                for pod in (world.pod1, world.pod2):
                    with Rtnl(pod) as rtnl:
                        rtnl.delete("eth0")
            else:
                world.pod1.close()
                run("ip", "netns", "del", "pod1")
                time.sleep(0.2)
        # The flood's sockets hold the namespace for as long as it lasts.
        node.eventually(lambda: "p1" not in world.rtnl.names(), f"a pair deleted by {who}")
        assert ("p2" in world.rtnl.names()) == (who == "namespace")


@check
def removal_of_the_module_under_traffic(world: World) -> None:
    """rmmod takes all pairs of all namespaces with it; the module comes back."""
    one, two = world.pods()
    world.tell("from_pod", one, How.PEER, two)
    with flood(world.pod1, POD2), flood(world.host, POD1):
        time.sleep(0.5)
        run("rmmod", "meta")
        assert not {"p1", "p2"} & set(world.rtnl.names())
    with refusal(errno.EOPNOTSUPP):
        world.rtnl.create("p1")
    run("insmod", world.module)
    world.pods()
    world.host.ping(POD1)


def report(name: str, failure: str, seconds: float) -> None:
    print(json.dumps({"check": name, "failure": failure, "seconds": round(seconds, 1)}), flush=True)


def main() -> None:
    module, objects = sys.argv[1:3]
    complaints = node.kernel_messages()
    run("insmod", module)
    programs = Programs(objects)
    for name in sys.argv[3:] or CHECKS:
        failure = ""
        start = time.monotonic()
        try:
            with contextlib.closing(World(module, programs)) as world:
                CHECKS[name](world)
        except Exception:
            failure = traceback.format_exc()
        report(name, failure + complaints(), time.monotonic() - start)
    programs.close()
    run("rmmod", "meta")
    report(REMOVAL, complaints(), 0)


if __name__ == "__main__":
    main()
