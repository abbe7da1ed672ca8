# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Host ports that the agent serves without kube-proxy. Clients are Pods, the node, and a host on the wire."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._agent import protocol
from ansible_collections.podnet.datapath.plugins.module_utils._agent.attachments import name_of
from ansible_collections.podnet.datapath.plugins.module_utils._datapath import info, status
from tests.netns.bpf_node import Node
from tests.netns.test_agent import Cni, fails
from tests.support.agent import Reply
from tests.support.cgroup import cgroup

NODE, WORLD = {4: "192.0.2.1", 6: "2001:db8::1"}, {4: "192.0.2.9", 6: "2001:db8::9"}
OTHER = {4: "192.0.2.2", 6: "2001:db8::2"}  # another address of the node
LOOPBACK = {4: "127.0.0.1", 6: "::1"}
POD = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME="
KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
TARGET = 8080
BOTH = [(version, word) for version in (4, 6) for word in KINDS]


def mapping(port: Any, protocol_: Any = "tcp", address: Any = "", target: Any = TARGET) -> dict[str, Any]:
    """Return a port mapping as container runtimes pass it."""
    return {"hostPort": port, "containerPort": target, "protocol": protocol_, "hostIP": address}


class HostPorts(Cni):
    """A node with an uplink to a host. The Pods' servers answer their name and the client's address."""

    def __init__(self, node: Node, folder: Path, group: str = "", **config: Any) -> None:
        self.world, self._group = node.ns("world"), group
        node.ns.ip(node.name, f"link set right netns {self.world}", "link set left up")
        for family in (NODE, OTHER):
            for version, length in ((4, "/24"), (6, "/64 nodad")):
                node.ns.ip(node.name, f"address add {family[version]}{length} dev left")
        node.ns.ip(
            self.world,
            "link set right up",
            f"address add {WORLD[4]}/24 dev right",
            f"address add {WORLD[6]}/64 dev right nodad",
        )
        super().__init__(node, folder, **{"kube_proxy": "replace", **config})
        self._stop = threading.Event()
        self._servers: list[threading.Thread] = []

    def attach(self) -> None:
        options = {"socket_lb": "required", "cgroup_path": self._group} if self._group else {}
        self.node.attach("host_ingress left ingress", **options)

    def with_ports(self, *mappings: dict[str, Any]) -> dict[str, Any]:
        return {**self.config, "runtimeConfig": {"portMappings": list(mappings)}}

    def start(self, name: str, *mappings: dict[str, Any]) -> None:
        """Add a Pod with host ports and a server."""
        self.add(name, self.with_ports(*mappings), ARGS=POD + name)
        self._servers.append(threading.Thread(target=self._serve, args=(name,)))
        self._servers[-1].start()

    def _serve(self, name: str) -> None:
        with selectors.DefaultSelector() as selector, contextlib.ExitStack() as files:
            for kind in KINDS.values():
                with self.node.ns.inside(self.containers[name]):
                    server = files.enter_context(socket.socket(socket.AF_INET6, kind))
                server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                server.bind(("::", TARGET))
                if kind == socket.SOCK_STREAM:
                    server.listen()
                selector.register(server, selectors.EVENT_READ)
            while not self._stop.is_set():
                for key, _events in selector.select(0.1):
                    with contextlib.suppress(OSError):
                        self._answer(key.fileobj, name)

    def _answer(self, server: Any, name: str) -> None:
        def reply(client: tuple[Any, ...]) -> bytes:
            return f"{name} {client[0].removeprefix('::ffff:')}".encode()

        if server.type == socket.SOCK_DGRAM:
            _data, client = server.recvfrom(64)
            server.sendto(reply(client), client)
            return
        connection, client = server.accept()
        with connection:
            connection.settimeout(2)
            connection.recv(64)
            connection.send(reply(client))

    def ask(
        self,
        netns: str,
        to: str,
        port: int,
        word: str,
        source: str = "",
        source_port: int = 0,
        by_packets: bool = False,
    ) -> str:
        """Return which Pod answers a client in a namespace, and the client's address; "" for none.

        ``by_packets`` creates the client's socket so that its packets are translated.
        """
        family = socket.AF_INET6 if ":" in to else socket.AF_INET
        with self._cgroup_of(netns, by_packets), self.node.ns.inside(netns):
            client = socket.socket(family, KINDS[word])
        with client:
            client.settimeout(3)
            if source or source_port:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                client.bind((source, source_port))
            with contextlib.suppress(OSError):
                client.connect((to, port))
                assert client.getpeername()[:2] == (to, port)
                client.send(b"?")
                return client.recv(64).decode()
        return ""

    @contextlib.contextmanager
    def _cgroup_of(self, netns: str, by_packets: bool) -> Iterator[None]:
        """Create sockets of other hosts outside of the cgroup."""
        leaves = self._group and (by_packets or netns == self.world)
        if leaves:
            (Path(self._group).parent / "cgroup.procs").write_text(str(os.getpid()))
        yield
        if leaves:
            (Path(self._group) / "cgroup.procs").write_text(str(os.getpid()))

    def services(self) -> dict[tuple[str, int, str], list[tuple[str, int]]]:
        """Return the backends of all services in the maps."""
        with self.node.ns.inside(self.node.name):
            found = info.gather(self.node.pins)["services"]
        return {
            (one["address"], one["port"], one["protocol"]): [
                (b["address"], b["port"]) for b in one["backends"]
            ]
            for one in found
        }

    def close(self) -> None:
        self._stop.set()
        for server in self._servers:
            server.join()
        for name in self.containers:
            self.call("DEL", name)
        self.agent.stop()


