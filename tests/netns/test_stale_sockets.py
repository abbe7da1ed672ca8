# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""UDP sockets that are connected to a service end when the service loses their backend."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import ipaddress
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._agent.stale_sockets import StaleSockets
from ansible_collections.podnet.datapath.plugins.module_utils._cluster.state import REDUCE, ClusterState
from ansible_collections.podnet.datapath.plugins.module_utils._datapath import stale_sockets
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.live import LiveEntries
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.model import Backend, Service
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.stale_sockets import (
    Ended,
    EndSockets,
    end_stale_sockets,
)
from ansible_collections.podnet.datapath.plugins.module_utils._kernel import bpf, libbpf, sock_diag
from ansible_collections.podnet.datapath.plugins.module_utils._kernel.netlink import KernelRefusal
from tests.netns.bpf_node import Node
from tests.netns.socket_cluster import (
    BACKENDS,
    FLAVOURS,
    PORT,
    SERVICE,
    TARGET,
    V4,
    V6,
    Cluster,
    address,
    backends_of,
    servers,
    service,
)

iterate = bpf.iterate
REMAINING = {4: BACKENDS[4][0], 6: BACKENDS[6][0]}
REMOVED = {4: BACKENDS[4][1], 6: BACKENDS[6][1]}


@pytest.fixture(scope="module")
def shared(module_group: str, module_node: Node) -> Iterator[Cluster]:
    """Yield the cluster of the tests that do not change its programs and have no agent."""
    made = Cluster(module_node, module_group)
    with servers(module_node):
        yield made


@pytest.fixture
def cluster(shared: Cluster) -> Cluster:
    """Return the shared cluster with services as at the start of a test."""
    shared.services(count=2)
    return shared


@pytest.fixture
def own_cluster(group: str, node: Node) -> Iterator[Cluster]:
    """Yield a cluster of one test."""
    made = Cluster(node, group)
    made.services(count=2)
    with servers(node):
        yield made


@pytest.fixture(scope="module")
def pod(shared: Cluster) -> str:
    """Return the Pod of the shared cluster."""
    return make_pod(shared)


def make_pod(cluster: Cluster) -> str:
    """Return a namespace whose route to the backends leads through the node."""
    name: str = cluster.node.ns("pod")
    cluster.node.ns.ip(
        cluster.node.name,
        f"link set right netns {name}",
        "addr add 10.31.9.1/24 dev left",
        "addr add fd31:9::1/64 dev left nodad",
        "link set left up",
    )
    cluster.node.ns.ip(
        name,
        "addr add 10.31.9.2/24 dev right",
        "addr add fd31:9::2/64 dev right nodad",
        "link set right up",
        "route add default via 10.31.9.1",
        "route add default via fd31:9::1",
    )
    return name


def opened(cluster: Cluster, flavour: str, where: str = "") -> socket.socket:
    """Return a UDP socket in a namespace, by default in that of the node."""
    with cluster.node.ns.inside(where or cluster.node.name):
        made = socket.socket(socket.AF_INET if flavour == V4 else socket.AF_INET6, socket.SOCK_DGRAM)
    made.settimeout(3)
    return made


def asked(client: socket.socket) -> str:
    """Return the address at which a connected socket reaches a server."""
    client.send(b"?")
    return client.recv(64).decode()


def connected(cluster: Cluster, flavour: str, backend: dict[int, str], where: str = "") -> socket.socket:
    """Return a socket that is connected to the service, and got this backend."""
    while True:
        client = opened(cluster, flavour, where)
        client.connect((address(flavour, SERVICE), PORT))
        if asked(client) == backend[6 if flavour == V6 else 4]:
            return client
        client.close()


def error_of(client: socket.socket) -> int:
    """Return the error of a socket, 0 if there is none."""
    return client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


