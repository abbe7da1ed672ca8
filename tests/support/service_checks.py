# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks of services: node ports and session affinity per packet, and translation at sockets.

Adds them to ``CHECKS``.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from ansible_collections.podnet.datapath.plugins.module_utils._kernel import bpf, libbpf
from ansible_collections.podnet.datapath.plugins.module_utils._programs import attach, sockets
from tests.support.cgroup import cgroup
from tests.support.connection_checks import CHECKS, FAMILY, check_versions, open_in
from tests.support.policy_lab import ALLOWED_WITHIN, TCP, UDP, Check, Lab, address_of

__all__ = ["CHECKS"]

PORT = 30080
PROTOCOLS = {"tcp": TCP, "udp": UDP}


def node_port(backends: Sequence[str], version: int, **options: Any) -> list[dict[str, Any]]:
    """Return a node port with these backends, of both protocols."""
    return [
        {
            "name": f"port-{protocol}",
            "address": {4: "0.0.0.0", 6: "::"}[version],
            "port": PORT,
            "protocol": protocol,
            "backends": [{"address": address_of(name, version), "port": 80} for name in backends],
            **options,
        }
        for protocol in PROTOCOLS
    ]


def answers(lab: Lab, source: str, version: int, protocol: Any, count: int = 1) -> set[str]:
    """Return which servers answer connections to the node port; "" for none."""
    checks = [Check(source, "node1", protocol, PORT, version, True) for dummy in range(count)]
    lab.attempt(checks)
    return {check.answer for check in checks}


def check_clients(function: Any) -> Any:
    """Add a check for each IP version and protocol."""
    for version in (4, 6):
        for word, protocol in PROTOCOLS.items():
            name = f"{function.__name__} v{version} {word}"
            CHECKS[name] = functools.partial(function, version=version, protocol=protocol)
    return function


@check_clients
def node_ports_of_local_and_remote_backends(lab: Lab, version: int, protocol: Any) -> None:
    """For a Pod of the node, and for a host on the wire."""
    for backends in (["web"], ["remote"], ["node1"], ["web", "remote", "node1"]):
        lab.declare(services=node_port(backends, version))
        for source in ("front", "world"):
            assert answers(lab, source, version, protocol, 10 * len(backends)) == {*backends}, source
    lab.declare()


@check_clients
def node_ports_beside_a_management_network(lab: Lab, version: int, protocol: Any) -> None:
    """Replies of a remote backend must return to an uplink, by which the default route does not leave."""
    node = lab.names["node1"]
    lab.ns.ip(
        node,
        *("link add mgmt0 up type veth peer mgmt1", "link set mgmt1 up"),
        *("addr add 10.0.2.15/24 dev mgmt0", "addr add fd02::15/64 dev mgmt0 nodad"),
        *("route add default via 10.0.2.2", "route add default via fd02::2"),
    )
    try:
        lab.declare(services=node_port(["remote"], version))
        for source in ("front", "world"):
            assert answers(lab, source, version, protocol) == {"remote"}, source
    finally:
        lab.ns.ip(node, "link del mgmt0")
    lab.declare()


@check_clients
def a_node_port_without_backends_refuses(lab: Lab, version: int, protocol: Any) -> None:
    lab.declare(services=node_port([], version))
    checks = [Check(source, "node1", protocol, PORT, version, True) for source in ("front", "world")]
    lab.attempt(checks)
    assert {check.refusal for check in checks} == {"ECONNREFUSED"}, "\n".join(map(str, checks))
    lab.declare()


@check_clients
def a_host_on_the_wire_reaches_itself(lab: Lab, version: int, protocol: Any) -> None:
    """As a process of another node does that is a backend of a service."""
    lab.declare(services=node_port(["world"], version))
    assert answers(lab, "world", version, protocol) == {"world"}
    lab.declare()


@check_versions
def a_client_of_two_services_with_one_process_of_the_node(lab: Lab, version: int) -> None:
    """Both connections have the same port of the client, which one of them gets replaced."""
    services = node_port(["node1"], version)
    second = [{**one, "name": f"second-{one['name']}", "port": PORT + 1} for one in services]
    lab.declare(services=[*services, *second])
    with contextlib.ExitStack() as open_:
        clients = []
        for port in (PORT, PORT + 1):
            client = open_.enter_context(open_in(lab, "world", UDP, version, 40001))
            client.connect((address_of("node1", version), port))
            clients.append(client)
        for client in clients * 3:
            client.send(b"?")
            assert client.recv(64) == b"node1"
    lab.declare()


