# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks of headers and addresses by raw frames, on Pods with any device; adds them to ``CHECKS``."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import socket
import struct
import time
from collections.abc import Iterator, Sequence

from tests.support.connection_checks import open_in
from tests.support.policy_checks import check, check_versions
from tests.support.policy_lab import ALLOWED_WITHIN, FORBIDDEN_FOR, TCP, UDP, Lab, address_of
from tests.support.service_checks import CHECKS

__all__ = ["CHECKS"]

ETH_P_ALL = 3
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
ONLY_WEB = {"name": "db", "pods": {"names": ["db"]}, "ingress": [{"from": [{"labels": {"app": "web"}}]}]}
NO_EGRESS = {"name": "front", "pods": {"names": ["front"]}, "egress": []}


def checksum(data: bytes) -> int:
    words = struct.unpack(f"!{len(data) // 2}H", data)
    total = sum(words)
    total = (total & 0xFFFF) + (total >> 16)
    return ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF


def packet(
    src: str, dst: str, proto: int, payload: bytes, length: int = -1, fragment: int = 0, ttl: int = 64
) -> bytes:
    """Return an IP packet; ``length``: that of the payload in the header, ``fragment``: as in IPv4."""
    length = len(payload) if length < 0 else length
    if ":" in src:
        if fragment:
            bits = (fragment & 0x1FFF) << 3 | bool(fragment & 0x2000)
            payload = struct.pack("!BBHI", proto, 0, bits, 7) + payload
            proto, length = 44, length + 8
        ends = socket.inet_pton(socket.AF_INET6, src) + socket.inet_pton(socket.AF_INET6, dst)
        return struct.pack("!IHBB", 6 << 28, length, proto, ttl) + ends + payload
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 7, fragment, ttl, proto, 0)
    header += socket.inet_aton(src) + socket.inet_aton(dst)
    return header[:10] + checksum(header).to_bytes(2, "big") + header[12:] + payload


def udp(sport: int, dport: int, data: bytes) -> bytes:
    return struct.pack("!HHHH", sport, dport, 8 + len(data), 0) + data


def icmp6(src: str, dst: str, message: bytes) -> bytes:
    """Return an ICMPv6 packet with hop limit 255 and a valid checksum."""
    ends = socket.inet_pton(socket.AF_INET6, src) + socket.inet_pton(socket.AF_INET6, dst)
    total = checksum(ends + struct.pack("!II", len(message), 58) + message)
    return packet(src, dst, 58, message[:2] + total.to_bytes(2, "big") + message[4:], ttl=255)


class Wire:
    """A packet socket on a device of a namespace."""

    def __init__(self, lab: Lab, name: str, device: str = "eth0", peer: tuple[str, str] = ("", "")) -> None:
        with lab.ns.inside(lab.names[name]):
            self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
            self.socket.bind((device, ETH_P_ALL))
        self.macs = self.mac(lab, *peer) + self.mac(lab, name, device) if peer[0] else b""

    @staticmethod
    def mac(lab: Lab, name: str, device: str) -> bytes:
        shown = json.loads(lab.ns.run(lab.names[name], "ip", "-j", "link", "show", device))
        return bytes.fromhex(shown[0]["address"].replace(":", ""))

    def send(self, ip: bytes, tags: Sequence[tuple[int, int]] = ()) -> None:
        """Send an IP packet with VLAN tags, each an Ethernet type and a VLAN."""
        head = b"".join(struct.pack("!HH", *tag) for tag in tags)
        frame = self.macs + head + (b"\x86\xdd" if ip[0] >> 4 == 6 else b"\x08\x00") + ip
        try:
            self.socket.send(frame)
        except OSError as error:
            # meta and netkit report a drop to the sender
            if error.errno != errno.ENOBUFS:
                raise

    def receives(self, mark: bytes, within: float = FORBIDDEN_FOR) -> bool:
        """Return whether a frame with these bytes arrives in time."""
        end = time.monotonic() + within
        while (left := end - time.monotonic()) > 0:
            self.socket.settimeout(left)
            with contextlib.suppress(TimeoutError):
                frame, address = self.socket.recvfrom(2048)
                if mark in frame and address[2] != socket.PACKET_OUTGOING:
                    return True
        return False


@contextlib.contextmanager
def wires(lab: Lab, source: str, *targets: str) -> Iterator[list[Wire]]:
    """Yield the devices of a Pod and of targets; world and remote are behind node2."""
    made = [Wire(lab, source, peer=("node1", source)), *(Wire(lab, target) for target in targets)]
    try:
        yield made
    finally:
        for one in made:
            one.socket.close()