@FLAVOURS
@pytest.mark.parametrize("where", ["node", "pod"])
def test_a_socket_of_a_removed_backend_ends(cluster: Cluster, pod: str, flavour: str, where: str) -> None:
    """Its process gets an error, and the remaining backend by connect(). Other sockets are untouched."""
    namespace = pod if where == "pod" else ""
    direct = opened(cluster, flavour, namespace)
    direct.connect((address(flavour, REMOVED), TARGET))
    # A socket that was connected to the service before is direct as well.
    former = connected(cluster, flavour, REMOVED, namespace)
    former.connect((address(flavour, REMOVED), TARGET))
    # The kernel keeps what is remembered of a socket that was disconnected.
    disconnected = connected(cluster, flavour, REMOVED, namespace)
    assert ctypes.CDLL(None).connect(disconnected.fileno(), bytes(16), 16) == 0
    kept = connected(cluster, flavour, REMAINING, namespace)
    ended = connected(cluster, flavour, REMOVED, namespace)
    unconnected = opened(cluster, flavour, namespace)
    unconnected.sendto(b"?", (address(flavour, SERVICE), PORT))
    unconnected.recv(64)
    stream = cluster.open(flavour)
    with direct, former, disconnected, kept, ended, unconnected, stream:
        stream.connect((address(flavour, SERVICE), PORT))
        cluster.services(count=1)
        with pytest.raises(OSError) as error:
            ended.send(b"?")
        assert error.value.errno == errno.EDESTADDRREQ
        with pytest.raises(ConnectionAbortedError):
            ended.recv(64)
        ended.connect((address(flavour, SERVICE), PORT))
        assert asked(ended) == asked(kept) == backends_of(flavour)[0]
        assert asked(direct) == asked(former) == backends_of(flavour)[1]
        assert error_of(disconnected) == error_of(unconnected) == error_of(stream) == 0
        assert asked(stream) in backends_of(flavour)[:2]


@FLAVOURS
def test_all_sockets_of_a_removed_service_end(cluster: Cluster, flavour: str) -> None:
    version = 6 if flavour == V6 else 4
    with connected(cluster, flavour, REMAINING) as client:
        cluster.declare(service("web", SERVICE[10 - version], *BACKENDS[10 - version], protocol="udp"))
        with pytest.raises(ConnectionAbortedError):
            client.recv(64)


@FLAVOURS
def test_changes_that_keep_the_backend(own_cluster: Cluster, flavour: str, build: Callable[..., str]) -> None:
    """More backends, other services and protocols, and maps in which the backend has another index."""
    with connected(own_cluster, flavour, REMAINING) as client:
        own_cluster.services(count=3)
        own_cluster.services(count=1, affinity=10)
        own = [
            service(f"web{version}udp", SERVICE[version], REMAINING[version], protocol="udp")
            for version in (4, 6)
        ]
        own_cluster.declare(*own)
        others = [
            service(f"a{number}", f"10.96.7.{number}", BACKENDS[4][number], protocol="udp")
            for number in (1, 2)
        ]
        own_cluster.declare(*others, *own)
        own_cluster.attach(object=build(("endpoints.h", "ENDPOINTS_MAX 131072", "ENDPOINTS_MAX 8192")))
        own_cluster.declare(*others[1:], *own)
        assert asked(client) == backends_of(flavour)[0]


@FLAVOURS
def test_sockets_of_a_draining_backend(cluster: Cluster, flavour: str) -> None:
    """They keep it until it is removed. It gets no new ones, even if there is no other backend."""
    version = 6 if flavour == V6 else 4
    to = (address(flavour, SERVICE), PORT)

    def answered() -> str:
        unconnected.sendto(b"?", to)
        return unconnected.recv(64).decode()

    def declare(*backends: str, draining: Sequence[str] = ()) -> None:
        own = service("web", SERVICE[version], *backends, draining=draining, protocol="udp")
        cluster.declare(own)

    unconnected = opened(cluster, flavour)
    while answered() != REMOVED[version]:
        unconnected.close()
        unconnected = opened(cluster, flavour)
    with unconnected, connected(cluster, flavour, REMOVED) as client:
        for backends in ((REMAINING[version],), ()):
            declare(*backends, draining=[REMOVED[version]])
            assert asked(client) == answered() == REMOVED[version]
            with opened(cluster, flavour) as other:
                if backends:
                    other.connect(to)
                    assert asked(other) == REMAINING[version]
                else:
                    with pytest.raises(ConnectionRefusedError):
                        other.connect(to)
        declare(REMAINING[version])
        assert error_of(client) == errno.ECONNABORTED
        assert answered() == REMAINING[version]


def test_a_backend_of_another_service(cluster: Cluster) -> None:
    """A service loses a backend that another one keeps."""

    def declare(*backends: str) -> None:
        cluster.declare(
            service("one", SERVICE[4], *backends, protocol="udp"),
            service("two", "10.96.0.2", *BACKENDS[4][:2], protocol="udp"),
        )

    declare(*BACKENDS[4][:2])
    with connected(cluster, V4, REMOVED) as one, opened(cluster, V4) as two:
        while True:
            two.connect(("10.96.0.2", PORT))
            if asked(two) == REMOVED[4]:
                break
        declare(REMAINING[4])
        assert error_of(one) == errno.ECONNABORTED
        assert asked(two) == REMOVED[4]


