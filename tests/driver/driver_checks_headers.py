# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Header and checksum offsets that a sender chooses."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable

from tests.support import driver_node as node
from tests.support.driver_node import Action, Meta, Namespace, Programs, run
from tests.support.driver_topology import (
    POD1,
    POD1_6,
    POD2,
    POD2_6,
    Topology,
    check,
    datagram,
    transfer,
)

SOL_PACKET, PACKET_VNET_HDR = 263, 15
ETH_P_ALL, ETH_P_8021Q, ETH_P_8021AD = 0x0003, 0x8100, 0x88A8
PACKET_OUTGOING = 4
NEEDS_CSUM = 1  # VIRTIO_NET_HDR_F_NEEDS_CSUM
BEYOND = "10.9.9.2"  # behind tun0
DATA = b"checksummed data"


def packet_reader(tun: int) -> Callable[[bytes], bytes]:
    """Return a function that waits for a packet of tun0 with the given end, ignoring others."""

    def read(end: bytes) -> bytes:
        found = b""

        def arrived() -> bool:
            nonlocal found
            try:
                while not found.endswith(end):
                    found = os.read(tun, 2048)
            except BlockingIOError:
                return False
            return True

        node.wait_until(arrived, "a packet at tun0")
        return found

    return read


@check
def sender_cannot_choose_the_network_header(topology: Topology) -> None:
    """A device without MAC address sends the complete packet, in both directions and modes."""
    tun, uplink = topology.tun()
    read = packet_reader(tun)
    for mode in (Meta.L3, Meta.L2):
        one, dummy = topology.pods(mode=mode)
        topology.set_ipv6(False)
        topology.set_action("from_pod", one, Action.REDIRECT, uplink)
        topology.set_action("to_pod", one, Action.REDIRECT, uplink)
        for namespace, device in ((topology.pod1, "eth0"), (topology.host, "p1")):
            # For these protocols the socket sets the network header behind a VLAN tag.
            for protocol in (0x0800, ETH_P_8021Q, ETH_P_8021AD):
                end = f"{mode} {device} {protocol}".encode()
                packet = datagram(POD1, BEYOND, end)
                with namespace.raw() as raw:
                    raw.sendto(bytes(12) + b"\x08\x00" + packet, (device, protocol))
                assert read(end) == packet, end
        for name in ("p1", "p2"):
            topology.rtnl.delete(name)
        topology.set_ipv6(True)
    os.close(tun)