@check_versions
def a_port_of_the_node_that_no_process_listens_on_refuses(lab: Lab, version: int) -> None:
    """The client gets the ICMP error of the node's stack about its own packet."""
    services = node_port(["node1"], version)
    for one in services:
        one["backends"] = [{"address": address_of("node1", version), "port": 9}]
    lab.declare(services=services)
    with open_in(lab, "world", UDP, version) as client:
        client.connect((address_of("node1", version), PORT))
        client.send(b"?")
        refused = False
        try:
            client.recv(64)
        except ConnectionRefusedError:
            refused = True
        assert refused
    lab.declare()


@check_versions
def other_ports_of_the_node_are_not_translated(lab: Lab, version: int) -> None:
    lab.declare(services=node_port(["web"], version))
    checks = [Check(source, "node1", TCP, 81, version, True) for source in ("front", "world")]
    # a node port is one of the node only
    checks += [Check(source, "db", TCP, PORT, version, False) for source in ("front", "world")]
    checks += [Check("front", "world", TCP, PORT, version, False)]
    lab.attempt(checks)
    assert [check.answer for check in checks] == ["node1", "node1", "", "", ""]
    lab.declare()


@check_versions
def connections_of_the_node_keep_a_port_that_a_service_has(lab: Lab, version: int) -> None:
    """Replies to a process of the node are none of the clients of the service, also if it begins later."""
    lab.declare()
    with contextlib.ExitStack() as open_:
        clients = {server: _connected_from(lab, open_, server, version) for server in ("world", "db")}
        lab.declare(services=node_port(["web"], version))
        for server, both in clients.items():
            for client in both:
                client.send(b"?")
                assert client.recv(64).decode() == server
    with contextlib.ExitStack() as open_:
        for server in ("world", "db"):
            _connected_from(lab, open_, server, version)
    lab.declare()


def _connected_from(lab: Lab, open_: contextlib.ExitStack, server: str, version: int) -> list[socket.socket]:
    """Return sockets of node1 with the port of the service, which the server has answered."""
    made = []
    for kind in (TCP, UDP):
        with lab.ns.inside(lab.names["node1"]):
            client = open_.enter_context(socket.socket(FAMILY[version], kind))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # no TIME_WAIT
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.settimeout(ALLOWED_WITHIN)
        client.bind((address_of("node1", version), PORT))
        client.connect((address_of(server, version), 80))
        if kind == UDP:
            client.send(b"?")
        assert client.recv(64).decode() == server
        made.append(client)
    return made


@check_versions
def policy_sees_the_address_of_an_external_client(lab: Lab, version: int) -> None:
    """Of a backend on the node that the packet arrives at."""
    for client, passes in (("world", {"web"}), ("other", {""})):
        length = {4: 32, 6: 128}[version]
        allowed = {"cidr": f"{address_of(client, version)}/{length}"}
        policy = {"name": "web", "pods": {"names": ["web"]}, "ingress": [{"from": [allowed]}]}
        lab.declare([policy], node_port(["web"], version))
        assert answers(lab, "world", version, TCP) == passes
    lab.declare()


@check_versions
def an_external_connection_survives_its_backends_removal(lab: Lab, version: int) -> None:
    for backend in ("web", "remote"):
        lab.declare(services=node_port([backend], version))
        with open_in(lab, "world", TCP, version) as client:
            client.connect((address_of("node1", version), PORT))
            assert client.recv(64).decode() == backend
            lab.declare(services=node_port(["db"], version))
            client.send(b"?")
            assert client.recv(64).decode() == backend
            assert answers(lab, "world", version, TCP) == {"db"}
    lab.declare()


