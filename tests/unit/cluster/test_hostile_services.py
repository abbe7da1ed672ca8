# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Services of a tenant take over no address of others."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._agent import cluster
from ansible_collections.podnet.datapath.plugins.module_utils._cluster.state import REDUCE, ClusterState
from tests.unit.cluster.test_services import Json, endpoint, endpoint_slice, service, shown, state_of

SPECIAL = ("0.0.0.0", "::", "127.0.0.1", "::1", "169.254.169.254", "fe80::1", "224.0.0.1", "ff02::1")


def created(item: Json, when: str) -> Json:
    item["metadata"]["creationTimestamp"] = when
    return item


def owners(state: ClusterState, address: str) -> dict[int, str]:
    """Return the services that have an address, by port."""
    return {one.port: one.name for one in state.services if str(one.address) == address}


def test_special_addresses_are_no_addresses_of_services() -> None:
    node_port = service(type="NodePort", ports=[{"name": "http", "port": 80, "nodePort": 30080}])
    expected = shown(state_of([node_port]))
    hostile = service("evil", clusterIPs=[], type="LoadBalancer", externalIPs=[*SPECIAL])
    hostile["spec"] = {**hostile["spec"], "clusterIPs": ["10.96.1.1", "fd96::1:1"]}
    hostile["spec"]["ports"] = [{"name": "http", "port": 30080}]
    state = state_of(
        [node_port, hostile], status={"loadBalancer": {"ingress": [{"ip": one} for one in SPECIAL]}}
    )
    assert shown(state) == {**expected, "10.96.1.1 30080": [], "fd96::1:1 30080": []}
    (problem,) = (one for one in state.unenforced if one.name == "evil")
    assert all(one in problem.message for one in SPECIAL)


@pytest.mark.parametrize("address", SPECIAL)
def test_special_addresses_are_no_endpoints(address: str) -> None:
    family = "IPv6" if ":" in address else "IPv4"
    good = "fd00::1" if ":" in address else "10.0.1.1"
    found = shown(state_of([service()], endpoint_slice([endpoint(address), endpoint(good)], family)))
    assert [one for some in found.values() for one in some] == [good]


def test_any_port_of_an_address_in_the_cluster_is_that_of_its_service() -> None:
    dns = service("dns", clusterIPs=["10.96.0.10"], ports=[{"port": 53, "protocol": "UDP"}])
    hostile = service("evil", clusterIPs=["10.96.0.99"], externalIPs=["10.96.0.10"])
    hostile["spec"]["ports"] = [{"name": "a", "port": 53}, {"name": "b", "port": 53, "protocol": "UDP"}]
    state = state_of([dns, hostile])
    assert owners(state, "10.96.0.10") == {53: "x/dns:53"}
    assert {one.message for one in state.unenforced} == {
        "10.96.0.10 is the address of service x/dns in the cluster"
    }


def test_a_load_balancer_and_an_older_service_keep_their_addresses() -> None:
    balanced = created(service("web", clusterIPs=["10.96.0.1"], type="LoadBalancer"), "2026-03-01T00:00:00Z")
    listed = created(
        service("shop", clusterIPs=["10.96.0.2"], externalIPs=["192.0.2.9"]), "2026-02-01T00:00:00Z"
    )
    balanced["status"] = {"loadBalancer": {"ingress": [{"ip": "192.0.2.8"}]}}
    for when, others in (
        ("2026-01-01T00:00:00Z", {80: "x/a:http"}),
        ("2026-04-01T00:00:00Z", {80: "x/shop:http"}),
    ):
        spec: dict[str, Any] = {"clusterIPs": ["10.96.0.3"], "externalIPs": ["192.0.2.8", "192.0.2.9"]}
        state = state_of([balanced, listed, created(service("a", **spec), when)])
        assert owners(state, "192.0.2.8") == {80: "x/web:http"}
        assert owners(state, "192.0.2.9") == others


