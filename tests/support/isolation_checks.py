# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks of attacks by Pods and hosts on Pods with any device; adds them to ``CHECKS``."""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import json
import socket
import struct
import time
from collections.abc import Iterator
from typing import Any

from ansible_collections.podnet.datapath.plugins.module_utils._datapath.masquerade import masquerade_ports
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.node import read_port_range
from tests.support.connection_checks import open_in
from tests.support.parsing_checks import CHECKS, ONLY_WEB, Wire, checksum, packet, udp
from tests.support.policy_checks import check, check_versions
from tests.support.policy_lab import ALLOWED_WITHIN, FORBIDDEN_FOR, TCP, UDP, Lab, address_of, open_socket

__all__ = ["CHECKS"]

# IPv6: the stack forwards the first one
RESERVED: dict[int, list[str]] = {4: [], 6: ["0:0:1::1", "fe80::99", "::"]}


@contextlib.contextmanager
def host_behind_a_tunnel(lab: Lab) -> Iterator[Wire]:
    """Yield the device of a host that reaches node1 by a device without programs, as tunnels are."""
    node, host = lab.names["node1"], lab.ns("tunnel")
    lab.names["tunnel"] = host
    lab.ns.ip(node, f"link add tunnel0 type veth peer name eth0 netns {host}", "link set tunnel0 up")
    lab.ns.sysctl(node, ipv4__conf__tunnel0__rp_filter=0)
    lab.ns.ip(host, "link set eth0 up")
    wire = Wire(lab, "tunnel")
    wire.macs = Wire.mac(lab, "node1", "tunnel0") + Wire.mac(lab, "tunnel", "eth0")
    try:
        with wire.socket:
            yield wire
    finally:
        lab.ns.ip(node, "link del tunnel0")
        del lab.names["tunnel"]


@check_versions
def a_host_behind_a_tunnel_gets_no_identity_of_a_local_pod(lab: Lab, version: int) -> None:
    """Its packets reach Pods through the stack."""
    db, at_db = address_of("db", version), Wire(lab, "db")
    with at_db.socket, host_behind_a_tunnel(lab) as host:
        lab.declare()
        host.send(packet(address_of("web", version), db, 17, udp(7001, 53, b"without policy")))
        assert at_db.receives(b"without policy", ALLOWED_WITHIN)
        lab.declare([ONLY_WEB])
        for number, source in enumerate((address_of("web", version), *RESERVED[version])):
            host.send(packet(source, db, 17, udp(7001, 53, f"denied {number}".encode())))
        assert not at_db.receives(b"denied")


VXLAN_PORT, VXLAN_ID = 4789, 7


@check_versions
def a_pod_behind_a_tunnel_of_the_node_has_no_identity_of_another_pod(lab: Lab, version: int) -> None:
    """It encapsulates packets with the address of another Pod, for the node to forward."""
    node, db = lab.names["node1"], address_of("db", version)
    at_db = Wire(lab, "db")
    lab.ns.ip(node, f"link add tunnel0 type vxlan id {VXLAN_ID} dstport {VXLAN_PORT}", "link set tunnel0 up")
    lab.ns.sysctl(node, ipv4__conf__tunnel0__rp_filter=0)
    mac = Wire.mac(lab, "node1", "tunnel0")

    def send(source: str, data: bytes) -> None:
        ethernet = mac + bytes.fromhex("020000000007") + struct.pack("!H", 0x0800 if version == 4 else 0x86DD)
        frame = ethernet + packet(source, db, 17, udp(7001, 53, data))
        with lab.ns.inside(lab.names["front"]), open_socket(4, UDP) as outer:
            outer.sendto(
                struct.pack("!II", 1 << 27, VXLAN_ID << 8) + frame, (address_of("node1", 4), VXLAN_PORT)
            )

    try:
        with at_db.socket:
            lab.declare()
            send(address_of("web", version), b"without policy")
            assert at_db.receives(b"without policy", ALLOWED_WITHIN)
            lab.declare([ONLY_WEB])
            send(address_of("web", version), b"denied")
            assert not at_db.receives(b"denied")
    finally:
        lab.ns.ip(node, "link del tunnel0")


def port_of_client(lab: Lab, version: int, proto: int, dport: int, wanted: int) -> int:
    """Return the source port with which the Pod front first gets the masquerade port ``wanted`` to world.

    As masquerade.h: the first port is selected by a hash of the tuple.
    """
    with lab.ns.inside(lab.names["node1"]):
        first, last = masquerade_ports(read_port_range())
    ports = last - first + 1
    shared = ports - ports // 512 * 128
    ends = [
        ipaddress.ip_address(address_of(name, version)).packed.ljust(16, b"\0") for name in ("front", "world")
    ]
    words = [struct.unpack("=4I", end) for end in ends]
    for sport in range(1024, 65536):
        value = socket.htons(sport) << 32 | socket.htons(dport) << 16 | proto
        for word in (word for pair in zip(*words) for word in pair):
            value = (value ^ word) * 0x9E3779B97F4A7C15 & (1 << 64) - 1
        if first + (value >> 32) % shared == wanted:
            return sport
    raise AssertionError("no source port leads to this masquerade port")