def test_sockets_with_the_same_addresses(cluster: Cluster) -> None:
    """A removed backend's sockets end also if the kernel finds another one by their addresses."""
    cluster.declare(service("web", SERVICE[4], REMOVED[4], protocol="udp"))
    with contextlib.ExitStack() as files:
        clients = []
        for dummy in range(5):
            client = files.enter_context(opened(cluster, V4))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            client.bind((BACKENDS[4][2], 40000))
            client.connect((SERVICE[4], PORT))
            clients.append(client)
        cluster.declare(service("web", SERVICE[4], REMAINING[4], protocol="udp"))
        assert [error_of(client) for client in clients] == [errno.ECONNABORTED] * 5


def test_a_socket_of_a_device(cluster: Cluster, pod: str) -> None:
    """SO_BINDTODEVICE is part of the addresses by which the kernel finds a socket."""
    with opened(cluster, V4, pod) as client:
        with cluster.node.ns.inside(pod):
            client.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"right")
        client.connect((SERVICE[4], PORT))
        cluster.declare()
        assert error_of(client) == errno.ECONNABORTED


def test_many_sockets(cluster: Cluster) -> None:
    """More than one read of the iterator and one batch of requests."""
    with contextlib.ExitStack() as files:
        clients = [files.enter_context(opened(cluster, V4)) for dummy in range(800)]
        for client in clients:
            client.connect((SERVICE[4], PORT))
        cluster.declare()
        assert {error_of(client) for client in clients} == {errno.ECONNABORTED}


# The agent


def udp_service(*backends: str, protocol: int = 17) -> Service:
    found = tuple(Backend(ipaddress.ip_address(one), TARGET) for one in backends)
    return Service("ns/web", "kubernetes", ipaddress.ip_address(SERVICE[4]), PORT, protocol, found)


@contextlib.contextmanager
def entries_of(cluster: Cluster, end_sockets: EndSockets) -> Iterator[Callable[[Sequence[Service]], object]]:
    """Yield a function that sets the services of a cluster as the agent does."""
    cluster.declare()
    with cluster.node.ns.inside(cluster.node.name):
        entries = LiveEntries(cluster.node.pins, "cni", {"in_cluster": True}, end_sockets)
    with contextlib.closing(entries):

        def set_services(services: Sequence[Service]) -> None:
            with cluster.node.ns.inside(cluster.node.name):
                entries.set_cluster({}, [], services)

        yield set_services


def start_agent(cluster: Cluster) -> StaleSockets:
    """Run the agent's thread, in this process."""
    made = StaleSockets(cluster.node.pins)

    def run() -> None:
        with cluster.node.ns.inside(cluster.node.name):
            made.run()

    threading.Thread(target=run, daemon=True).start()
    return made


def soon(condition: Callable[[], bool]) -> bool:
    """Return whether a condition is met within ten seconds."""
    deadline = time.monotonic() + 10
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def ends(client: socket.socket) -> bool:
    return soon(lambda: error_of(client) == errno.ECONNABORTED)


