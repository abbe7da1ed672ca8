# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Redirects by programs: those that deliver, and those that must drop."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from pathlib import Path

from tests.support import driver_node as node
from tests.support.driver_node import Action, Meta, Programs, Rtnl, run, text
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
    """bpf_redirect_peer() in the Pod's program delivers ping and TCP of both families without the host."""
    one, two = topology.pods()
    topology.set_action("from_pod", one, Action.REDIRECT_PEER, two)
    topology.set_action("from_pod", two, Action.REDIRECT_PEER, one)
    topology.pod1.ping(POD2)
    topology.pod1.ping(POD2_6)
    transfer(topology.pod2, topology.pod1, POD2)
    transfer(topology.pod1, topology.pod2, POD1_6)
    stats = topology.rtnl.get("p1").stats
    assert stats["rx_bytes"] + stats["tx_bytes"] < 1 << 16, f"the primary saw the stream: {stats}"
    with Rtnl(topology.pod2) as pod:
        stats = pod.get("eth0").stats
    assert stats["tx_dropped"] == 0 and min(stats["rx_bytes"], stats["tx_bytes"]) > 1 << 16, stats


@check
def packets_of_a_task_need_no_softirq(topology: Topology) -> None:
    """A packet that a task sends is received within its call, in order; a softirq's packet is queued."""

    def softirqs() -> int:
        line = next(x for x in Path("/proc/softirqs").read_text().splitlines() if "NET_RX" in x)
        return sum(map(int, line.split()[1:]))

    one, two = topology.pods()
    topology.set_action("from_pod", one, Action.REDIRECT_PEER, two)
    topology.set_action("from_pod", two, Action.REDIRECT_PEER, one)
    count = 1000
    with topology.pod1.udp() as sender, topology.pod2.udp(POD2) as receiver:
        receiver.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)  # SO_RCVBUFFORCE
        before = softirqs()
        for number in range(count):
            sender.sendto(struct.pack("=I", number), (POD2, 9))
        raised = softirqs() - before
        arrived = [struct.unpack("=I", receiver.recv(100))[0] for dummy in range(count)]
    assert arrived == list(range(count))
    assert raised < count / 2, f"{raised} receive softirqs for {count} packets"
    # The softirq that receives the echo request sends the reply.
    topology.pod1.ping(POD2)


@check
def pod_to_pod_by_redirect(topology: Topology) -> None:
    """bpf_redirect() to the other primary runs that primary's program as well."""
    one, two = topology.pods()
    topology.set_action("from_pod", one, Action.REDIRECT, two)
    topology.set_action("from_pod", two, Action.REDIRECT, one)
    topology.pod1.ping(POD2)
    topology.pod1.ping(POD2_6)
    transfer(topology.pod2, topology.pod1, POD2)
    assert topology.programs.record(Programs.TO_POD)["packets"] > 10


@check
def pod_to_pod_through_host_stack(topology: Topology) -> None:
    """If the programs of both Pods pass all packets, the host's stack routes between the Pods."""
    topology.pods()
    topology.pod1.ping(POD2)
    topology.pod1.ping(POD2_6)
    transfer(topology.pod2, topology.pod1, POD2)


@check
def redirect_neigh_resolves_next_hop_by_route(topology: Topology) -> None:
    """bpf_redirect_neigh() without a next hop uses the route of the target's namespace."""
    one, dummy = topology.pods()
    topology.set_action("from_pod", one, Action.REDIRECT_NEIGH, topology.wire())
    for address in (WIRE, WIRE_6, FAR, FAR_6):
        topology.pod1.ping(address)
    transfer(topology.far, topology.pod1, WIRE)
    transfer(topology.far, topology.pod1, WIRE_6)


@check
def redirect_neigh_uses_given_next_hop(topology: Topology) -> None:
    """bpf_redirect_neigh() uses the given next hop, also IPv6 for IPv4 packets, and needs no route."""
    one, dummy = topology.pods()
    wire = topology.wire()
    topology.ip(topology.host, f"route del {FAR}", f"route del {FAR_6}")
    topology.set_action("from_pod", one, Action.REDIRECT_NEXTHOP, wire, WIRE)
    topology.pod1.ping(FAR)
    topology.set_action("from_pod", one, Action.REDIRECT_NEXTHOP, wire, WIRE_6)
    topology.pod1.ping(FAR_6)
    topology.pod1.ping(FAR)
    transfer(topology.far, topology.pod1, FAR)


