# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks of connection tracking by sockets, on Pods with devices of any driver; adds them to ``CHECKS``."""

from __future__ import annotations

import contextlib
import os
import resource
import selectors
import socket
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any

from ansible_collections.podnet.datapath.plugins.module_utils._kernel import bpf
from tests.support import policy_lab
from tests.support.background import background
from tests.support.pod_nodes import NODES
from tests.support.policy_checks import CHECKS, check, check_versions
from tests.support.policy_lab import ALLOWED_WITHIN, FORBIDDEN_FOR, TCP, UDP, VIP, Check, Lab, address_of

__all__ = ["CHECKS"]

VIP2 = ("10.96.0.11", "fd96::11")
LAST_SEEN = 84  # ct.h: offset in struct connection
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}


def open_in(lab: Lab, name: str, kind: Any, version: int = 4, port: int = 0) -> socket.socket:
    """Return a socket bound to an address of a Pod or node."""
    with lab.ns.inside(lab.names[name]):
        made = socket.socket(FAMILY[version], kind)
    made.settimeout(ALLOWED_WITHIN)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind((address_of(name, version), port))
    if kind == TCP and port:
        made.listen(512)
    return made


def is_silent(one: socket.socket) -> bool:
    """Return whether a socket receives nothing for a while."""
    one.settimeout(FORBIDDEN_FOR)
    try:
        return not one.recv(64)
    except TimeoutError:
        return True
    finally:
        one.settimeout(ALLOWED_WITHIN)


def service(name: str, vip: str, port: int, *backends: str, to: int, protocol: str) -> dict[str, Any]:
    version = 6 if ":" in vip else 4
    return {
        "name": name,
        "address": vip,
        "port": port,
        "protocol": protocol,
        "backends": [{"address": address_of(backend, version), "port": to} for backend in backends],
    }


def age(lab: Lab, seconds: int) -> None:
    """Age all connections of node1."""
    with bpf.closing(bpf.obj_get(lab.pins["node1"] + "/maps/connections")) as fd:
        aged = {}
        for key, value in bpf.map_read(fd).items():
            seen = struct.unpack_from("=I", value, LAST_SEEN)[0]
            older = struct.pack("=I", (seen - seconds) % 2**32)
            aged[key] = value[:LAST_SEEN] + older + value[LAST_SEEN + 4 :]
        bpf.map_update(fd, aged)


@contextlib.contextmanager
def without_pod(name: str) -> Iterator[None]:
    gone = policy_lab.PODS.pop(name)
    try:
        yield
    finally:
        policy_lab.PODS[name] = gone


@contextlib.contextmanager
def accepting(listener: socket.socket) -> Iterator[None]:
    """Accept connections, read until their clients close, and close them."""

    def serve(stop: threading.Event) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(listener, selectors.EVENT_READ)
            while not stop.is_set():
                for key, dummy in selector.select(0.1):
                    one = key.fileobj
                    assert isinstance(one, socket.socket)
                    if one is listener:
                        selector.register(listener.accept()[0], selectors.EVENT_READ)
                    elif not one.recv(64):
                        selector.unregister(one)
                        one.close()

    with background(serve):
        yield


def connect_often(lab: Lab, count: int) -> int:
    """Open and close connections of front to world; return how many succeed before the first fails."""
    with open_in(lab, "world", TCP, port=7001) as listener, accepting(listener):
        for number in range(count):
            with lab.ns.inside(lab.names["front"]):
                client = socket.socket()
            with client:
                client.settimeout(ALLOWED_WITHIN)
                try:
                    client.connect((address_of("world", 4), 7001))
                except TimeoutError:
                    return number
                client.shutdown(socket.SHUT_WR)
                client.recv(1)
    return count


def _half_closed(lab: Lab, version: int, server: str, target: str, port: int) -> None:
    with (
        open_in(lab, server, TCP, version, 7002) as listener,
        open_in(lab, "front", TCP, version) as client,
    ):
        client.connect((target, port))
        answering, dummy = listener.accept()
        with answering:
            answering.settimeout(ALLOWED_WITHIN)
            client.sendall(b"request")
            client.shutdown(socket.SHUT_WR)
            assert answering.recv(64) == b"request"
            assert answering.recv(64) == b""
            time.sleep(0.1)
            age(lab, 300)
            for word in (b"answer", b"more"):
                answering.sendall(word)
                assert client.recv(64) == word
                time.sleep(0.05)  # the flow cache expires


@check_versions
def half_closed_connection_waits_for_the_answer(lab: Lab, version: int) -> None:
    """Under policy, through a service and masqueraded (cilium#29016, istio#43297)."""
    policy = {"name": "w", "pods": {"names": ["web"]}, "ingress": [{}], "egress": []}
    lab.declare([policy])
    _half_closed(lab, version, "web", address_of("web", version), 7002)
    vip = VIP[0 if version == 4 else 1]
    lab.declare([], [service("s", vip, 7003, "web", to=7002, protocol="tcp")])
    _half_closed(lab, version, "web", vip, 7003)
    lab.declare(masqueraded=["front"])
    _half_closed(lab, version, "world", address_of("world", version), 7002)