TAGS = [
    [(0x8100, 0)],
    [(0x8100, 0xA000)],
    [(0x88A8, 0)],
    [(0x8100, 0), (0x8100, 0)],
    [(0x88A8, 0), (0x8100, 0)],
    [(0x8100, 0)] * 3,
    [(0x8100, 5)],
    [(0x8100, 0), (0x8100, 5)],
]


@check_versions
def vlan_tags_of_pods_are_dropped(lab: Lab, version: int) -> None:
    """The stack ignores priority tags: source check and policy must not."""
    lab.declare([ONLY_WEB])
    db = address_of("db", version)
    with wires(lab, "other", "db", "world") as (other, at_db, world):
        for number, tags in enumerate(TAGS):
            for target, source in itertools.product(("db", "world"), ("other", "web", "node1")):
                data = udp(9, 53, f"tagged {number} {target} {source}".encode())
                ip = packet(address_of(source, version), address_of(target, version), 17, data)
                other.send(ip, tags)
        assert not at_db.receives(b"tagged")
        assert not world.receives(b"tagged")
    with wires(lab, "web", "db") as (web, at_db):
        web.send(packet(address_of("web", version), db, 17, udp(9, 53, b"untagged")))
        assert at_db.receives(b"untagged", ALLOWED_WITHIN)


@check_versions
def priority_tags_from_the_wire_do_not_bypass_policy(lab: Lab, version: int) -> None:
    """They are removed, so that the frame is processed as untagged."""
    allow = [{"from": [{"labels": {"app": "web"}}, {"labels": {"app": "front"}}]}]
    lab.declare([{"name": "db", "pods": {"names": ["db"]}, "ingress": allow}])
    db = address_of("db", version)
    node2, at_db = Wire(lab, "node2", "wire0", ("node1", "wire0")), Wire(lab, "db")
    with node2.socket, at_db.socket:
        for number, tags in enumerate(TAGS):
            for source in ("web", "node1", "other", "world"):
                data = udp(9, 53, f"tagged {number} {source}".encode())
                node2.send(packet(address_of(source, version), db, 17, data), tags)
        assert not at_db.receives(b"tagged")
        for tags in ([], *TAGS[:5]):
            node2.send(packet(address_of("remote", version), db, 17, udp(9, 53, b"allowed")), tags)
            assert at_db.receives(b"allowed", ALLOWED_WITHIN)


@check_versions
def fragments_use_no_cached_decision(lab: Lab, version: int) -> None:
    """Fragments to a denied port, right after packets of the flow with ports 0 and 0."""
    deny = [{"action": "deny", "ports": [{"protocol": "udp", "port": 53}, {"protocol": "tcp", "port": 80}]}]
    db = {"name": "db", "pods": {"names": ["db"]}, "ingress_default": "allow", "ingress": deny}
    lab.declare([db])
    src, dst = address_of("other", version), address_of("db", version)
    with wires(lab, "other", "db") as (other, at_db):
        for dummy, (proto, port) in itertools.product(range(20), ((17, 53), (6, 80))):
            ports = struct.pack("!HH", 5, port)
            opening = udp(0, 0, b"") if proto == 17 else bytes(12) + b"\x50\x10" + bytes(6)
            other.send(packet(src, dst, proto, opening))
            other.send(packet(src, dst, proto, opening))
            other.send(packet(src, dst, proto, ports + bytes(4) + b"denied!!", fragment=0x2000))
            other.send(packet(src, dst, proto, b"denied!!", fragment=2))
        assert not at_db.receives(b"denied!!")
        other.send(packet(src, dst, 17, udp(5, 80, b"allowed!")[:16], fragment=0x2000))
        assert at_db.receives(b"allowed!", ALLOWED_WITHIN)


@check_versions
def bytes_behind_the_packet_are_no_headers(lab: Lab, version: int) -> None:
    """An allowed port behind the end of the packet, in the padding of its frame."""
    allow = [{"ports": [{"protocol": "udp", "port": 80}]}]
    lab.declare([{"name": "db", "pods": {"names": ["db"]}, "ingress": allow}])
    src, dst = address_of("other", version), address_of("db", version)
    data = udp(5, 80, b"behind the end")
    cases = [(17, data, length) for length in (0, 3)]
    if version == 6:
        options, fragment = bytes([17, 0, 1, 4]) + bytes(4), struct.pack("!BBHI", 60, 0, 1, 99)
        cases += [(60, options + data, length) for length in (0, 4, 8)]
        cases += [(44, fragment + options + data, length) for length in (0, 8, 16)]
    with wires(lab, "other", "db") as (other, at_db):
        for proto, payload, length in cases:
            other.send(packet(src, dst, proto, payload, length))
        assert not at_db.receives(b"behind the end")
        other.send(packet(src, dst, 17, udp(5, 80, b"within it") + bytes(20), 17))
        assert at_db.receives(b"within it", ALLOWED_WITHIN)