@check
def redirect_neigh_drops_packets_without_neighbour(topology: Topology) -> None:
    """Broadcast, multicast, unknown protocols and a next hop of the wrong family are dropped."""
    one, dummy = topology.pods()
    wire = topology.wire()
    udp, udp6 = topology.pod1.udp(), topology.pod1.udp(POD1_6)
    with udp, udp6, Rtnl(topology.pod1) as pod, topology.pod1.raw() as raw, drop_reasons() as reasons:
        before = pod.get("eth0").stats["tx_dropped"]
        topology.set_action("from_pod", one, Action.REDIRECT_NEIGH, wire)
        send(udp, "10.9.1.255")  # broadcast address of the wire's network
        send(udp, "224.0.9.9")
        with contextlib.suppress(OSError):
            raw.sendto(bytes(12) + b"\x12\x34" + bytes(50), ("eth0", 0x1234))
        topology.set_action("from_pod", one, Action.REDIRECT_NEXTHOP, wire, WIRE)
        send(udp6, FAR_6)
        dropped, traced = pod.get("eth0").stats["tx_dropped"] - before, reasons()
    assert dropped >= 4, dropped
    for reason in ("IP_OUTNOROUTES", "UNICAST_IN_L2_MULTICAST", "UNHANDLED_PROTO", "NEIGH_CREATEFAIL"):
        assert reason in traced, f"{reason}: {traced}"


@check
def fib_lookup_uses_host_routes(topology: Topology) -> None:
    """bpf_fib_lookup() with skb->ifindex uses the host's routes, in both directions."""
    one, two = topology.pods()
    topology.wire()
    topology.set_action("from_pod", one, Action.REDIRECT_FIB)
    for address in (WIRE, WIRE_6, FAR, FAR_6):
        topology.pod1.ping(address)
    transfer(topology.far, topology.pod1, FAR)
    # A packet to the Pod is still in the host's namespace, so the program can redirect it.
    topology.set_action("to_pod", two, Action.REDIRECT_FIB)
    topology.ip(topology.host, "rule add pref 0 iif p2 lookup 77", f"route add {POD2} via {WIRE} table 77")
    with topology.host.udp() as udp, Rtnl(topology.far) as far:
        before = far.get("eth0").stats["rx_packets"]
        send(udp, POD2)
        assert topology.programs.record(Programs.TO_POD)["ifindex"] == two
        node.wait_until(lambda: far.get("eth0").stats["rx_packets"] > before, "a packet at the far end")


@check
def tc_ingress_redirects_to_peer(topology: Topology) -> None:
    """The kernel's bpf_redirect_peer() at a device's tc ingress delivers to the Pod."""
    one, dummy = topology.pods()
    wire = topology.wire()
    topology.set_action("from_pod", one, Action.REDIRECT_NEIGH, wire)
    topology.set_action("ingress", wire, Action.REDIRECT_PEER, one)
    # Resolve neighbours before all packets are redirected to the Pod.
    topology.pod1.ping(WIRE)
    topology.pod1.ping(WIRE_6)
    topology.attach_ingress(topology.host, "wire")
    topology.programs.clear_records()
    topology.pod1.ping(WIRE)
    topology.pod1.ping(WIRE_6)
    transfer(topology.far, topology.pod1, WIRE)
    assert topology.programs.record(Programs.INGRESS)["packets"] > 10
    assert topology.programs.record(Programs.TO_POD)["packets"] < 10


@check
def device_without_mac_receives_packets_without_ethernet_header(topology: Topology) -> None:
    """Redirects to a tun device deliver an IP packet without Ethernet header."""
    one, dummy = topology.pods()
    tun, index = topology.tun()
    packets: list[bytes] = []

    def arrived() -> bool:
        with contextlib.suppress(BlockingIOError):
            while True:
                packets.append(os.read(tun, 4096))
        return any(packet.endswith(b"bare packet") for packet in packets)

    with topology.pod1.udp() as udp:
        for how in (Action.REDIRECT, Action.REDIRECT_NEIGH):
            packets.clear()
            topology.set_action("from_pod", one, how, index)
            send(udp, "10.9.9.2", b"bare packet")
            node.wait_until(arrived, "a packet at tun0")
            packet = next(packet for packet in packets if packet.endswith(b"bare packet"))
            assert packet[:1] == b"\x45", packet.hex()
            assert packet[12:20] == socket.inet_aton(POD1) + socket.inet_aton("10.9.9.2"), packet.hex()
    os.close(tun)


@check
def device_without_mac_redirects_to_peer(topology: Topology) -> None:
    """A packet of a tun device gets an Ethernet header at tc ingress and is redirected to the Pod."""
    one, dummy = topology.pods()
    tun, index = topology.tun()
    topology.attach_ingress(topology.host, "tun0")
    topology.set_action("ingress", index, Action.REDIRECT_PEER_L3, one)
    topology.set_ipv6(False)
    topology.programs.clear_records()
    with topology.pod1.udp(POD1) as server:
        for number in range(5):
            os.write(tun, datagram("10.9.9.2", POD1, b"%d" % number))
            assert server.recv(10) == b"%d" % number
    assert topology.programs.record(Programs.TO_POD)["packets"] == 0
    os.close(tun)


@check
def redirect_to_ingress(topology: Topology) -> None:
    """bpf_redirect() with BPF_F_INGRESS passes the packet to the host's stack as received by the target."""
    one, two = topology.pods()
    topology.set_action("from_pod", one, Action.REDIRECT_INGRESS, two)
    topology.host.write("ipv4/conf/all/rp_filter", 0)
    topology.host.write("ipv4/conf/p2/rp_filter", 0)
    with topology.host.udp(HOST) as server, topology.pod1.udp() as client:
        server.setsockopt(socket.IPPROTO_IP, 8, 1)  # IP_PKTINFO
        send(client, HOST, b"through")
        data, control, _flags, _address = server.recvmsg(100, 100)
    assert data == b"through"
    assert struct.unpack_from("=i", control[0][2])[0] == two, control