@check
def reset_outside_the_window_ends_nothing(lab: Lab) -> None:
    """The receiver ignores it, so later packets keep the connection open (RFC 5961, kubernetes#74839)."""
    lab.declare([{"name": "w", "pods": {"names": ["web"]}, "ingress": [{}], "egress": []}])
    with open_in(lab, "web", TCP, port=7004) as listener, open_in(lab, "world", TCP) as client:
        client.connect((address_of("web", 4), 7004))
        pushing, peer = listener.accept()
        with lab.ns.inside(lab.names["world"]):
            raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
        with pushing, raw:
            ends = socket.inet_aton(address_of("world", 4)) + socket.inet_aton(address_of("web", 4))
            segment = bytearray(struct.pack("!HHIIBBHHH", peer[1], 7004, 12345, 0, 0x50, 4, 0, 0, 0))
            total = sum(struct.unpack("!16H", ends + struct.pack("!HH", 6, 20) + segment))
            total = (total & 0xFFFF) + (total >> 16)
            struct.pack_into("!H", segment, 16, ~(total + (total >> 16)) & 0xFFFF)
            raw.sendto(segment, (address_of("web", 4), 0))
            time.sleep(0.1)
            age(lab, 30)
            pushing.sendall(b"push")
            assert client.recv(9) == b"push"
            age(lab, 300)
            pushing.sendall(b"again")
            assert client.recv(9) == b"again"


@check_versions
def late_answer_is_a_reply(lab: Lab, version: int) -> None:
    """It must not reverse the connection, whose port stays the same (cilium#47425)."""
    lab.declare(masqueraded=["front"])
    with open_in(lab, "world", UDP, version, 7005) as world, open_in(lab, "front", UDP, version) as client:
        client.connect((address_of("world", version), 7005))
        client.send(b"ask")
        peer = world.recvfrom(9)[1]
        for dummy in range(4):
            age(lab, 150)
            world.sendto(b"answer", peer)
            assert client.recv(9) == b"answer"
            time.sleep(0.05)
        client.send(b"next")
        assert world.recvfrom(9)[1] == peer


@check
def udp_leaves_a_removed_backend(lab: Lab) -> None:
    """The client's socket stays the same for hours (kubernetes#125467)."""

    def declare(*names: str) -> None:
        lab.declare([], [service("log", VIP[0], 514, *names, to=53, protocol="udp")])

    declare("web")
    with open_in(lab, "front", UDP) as client:
        client.connect((VIP[0], 514))
        client.send(b"1")
        assert client.recv(9) == b"web"
        declare("web", "db")
        client.send(b"2")
        assert client.recv(9) == b"web"
        declare("db")
        client.send(b"3")
        assert client.recv(9) == b"db"


@check_versions
def services_share_a_backend(lab: Lab, version: int) -> None:
    """The reply has the address that the client used (cilium#11810, #10983)."""
    at = 0 if version == 4 else 1
    fronts = (VIP[at], VIP2[at])
    lab.declare([], [service(f"u{vip}", vip, 53, "web", to=53, protocol="udp") for vip in fronts])
    with open_in(lab, "front", UDP, version) as client:
        for target in (*fronts, address_of("web", version), *fronts):
            client.sendto(b"?", (target, 53))
            assert client.recvfrom(9)[1][0] == target, lab.info()["front"]["packets"]
    lab.declare([], [service(f"t{vip}", vip, 80, "web", to=80, protocol="tcp") for vip in fronts])
    with contextlib.ExitStack() as open_:
        for target in (*fronts, address_of("web", version)):
            client = open_.enter_context(open_in(lab, "front", TCP, version, 0))
            client.close()
            with lab.ns.inside(lab.names["front"]):
                client = open_.enter_context(socket.socket(FAMILY[version], TCP))
            client.settimeout(ALLOWED_WITHIN)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # below the ephemeral ports, which other sockets may have
            client.bind((address_of("front", version), 30123))
            client.connect((target, 80))
            assert client.recv(9) == b"web"


@check
def connections_outlive_the_last_service(lab: Lab) -> None:
    lab.declare([], [service("s", VIP[0], 8000, "web", to=80, protocol="tcp")])
    with open_in(lab, "front", TCP) as client:
        client.connect((VIP[0], 8000))
        assert client.recv(9) == b"web"
        lab.declare()
        client.sendall(b"?")
        assert client.recv(9) == b"web"


