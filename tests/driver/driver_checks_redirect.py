# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a program sends a packet: every redirect, and every redirect that must fail."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from pathlib import Path

from tests.support import driver_node as node
from tests.support.driver_node import How, Meta, Programs, Rtnl, run, text
from tests.support.driver_topology import (
    FAR,
    FAR_6,
    HOST,
    POD1,
    POD1_6,
    POD2,
    POD2_6,
    WIRE,
    WIRE_6,
    Topology,
    check,
    datagram,
    drop_reasons,
    send,
    transfer,
)


@check
def pod_to_pod_by_redirect_peer(topology: Topology) -> None:
    """bpf_redirect_peer() from inside the Pod's program: ping and TCP, IPv4 and IPv6, past the host."""
    one, two = topology.pods()
    topology.tell("from_pod", one, How.PEER, two)
    topology.tell("from_pod", two, How.PEER, one)
    topology.pod1.ping(POD2)
    topology.pod1.ping(POD2_6)
    transfer(topology.pod2, topology.pod1, POD2)
    transfer(topology.pod1, topology.pod2, POD1_6)
    stats = topology.rtnl.get("p1").stats
    assert stats["rx_bytes"] + stats["tx_bytes"] < 1 << 16, f"the host's end saw the stream: {stats}"
    with Rtnl(topology.pod2) as pod:
        stats = pod.get("eth0").stats
    assert stats["tx_dropped"] == 0 and min(stats["rx_bytes"], stats["tx_bytes"]) > 1 << 16, stats


@check
def a_task_delivers_without_a_softirq(topology: Topology) -> None:
    """What a task sends is received within its call, in order; what a softirq sends takes the backlog."""

    def softirqs() -> int:
        line = next(x for x in Path("/proc/softirqs").read_text().splitlines() if "NET_RX" in x)
        return sum(map(int, line.split()[1:]))

    one, two = topology.pods()
    topology.tell("from_pod", one, How.PEER, two)
    topology.tell("from_pod", two, How.PEER, one)
    count = 1000
    with topology.pod1.udp() as sender, topology.pod2.udp(POD2) as receiver:
        receiver.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)  # SO_RCVBUFFORCE
        before = softirqs()
        for number in range(count):
            sender.sendto(struct.pack("=I", number), (POD2, 9))
        taken = softirqs() - before
        arrived = [struct.unpack("=I", receiver.recv(100))[0] for dummy in range(count)]
    assert arrived == list(range(count))
    assert taken < count / 2, f"{taken} receive softirqs for {count} packets"
    # The echo is sent by the softirq that received the request.
    topology.pod1.ping(POD2)


@check
def pod_to_pod_by_plain_redirect(topology: Topology) -> None:
    """bpf_redirect() to the other primary: its own program runs too."""
    one, two = topology.pods()
    topology.tell("from_pod", one, How.REDIRECT, two)
    topology.tell("from_pod", two, How.REDIRECT, one)
    topology.pod1.ping(POD2)
    topology.pod1.ping(POD2_6)
    transfer(topology.pod2, topology.pod1, POD2)
    assert topology.programs.note(Programs.TO_POD)["packets"] > 10


@check
def pod_to_pod_through_the_hosts_stack(topology: Topology) -> None:
    """A verdict of pass on all four ways: the host routes."""
    topology.pods()
    topology.pod1.ping(POD2)
    topology.pod1.ping(POD2_6)
    transfer(topology.pod2, topology.pod1, POD2)


@check
def redirect_neigh_resolves(topology: Topology) -> None:
    """bpf_redirect_neigh() without a next hop: the route of the target's namespace gives it."""
    one, dummy = topology.pods()
    topology.tell("from_pod", one, How.NEIGH, topology.wire())
    for address in (WIRE, WIRE_6, FAR, FAR_6):
        topology.pod1.ping(address)
    transfer(topology.far, topology.pod1, WIRE)
    transfer(topology.far, topology.pod1, WIRE_6)


@check
def redirect_neigh_takes_a_next_hop(topology: Topology) -> None:
    """The next hop given is used, of the packet's family or IPv6 for an IPv4 packet; no route is needed."""
    one, dummy = topology.pods()
    wire = topology.wire()
    topology.ip(topology.host, f"route del {FAR}", f"route del {FAR_6}")
    topology.tell("from_pod", one, How.NEXTHOP, wire, WIRE)
    topology.pod1.ping(FAR)
    topology.tell("from_pod", one, How.NEXTHOP, wire, WIRE_6)
    topology.pod1.ping(FAR_6)
    topology.pod1.ping(FAR)
    transfer(topology.far, topology.pod1, FAR)