@pytest.fixture
def cni(node: Node, tmp_path: Path) -> Iterator[HostPorts]:
    """Yield a node whose sockets are translated."""
    with cgroup("host-ports") as group:
        made = HostPorts(node, tmp_path, group)
        yield made
        made.close()


def packets_of_a_pod_and_of_the_wire(made: HostPorts) -> None:
    for version, word in BOTH:
        for address in (NODE[version], OTHER[version]):
            assert made.ask(made.world, address, 80, word) == f"web {WORLD[version]}"
            assert made.ask(made.containers["other"], address, 80, word).startswith("web ")
        assert not made.ask(made.world, NODE[version], 81, word)


def test_clients(cni: HostPorts) -> None:
    """Also of loopback addresses, of which a Pod has its own."""
    cni.start("web", mapping(80), mapping(80, "udp"))
    cni.add("other")
    packets_of_a_pod_and_of_the_wire(cni)
    for version, word in BOTH:
        for address in (NODE[version], OTHER[version], LOOPBACK[version]):
            assert cni.ask(cni.node.name, address, 80, word).startswith("web ")
        assert not cni.ask(cni.containers["other"], LOOPBACK[version], 80, word)
        # a Pod that connects to its own host port reaches itself
        assert cni.ask(cni.containers["web"], NODE[version], 80, word).startswith("web ")


def test_clients_by_packets(node: Node, tmp_path: Path) -> None:
    """Without programs of sockets."""
    made = HostPorts(node, tmp_path)
    try:
        made.start("web", mapping(80), mapping(80, "udp"))
        made.add("other")
        packets_of_a_pod_and_of_the_wire(made)
    finally:
        made.close()


def test_ingress_policy_sees_the_client(cni: HostPorts) -> None:
    cni.start("web", mapping(80), mapping(80, "udp"))
    cni.add("other")
    length = {4: 32, 6: 128}
    for (version, word), (allowed, passes) in product(BOTH, ((WORLD, True), (NODE, False))):
        rule = {
            "from": [{"cidr": f"{allowed[version]}/{length[version]}"}],
            "ports": [{"protocol": word, "port": TARGET}],
        }
        policy = {"name": "web", "pods": {"names": [name_of("web", "eth0")]}, "ingress": [rule]}
        cni.node.module("bpf_state", endpoints=[], policies=[policy])
        assert bool(cni.ask(cni.world, NODE[version], 80, word)) == passes
        assert not cni.ask(cni.containers["other"], NODE[version], 80, word)
        assert cni.ask(cni.node.name, LOOPBACK[version], 80, word)  # the node reaches its Pods


@pytest.mark.parametrize(("version", "word"), BOTH)
def test_addresses_and_protocols_of_several_pods(cni: HostPorts, version: int, word: str) -> None:
    """Two Pods have one port, at other addresses; the other protocol is that of a third one."""
    (other,) = KINDS.keys() - {word}
    cni.start("loopback", mapping(80, word, LOOPBACK[version]))
    cni.start("single", mapping(80, word, NODE[version]))
    cni.start("udp", mapping(80, other, {4: "0.0.0.0", 6: "::"}[version]))
    for netns in (cni.world, cni.node.name):
        assert cni.ask(netns, NODE[version], 80, word).startswith("single ")
        assert cni.ask(netns, NODE[version], 80, other).startswith("udp ")
        assert not cni.ask(netns, OTHER[version], 80, word)
    assert cni.ask(cni.node.name, LOOPBACK[version], 80, word).startswith("loopback ")
    # the conformance suite binds its client to the node's address
    assert cni.ask(cni.node.name, LOOPBACK[version], 80, word, NODE[version]) == f"loopback {NODE[version]}"
    for name in ("single", "udp"):
        assert not cni.ask(cni.containers[name], LOOPBACK[version], 80, word)
    # neither does a port of one family have one of the other
    assert not cni.ask(cni.world, NODE[10 - version], 80, other)