@check
def masquerade_follows_the_node_address(lab: Lab) -> None:
    """An address that the node lost is used no longer (opnsense#3052)."""
    lab.declare(masqueraded=["front"])
    before = NODES["node1"]
    with open_in(lab, "world", UDP, port=7006) as world, open_in(lab, "front", UDP) as client:
        client.connect((address_of("world", 4), 7006))
        client.send(b"1")
        assert world.recvfrom(9)[1][0] == before[0]
        lab.ns.ip(lab.names["node1"], "addr add 172.31.0.9/32 dev wire0")
        lab.ns.ip(lab.names["node2"], f"route add 172.31.0.9/32 via {before[0]}")
        NODES["node1"] = ("172.31.0.9", before[1])
        try:
            lab.declare(masqueraded=["front"])
            client.send(b"2")
            word, peer = world.recvfrom(9)
            assert (word, peer[0]) == (b"2", "172.31.0.9")
            world.sendto(b"3", peer)
            assert client.recv(9) == b"3"
        finally:
            NODES["node1"] = before
            lab.ns.ip(lab.names["node2"], "route del 172.31.0.9/32")
            lab.ns.ip(lab.names["node1"], "addr del 172.31.0.9/32 dev wire0")


@check
def new_pod_inherits_no_connection(lab: Lab) -> None:
    """Its address was another Pod's (ovn-kubernetes#1074, kubernetes#66651)."""
    lab.declare(masqueraded=["front"])
    with open_in(lab, "world", UDP, port=7007) as world:
        with open_in(lab, "front", UDP, port=45000) as former:
            former.sendto(b"1", (address_of("world", 4), 7007))
            peer = world.recvfrom(9)[1]
        with without_pod("front"):
            lab.declare()
        lab.declare(masqueraded=["front"])
        with open_in(lab, "front", UDP, port=45000) as new:
            world.sendto(b"for the former", peer)
            assert is_silent(new)


@check
def traffic_to_the_node_uses_no_port(lab: Lab) -> None:
    """As NodeLocal DNSCache, whose address the node got after the declaration (kubernetes#70555)."""
    lab.declare(
        [{"name": "e", "pods": {"names": ["front"]}, "egress": [{"to": [{"host": True}]}]}],
        masqueraded=["front"],
    )
    lab.ns.ip(lab.names["node1"], "addr add 169.254.20.10/32 dev lo")
    try:
        with lab.ns.inside(lab.names["node1"]):
            dns = socket.socket(socket.AF_INET, UDP)
        with dns, open_in(lab, "front", UDP) as client:
            dns.bind(("169.254.20.10", 53))
            dns.settimeout(ALLOWED_WITHIN)
            client.sendto(b"?", ("169.254.20.10", 53))
            dummy, peer = dns.recvfrom(9)
            assert peer == client.getsockname()
            dns.sendto(b"!", peer)
            assert client.recv(9) == b"!"
    finally:
        lab.ns.ip(lab.names["node1"], "addr del 169.254.20.10/32 dev lo")


@check
def node_is_recognized_by_any_address(lab: Lab) -> None:
    """The node reaches its Pods from an address that it got later; other hosts do not, with that address."""
    lab.declare([{"name": "deny", "pods": {"names": ["web"]}, "ingress": []}])
    lab.ns.ip(lab.names["node1"], "addr add 172.31.9.9/32 dev lo")
    try:
        with lab.ns.inside(lab.names["node1"]):
            probe = socket.socket()
        with probe:
            probe.settimeout(ALLOWED_WITHIN)
            probe.bind(("172.31.9.9", 0))
            probe.connect((address_of("web", 4), 80))
            assert probe.recv(9) == b"web"
    finally:
        lab.ns.ip(lab.names["node1"], "addr del 172.31.9.9/32 dev lo")


@check_versions
def revoked_connection_stays_closed(lab: Lab, version: int) -> None:
    """Packets of the server do not open it again, whether its record is known or not."""
    db = {"labels": {"app": "db"}}

    def policies(*names: str) -> list[dict[str, Any]]:
        return [{"name": "db", "pods": db, "ingress": [{"from": [{"names": [*names]}]}]}]

    for forget in (False, True):
        lab.declare(policies("web", "other"))
        with (
            open_in(lab, "db", TCP, version, 7008) as listener,
            open_in(lab, "other", TCP, version) as client,
            open_in(lab, "db", UDP, version, 7008) as udp_server,
            open_in(lab, "other", UDP, version) as udp_client,
        ):
            client.connect((address_of("db", version), 7008))
            server, dummy = listener.accept()
            udp_client.connect((address_of("db", version), 7008))
            with server:
                server.settimeout(ALLOWED_WITHIN)
                client.sendall(b"before")
                assert server.recv(64) == b"before"
                udp_client.send(b"before")
                dummy, peer = udp_server.recvfrom(64)
                lab.declare(policies("web"))
                if forget:
                    age(lab, 10000)
                for dummy in range(3):
                    server.sendall(b"server")
                    client.sendall(b"after")
                    if not forget:  # else this opens a connection of the server, which policy allows
                        udp_server.sendto(b"server", peer)
                    udp_client.send(b"after")
                    time.sleep(0.05)
                assert is_silent(server)
                if not forget:
                    assert is_silent(udp_server)


