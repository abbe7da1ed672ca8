# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks of policies and services by sockets, on Pods with devices of any driver.

``CHECKS`` has the cases of policy_cases.yml and the functions below.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import socket
import struct
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible_collections.podnet.datapath.plugins.module_utils._datapath import command as datapath_command
from tests.support.policy_lab import (
    ALLOWED_WITHIN,
    FORBIDDEN_FOR,
    TCP,
    UDP,
    Check,
    Lab,
    address_of,
    checks_of,
)

CHECKS: dict[str, Callable[[Lab], None]] = {}


def check(function: Callable[[Lab], None]) -> Callable[[Lab], None]:
    CHECKS[function.__name__] = function
    return function


def check_versions(function: Callable[..., None]) -> Callable[..., None]:
    for version in (4, 6):
        CHECKS[f"{function.__name__} v{version}"] = functools.partial(function, version=version)
    return function


def services_of(case: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the case's services, one per address family."""
    return [
        {
            "name": f"s{index}v{version}",
            "address": address_of("vip", version),
            "port": one["port"],
            "protocol": one.get("protocol", "tcp"),
            "backends": [
                {"address": address_of(name, version), "port": one.get("to", 80)} for name in one["backends"]
            ],
        }
        for index, one in enumerate(case.get("services", ()))
        for version in (4, 6)
    ]


def run_case(lab: Lab, case: dict[str, Any]) -> None:
    lab.declare(case["policies"], services_of(case))
    checks = [
        check
        for word in ("passes", "blocked")
        for text in case.get(word, ())
        for check in checks_of(text, word == "passes")
    ]
    assert checks
    lab.attempt(checks)
    # the answer must come from the target, or from a backend of the service
    behind = {name for one in case.get("services", ()) for name in one["backends"]}
    wrong = [
        str(check)
        for check in checks
        if bool(check.answer) != check.passes
        or (check.answer and check.answer not in (behind if check.target == "vip" else {check.target}))
    ]
    assert not wrong, "\n".join(wrong)


@check_versions
def backend_weights_share_new_connections(lab: Lab, version: int) -> None:
    backends = [
        {"address": address_of(name, version), "port": 80, "weight": weight}
        for name, weight in (("web", 3), ("db", 1), ("other", 0))
    ]
    lab.declare(
        [], [{"name": "s", "address": address_of("vip", version), "port": 8000, "backends": backends}]
    )
    found: Counter[str] = Counter()
    for dummy in range(5):
        checks = [Check("front", "vip", TCP, 8000, version, True) for dummy in range(40)]
        lab.attempt(checks)
        found.update(check.answer or check.refusal for check in checks)
    assert set(found) == {"web", "db"}, found
    assert 20 <= found["db"] <= 80, found  # expected 50 of 200; outside of this range once in a million runs


@check_versions
def removed_backend_keeps_its_connections(lab: Lab, version: int) -> None:
    """Connections stay with their backends; new ones use the remaining backend."""

    def declare(*names: str) -> None:
        backends = [{"address": address_of(name, version), "port": 80} for name in names]
        lab.declare(
            [], [{"name": "s", "address": address_of("vip", version), "port": 8000, "backends": backends}]
        )

    declare("web", "db")
    with contextlib.ExitStack() as open_:
        clients = []
        for dummy in range(20):
            client = open_.enter_context(lab.start(Check("front", "vip", TCP, 8000, version, True)))
            client.settimeout(ALLOWED_WITHIN)
            clients.append((client, client.recv(64)))
        assert {name for dummy, name in clients} == {b"web", b"db"}
        declare("db")
        for client, name in clients:
            client.sendall(b"still there?")
            assert client.recv(64) == name
        later = [Check("front", "vip", TCP, 8000, version, True) for dummy in range(20)]
        lab.attempt(later)
        assert {check.answer for check in later} == {"db"}


@check_versions
def new_policy_ends_forbidden_connections(lab: Lab, version: int) -> None:
    lab.declare()
    with lab.start(Check("front", "web", TCP, 80, version, True)) as client:
        client.settimeout(ALLOWED_WITHIN)
        assert client.recv(64) == b"web"
        lab.declare([{"name": "deny", "pods": {"names": ["web"]}, "ingress": []}])
        client.sendall(b"?")
        client.settimeout(FORBIDDEN_FOR)
        with contextlib.suppress(TimeoutError):
            raise AssertionError(f"forbidden, but received {client.recv(64)!r}")
        lab.declare()
        client.settimeout(ALLOWED_WITHIN)
        assert client.recv(64) == b"web"


@check
def icmp_errors_of_allowed_packets_return(lab: Lab) -> None:
    """The ICMP error of a port without listener reaches the client, through policy and service."""
    ports = [{"ports": [{"protocol": "udp", "port": 9999}]}]
    policies = [
        {"name": "front", "pods": {"names": ["front"]}, "egress": ports},
        {"name": "web", "pods": {"names": ["web"]}, "ingress": ports, "egress": []},
    ]
    services = [
        {
            "name": f"s{version}",
            "address": address_of("vip", version),
            "port": 9998,
            "protocol": "udp",
            "backends": [{"address": address_of("web", version), "port": 9999}],
        }
        for version in (4, 6)
    ]
    lab.declare(policies, services)
    checks = [
        Check("front", target, UDP, port, version, True)
        for target, port in (("web", 9999), ("remote", 9999), ("world", 9999), ("vip", 9998))
        for version in (4, 6)
    ]
    lab.attempt(checks)
    assert {check.refusal for check in checks} == {"ECONNREFUSED"}, "\n".join(map(str, checks))


@check_versions
def masqueraded_pod_uses_node_address(lab: Lab, version: int) -> None:
    lab.declare(masqueraded=["front"])
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    for source, seen in (("front", "node1"), ("web", "web")):
        with lab.ns.inside(lab.names["world"]):
            server = socket.socket(family, UDP)
        with lab.ns.inside(lab.names[source]):
            client = socket.socket(family, UDP)
        with server, client:
            server.bind((address_of("world", version), 0))
            server.settimeout(ALLOWED_WITHIN)
            client.settimeout(ALLOWED_WITHIN)
            client.bind((address_of(source, version), 0))
            client.connect(server.getsockname()[:2])
            client.send(b"?")
            dummy, client_address = server.recvfrom(64)
            assert client_address[0] == address_of(seen, version)
            if source == "front":
                assert 10000 <= client_address[1] < 30000  # outside ip_local_port_range
            server.sendto(b"!", client_address)
            assert client.recv(64) == b"!"
    # Pods of other nodes see the Pod's address
    to_pod = Check("front", "remote", TCP, 80, version, True)
    # a Pod answers with its own address
    from_outside = Check("world", "front", TCP, 80, version, True)
    lab.attempt([to_pod, from_outside])
    for one in (to_pod, from_outside):
        assert one.answer == one.target, str(one)


@check
def pod_cannot_spoof_source_address(lab: Lab) -> None:
    lab.declare()
    for version in (4, 6):
        stolen = address_of("db", version)
        width = "/32" if version == 4 else "/128 nodad"  # without DAD the address is usable at once
        lab.ns.ip(lab.names["front"], f"addr add {stolen}{width} dev lo")
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        with lab.ns.inside(lab.names["front"]):
            client = socket.socket(family, UDP)
        with client:
            client.bind((stolen, 0))
            client.sendto(b"?", (address_of("world", version), 80))
        lab.ns.ip(lab.names["front"], f"addr del {stolen}{width.partition(' ')[0]} dev lo")
        own = Check("front", "world", UDP, 80, version, True)
        lab.attempt([own])
        assert own.answer == "world", str(own)
    counted = lab.info()["front"]["packets"]["egress"]
    assert counted.get("DROP_INVALID_SOURCE_IP", 0) >= 2, counted


@check
def drops_are_logged_and_counted(lab: Lab) -> None:
    """The command podnet-datapath shows each drop with time, Pod, addresses and reason, and counts it."""
    with tempfile.TemporaryDirectory() as folder:
        command = f"{folder}/podnet-datapath"
        datapath_command.install(command)
        assert os.access(command, os.X_OK)
        _check_drops(lab, command)


def _check_drops(lab: Lab, command: str) -> None:
    run = ("python3", command, "--pin-path", lab.pins["node1"])
    lab.declare([{"name": "deny", "pods": {"names": ["web"]}, "ingress": []}])
    lab.ns.run(lab.names["node1"], *run, "drops", "--wait", "0.2")  # discards the drops of earlier checks
    before = lab.info()["web"]["packets"]["ingress"].get("DROP_POLICY_INGRESS", 0)
    lab.attempt([Check("other", "web", UDP, 80, version, False) for version in (4, 6)])
    shown = lab.ns.run(lab.names["node1"], *run, "drops", "--wait", "0.2")
    assert "drop (policy ingress)" in shown
    for version in (4, 6):
        source, target = address_of("other", version), address_of("web", version)
        assert any(
            source in line and target in line and " udp, " in line and "peer Pod other, policies deny" in line
            for line in shown.splitlines()
        ), shown
    assert lab.info()["web"]["packets"]["ingress"]["DROP_POLICY_INGRESS"] == before + 2
    text = lab.ns.run(lab.names["node1"], *run, "prometheus")
    assert f'pod="web",owner="site",direction="ingress",reason="DROP_POLICY_INGRESS"}} {before + 2}' in text


def _internet_sum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def _offload_request(version: int, sport: int, start: int, offset: int, mac: bytes) -> bytes:
    """Return front's datagram to world, port 53, behind a virtio_net_hdr that requests a checksum."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    addresses = b"".join(socket.inet_pton(family, address_of(name, version)) for name in ("front", "world"))
    data = b"ask?"
    length = 8 + len(data)
    partial = _internet_sum(addresses + struct.pack("!HH", socket.IPPROTO_UDP, length))
    udp = struct.pack("!HHHH", sport, 53, length, partial) + data
    if version == 4:
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 0, 0, 64, socket.IPPROTO_UDP, 0) + addresses
        head = head[:10] + struct.pack("!H", ~_internet_sum(head) & 0xFFFF) + head[12:]
    else:
        head = struct.pack("!IHBB", 6 << 28, length, socket.IPPROTO_UDP, 64) + addresses
    request = struct.pack("=BBHHHH", 1, 0, 0, 0, start, offset)  # VIRTIO_NET_HDR_F_NEEDS_CSUM
    return request + mac + bytes(6) + (b"\x08\x00" if version == 4 else b"\x86\xdd") + head + udp


@check_versions
def checksum_requests_cannot_change_headers(lab: Lab, version: int) -> None:
    """A packet may request the checksum of its transport header only, also within a cached flow."""
    lab.declare()
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    transport = 34 if version == 4 else 54
    with lab.ns.inside(lab.names["node1"]), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as host:
        host.bind(("front", 0))
        mac = host.getsockname()[4]
    with lab.ns.inside(lab.names["front"]):
        raw, client = socket.socket(socket.AF_PACKET, socket.SOCK_RAW), socket.socket(family, UDP)
    with raw, client:
        raw.setsockopt(263, 15, 1)  # SOL_PACKET, PACKET_VNET_HDR
        with lab.ns.inside(lab.names["front"]):
            raw.bind(("eth0", 0))
        client.bind((address_of("front", version), 0))
        client.settimeout(ALLOWED_WITHIN)
        sport = client.getsockname()[1]

        def send(start: int, offset: int) -> None:
            with contextlib.suppress(OSError):  # meta and netkit report a drop as ENOBUFS
                raw.send(_offload_request(version, sport, start, offset, mac))

        def dropped() -> int:
            counted = lab.info()["front"]["packets"]["egress"]
            return sum(counted.get(f"DROP_{reason}", 0) for reason in ("CHECKSUM", "INVALID_SOURCE_IP"))

        source = (22, 4) if version == 4 else (20, 2)
        # meta completes the checksum first, so the program sees the changed port or address
        others = {} if lab.devices.driver == "meta" else {(transport, 0), (transport, 2), (transport - 2, 0)}
        for start, offset in (source, *others):
            before = dropped()
            for dummy in range(2):
                send(transport, 6)  # the flow is cached from here on
            send(start, offset)
            send(transport, 6)
            assert [client.recv(64) for dummy in range(3)] == [b"world"] * 3
            assert dropped() == before + 1, (start, offset)


@check
def tunnels_of_pods_keep_working(lab: Lab) -> None:
    """TCP through a VXLAN tunnel between Pods passes; its checksum requests are behind the outer headers."""
    lab.declare()
    for version in (4, 6):
        ends = (("front", "remote", "10.99.0.1"), ("remote", "front", "10.99.0.2"))
        for name, peer, address in ends:
            underlay = f"local {address_of(name, version)} remote {address_of(peer, version)}"
            lab.ns.ip(
                lab.names[name],
                f"link add tunnel type vxlan id 7 dstport 4789 {underlay}",
                f"addr add {address}/24 dev tunnel",
                "link set tunnel up",
            )
        with lab.ns.inside(lab.names["remote"]), socket.create_server(("10.99.0.2", 0)) as server:
            server.settimeout(ALLOWED_WITHIN)
            with lab.ns.inside(lab.names["front"]):
                client = socket.create_connection(server.getsockname(), ALLOWED_WITHIN)
            connection, dummy = server.accept()
            with client, connection:
                connection.settimeout(ALLOWED_WITHIN)
                data = os.urandom(100_000)
                client.sendall(data)
                client.shutdown(socket.SHUT_WR)
                received = b""
                while chunk := connection.recv(1 << 16):
                    received += chunk
        assert received == data
        for name in ("front", "remote"):
            lab.ns.ip(lab.names[name], "link del tunnel")


@check
def tun_uplink_sends_complete_packets(lab: Lab) -> None:
    """The sender's network header has no effect, neither on the first packet of a flow nor on cached ones."""
    lab.declare()
    node1, front = lab.names["node1"], lab.names["front"]
    tunsetiff, flags = 0x400454CA, 0x1001  # IFF_TUN, IFF_NO_PI
    with lab.ns.inside(node1):
        tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(tun, tunsetiff, struct.pack("16sH22x", b"tun0", flags))
    try:
        lab.ns.ip(node1, "addr add 198.51.100.1/24 dev tun0", "link set tun0 up")
        with lab.ns.inside(node1), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as host:
            host.bind(("front", 0))
            mac = host.getsockname()[4]
        with lab.ns.inside(front):
            raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        addresses = b"".join(map(socket.inet_aton, (address_of("front", 4), "198.51.100.9")))
        with raw:
            for number in range(10):
                # For an 802.1Q frame the socket sets the network header behind the tag.
                protocol = 0x8100 if number % 2 else 0x0800
                udp = struct.pack("!HHHH", 9, 9, 40, 0) + bytes([number]) * 32
                head = struct.pack("!BBHHHBBH", 0x45, 0, 60, number, 0, 64, socket.IPPROTO_UDP, 0) + addresses
                head = head[:10] + struct.pack("!H", ~_internet_sum(head) & 0xFFFF) + head[12:]
                with contextlib.suppress(OSError):  # netkit reports the drop of a tagged frame
                    raw.sendto(mac + bytes(6) + b"\x08\x00" + head + udp, ("eth0", protocol))
        # netkit keeps the protocol of the socket; tagged frames from Pods are dropped
        every = 2 if lab.devices.driver == "netkit" else 1
        expected = {bytes([number]) * 32 for number in range(0, 10, every)}
        deadline = time.monotonic() + ALLOWED_WITHIN
        received = set()
        while received != expected and time.monotonic() < deadline:
            try:
                packet = os.read(tun, 2048)
            except BlockingIOError:
                time.sleep(0.01)
                continue
            if packet[9] == socket.IPPROTO_UDP and packet[12:20] == addresses:
                received.add(packet[28:])
        assert received == expected, f"{len(received)} of {len(expected)} packets are complete"
    finally:
        os.close(tun)


@check
def frames_on_the_wire_have_the_ethertype_of_the_packet(lab: Lab) -> None:
    """A cached flow does not send the EtherType that the sender's frame has; netkit keeps it."""
    if lab.devices.driver == "veth":
        return  # its receive path sets the protocol from the frame
    lab.declare()
    lab.attempt([Check("front", "world", UDP, 53, 4, True)])  # resolves the neighbour: needed for caching
    addresses = b"".join(socket.inet_aton(address_of(name, 4)) for name in ("front", "world"))
    with lab.ns.inside(lab.names["front"]):
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    with lab.ns.inside(lab.names["node2"]):
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        wire.bind(("wire0", 3))  # ETH_P_ALL
    wire.settimeout(FORBIDDEN_FOR)
    frames = []
    with raw, wire:
        for number in range(10):
            udp = struct.pack("!HHHH", 9, 53, 40, 0) + bytes([number]) * 32
            head = struct.pack("!BBHHHBBH", 0x45, 0, 60, number, 0, 64, socket.IPPROTO_UDP, 0) + addresses
            head = head[:10] + struct.pack("!H", ~_internet_sum(head) & 0xFFFF) + head[12:]
            ethertype = b"\x08\x00" if number < 2 else b"\x81\x00"
            with contextlib.suppress(OSError):  # meta drops tagged frames
                raw.sendto(bytes(12) + ethertype + head + udp, ("eth0", 0x0800))
        with contextlib.suppress(TimeoutError):
            while True:
                frames.append(wire.recv(2048))
    sent = [frame for frame in frames if frame[-32:] in {bytes([number]) * 32 for number in range(10)}]
    # the receiver has removed a VLAN tag
    wrong = [frame.hex() for frame in sent if frame[12:14] != b"\x08\x00" or frame[26:34] != addresses]
    assert sent and not wrong, wrong


def read_cases() -> list[dict[str, Any]]:
    """Return policy_cases.yml, or policy_cases.json in a guest, which has no YAML parser."""
    table = Path(__file__).with_name("policy_cases.yml")
    cases: list[dict[str, Any]]
    if table.exists():
        import yaml

        cases = yaml.safe_load(table.read_text())
    else:
        cases = json.loads(Path("policy_cases.json").read_text())
    return cases


CHECKS.update({case["name"]: functools.partial(run_case, case=case) for case in read_cases()})