def test_a_pod_is_one_client_of_a_service_with_affinity(cni: HostPorts) -> None:
    """For its sockets as for its packets, such as a SYN that it repeats after the service was added."""
    for name in ("a", "b", "c", "other"):
        cni.start(name)
    for version, word in BOTH:
        backends = [
            {"address": address, "port": TARGET}
            for name in "abc"
            for address in cni.result(name)
            if (":" in address) == (version == 6)
        ]
        services = [
            {
                "name": f"service{number}",
                "address": {4: f"10.96.0.{number}", 6: f"fd96::{number}"}[version],
                "port": 80,
                "protocol": word,
                "backends": backends,
                "affinity": 1000,
            }
            for number in range(1, 9)
        ]
        cni.node.module("bpf_state", endpoints=[], services=services)
        for number, service in enumerate(services):
            order = (True, False) if number % 2 else (False, True)
            found = [
                cni.ask(cni.containers["other"], service["address"], 80, word, by_packets=by_packets)
                for by_packets in order * 2
            ]
            assert len({*found}) == 1 and "" not in found, (word, service["address"], order, found)


@pytest.mark.parametrize("version", [4, 6])
def test_a_port_has_connections_of_both_kinds(cni: HostPorts, version: int) -> None:
    """To the server, those of sockets look as those whose packets are translated."""
    for name in ("web", "other"):
        cni.start(name)
    (backend,) = (a for a in cni.result("web") if (":" in a) == (version == 6))
    service: dict[str, Any] = {
        "name": "service",
        "address": {4: "10.96.0.1", 6: "fd96::1"}[version],
        "port": 80,
        "protocol": "tcp",
        "backends": [{"address": backend, "port": TARGET}],
    }
    cni.node.module("bpf_state", endpoints=[], services=[service])
    found = [
        cni.ask(
            cni.containers["other"],
            service["address"],
            80,
            "tcp",
            source_port=4444,
            by_packets=by_packets,
        )
        for by_packets in (True, False) * 3
    ]
    assert all(answer.startswith("web ") for answer in found), found


@pytest.mark.parametrize("version", [4, 6])
def test_connected_datagram_sockets_end_with_the_pod(cni: HostPorts, version: int) -> None:
    """Of the node and of Pods."""
    cni.start("web", mapping(80, "udp"))
    cni.add("other")
    clients = []
    with contextlib.ExitStack() as files:
        for netns in (cni.node.name, cni.containers["other"]):
            with cni.node.ns.inside(netns):
                family = {4: socket.AF_INET, 6: socket.AF_INET6}[version]
                client = files.enter_context(socket.socket(family, socket.SOCK_DGRAM))
            client.settimeout(3)
            client.connect((NODE[version], 80))
            client.send(b"?")
            assert client.recv(64).startswith(b"web ")
            clients.append(client)
        cni.delete("web")
        for client in clients:
            with pytest.raises(ConnectionAbortedError):
                client.recv(64)
    cni.wait(lambda: "ended 2 UDP sockets that were connected to removed backends" in cni.agent.log())


def test_conflicts_fail_and_leave_nothing(cni: HostPorts) -> None:
    cni.start("web", mapping(80), mapping(53, "udp", OTHER[4]))
    node_port = {"name": "port", "address": "0.0.0.0", "port": 30080, "backends": []}
    cni.node.module("bpf_state", endpoints=[], services=[node_port])
    before = cni.services()
    for mappings, message in (
        (
            [mapping(80)],
            "hostPort 80/tcp of shop/second: service shop/web:hostPort already has all IPv4 addresses",
        ),
        ([mapping(80, address=NODE[6])], "already has all IPv6 addresses of the node port 80"),
        ([mapping(80, address="127.0.0.1")], "hostPort 80/tcp of shop/second"),
        ([mapping(81), mapping(53, "udp")], f"shop/web:hostPort already has {OTHER[4]} port 53"),
        ([mapping(30080)], "service port already has all IPv4 addresses of the node port 30080"),
        ([mapping(81, address="192.0.2.77")], "hostIP 192.0.2.77 is not an address of this node"),
        ([mapping(81), mapping(81, target=1)], "listed twice"),
    ):
        fails(cni, "second", protocol.FAILED, message, cni.with_ports(*mappings), ARGS=f"{POD}second")
        assert cni.services() == before
    assert cni.ask(cni.world, NODE[4], 80, "tcp").startswith("web ")
    cni.delete("web")
    cni.start("second", mapping(80))
    assert cni.ask(cni.world, NODE[4], 80, "tcp").startswith("second ")
    # and the other way around
    taken = {**node_port, "name": "taken", "port": 80}
    message = cni.node.module("bpf_state", endpoints=[], services=[taken], fails=True)["msg"]
    assert "already has 0.0.0.0 port 80" in message