@check
def discovery_does_not_leave_the_link(lab: Lab) -> None:
    """As kube-router#1913 and #1710: neighbour discovery is exempt from policy, but only on the link."""
    lab.declare([NO_EGRESS])
    src = address_of("front", 6)
    with wires(lab, "front", "web", "remote", "world") as (front, *taps):
        for kind, target in itertools.product(range(133, 138), ("web", "remote", "world")):
            dst = address_of(target, 6)
            message = bytes([kind, 0]) + bytes(6) + socket.inet_pton(socket.AF_INET6, dst) + b"secret" * 80
            front.send(icmp6(src, dst, message))
        for tap in taps:
            assert not tap.receives(b"secret")


@check
def a_pod_is_no_router_of_the_node(lab: Lab) -> None:
    """CVE-2020-10749, kubernetes#91507: also where the node accepts router advertisements on the device."""
    lab.declare()
    node = lab.names["node1"]
    lab.ns.sysctl(node, ipv6__conf__front__accept_ra=2)
    advertisement = bytes([134, 0, 0, 0, 64, 0]) + struct.pack("!HII", 1800, 0, 0)
    padding = bytes([58, 0, 1, 4]) + bytes(4)
    try:
        with wires(lab, "front") as (front,):
            plain = icmp6("fe80::11", "ff02::1", advertisement)
            front.send(plain)
            behind = padding + plain[40:]
            front.send(packet("fe80::11", "ff02::1", 60, behind, ttl=255))
            time.sleep(FORBIDDEN_FOR)
        assert "default" not in lab.ns.run(node, "ip", "-6", "route", "show", "dev", "front")
    finally:
        lab.ns.sysctl(node, ipv6__conf__front__accept_ra=0)


def too_big(version: int, src: str, node: str, target: str) -> bytes:
    """Return an ICMP error to the node: its echo reply to a target is too big. The kernel believes it."""
    if version == 6:
        inner = icmp6(node, target, bytes([129, 0]) + bytes(22))
        return icmp6(src, node, struct.pack("!BBHI", 2, 0, 0, 1280) + inner)
    inner = packet(node, target, 1, bytes(24))
    error = struct.pack("!BBHI", 3, 4, 0, 700) + inner
    return packet(src, node, 1, error[:2] + checksum(error).to_bytes(2, "big") + error[4:])


@check_versions
def a_learned_mtu_bypasses_no_masquerading(lab: Lab, version: int) -> None:
    """The stack would forward a packet that exceeds an MTU which the node learned. No Pod teaches it one."""
    lab.declare(masqueraded=["front"])
    node, target = lab.names["node1"], address_of("world", version)
    own, other = (address_of(name, version) for name in ("node1", "node2"))

    def learned() -> bool:
        time.sleep(FORBIDDEN_FOR)
        return "mtu" in lab.ns.run(node, "ip", "route", "get", target)

    node2 = Wire(lab, "node2", "wire0", ("node1", "wire0"))
    try:
        with wires(lab, "other") as (pod,):
            error = too_big(version, address_of("other", version), own, target)
            pod.send(error)
            if version == 4:
                # the same as fragments
                pod.send(packet(address_of("other", 4), own, 1, error[20:28], fragment=0x2000))
                pod.send(packet(address_of("other", 4), own, 1, error[28:], fragment=1))
            else:
                options = bytes([58, 0, 1, 4]) + bytes(4)
                pod.send(packet(address_of("other", 6), own, 60, options + error[40:]))
            assert not learned()
        node2.send(too_big(version, other, own, target))
        assert learned()
        with open_in(lab, "world", UDP, version) as server, open_in(lab, "front", UDP, version) as client:
            server.settimeout(ALLOWED_WITHIN)
            if version == 4:
                client.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER, IP_PMTUDISC_DO
            client.sendto(bytes(1400), (target, server.getsockname()[1]))
            assert server.recvfrom(2000)[1][0] == own
    finally:
        node2.socket.close()
        lab.ns.run(node, "ip", f"-{version}", "route", "flush", "cache")


