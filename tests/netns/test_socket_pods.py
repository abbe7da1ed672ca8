# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Services at socket level that depend on Pods, or on the client."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
from collections.abc import Iterator

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._datapath.live import LiveEntries
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.model import Backend, Pod, Service
from tests.netns.bpf_node import Node
from tests.netns.socket_cluster import BACKENDS, FLAVOURS, PORT, TARGET, V6, Cluster, address, servers

OWN = {4: "192.0.2.7", 6: "2001:db8::7"}  # which the service lists itself
ASSIGNED = {4: "10.96.0.9", 6: "fd96::9"}  # by the API


@pytest.fixture(scope="module")
def cluster(module_group: str, module_node: Node) -> Iterator[Cluster]:
    """Yield the cluster of all tests of this file, which replace all of its Pods and services."""
    made = Cluster(module_node, module_group)
    with servers(module_node):
        yield made


@FLAVOURS
def test_a_service_does_not_take_over_the_address_of_a_pod(cluster: Cluster, flavour: str) -> None:
    """Nor does a Pod that reports the address of a service in the cluster take over the service."""
    version = 6 if flavour == V6 else 4
    backend = Backend(ipaddress.ip_address(BACKENDS[version][0]), TARGET)
    services = [
        Service(f"ns/{one}", "kubernetes", ipaddress.ip_address(one), PORT, number, (backend,), listed=listed)
        for one, listed in ((OWN[version], True), (ASSIGNED[version], False))
        for number in (6, 17)
    ]
    pods = {
        f"ns/{one}": Pod(f"ns/{one}", "kubernetes", (ipaddress.ip_address(one),), {}, "other", uid=one)
        for one in (OWN[version], ASSIGNED[version])
    }
    own, assigned = address(flavour, OWN), address(flavour, ASSIGNED)

    def reached(to: str) -> set[str]:
        """Return what answers a connection and a datagram."""
        found = set()
        with contextlib.suppress(OSError):
            found.add(cluster.connect(flavour, to))
        with cluster.open(flavour, socket.SOCK_DGRAM) as client, contextlib.suppress(OSError):
            client.settimeout(1)
            client.sendto(b"?", (to, PORT))
            found.add(client.recv(64).decode())
        return found

    with cluster.node.ns.inside(cluster.node.name):
        entries = LiveEntries(cluster.node.pins, "cni", {"in_cluster": True})
    with contextlib.closing(entries):
        for known in ({}, pods, {}):
            with cluster.node.ns.inside(cluster.node.name):
                entries.set_cluster(known, [], services)
            assert reached(own) == ({str(backend.address)} if not known else set())
            assert reached(assigned) == {str(backend.address)}


@FLAVOURS
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_sources_include_the_node_or_not(cluster: Cluster, flavour: str, kind: int) -> None:
    """In other namespaces, only packets have the address of the client, so sockets are not translated."""
    version = 6 if flavour == V6 else 4
    own, number = BACKENDS[version][0], 6 if kind == socket.SOCK_STREAM else 17
    backend, to = Backend(ipaddress.ip_address(own), TARGET), (address(flavour, OWN), PORT)
    elsewhere = ipaddress.ip_network({4: "198.51.100.0/24", 6: "2001:db8:1::/48"}[version])
    with cluster.node.ns.inside(cluster.node.name):
        entries = LiveEntries(cluster.node.pins, "cni", {"in_cluster": True})
    pod = cluster.node.ns("pod")
    cases = (((), False), ((elsewhere,), False), ((elsewhere, ipaddress.ip_network(own)), True))
    with contextlib.closing(entries):
        for sources, is_allowed in cases:
            one = Service(
                *("ns/s", "kubernetes", ipaddress.ip_address(OWN[version]), PORT, number, (backend,)),
                listed=True,
                sources=sources,
            )
            with cluster.node.ns.inside(cluster.node.name):
                entries.set_cluster({}, [], [one])
            with cluster.open(flavour, kind) as client:
                if is_allowed:
                    client.connect(to)
                    client.send(b"?")
                    assert client.recv(64).decode() == own
                else:
                    with pytest.raises(ConnectionRefusedError):
                        client.connect(to)
            with cluster.open(flavour, kind, pod) as client, pytest.raises(OSError) as error:
                client.connect(to)
            assert error.value.errno == errno.ENETUNREACH