def checksum(data: bytes) -> bytes:
    """Return the Internet checksum of ``data`` in network byte order."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data[: len(data) & ~1]))
    total += data[-1] << 8 if len(data) % 2 else 0
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)


def ipv4(proto: int, data: bytes, options: bytes = b"", fragment: int = 0) -> bytes:
    length = 20 + len(options)
    head = struct.pack("!BBHHHBBH", 0x40 + length // 4, 0, length + len(data), 1, fragment, 64, proto, 0)
    head += socket.inet_aton(POD1) + socket.inet_aton(POD2) + options
    return bytes(12) + b"\x08\x00" + head[:10] + checksum(head) + head[12:] + data


def ipv6(nexthdr: int, data: bytes) -> bytes:
    addresses = socket.inet_pton(socket.AF_INET6, POD1_6) + socket.inet_pton(socket.AF_INET6, POD2_6)
    return bytes(12) + b"\x86\xdd" + struct.pack("!IHBB", 6 << 28, len(data), nexthdr, 64) + addresses + data


UDP = struct.pack("!HHHH", 9, 9, 8 + len(DATA), 0) + DATA
TCP = struct.pack("!HHIIBBHHH", 9, 9, 1, 1, 0x50, 0x10, 100, 0, 0) + DATA
TCP6_OPTIONS = bytes((6, 0, 1, 4, 0, 0, 0, 0)) + TCP  # destination options, padded
UDP6_FRAGMENT = struct.pack("!BBHI", 17, 0, 1, 7) + UDP

# Frame, csum_start and csum_offset. Kernels reject a csum_start below 20.
REQUESTS_KEPT = {
    "IPv4 UDP": (ipv4(17, UDP), 34, 6),
    "IPv4 TCP": (ipv4(6, TCP), 34, 16),
    "IPv4 options": (ipv4(6, TCP, b"\x01\x01\x01\x00"), 38, 16),
    "IPv6 UDP": (ipv6(17, UDP), 54, 6),
    "IPv6 TCP": (ipv6(6, TCP), 54, 16),
    "IPv6 destination options": (ipv6(60, TCP6_OPTIONS), 62, 16),
}
REQUESTS_COMPLETED = {
    "source address": (ipv4(17, UDP), 26, 0),
    "destination address": (ipv4(17, UDP), 22, 8),
    "destination port": (ipv4(17, UDP), 34, 2),
    "protocol": (ipv4(17, UDP), 22, 0),
    "UDP as TCP": (ipv4(17, UDP), 34, 16),
    "TCP as UDP": (ipv4(6, TCP), 34, 6),
    "without options": (ipv4(6, TCP, b"\x01\x01\x01\x00"), 34, 16),
    "payload": (ipv4(17, UDP), 42, 0),
    "first fragment": (ipv4(17, UDP, fragment=0x2000), 34, 6),
    "later fragment": (ipv4(17, UDP, fragment=0x0001), 34, 6),
    "other protocol": (ipv4(47, UDP), 34, 6),
    "IPv6 destination address": (ipv6(17, UDP), 38, 14),
    "IPv6 destination port": (ipv6(6, TCP), 54, 2),
    "IPv6 extension header": (ipv6(60, TCP6_OPTIONS), 54, 16),
    "IPv6 fragment": (ipv6(44, UDP6_FRAGMENT), 62, 6),
}


def offload_socket(namespace: Namespace, device: str) -> socket.socket:
    """Return a packet socket whose packets begin with a struct virtio_net_hdr."""
    made = namespace.open(socket.AF_PACKET, socket.SOCK_RAW)
    made.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    with namespace.inside():
        made.bind((device, ETH_P_ALL))
    made.settimeout(20)
    return made


def request(frame: bytes, start: int, offset: int) -> bytes:
    return struct.pack("=BBHHHH", NEEDS_CSUM, 0, 0, 0, start, offset) + frame


@check
def only_checksums_of_transport_headers_stay_requests(topology: Topology) -> None:
    """All others are completed, and the receiver gets the packet that the program saw."""
    one, two = topology.pods()
    topology.set_ipv6(False)
    topology.set_action("from_pod", one, Action.REDIRECT_PEER, two)
    wrong = []
    with offload_socket(topology.pod1, "eth0") as sender, offload_socket(topology.pod2, "eth0") as receiver:
        for name, (frame, start, offset) in (REQUESTS_KEPT | REQUESTS_COMPLETED).items():
            sender.send(request(frame, start, offset))
            received, address = receiver.recvfrom(2048)
            while address[2] == PACKET_OUTGOING:  # the receiver's reply
                received, address = receiver.recvfrom(2048)
            place = start + offset
            completed = frame[:place] + checksum(frame[start:]) + frame[place + 2 :]
            kept = struct.unpack_from("=BxxxxxHH", received) == (NEEDS_CSUM, start, offset)
            if name in REQUESTS_KEPT:
                expected = kept and received[10:] == frame
            else:
                expected = not received[0] & NEEDS_CSUM and received[10:] == completed
            if not expected:
                wrong.append(f"{name}: {received.hex()}")
    assert not wrong, "\n".join(wrong)


@check
def program_sees_the_packet_that_leaves(topology: Topology) -> None:
    """A device that completes checksums in software does not change what the program has checked."""
    one, dummy = topology.pods()
    tun, uplink = topology.tun()
    read = packet_reader(tun)
    topology.set_ipv6(False)
    topology.set_action("from_pod", one, Action.REDIRECT, uplink)
    packet = datagram(POD1, BEYOND, b"end")
    with offload_socket(topology.pod1, "eth0") as sender:
        for start, offset in ((22, 8), (24, 8), (34, 6)):
            sender.send(request(bytes(12) + b"\x08\x00" + packet, start, offset))
            left = read(b"end")
            seen = topology.programs.record(Programs.FROM_POD)["dst4"]
            assert struct.pack("=I", seen) == left[16:20], (start, offset)
            place = start + offset - 14
            assert left[place : place + 2] != packet[place : place + 2], (start, offset)
    os.close(tun)


@check
def tunnels_of_the_pod_use_software_checksums(topology: Topology) -> None:
    """TCP with segmentation offload passes through a VXLAN tunnel between two Pods."""
    one, two = topology.pods()
    topology.set_action("from_pod", one, Action.REDIRECT_PEER, two)
    topology.set_action("from_pod", two, Action.REDIRECT_PEER, one)
    run("modprobe", "vxlan")
    for pod, local, remote, address in (
        (topology.pod1, POD1, POD2, "10.9.8.1"),
        (topology.pod2, POD2, POD1, "10.9.8.2"),
    ):
        topology.ip(
            pod,
            f"link add tunnel type vxlan id 7 dstport 4789 local {local} remote {remote}",
            f"address add {address}/24 dev tunnel",
            "link set tunnel up",
        )
    transfer(topology.pod2, topology.pod1, "10.9.8.2")
    transfer(topology.pod1, topology.pod2, "10.9.8.1")