@check
def a_pod_reaches_no_loopback_address_of_the_node(lab: Lab) -> None:
    """CVE-2020-8558: with route_localnet, which kube-proxy may set, the node would accept the packet."""
    lab.declare()
    node = lab.names["node1"]
    lab.ns.sysctl(node, ipv4__conf__all__route_localnet=1)
    try:
        with lab.ns.inside(node):
            server = socket.socket(socket.AF_INET, UDP)
        with server, wires(lab, "other") as (other,):
            server.bind(("127.0.0.1", 0))
            server.settimeout(FORBIDDEN_FOR)
            data = udp(9, server.getsockname()[1], b"?")
            other.send(packet(address_of("other", 4), "127.0.0.1", 17, data))
            with contextlib.suppress(TimeoutError):
                raise AssertionError(server.recvfrom(64))
    finally:
        lab.ns.sysctl(node, ipv4__conf__all__route_localnet=0)


@check
def a_pod_adds_no_neighbours_to_those_of_the_node(lab: Lab) -> None:
    """All devices share the kernel's table: full, no Pod of the node reaches a new next hop over IPv6."""
    lab.declare()
    node = lab.names["node1"]

    def known() -> set[str]:
        shown = lab.ns.run(node, "ip", "-j", "-6", "neigh", "show", "dev", "other")
        return {entry["dst"] for entry in json.loads(shown or "[]")}

    before = known()
    with wires(lab, "other") as (other,):
        for number in range(1, 50):
            address = f"fe80::{number:x}"
            link = bytes([1, 1, 2, 0, 0, 0, 0, number])
            target = socket.inet_pton(socket.AF_INET6, address_of("node1", 6))
            nonce = bytes([14, 1]) + bytes(6)
            for message in (bytes([133]) + bytes(7) + link, bytes([135]) + bytes(7) + target + link + nonce):
                for dst in ("ff02::1", "ff02::2", address_of("node1", 6)):
                    other.send(icmp6(address, dst, message))
            other.send(icmp6(address, address_of("node1", 6), bytes([128]) + bytes(7)))
        time.sleep(FORBIDDEN_FOR)
    assert known() <= before


@check
def multicast_and_broadcast_are_not_routed(lab: Lab) -> None:
    """antrea#4293: the node receives them, its default route does not apply."""
    lab.declare()
    node = lab.names["node1"]
    lab.ns.ip(node, "route add default via 172.31.0.2")
    try:
        at_node2 = Wire(lab, "node2", "wire0")
        with wires(lab, "front") as (front,), at_node2.socket:
            front.send(packet(address_of("front", 4), "198.51.100.1", 17, udp(9, 9, b"by the route")))
            assert at_node2.receives(b"by the route", ALLOWED_WITHIN)
            with lab.ns.inside(node):
                member = socket.socket(socket.AF_INET, UDP)
                index = socket.if_nametoindex("front")
            group = socket.inet_aton("224.0.0.251") + bytes(4) + struct.pack("=i", index)
            with member:
                member.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
                member.settimeout(ALLOWED_WITHIN)
                member.bind(("0.0.0.0", 5353))
                for dst in ("239.1.2.3", "255.255.255.255", "224.0.0.251", "0.0.0.0", "127.0.0.1"):
                    data = udp(5353, 5353, f"to {dst}".encode())
                    front.send(packet(address_of("front", 4), dst, 17, data, ttl=255))
                received = {member.recv(64) for dummy in range(2)}
            assert received == {b"to 255.255.255.255", b"to 224.0.0.251"}
            assert not at_node2.receives(b"to ")
    finally:
        lab.ns.ip(node, "route del default")


@check_versions
def an_unresolvable_neighbour_is_reported(lab: Lab, version: int) -> None:
    """The stack sends ICMP host unreachable after three seconds."""
    node, route = lab.names["node1"], ("10.99.0.0/24", "fd99::/64")[version == 6]
    lab.ns.ip(node, f"route add {route} dev wire0")
    try:
        for policies in ([], [{"name": "f", "pods": {"names": ["front"]}, "ingress": [], "egress": [{}]}]):
            lab.declare(policies)
            with open_in(lab, "front", TCP, version) as client:
                refused = client.connect_ex((("10.99.0.5", "fd99::5")[version == 6], 80))
            assert refused == errno.EHOSTUNREACH, errno.errorcode.get(refused, refused)
    finally:
        lab.ns.ip(node, f"route del {route}")