@check
def redirect_neigh_refuses_what_has_no_way(topology: Topology) -> None:
    """Broad- and multicast, a next hop of another family, no neighbours at all: dropped, counted, traced."""
    one, dummy = topology.pods()
    wire = topology.wire()
    udp, udp6 = topology.pod1.udp(), topology.pod1.udp(POD1_6)
    with udp, udp6, Rtnl(topology.pod1) as pod, topology.pod1.raw() as raw, drop_reasons() as reasons:
        before = pod.get("eth0").stats["tx_dropped"]
        topology.tell("from_pod", one, How.NEIGH, wire)
        send(udp, "10.9.1.255")  # of the wire's network
        send(udp, "224.0.9.9")
        with contextlib.suppress(OSError):
            raw.sendto(bytes(12) + b"\x12\x34" + bytes(50), ("eth0", 0x1234))
        topology.tell("from_pod", one, How.NEXTHOP, wire, WIRE)
        send(udp6, FAR_6)
        dropped, traced = pod.get("eth0").stats["tx_dropped"] - before, reasons()
    assert dropped >= 4, dropped
    for reason in ("IP_OUTNOROUTES", "UNICAST_IN_L2_MULTICAST", "UNHANDLED_PROTO", "NEIGH_CREATEFAIL"):
        assert reason in traced, f"{reason}: {traced}"


@check
def fib_lookups_hold_in_the_program(topology: Topology) -> None:
    """bpf_fib_lookup() with skb->ifindex asks the host's routes, on the way from the Pod and to it."""
    one, two = topology.pods()
    topology.wire()
    topology.tell("from_pod", one, How.FIB)
    for address in (WIRE, WIRE_6, FAR, FAR_6):
        topology.pod1.ping(address)
    transfer(topology.far, topology.pod1, FAR)
    # On the way to the Pod a packet is still the host's: the program can send it elsewhere.
    topology.tell("to_pod", two, How.FIB)
    topology.ip(topology.host, "rule add pref 0 iif p2 lookup 77", f"route add {POD2} via {WIRE} table 77")
    with topology.host.udp() as udp, Rtnl(topology.far) as far:
        before = far.get("eth0").stats["rx_packets"]
        send(udp, POD2)
        assert topology.programs.note(Programs.TO_POD)["ifindex"] == two
        node.eventually(lambda: far.get("eth0").stats["rx_packets"] > before, "a packet at the far end")


@check
def tc_ingress_redirects_to_the_peer(topology: Topology) -> None:
    """The kernel's own bpf_redirect_peer() at a device's tc ingress reaches the Pod."""
    one, dummy = topology.pods()
    wire = topology.wire()
    topology.tell("from_pod", one, How.NEIGH, wire)
    topology.tell("ingress", wire, How.PEER, one)
    # The neighbours are resolved before every packet is for the Pod.
    topology.pod1.ping(WIRE)
    topology.pod1.ping(WIRE_6)
    topology.attach_ingress(topology.host, "wire")
    topology.programs.forget()
    topology.pod1.ping(WIRE)
    topology.pod1.ping(WIRE_6)
    transfer(topology.far, topology.pod1, WIRE)
    assert topology.programs.note(Programs.INGRESS)["packets"] > 10
    assert topology.programs.note(Programs.TO_POD)["packets"] < 10


@check
def a_device_without_mac_gets_bare_packets(topology: Topology) -> None:
    """Plain and neighbour redirects to a tun device: an IP packet with nothing before it."""
    one, dummy = topology.pods()
    tun, index = topology.tun()
    packets: list[bytes] = []

    def came() -> bool:
        with contextlib.suppress(BlockingIOError):
            while True:
                packets.append(os.read(tun, 4096))
        return any(packet.endswith(b"bare packet") for packet in packets)

    with topology.pod1.udp() as udp:
        for how in (How.REDIRECT, How.NEIGH):
            packets.clear()
            topology.tell("from_pod", one, how, index)
            send(udp, "10.9.9.2", b"bare packet")
            node.eventually(came, "a packet at tun0")
            packet = next(packet for packet in packets if packet.endswith(b"bare packet"))
            assert packet[:1] == b"\x45", packet.hex()
            assert packet[12:20] == socket.inet_aton(POD1) + socket.inet_aton("10.9.9.2"), packet.hex()
    os.close(tun)


@check
def a_device_without_mac_redirects_to_the_peer(topology: Topology) -> None:
    """What comes bare from a tun device gets an Ethernet header at its tc ingress, and then to the Pod."""
    one, dummy = topology.pods()
    tun, index = topology.tun()
    topology.attach_ingress(topology.host, "tun0")
    topology.tell("ingress", index, How.PEER_L3, one)
    topology.quiet()
    topology.programs.forget()
    with topology.pod1.udp(POD1) as server:
        for number in range(5):
            os.write(tun, datagram("10.9.9.2", POD1, b"%d" % number))
            assert server.recv(10) == b"%d" % number
    assert topology.programs.note(Programs.TO_POD)["packets"] == 0
    os.close(tun)