def bound(lab: Lab, name: str, kind: Any, version: int, port: int) -> socket.socket:
    """Return a socket bound to a port that does not listen."""
    with lab.ns.inside(lab.names[name]):
        made = open_socket(version, kind)
    made.settimeout(ALLOWED_WITHIN)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind((address_of(name, version), port))
    return made


@check_versions
def a_masqueraded_pod_gets_no_port_of_the_node(lab: Lab, version: int) -> None:
    """A Pod connects to a host, which then connects to the node (CVE-2021-3773)."""
    wanted, dport = 10250, 40001  # the port of the kubelet
    lab.declare(masqueraded=["front"])
    for kind, proto, listens in ((UDP, 17, True), (TCP, 6, True), (TCP, 6, False)):
        dport += 1
        sport = port_of_client(lab, version, proto, dport, wanted)
        with contextlib.ExitStack() as open_:
            if listens:
                server = open_.enter_context(open_in(lab, "node1", kind, version, wanted))
            client = open_.enter_context(bound(lab, "world", kind, version, dport))
            pod = open_.enter_context(bound(lab, "front", kind, version, sport))
            with contextlib.suppress(ConnectionRefusedError):
                pod.connect((address_of("world", version), dport))
            if kind == UDP:
                pod.send(b"from the Pod")
                data, sender = client.recvfrom(64)
                assert data == b"from the Pod" and sender[1] != wanted
            if not listens:
                server = open_.enter_context(open_in(lab, "node1", kind, version, wanted))
            client.connect((address_of("node1", version), wanted))
            client.send(b"for the node")
            at_node = open_.enter_context(server.accept()[0]) if kind == TCP else server
            at_node.settimeout(ALLOWED_WITHIN)
            assert at_node.recv(64) == b"for the node"
    lab.declare()


@check_versions
def a_pod_leaves_room_for_neighbours_of_the_node(lab: Lab, version: int) -> None:
    """It sends to many addresses on the link, directly and by the stack, which options require."""
    node, network = lab.names["node1"], ("10.99.0.0/16", "fd99::/64")[version == 6]
    base = ("10.99.{}.{}", "fd99::{:x}:{:x}")[version == 6]
    lab.ns.ip(node, f"route add {network} dev wire0")
    at_other = Wire(lab, "other", peer=("node1", "other"))
    try:
        for masqueraded in ([], ["other"]):
            lab.declare(masqueraded=masqueraded)
            src = address_of("other", version)
            for number in range(1500):
                data = packet(src, base.format(number // 250, number % 250 + 1), 17, udp(9, 9, b"?"))
                if number % 2 and version == 4:
                    header = b"\x46" + data[1:3] + bytes([data[3] + 4]) + data[4:10] + bytes(2) + data[12:20]
                    header += b"\x01" * 4
                    data = header[:10] + checksum(header).to_bytes(2, "big") + header[12:] + data[20:]
                at_other.send(data)
            shown = lab.ns.run(node, "ip", "-j", f"-{version}", "neigh", "show", "nud", "all", "dev", "wire0")
            found = [one for one in json.loads(shown) if "INCOMPLETE" in one["state"]]
            assert 0 < len(found) <= 256, len(found)
            time.sleep(5)  # for the kernel to give up
    finally:
        at_other.socket.close()
        lab.ns.ip(node, f"route del {network} dev wire0")
        lab.declare()


@check
def arp_of_pods_adds_no_neighbours_to_those_of_the_node(lab: Lab) -> None:
    """The stack stores the sender of a request to the node, of both hardware types of Ethernet."""
    lab.declare()
    node, target = lab.names["node1"], socket.inet_aton(address_of("node1", 4))

    def known() -> str:
        return lab.ns.run(node, "ip", "-4", "-br", "neigh", "show", "dev", "other")

    before = known()
    at_other = Wire(lab, "other", peer=("node1", "other"))
    with at_other.socket:
        mac = at_other.macs[6:]
        for hardware, operation, number in itertools.product((1, 6), (1, 2), range(1, 9)):
            message = struct.pack("!HHBBH", hardware, 0x0800, 6, 4, operation) + mac
            message += bytes([10, 31, 1, 100 + number]) + bytes(6) + target
            with contextlib.suppress(OSError):  # meta and netkit report a drop
                at_other.socket.send(at_other.macs + b"\x08\x06" + message)
        time.sleep(FORBIDDEN_FOR)
    assert known() == before
