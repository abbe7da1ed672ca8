# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Host ports of Pods: their services, conflicts, and the maps that they need."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.podnet.datapath.plugins.module_utils._datapath import host_ports, layout
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.cluster import CLUSTER, Cluster
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.compile import Compiler
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.merge import merge
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.model import (
    Backend,
    Declaration,
    Pod,
    Service,
)
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.node import Interface, Node
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.parse import parse

NODE = frozenset(map(ipaddress.ip_address, ("192.0.2.1", "2001:db8::1")))
COOKIE = 0x1122334455


def pod(name: str, *ports: dict[str, Any], addresses: Sequence[str] = ("10.0.0.1", "fd00::1")) -> Pod:
    endpoint = {"name": name, "device": "d", "addresses": addresses, "host_ports": ports}
    declared, problems = parse({"endpoints": [endpoint]}, "cni")
    assert not problems
    return declared.pods[0]


def port(number: int, target: int = 80, protocol: str = "tcp", address: str = "") -> dict[str, Any]:
    return {
        "port": number,
        "target": target,
        "protocol": protocol,
        **({"address": address} if address else {}),
    }


def service(address: str, number: int, protocol: int = 6, owner: str = CLUSTER) -> Service:
    return Service("shop/web:http", owner, ipaddress.ip_address(address), number, protocol)


def frontends(*pods: Pod) -> list[tuple[str, int, str, int]]:
    return [
        (str(one.address), one.port, str(one.backends[0].address), one.backends[0].port)
        for one in host_ports.host_port_services(pods)
    ]


def test_frontends_of_both_families_and_of_single_addresses() -> None:
    assert frontends(pod("a", port(1), port(2, address="127.0.0.1"), port(3, address="::"))) == [
        ("0.0.0.0", 1, "10.0.0.1", 80),
        ("::", 1, "fd00::1", 80),
        ("127.0.0.1", 2, "10.0.0.1", 80),
        ("::", 3, "fd00::1", 80),
    ]
    single = pod("a", port(1), port(2, address="::1"), addresses=["10.0.0.2", "10.0.0.1"])
    assert frontends(single) == [("0.0.0.0", 1, "10.0.0.2", 80)]


@pytest.mark.parametrize(
    ("new", "existing", "problem"),
    [
        (
            [port(1)],
            [pod("b", port(1))],
            "service b:hostPort already has all IPv4 addresses of the node port 1",
        ),
        ([port(1)], [pod("b", port(1, address="192.0.2.1"))], "b:hostPort already has 192.0.2.1 port 1"),
        ([port(1, address="::1")], [pod("b", port(1))], "b:hostPort already has all IPv6 addresses"),
        ([port(1, address="127.0.0.1")], [pod("b", port(1, address="127.0.0.1"))], "127.0.0.1 port 1"),
        ([port(1, address="127.0.0.1")], [pod("b", port(1, address="192.0.2.1"))], ""),
        ([port(1, protocol="udp")], [pod("b", port(1))], ""),
        ([port(1, address="0.0.0.0")], [pod("b", port(1, address="::"))], ""),
        ([port(1)], [service("0.0.0.0", 1)], "service shop/web:http already has all IPv4 addresses"),
        ([port(1, address="192.0.2.1")], [service("0.0.0.0", 1)], "shop/web:http already has"),
        ([port(1)], [service("0.0.0.0", 1, 17), service("::", 2)], ""),
        ([port(1, address="192.0.2.1")], [service("192.0.2.1", 1)], "already has 192.0.2.1 port 1"),
        # a load balancer of the node's address, whose Pod has its port
        ([port(1)], [service("192.0.2.1", 1)], ""),
        ([port(1, address="192.0.2.9")], [], "hostIP 192.0.2.9 is not an address of this node"),
        ([port(1, address="fe80::1")], [], "hostIP fe80::1 is not an address of this node"),
        ([port(1, 80), port(1, 81)], [], "listed twice for all IPv4 addresses of the node port 1"),
        ([port(1), port(1, address="192.0.2.1")], [], ""),
    ],
)
def test_conflicts(new: list[dict[str, Any]], existing: list[Any], problem: str) -> None:
    services = [
        one
        for given_ in existing
        for one in (host_ports.host_port_services([given_]) if isinstance(given_, Pod) else [given_])
    ]
    found = host_ports.host_port_problems([pod("a", *new)], services, NODE)
    assert (problem in "\n".join(found)) if problem else not found, found
    assert all(line.startswith("hostPort 1/") for line in found)


@pytest.mark.parametrize(
    ("given_", "taken"),
    [
        (port(6443), True),
        (port(6443, address="0.0.0.0"), True),
        (port(6443, address="192.0.2.1"), True),
        (port(6443, address="::"), False),
        (port(6443, address="127.0.0.1"), False),
        (port(6443, protocol="udp"), False),
        (port(443), False),
        (port(7443), False),  # of the API on another node
        (port(8443, address="127.0.0.1"), True),
    ],
)
def test_servers_of_the_node_that_a_host_port_would_take(given_: dict[str, Any], taken: bool) -> None:
    places = [("192.0.2.1", 6443), ("192.0.2.2", 7443), ("127.0.0.1", 8443)]
    servers = [(ipaddress.ip_address(address), number) for address, number in places]
    found = host_ports.taken_places(host_ports.parse_host_ports([given_]), servers, NODE)
    assert [number for _address, number in found] == ([given_["port"]] if taken else [])