def test_a_pod_with_too_many_host_ports(cni: HostPorts) -> None:
    cni.start("web", mapping(80))
    before = cni.services()
    ports = cni.with_ports(*(mapping(port) for port in range(1000, 6000)))
    fails(cni, "greedy", protocol.FAILED, "would have 10002 host ports, which exceed", ports)
    assert cni.services() == before
    assert cni.ask(cni.world, NODE[4], 80, "tcp").startswith("web ")


def test_the_end_of_a_host_port(cni: HostPorts) -> None:
    """By DEL, GC and reconciliation; restarts and kills of the agent keep it."""
    cni.start("web", mapping(80), mapping(81, address="127.0.0.1"))
    (pod,) = (address for address in cni.result("web") if ":" not in address)
    served = cni.services()
    assert served["0.0.0.0", 80, "tcp"] == [(pod, TARGET)] and served["127.0.0.1", 81, "tcp"]
    for number in (signal.SIGTERM, signal.SIGKILL):
        cni.agent.stop(number)
        assert cni.ask(cni.world, NODE[6], 80, "tcp").startswith("web ")
        cni.agent.start()
        assert cni.services() == served
    cni.start("other", mapping(90))
    assert cni.ask(cni.world, NODE[4], 80, "tcp").startswith("web ")
    cni.delete("web")
    assert {port for _address, port, _protocol in cni.services()} == {90}
    assert not cni.ask(cni.world, NODE[4], 80, "tcp")
    cni.add("web", cni.with_ports(mapping(80)))
    gc: dict[str, Any] = {**cni.config, "cniVersion": "1.1.0"}
    gc["cni.dev/valid-attachments"] = [{"containerID": "other", "ifname": "eth0"}]
    assert cni.agent.call("GC", gc) == Reply(0, {})
    assert {port for _address, port, _protocol in cni.services()} == {90}
    cni.add("gone", cni.with_ports(mapping(80)))
    cni.agent.stop(signal.SIGKILL)
    cni.node.ns.run(cni.node.name, "ip", "netns", "delete", cni.containers.pop("gone"))
    cni.agent.start()
    cni.wait(lambda: {port for _address, port, _protocol in cni.services()} == {90})
    cni.delete("other")
    assert cni.leftovers() == [] and cni.services() == {}


def test_repair_and_check(cni: HostPorts) -> None:
    cni.start("web", mapping(80))
    served = cni.services()
    result = json.loads((cni.folder / "attachments" / f"{name_of('web', 'eth0')}.json").read_text())["result"]
    assert cni.call("CHECK", "web", {**cni.config, "prevResult": result}) == Reply(0, {})
    cni.agent.stop()
    cni.node.ns.ip(cni.node.name, f"link delete {cni.device('web')}")
    cni.agent.start()
    cni.wait(lambda: bool(cni.ask(cni.world, NODE[4], 80, "tcp")))
    assert cni.services() == served


def test_programs_with_other_maps(cni: HostPorts, build: Callable[..., str]) -> None:
    """New maps have the host ports before programs use them."""
    cni.start("web", mapping(80))
    other = build(("endpoints.h", "ENDPOINTS_MAX 131072", "ENDPOINTS_MAX 8192"))
    cni.node.attach("host_ingress left ingress", object=other)
    assert cni.ask(cni.world, NODE[4], 80, "tcp").startswith("web ")


def test_a_family_that_the_pod_does_not_have(cni: HostPorts) -> None:
    ipam = {**cni.config["ipam"], "ranges": cni.config["ipam"]["ranges"][:1]}
    cni.add("web", {**cni.with_ports(mapping(80), mapping(81, address="::")), "ipam": ipam})
    assert [*cni.services()] == [("0.0.0.0", 80, "tcp")]
    assert "hostPort 81 of :: has no effect" in cni.agent.log()


def test_beside_kube_proxy_portmap_serves_them(node: Node, tmp_path: Path) -> None:
    made = HostPorts(node, tmp_path, kube_proxy="keep")
    try:
        made.add("web", made.with_ports(mapping(80)))
        assert made.services() == {}
    finally:
        made.close()


def test_info(cni: HostPorts) -> None:
    cni.start("web", mapping(80), mapping(81, "udp", "127.0.0.1"))
    with cni.node.ns.inside(cni.node.name):
        found = info.gather(cni.node.pins)
    (pod,) = found["pods"]
    assert pod["host_ports"] == [
        {"address": "", "port": 80, "protocol": "tcp", "target": TARGET},
        {"address": "127.0.0.1", "port": 81, "protocol": "udp", "target": TARGET},
    ]
    assert {one["name"] for one in found["services"]} == {"shop/web:hostPort"}
    assert "host ports:  2" in status.summary(found, {}, [], "")