@check_clients
def a_client_with_affinity_keeps_its_backend(lab: Lab, version: int, protocol: Any) -> None:
    """Also when the table changes, unless the backend is removed."""
    backends = ["web", "db", "other"]
    lab.declare(services=node_port(backends, version, affinity=100))
    for source in ("front", "world"):
        (first,) = answers(lab, source, version, protocol, 10)
        kept = [name for name in backends if name != first]
        lab.declare(services=node_port([first, *kept[1:]], version, affinity=100))
        assert answers(lab, source, version, protocol, 10) == {first}
        lab.declare(services=node_port(kept, version, affinity=100))
        (second,) = answers(lab, source, version, protocol, 10)
        assert second in kept
        lab.declare(services=node_port(backends, version, affinity=100))
    lab.declare()


@check_versions
def two_clients_behind_one_port_of_a_remote_backend(lab: Lab, version: int) -> None:
    """Their connections to the node have the same source port, and get different ones."""
    lab.declare(services=node_port(["remote"], version))
    with contextlib.ExitStack() as open_:
        clients = []
        for source in ("world", "front"):
            client = open_.enter_context(open_in(lab, source, UDP, version, 40000))
            client.connect((address_of("node1", version), PORT))
            clients.append(client)
        for dummy in range(3):
            for client in clients:
                client.send(b"?")
                assert client.recv(64) == b"remote"
    lab.declare()


@contextlib.contextmanager
def programs_of_sockets(lab: Lab) -> Iterator[None]:
    """Attach node1's programs to the sockets that this process creates during the block."""
    with cgroup("services") as group, lab.ns.inside(lab.names["node1"]):
        wanted = attach.Desired(lab.pins["node1"], sockets.select("required", group).requests, "sockets")
        with libbpf.BpfObject(lab.object) as programs:
            attach.install(wanted, programs)
            try:
                yield
            finally:
                attach.install(replace(wanted, attachments=()), programs)


@check_versions
def packets_to_services_at_sockets_are_direct_ones(lab: Lab, version: int) -> None:
    """They need no connection tracking; policy sees the backend; sockets see the service."""
    backends = [{"address": address_of(name, version), "port": 80} for name in ("web", "remote")]
    service = {"address": address_of("vip", version), "port": 8000, "backends": backends}
    services = [{**service, "name": protocol, "protocol": protocol} for protocol in PROTOCOLS]
    empty = {**service, "name": "empty", "port": 8001, "backends": []}
    lab.declare(services=[*services, empty])
    with (
        programs_of_sockets(lab),
        bpf.closing(bpf.obj_get(f"{lab.pins['node1']}/maps/connections")) as connections,
    ):
        before = bpf.map_count(connections)
        checks = [Check("front", "vip", protocol, 8000, version, True) for protocol in (TCP, UDP) * 20]
        lab.attempt(checks)
        assert {check.answer for check in checks} == {"web", "remote"}
        with open_in(lab, "front", UDP, version) as client:
            client.sendto(b"?", (address_of("vip", version), 8000))
            answer, sender = client.recvfrom(64)
            assert answer.decode() in ("web", "remote")
            assert sender[:2] == (address_of("vip", version), 8000)
        assert bpf.map_count(connections) == before
        refused = Check("front", "vip", TCP, 8001, version, False)
        lab.attempt([refused])
        assert refused.refusal == "ECONNREFUSED"
        allowed = {"to": [{"names": ["web"]}]}
        lab.declare([{"name": "front", "pods": {"names": ["front"]}, "egress": [allowed]}], services)
        checks = [Check("front", "vip", TCP, 8000, version, False) for dummy in range(20)]
        lab.attempt(checks)
        assert {check.answer for check in checks} == {"web", ""}
    lab.declare()


@check_versions
def a_connected_datagram_socket_ends_with_its_backend(lab: Lab, version: int) -> None:
    """And gets the remaining one by connect()."""
    service = {"name": "dns", "address": address_of("vip", version), "port": 8000, "protocol": "udp"}

    def declare(*names: str) -> None:
        backends = [{"address": address_of(name, version), "port": 80} for name in names]
        lab.declare(services=[{**service, "backends": backends}])

    declare("web")
    with programs_of_sockets(lab), open_in(lab, "front", UDP, version) as client:
        client.connect((address_of("vip", version), 8000))
        declare("web", "remote")
        client.send(b"?")
        assert client.recv(64) == b"web"
        declare("remote")
        assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNABORTED
        client.connect((address_of("vip", version), 8000))
        client.send(b"?")
        assert client.recv(64) == b"remote"
    lab.declare()