def test_the_agent_ends_sockets(own_cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with entries_of(own_cluster, start_agent(own_cluster).request) as set_services:
        for dummy in range(2):
            set_services([udp_service(*BACKENDS[4][:2])])
            with connected(own_cluster, V4, REMOVED) as client:
                set_services([udp_service(REMAINING[4])])
                assert ends(client)
    message = "ended 1 UDP sockets that were connected to removed backends"
    assert soon(lambda: caplog.messages == [message] * 2)


def test_the_agent_was_killed_before_it_ended_sockets(own_cluster: Cluster) -> None:
    with entries_of(own_cluster, lambda _pin_path: Ended()) as set_services:
        set_services([udp_service(REMOVED[4])])
        with connected(own_cluster, V4, REMOVED) as client:
            set_services([])
            assert not error_of(client)
            start_agent(own_cluster)
            assert ends(client)


def test_a_connect_that_selected_its_backend_before(
    own_cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel sets the address after the program has returned: the first search may not find it."""
    with entries_of(own_cluster, lambda _pin_path: Ended()) as set_services:
        set_services([udp_service(REMOVED[4])])
        with connected(own_cluster, V4, REMOVED) as client:
            set_services([])
            searches = iter([b""])
            monkeypatch.setattr(bpf, "iterate", lambda *fds: next(searches, None) or iterate(*fds))
            start_agent(own_cluster)
            assert ends(client)


def test_other_changes_search_for_no_sockets(own_cluster: Cluster) -> None:
    requested: list[str] = []

    def request(pin_path: str) -> Ended:
        requested.append(pin_path)
        return Ended()

    with entries_of(own_cluster, request) as set_services:
        for services in (
            [udp_service(REMOVED[4]), udp_service(*BACKENDS[4], protocol=6)],
            [udp_service(*BACKENDS[4]), udp_service(REMOVED[4], protocol=6)],
            [udp_service(*BACKENDS[4])],
        ):
            set_services(services)
            assert not requested
        set_services([udp_service(REMOVED[4])])
        set_services([])
        assert requested == [own_cluster.node.pins] * 2


def test_a_terminating_endpoint(own_cluster: Cluster) -> None:
    """As with kube-proxy, its sockets keep it while it serves. New ones get it if no other is ready."""
    state = ClusterState("node")
    spec = {"clusterIPs": [SERVICE[4]], "ports": [{"name": "dns", "port": PORT, "protocol": "UDP"}]}
    meta = {"name": "web", "namespace": "ns", "uid": "1"}
    state.apply("services", {"ns/web": REDUCE["services"]({"metadata": meta, "spec": spec})})

    def endpoints(*found: tuple[str, str]) -> Sequence[Service]:
        """Return the services with endpoints, and how each one ends; empty if it is ready."""
        item = {
            "metadata": {**meta, "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4",
            "ports": [{"name": "dns", "port": TARGET, "protocol": "UDP"}],
            "endpoints": [
                {
                    "addresses": [one],
                    "conditions": {
                        "ready": not ending,
                        "serving": ending != "not serving",
                        "terminating": bool(ending),
                    },
                }
                for one, ending in found
            ],
        }
        state.apply("endpointslices", {"ns/web": REDUCE["endpointslices"](item)})
        state.take()
        return state.services

    with entries_of(own_cluster, end_stale_sockets) as set_services:
        set_services(endpoints((REMOVED[4], "")))
        with connected(own_cluster, V4, REMOVED) as client:
            set_services(endpoints((REMOVED[4], "terminating")))
            with connected(own_cluster, V4, REMOVED):
                assert asked(client) == REMOVED[4]
            set_services(endpoints((REMOVED[4], "terminating"), (REMAINING[4], "")))
            with opened(own_cluster, V4) as other:
                other.connect((SERVICE[4], PORT))
                assert (asked(other), asked(client)) == (REMAINING[4], REMOVED[4])
            set_services(endpoints((REMOVED[4], "not serving"), (REMAINING[4], "")))
            assert error_of(client) == errno.ECONNABORTED


# What cannot be ended


@pytest.mark.parametrize("missing", ["iterators", "SOCK_DESTROY", "path"])
def test_sockets_that_cannot_be_ended(
    own_cluster: Cluster, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    """The change succeeds, with a warning."""
    pod = make_pod(own_cluster)
    prefix = "UDP sockets stay connected to removed backends: "
    if missing == "iterators":
        monkeypatch.setattr(libbpf, "has_socket_iterator", lambda: False)
        assert stale_sockets.PROGRAM not in own_cluster.attach()["programs"]
        expected = prefix + "the kernel has no BPF iterators (CONFIG_BPF_EVENTS)"
    elif missing == "SOCK_DESTROY":
        refused = KernelRefusal(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        monkeypatch.setattr(sock_diag, "destroy", lambda requests, _path: [refused] * len(requests))
        expected = f"1 {prefix}Operation not supported; the kernel needs CONFIG_INET_UDP_DIAG"
    else:
        expected = f"1 {prefix}no process is in their network namespace"
    with opened(own_cluster, V4, pod) as client:
        client.connect((SERVICE[4], PORT))
        if missing == "path":
            own_cluster.node.ns.run(own_cluster.node.name, "ip", "netns", "delete", pod)
        result = own_cluster.node.module("bpf_state", endpoints=[], services=[])
        assert result["changed"] and expected in str(result["warnings"])
        assert not error_of(client)
