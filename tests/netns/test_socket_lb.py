# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Services at socket level, with real sockets: the programs are attached to a cgroup of this test only."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._kernel import bpf
from tests.netns.bpf_node import Node
from tests.netns.socket_cluster import (
    BACKENDS,
    EMPTY,
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

FAMILIES = pytest.mark.parametrize("flavour", [V4, V6])


@pytest.fixture(scope="module")
def shared(module_group: str, module_node: Node) -> Iterator[Cluster]:
    """Yield the cluster of the tests that do not change its programs and addresses."""
    made = Cluster(module_node, module_group)
    with servers(module_node):
        yield made


@pytest.fixture
def cluster(shared: Cluster) -> Cluster:
    """Return the shared cluster with services as at the start of a test."""
    shared.services()
    with bpf.closing(bpf.obj_get(f"{shared.node.pins}/maps/affinities")) as fd:
        bpf.map_delete(fd, list(bpf.map_read(fd)))
    return shared


@pytest.fixture
def own_cluster(group: str, node: Node) -> Iterator[Cluster]:
    """Yield a cluster of one test."""
    made = Cluster(node, group)
    made.services()
    with servers(node):
        yield made


@FLAVOURS
def test_tcp_connects_to_each_backend_and_sees_the_service(cluster: Cluster, flavour: str) -> None:
    found = Counter(cluster.connect(flavour, address(flavour, SERVICE)) for dummy in range(60))
    assert found.keys() == {*backends_of(flavour)}
    assert min(found.values()) > 5


@FLAVOURS
@pytest.mark.parametrize("connected", [True, False], ids=["connected", "unconnected"])
def test_udp_socket_has_one_backend_and_sees_the_service(
    cluster: Cluster, flavour: str, connected: bool
) -> None:
    to = (address(flavour, SERVICE), PORT)
    found = set()
    for dummy in range(40):
        with cluster.open(flavour, socket.SOCK_DGRAM) as client:
            if connected:
                client.connect(to)
                assert client.getpeername()[:2] == to
            answers = set()
            for dummy in range(3):
                if connected:
                    client.send(b"?")
                else:
                    client.sendto(b"?", to)
                answer, sender = client.recvfrom(64)
                assert sender[:2] == to
                answers.add(answer.decode())
            assert len(answers) == 1
            found |= answers
    assert found == {*backends_of(flavour)}


@FLAVOURS
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_service_without_backends_refuses(cluster: Cluster, flavour: str, kind: int) -> None:
    empty = (address(flavour, EMPTY), PORT)
    with cluster.open(flavour, kind) as client, pytest.raises(ConnectionRefusedError):
        client.connect(empty)
    with cluster.open(flavour, socket.SOCK_DGRAM) as client, pytest.raises(ConnectionRefusedError):
        client.sendto(b"?", empty)


@FLAVOURS
def test_other_addresses_and_ports_are_not_translated(cluster: Cluster, flavour: str) -> None:
    """Also of a socket that was connected to a service before."""
    direct = (address(flavour, {v: BACKENDS[v][0] for v in (4, 6)}), TARGET)
    assert cluster.connect(flavour, *direct) == backends_of(flavour)[0]
    with cluster.open(flavour, socket.SOCK_DGRAM) as client:
        client.connect((address(flavour, SERVICE), PORT))
        while client.getpeername()[1] != TARGET:
            client.connect(direct)
        assert client.getpeername()[:2] == direct
        client.send(b"?")
        assert client.recvfrom(64)[1][:2] == direct
    with cluster.open(flavour, socket.SOCK_DGRAM) as client:
        client.sendto(b"?", (address(flavour, SERVICE), PORT))
        answer, _sender = client.recvfrom(64)
        used = address(flavour, {4: answer.decode(), 6: answer.decode()})
        client.sendto(b"?", (used, TARGET))
        assert client.recvfrom(64)[1][:2] == (used, TARGET)
    for port in (0, PORT + 1, TARGET):
        with cluster.open(flavour, socket.SOCK_DGRAM) as client:
            with contextlib.suppress(OSError):
                client.sendto(b"?", (address(flavour, SERVICE), port))
            client.settimeout(0.1)
            with pytest.raises(TimeoutError):
                client.recv(64)


@FLAVOURS
@pytest.mark.parametrize("drains", [False, True])
def test_a_client_with_affinity_keeps_its_backend(cluster: Cluster, flavour: str, drains: bool) -> None:
    to = address(flavour, SERVICE)
    cluster.services(affinity=1000)
    (first,) = {cluster.connect(flavour, to) for dummy in range(20)}
    # a shorter one, which expires one to two seconds after the last connection
    cluster.services(affinity=1)
    ends = time.monotonic() + 30
    while cluster.connect(flavour, to) == first:
        assert time.monotonic() < ends
        time.sleep(2.1)
    # and ends when its backend gets no new connections
    cluster.services(affinity=1000)
    first = cluster.connect(flavour, to)
    kept = [one for one in backends_of(flavour) if one != first]
    version = 6 if flavour == V6 else 4
    draining = [first] if drains else []
    cluster.declare(service(f"web{version}tcp", SERVICE[version], *kept, draining=draining, affinity=1000))
    (second,) = {cluster.connect(flavour, to) for dummy in range(20)}
    assert second in kept


@FLAVOURS
def test_a_backend_is_removed(cluster: Cluster, flavour: str) -> None:
    """TCP connections remain; a socket with unconnected UDP uses another backend from then on."""
    to = (address(flavour, SERVICE), PORT)
    with (
        cluster.open(flavour) as stream,
        cluster.open(flavour, socket.SOCK_DGRAM) as datagrams,
    ):
        while True:
            datagrams.sendto(b"?", to)
            if datagrams.recv(64).decode() != backends_of(flavour)[0]:
                break
            datagrams.close()
            datagrams = cluster.open(flavour, socket.SOCK_DGRAM)
        stream.connect(to)
        cluster.services(count=1)
        stream.send(b"?")
        assert stream.recv(64).decode() in backends_of(flavour)
        assert stream.getpeername()[:2] == to
        datagrams.sendto(b"?", to)
        answer, sender = datagrams.recvfrom(64)
        assert (answer.decode(), sender[:2]) == (backends_of(flavour)[0], to)


@FAMILIES
def test_node_ports(own_cluster: Cluster, flavour: str) -> None:
    """All addresses of the node, and no other ones."""
    version = 6 if flavour == V6 else 4
    anywhere = {4: "0.0.0.0", 6: "::"}[version]
    own_cluster.declare(
        *(
            service(f"port-{protocol}", anywhere, BACKENDS[version][0], port=30080, protocol=protocol)
            for protocol in ("tcp", "udp")
        )
    )
    for node in BACKENDS[version]:
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            assert own_cluster.connect(flavour, node, 30080, kind) == BACKENDS[version][0]
    with own_cluster.open(flavour) as client, pytest.raises(OSError) as error:
        client.connect((SERVICE[version], 30080))
    assert error.value.errno == errno.ENETUNREACH
    # an address that the node gets later
    later = {4: "10.31.1.99", 6: "fd31:1::99"}[version]
    own_cluster.node.ns.ip(own_cluster.node.name, f"addr add {later}/{32 if version == 4 else 128} dev lo")
    own_cluster.node.module("bpf_state", endpoints=[], services=[])
    own_cluster.declare(service("port", anywhere, BACKENDS[version][1], port=30080))
    assert own_cluster.connect(flavour, later, 30080) == BACKENDS[version][1]


LOOPBACK = {4: "127.0.0.1", 6: "::1"}
ANY = {4: "0.0.0.0", 6: "::"}


def ports_of_the_node(cluster: Cluster, addresses: dict[int, str]) -> None:
    """Declare the port 30080 of these addresses, for both protocols."""
    cluster.declare(
        *(
            {
                "name": f"port{version}{protocol}",
                "address": one,
                "port": 30080,
                "protocol": protocol,
                "backends": [{"address": BACKENDS[version][0], "port": TARGET}],
            }
            for version, one in addresses.items()
            for protocol in ("tcp", "udp")
        )
    )


@FLAVOURS
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_ports_of_the_node_on_loopback(cluster: Cluster, flavour: str, kind: int) -> None:
    """For processes in the namespace of the node."""
    ports_of_the_node(cluster, ANY)
    backend = backends_of(flavour)[0]
    for by_version in (LOOPBACK, {4: "127.8.9.10", 6: "::1"}):
        assert cluster.connect(flavour, address(flavour, by_version), 30080, kind) == backend
    to = (address(flavour, LOOPBACK), 30080)
    with cluster.open(flavour, socket.SOCK_DGRAM) as client:
        client.sendto(b"?", to)
        answer, sender = client.recvfrom(64)
        assert (answer.decode(), sender[:2]) == (backend, to)


@FLAVOURS
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_loopback_of_other_namespaces_is_their_own(cluster: Cluster, flavour: str, kind: int) -> None:
    """A port of the node neither reaches a Pod by the loopback address of another Pod, nor hides its own."""
    pod = cluster.node.ns("pod")
    cluster.node.ns.ip(pod, "link set lo up")
    ports_of_the_node(cluster, ANY)
    own = address(flavour, LOOPBACK)
    open_in_pod = partial(cluster.open, flavour, kind, pod)

    for to in (own, address(flavour, ANY)):
        with open_in_pod() as client, pytest.raises(ConnectionRefusedError):
            client.connect((to, 30080))
            client.send(b"?")
            client.recv(64)
    with open_in_pod() as server, open_in_pod() as client:
        server.bind((own, 30080))
        if kind == socket.SOCK_STREAM:
            server.listen()
        client.connect((own, 30080))
        client.send(b"own")
        accepted = server.accept()[0] if kind == socket.SOCK_STREAM else server
        with accepted:
            assert accepted.recv(64) == b"own"


def test_a_socket_with_many_services_does_not_affect_others(cluster: Cluster) -> None:
    """A process fills what its socket remembers; others, and its own last services, are not affected."""
    cluster.declare(
        *(
            service(f"s{number}", f"10.97.0.{number}", BACKENDS[4][number % 3], protocol="udp")
            for number in range(1, 201)
        )
    )
    with cluster.open(V4, socket.SOCK_DGRAM) as quiet, cluster.open(V4, socket.SOCK_DGRAM) as hostile:
        quiet.sendto(b"?", ("10.97.0.1", PORT))
        for dummy in range(20):
            for number in range(1, 201):
                hostile.sendto(b"?", (f"10.97.0.{number}", PORT))
                assert hostile.recvfrom(64)[1] == (f"10.97.0.{number}", PORT)
        assert quiet.recvfrom(64)[1] == ("10.97.0.1", PORT)


def test_invalid_calls_get_the_errors_of_the_kernel(own_cluster: Cluster) -> None:
    """Short, huge and foreign addresses have the same results with and without the programs."""
    with_programs = errors_of_invalid_calls(own_cluster)
    assert own_cluster.connect(V4, SERVICE[4]) in BACKENDS[4]
    own_cluster.node.attach()
    assert with_programs == errors_of_invalid_calls(own_cluster)
    assert len({*with_programs}) > 3


def errors_of_invalid_calls(cluster: Cluster) -> list[int]:
    """Return the errno, or 0, of each call that has an invalid or unreachable address."""
    libc = ctypes.CDLL(None, use_errno=True)
    found = []
    with cluster.open(V4, socket.SOCK_DGRAM) as v4, cluster.open(V6, socket.SOCK_DGRAM) as v6:
        for made in (v4, v6):
            for length in (0, 1, 2, 7, 8, 15, 16, 24, 27, 28, 127, 128, 129, 1 << 20):
                for family in (0, 1, 2, 10, 40):
                    raw = family.to_bytes(2, "little") + bytes(range(126))
                    for result in (
                        libc.connect(made.fileno(), raw, length),
                        libc.sendto(made.fileno(), b"?", 1, 0, raw, length),
                    ):
                        found.append(ctypes.get_errno() if result < 0 else 0)
    return found


def test_concurrent_use_of_one_socket(cluster: Cluster) -> None:
    """Threads use one unconnected socket for two services; each reply has the address of a service."""
    names = [("10.97.0.1", PORT), ("10.97.0.2", PORT)]
    cluster.declare(
        *(
            service(to, to, BACKENDS[4][number], port=port, protocol="udp")
            for number, (to, port) in enumerate(names)
        )
    )
    expected = {(BACKENDS[4][number], to) for number, to in enumerate(names)}
    with cluster.open(V4, socket.SOCK_DGRAM) as client:
        ended, deadline = threading.Event(), time.monotonic() + 20

        def send(to: tuple[str, int]) -> None:
            while not ended.is_set() and time.monotonic() < deadline:
                client.sendto(b"?", to)

        threads = [threading.Thread(target=send, args=(to,)) for to in names * 2]
        for thread in threads:
            thread.start()
        found: Counter[tuple[str, tuple[str, int]]] = Counter()
        client.settimeout(1)
        with contextlib.suppress(TimeoutError):
            while True:
                answer, sender = client.recvfrom(64)
                found[answer.decode(), sender] += 1
                if all(found[one] >= 300 for one in expected):  # Full buffers lose others.
                    ended.set()
        for thread in threads:
            thread.join()
    assert found.keys() == expected
    assert ended.is_set(), found