@check
def checksum_complete_stays_valid(topology: Topology) -> None:
    """Every kind of redirect keeps CHECKSUM_COMPLETE of a packet valid or resets it."""
    one, two = topology.pods()
    wire = topology.wire()
    tun, bare = topology.tun()
    for device in ("all", "p2", "tun0"):
        topology.host.write(f"ipv4/conf/{device}/rp_filter", 0)
    for how, target, receiver, address in (
        (Action.VERDICT, Meta.PASS, topology.host, HOST),
        (Action.REDIRECT_INGRESS, two, topology.host, HOST),
        (Action.REDIRECT_INGRESS, bare, topology.host, HOST),
        (Action.REDIRECT_PEER, two, topology.pod2, POD2),
        (Action.REDIRECT, two, topology.pod2, POD2),
        (Action.REDIRECT_NEIGH, wire, topology.far, WIRE),
    ):
        topology.set_action("from_pod", one, how, target)
        with receiver.udp(address) as server:
            with topology.pod1.inside():
                parameters = ("device=eth0", f"source={POD1}", f"destination={address}")
                run("insmod", str(Path(topology.module).with_name("inject.ko")), *parameters)
                run("rmmod", "inject")
            assert server.recv(100) == b"summed by hardware", address
    # For a wrong checksum the kernel logs "hw csum failure".
    os.close(tun)


@check
def redirect_to_missing_target_is_dropped(topology: Topology) -> None:
    """A target that is missing, down, or without peer in another namespace drops packets with a reason."""
    one, two = topology.pods()
    topology.rtnl.create("side1", peer=text(node.IFLA_IFNAME, "side2"))
    topology.set_ipv6(False)
    topology.ip(
        topology.host,
        "link add idle type dummy",
        "link set p2 down",
        "link set side1 up",
        "link set side2 up",
    )
    idle, side1, side2 = (topology.rtnl.get(name).index for name in ("idle", "side1", "side2"))
    targets = [
        (how, index)
        for how in (Action.REDIRECT, Action.REDIRECT_NEIGH, Action.REDIRECT_PEER)
        for index in (9999, idle)
    ]
    targets += [(Action.REDIRECT, two), (Action.REDIRECT_PEER, side1), (Action.REDIRECT_PEER, side2)]
    with Rtnl(topology.pod1) as pod, topology.pod1.udp() as udp, drop_reasons() as reasons:
        before = pod.get("eth0").stats
        for how, target in targets:
            topology.set_action("from_pod", one, how, target)
            send(udp, POD2)
        after, traced = pod.get("eth0").stats, reasons()
    assert after["tx_dropped"] - before["tx_dropped"] == len(targets), (before, after)
    assert after["tx_packets"] == before["tx_packets"]
    assert traced.count("DEV_READY") + traced.count("NO_TX_TARGET") >= len(targets), traced


@check
def truncated_frames_are_dropped(topology: Topology) -> None:
    """A frame that is only an Ethernet header is dropped with a reason by both kinds of redirect."""
    one, dummy = topology.pods()
    wire = topology.wire()
    tun, bare = topology.tun()
    topology.set_ipv6(False)
    with Rtnl(topology.pod1) as pod, topology.pod1.raw() as raw:
        for how, target, reason in (
            (Action.REDIRECT, bare, "PKT_TOO_SMALL"),
            (Action.REDIRECT_NEIGH, wire, "HDR_TRUNC"),
        ):
            topology.set_action("from_pod", one, how, target)
            before = pod.get("eth0").stats["tx_dropped"]
            with drop_reasons() as reasons:
                with contextlib.suppress(OSError):
                    raw.sendto(bytes(12) + b"\x08\0", ("eth0", 0x0800))
                traced = reasons()
            assert reason in traced, f"{reason}: {traced}"
            assert pod.get("eth0").stats["tx_dropped"] == before + 1, reason
    os.close(tun)


@check
def redirect_loop_ends(topology: Topology) -> None:
    """Packets between two primaries that redirect to each other are dropped at the recursion limit."""
    one, two = topology.pods()
    topology.set_action("to_pod", one, Action.REDIRECT, two)
    topology.set_action("to_pod", two, Action.REDIRECT, one)
    with topology.host.udp() as udp, drop_reasons() as reasons:
        for dummy in range(20):
            send(udp, POD1)
        traced = reasons()
    assert traced.count("RECURSION_LIMIT") + traced.count("NOT_SPECIFIED") >= 20, traced
    dropped = sum(topology.rtnl.get(name).stats["tx_dropped"] for name in ("p1", "p2"))
    assert dropped >= 20, dropped
    assert topology.programs.record(Programs.TO_POD)["packets"] >= 60
    topology.set_action("to_pod", one, Action.VERDICT, Meta.PASS)
    topology.host.ping(POD1)