def test_no_service_takes_over_the_api() -> None:
    state = ClusterState("node")
    api = endpoint_slice([endpoint("192.0.2.1"), endpoint("192.0.2.2")], name="kubernetes")
    api["metadata"] = {
        "namespace": "default",
        "name": "kubernetes",
        "labels": {"kubernetes.io/service-name": "kubernetes"},
    }
    api["ports"] = [{"name": "https", "port": 6443, "protocol": "TCP"}]
    state.apply("endpointslices", {"default/kubernetes": REDUCE["endpointslices"](api)})
    hostile = service("evil", clusterIPs=["10.96.0.1"], externalIPs=["192.0.2.1", "192.0.2.2", "192.0.2.3"])
    hostile["spec"]["ports"] = [{"name": "a", "port": 6443}, {"name": "b", "port": 443}]
    state.apply("services", {"x/evil": REDUCE["services"](hostile)})
    state.api = cluster._resolve("https://192.0.2.3")
    assert state.take().everything
    assert owners(state, "192.0.2.1") == owners(state, "192.0.2.2") == {443: "x/evil:b"}
    assert owners(state, "192.0.2.3") == {6443: "x/evil:a"}
    assert {one.message for one in state.unenforced} == {
        "192.0.2.1 port 6443 is that of the Kubernetes API",
        "192.0.2.2 port 6443 is that of the Kubernetes API",
        "192.0.2.3 port 443 is that of the Kubernetes API",
    }


def test_the_agent_knows_the_addresses_of_its_api() -> None:
    def resolved(server: str) -> list[tuple[str, int]]:
        return sorted((str(address), port) for address, port in cluster._resolve(server))

    assert resolved("https://[2001:db8::1]:6443") == [("2001:db8::1", 6443)]
    assert ("127.0.0.1", 8080) in resolved("http://localhost:8080")
    assert resolved("https://does-not-exist.invalid") == []


def many(namespace: str, name: str, count: int, **spec: Any) -> Json:
    """Return a service with this number of ports."""
    ports = [{"name": f"p{number}", "port": 1 + number} for number in range(count)]
    item = service(name, ports=ports, clusterIPs=[f"10.96.{sum(map(ord, name)) % 250}.1"], **spec)
    item["metadata"]["namespace"] = namespace
    return item


def many_endpoints(namespace: str, name: str, ports: int, count: int) -> Json:
    found = [endpoint(f"10.{number >> 8}.{number & 255}.1") for number in range(count)]
    item = endpoint_slice(found, name=f"{name}-1")
    item["metadata"] |= {"namespace": namespace, "labels": {"kubernetes.io/service-name": name}}
    item["ports"] = [{"name": f"p{number}", "port": 1 + number} for number in range(ports)]
    return item


@pytest.mark.parametrize(
    ("ports", "endpoints", "frontends", "message"),
    [
        (4000, 1, 0, "more than the supported 3072: it is not translated"),
        (2000, 1000, 2000, "more than the supported 24576: its connections are refused"),
    ],
)
def test_a_service_that_does_not_fit_does_not_affect_others(
    ports: int, endpoints: int, frontends: int, message: str
) -> None:
    dns = many("kube-system", "dns", 3)
    state = state_of(
        [dns, many("tenant", "evil", ports), many("tenant", "small", 2)],
        many_endpoints("kube-system", "dns", 3, 2),
        many_endpoints("tenant", "evil", ports, endpoints),
        many_endpoints("tenant", "small", 2, 1),
    )
    by_service: dict[str, list[int]] = {}
    for one in state.services:
        by_service.setdefault(one.name.partition(":")[0], []).append(len(one.backends))
    expected = {"kube-system/dns": [2] * 3, "tenant/small": [1] * 2}
    assert by_service == {**expected, **({"tenant/evil": [0] * frontends} if frontends else {})}
    ((name, shown_message),) = ((one.name, one.message) for one in state.unenforced)
    assert name == "evil" and message in shown_message
    state.apply("services", {"tenant/evil": None})
    assert state.take().everything and not state.unenforced and len(state.services) == 5


def test_small_services_of_one_namespace_do_not_displace_those_of_others() -> None:
    state = ClusterState("node")
    given = [many("kube-system", "dns", 40), *(many("tenant", f"s{number}", 4) for number in range(1000))]
    for number, item in enumerate(given):
        item["spec"]["clusterIPs"] = [f"10.97.{number >> 8}.{number & 255}"]
        state.apply(
            "services",
            {f"{item['metadata']['namespace']}/{item['metadata']['name']}": REDUCE["services"](item)},
        )
    state.take()
    names = [one.name.partition(":")[0] for one in state.services]
    assert names.count("kube-system/dns") == 40 and 3000 < len(names) <= 3072