def _unreachable(version: int, source: str, target: str, ports: tuple[int, int], payload: bytes) -> bytes:
    """Return an ICMP error about a UDP packet; the kernel adds the outer header."""
    ends = [socket.inet_pton(FAMILY[version], address) for address in (source, target)]
    udp = struct.pack("!HHHH", *ports, 8 + len(payload), 0) + payload
    if version == 4:
        inner = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0) + b"".join(ends) + udp
        head = struct.pack("!BBHI", 3, 3, 0, 0)
        data = head + inner + bytes(len(inner) % 2)
        total = sum(struct.unpack(f"!{len(data) // 2}H", data))
        total = (total & 0xFFFF) + (total >> 16)
        return head[:2] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + head[4:] + inner
    inner = struct.pack("!IHBB", 6 << 28, len(udp), 17, 64) + b"".join(ends) + udp
    return struct.pack("!BBHI", 1, 4, 0, 0) + inner  # the kernel computes the checksum of ICMPv6


@check_versions
def icmp_errors_cannot_bypass_policy(lab: Lab, version: int) -> None:
    """An error passes only from the receiver of the packet that it is about, to its sender."""
    lab.declare(
        [
            {"name": "db", "pods": {"names": ["db"]}, "ingress": [{"from": [{"names": ["web"]}]}]},
            {
                "name": "front",
                "pods": {"names": ["front"]},
                "egress": [{"to": [{"names": ["web"]}], "ports": [{"protocol": "udp", "port": 53}]}],
            },
        ]
    )
    at = {name: address_of(name, version) for name in ("front", "web", "db", "other", "world", "remote")}
    with open_in(lab, "web", UDP, version) as web, open_in(lab, "front", UDP, version) as front:
        for client, target in ((web, "db"), (front, "web")):
            client.connect((at[target], 53))
            client.send(b"?")
            assert client.recv(9) == target.encode()
        web_ports, front_ports = ((one.getsockname()[1], 53) for one in (web, front))
        secret = os.urandom(16)
        cases = [
            ("other", "db", _unreachable(version, at["web"], at["db"], web_ports, secret)),
            ("remote", "db", _unreachable(version, at["db"], at["web"], web_ports[::-1], secret)),
            ("world", "db", _unreachable(version, at["web"], at["db"], web_ports, secret)),
            ("front", "world", _unreachable(version, at["front"], at["web"], front_ports, secret * 60)),
        ]
        protocol = socket.IPPROTO_ICMP if version == 4 else socket.IPPROTO_ICMPV6
        for source, target, packet in cases:
            with lab.ns.inside(lab.names[target]):
                tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
            with lab.ns.inside(lab.names[source]):
                raw = socket.socket(FAMILY[version], socket.SOCK_RAW, protocol)
            with tap, raw:
                tap.settimeout(FORBIDDEN_FOR)
                with contextlib.suppress(OSError):  # meta and netkit report the drop
                    raw.sendto(packet, (at[target], 0))
                with contextlib.suppress(TimeoutError):
                    while True:
                        assert secret not in tap.recv(2000), (source, target)
        # the receiver of a packet may report an error to its sender
        with lab.ns.inside(lab.names["db"]):
            raw = socket.socket(FAMILY[version], socket.SOCK_RAW, protocol)
        with raw:
            raw.sendto(_unreachable(version, at["web"], at["db"], web_ports, b""), (at["web"], 0))
            time.sleep(0.2)
            with contextlib.suppress(ConnectionRefusedError):
                web.send(b"?")
                raise AssertionError("the error did not arrive")


@check
def one_pod_leaves_ports_to_others(lab: Lab) -> None:
    """A Pod that holds all ports to a destination cannot keep another Pod from connecting."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    lab.ns.sysctl(lab.names["node1"], ipv4__ip_local_port_range="1024 64999")  # 536 ports remain
    try:
        lab.declare(masqueraded=["front", "web"])
        target = (address_of("world", 4), 53)
        with contextlib.ExitStack() as open_:
            for dummy in range(1000):
                client = open_.enter_context(open_in(lab, "front", UDP))
                client.connect(target)
                client.send(b"?")
            assert lab.info()["front"]["packets"]["egress"].get("DROP_NAT_NO_MAPPING")
            passing = Check("web", "world", UDP, 53, 4, True)
            lab.attempt([passing])
            assert passing.answer == "world"
    finally:
        lab.ns.sysctl(lab.names["node1"], ipv4__ip_local_port_range="32768 60999")
        lab.declare()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