def test_host_ports_leave_the_services_of_the_cluster_their_share() -> None:
    half = host_ports.MAX_DECLARED // 2
    full = pod("a", *(port(number) for number in range(1, half + 1)))
    services = list(host_ports.host_port_services([full]))
    of_cluster = [service("10.96.0.1", number) for number in range(1, 3000)]
    assert not host_ports.host_port_problems([full], of_cluster, NODE)
    (problem,) = host_ports.host_port_problems([pod("b", port(half + 1))], services, NODE)
    assert f"would have {host_ports.MAX_DECLARED + 2} host ports" in problem
    assert not host_ports.host_port_problems([pod("b")], services, NODE)


def test_pods_that_start_at_once_conflict() -> None:
    pods = [pod("a", port(1)), pod("b", port(1, address="192.0.2.1"), addresses=["10.0.0.2"])]
    (problem,) = host_ports.host_port_problems(pods, (), NODE)
    assert problem.startswith("hostPort 1/tcp of b: service a:hostPort already has")


ports = st.builds(
    port,
    st.integers(1, 2),
    st.integers(1, 2),
    st.sampled_from(["tcp", "udp"]),
    st.sampled_from(["", "0.0.0.0", "::", "127.0.0.1", "192.0.2.1", "2001:db8::1"]),
)


@given(st.lists(st.lists(ports, max_size=2), max_size=4))
def test_accepted_host_ports_lead_to_one_pod(given_: list[list[dict[str, Any]]]) -> None:
    """No packet to the node has two Pods, whichever ports were accepted, in whichever order."""
    accepted: list[Pod] = []
    for number, some in enumerate(given_):
        one = pod(str(number), *some, addresses=[f"10.0.0.{number}", f"fd00::{number}"])
        if not host_ports.host_port_problems([one], host_ports.host_port_services(accepted), NODE):
            accepted.append(one)
    services = list(host_ports.host_port_services(accepted))
    for address in (*NODE, ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1")):
        for number in (1, 2):
            for protocol in (6, 17):
                serving = {
                    one.name
                    for one in services
                    if (one.port, one.protocol, one.address.version) == (number, protocol, address.version)
                    and (one.address == address or one.address.is_unspecified)
                }
                assert len(serving) <= 1


def compiled(*pods: Pod, node: frozenset[Any] = NODE, services: Sequence[Service] = ()) -> Compiler:
    merged, _problems = merge(Declaration(list(pods), services=list(services)), [])
    return Compiler(merged, Node({"d": Interface(7)}, addresses=node, netns_cookie=COOKIE), {})


def test_the_image_of_host_ports() -> None:
    image = compiled(pod("a", port(1))).image
    assert {key[:2] for key in image.services} == {(bytes(16), b"\0\1")}
    assert image.features == (layout.FEATURE_SERVICES | layout.FEATURE_NODE_PORTS | layout.FEATURE_EXTERNAL)
    assert (COOKIE.to_bytes(8, "little").ljust(16, b"\0"), 0) in image.node_addresses
    assert len(image.node_addresses) == len(NODE) + 1
    for frontend in image.services.values():
        (backend,) = image.backends[frontend.digest]
        assert frontend.external == frontend.digest and not frontend.affinity
        assert layout.decode_backend(backend, 4)[1] == 80


def test_loopback_needs_the_namespace_and_no_lookup_of_node_ports() -> None:
    image = compiled(pod("a", port(1, address="127.0.0.1"))).image
    assert not image.features & layout.FEATURE_NODE_PORTS
    assert any(family == 0 for _address, family in image.node_addresses)
    assert not compiled(pod("a")).image.node_addresses


def test_a_host_port_of_an_address_that_the_node_lost_is_not_served() -> None:
    one = pod("a", port(1, address="192.0.2.1"))
    assert len(compiled(one).image.services) == 1
    lost = compiled(one, node=NODE - {ipaddress.ip_address("192.0.2.1")})
    assert not lost.image.services and not lost.problems


def test_a_later_service_does_not_take_over_a_host_port() -> None:
    one = pod("shop/web", port(30080))
    backend = Backend(ipaddress.ip_address("10.0.0.9"), 1)
    node_port = replace(service("0.0.0.0", 30080), backends=(backend,))
    merged, _problems = merge(Declaration(), [Declaration([one])], Cluster(services={"x/y:p": (node_port,)}))
    assert [str(found.backends[0].address) for found in merged.services] == ["10.0.0.1", "fd00::1"]
    assert merged.unenforced == ["services (x/y:p): service shop/web:hostPort already has 0.0.0.0 port 30080"]
    declared = Declaration(services=[replace(node_port, owner="site")])
    _merged, problems = merge(declared, [Declaration([one])])
    assert any("already has 0.0.0.0 port 30080" in problem for problem in problems)