@check
def redirect_to_ingress(topology: Topology) -> None:
    """bpf_redirect() with BPF_F_INGRESS: the host's stack gets the packet as from the target device."""
    one, two = topology.pods()
    topology.tell("from_pod", one, How.INGRESS, two)
    topology.host.write("ipv4/conf/all/rp_filter", 0)
    topology.host.write("ipv4/conf/p2/rp_filter", 0)
    with topology.host.udp(HOST) as server, topology.pod1.udp() as client:
        server.setsockopt(socket.IPPROTO_IP, 8, 1)  # IP_PKTINFO
        send(client, HOST, b"through")
        data, control, _flags, _address = server.recvmsg(100, 100)
    assert data == b"through"
    assert struct.unpack_from("=i", control[0][2])[0] == two, control


@check
def sums_of_the_hardware_stay_right(topology: Topology) -> None:
    """A packet that came with CHECKSUM_COMPLETE keeps it right, or gives it up, whichever way it takes."""
    one, two = topology.pods()
    wire = topology.wire()
    tun, bare = topology.tun()
    for device in ("all", "p2", "tun0"):
        topology.host.write(f"ipv4/conf/{device}/rp_filter", 0)
    for how, target, receiver, address in (
        (How.VERDICT, Meta.PASS, topology.host, HOST),
        (How.INGRESS, two, topology.host, HOST),
        (How.INGRESS, bare, topology.host, HOST),
        (How.PEER, two, topology.pod2, POD2),
        (How.REDIRECT, two, topology.pod2, POD2),
        (How.NEIGH, wire, topology.far, WIRE),
    ):
        topology.tell("from_pod", one, how, target)
        with receiver.udp(address) as server:
            with topology.pod1.inside():
                parameters = ("device=eth0", f"source={POD1}", f"destination={address}")
                run("insmod", str(Path(topology.module).with_name("inject.ko")), *parameters)
                run("rmmod", "inject")
            assert server.recv(100) == b"summed by hardware", address
    # A wrong sum would be in the kernel's log: "hw csum failure".
    os.close(tun)


@check
def a_redirect_without_target_is_dropped(topology: Topology) -> None:
    """No such ifindex, one that is down, no peer or one in the host's namespace: dropped, counted, traced."""
    one, two = topology.pods()
    topology.rtnl.create("side1", peer=text(node.IFLA_IFNAME, "side2"))
    topology.quiet()
    topology.ip(
        topology.host,
        "link add idle type dummy",
        "link set p2 down",
        "link set side1 up",
        "link set side2 up",
    )
    idle, side1, side2 = (topology.rtnl.get(name).index for name in ("idle", "side1", "side2"))
    targets = [(how, index) for how in (How.REDIRECT, How.NEIGH, How.PEER) for index in (9999, idle)]
    targets += [(How.REDIRECT, two), (How.PEER, side1), (How.PEER, side2)]
    with Rtnl(topology.pod1) as pod, topology.pod1.udp() as udp, drop_reasons() as reasons:
        before = pod.get("eth0").stats
        for how, target in targets:
            topology.tell("from_pod", one, how, target)
            send(udp, POD2)
        after, traced = pod.get("eth0").stats, reasons()
    assert after["tx_dropped"] - before["tx_dropped"] == len(targets), (before, after)
    assert after["tx_packets"] == before["tx_packets"]
    assert traced.count("DEV_READY") + traced.count("NO_TX_TARGET") >= len(targets), traced


@check
def frames_cut_short_are_dropped(topology: Topology) -> None:
    """A header and nothing more, to a device without MAC addresses and to a neighbour: counted and traced."""
    one, dummy = topology.pods()
    wire = topology.wire()
    tun, bare = topology.tun()
    topology.quiet()
    with Rtnl(topology.pod1) as pod, topology.pod1.raw() as raw:
        for how, target, reason in ((How.REDIRECT, bare, "PKT_TOO_SMALL"), (How.NEIGH, wire, "HDR_TRUNC")):
            topology.tell("from_pod", one, how, target)
            before = pod.get("eth0").stats["tx_dropped"]
            with drop_reasons() as reasons:
                with contextlib.suppress(OSError):
                    raw.sendto(bytes(12) + b"\x08\0", ("eth0", 0x0800))
                traced = reasons()
            assert reason in traced, f"{reason}: {traced}"
            assert pod.get("eth0").stats["tx_dropped"] == before + 1, reason
    os.close(tun)


@check
def a_loop_of_redirects_ends(topology: Topology) -> None:
    """Two primaries that redirect to each other: the packet is dropped at a depth, the node lives."""
    one, two = topology.pods()
    topology.tell("to_pod", one, How.REDIRECT, two)
    topology.tell("to_pod", two, How.REDIRECT, one)
    with topology.host.udp() as udp, drop_reasons() as reasons:
        for dummy in range(20):
            send(udp, POD1)
        traced = reasons()
    assert traced.count("RECURSION_LIMIT") + traced.count("NOT_SPECIFIED") >= 20, traced
    dropped = sum(topology.rtnl.get(name).stats["tx_dropped"] for name in ("p1", "p2"))
    assert dropped >= 20, dropped
    assert topology.programs.note(Programs.TO_POD)["packets"] >= 60
    topology.tell("to_pod", one, How.VERDICT, Meta.PASS)
    topology.host.ping(POD1)
