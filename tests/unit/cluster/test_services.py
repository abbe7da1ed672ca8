# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Services have the frontends and endpoints of kube-proxy. PODNET_SEED repeats a failed run."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.podnet.datapath.plugins.module_utils._cluster.state import REDUCE, ClusterState
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.model import Backend, Service
from ansible_collections.podnet.datapath.plugins.module_utils._ops.watch import key_of

Json = dict[str, Any]
OWN, ZONE = "node", "east"
SEED = int(os.environ.get("PODNET_SEED") or random.randrange(1 << 32))


def service(name: str = "web", **spec: Any) -> Json:
    """Return a dual-stack service with one port."""
    number = sum(map(ord, name)) % 250
    defaults: Json = {
        "type": "ClusterIP",
        "clusterIPs": [f"10.96.0.{number}", f"fd96::{number:x}"],
        "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}],
    }
    return {
        "metadata": {"name": name, "namespace": "x", "uid": name, "labels": {}},
        "spec": {**defaults, **spec},
    }


def endpoint_slice(endpoints: list[Json], family: str = "IPv4", name: str = "web-1", **more: Any) -> Json:
    return {
        "metadata": {"name": name, "namespace": "x", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": family,
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": endpoints,
        **more,
    }


def endpoint(address: str, node: str = "other", **conditions: bool) -> Json:
    return {"addresses": [address], "nodeName": node, "conditions": conditions}


def state_of(services: list[Json], *slices: Json, status: Json | None = None) -> ClusterState:
    state = ClusterState(OWN)
    labels = {"topology.kubernetes.io/zone": ZONE}
    state.apply("nodes", {OWN: REDUCE["nodes"]({"metadata": {"name": OWN, "labels": labels}})})
    for kind, items in (("services", services), ("endpointslices", slices)):
        for item in items:
            found = {**item, "status": status} if status and kind == "services" else item
            state.apply(kind, {key_of(item): REDUCE[kind](found)})
            state.take()
    return state


def shown(state: ClusterState) -> dict[str, list[str]]:
    """Return the backends by frontend."""
    return {f"{one.address} {one.port}": backends(one) for one in state.services}


def backends(service: Service) -> list[str]:
    """Return the backends for new connections."""
    return [str(one.address) for one in service.backends if one.weight]


def draining(found: Sequence[Backend]) -> list[str]:
    """Return the backends that only keep connections."""
    return [str(one.address) for one in found if not one.weight]


def test_a_service_has_a_frontend_for_each_family_and_kind_of_address() -> None:
    spec: Json = {
        "type": "LoadBalancer",
        "externalIPs": ["192.0.2.7", "2001:db8::7"],
        "ports": [{"name": "http", "port": 80, "nodePort": 30080}],
        "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
    }
    ingress = [{"ip": "192.0.2.8"}, {"ip": "192.0.2.9", "ipMode": "Proxy"}, {"hostname": "lb.example"}]
    state = state_of(
        [service(**spec)],
        endpoint_slice([endpoint("10.0.1.1", ready=True)]),
        endpoint_slice([endpoint("fd00::1", ready=True)], "IPv6", "web-2"),
        endpoint_slice([{"addresses": ["example.org"]}], "FQDN", "web-3"),
        status={"loadBalancer": {"ingress": ingress}},
    )
    assert shown(state) == {
        "10.96.0.68 80": ["10.0.1.1"],
        "192.0.2.7 80": ["10.0.1.1"],
        "192.0.2.8 80": ["10.0.1.1"],
        "0.0.0.0 30080": ["10.0.1.1"],
        "fd96::44 80": ["fd00::1"],
        "2001:db8::7 80": ["fd00::1"],
        ":: 30080": ["fd00::1"],
    }
    assert {(one.name, one.affinity, one.protocol) for one in state.services} == {("x/web:http", 60, 6)}
    assert {one.port for some in state.services for one in some.backends} == {8080}
    assert all(one.external is None for one in state.services)


def test_beside_kube_proxy_services_have_only_their_addresses_in_the_cluster() -> None:
    state = ClusterState(OWN, external_addresses=False)
    ports = [{"name": "http", "port": 80, "nodePort": 30080}]
    item = service(type="NodePort", externalIPs=["192.0.2.7"], ports=ports)
    state.apply("services", {"x/web": REDUCE["services"](item)})
    assert state.take().everything and shown(state) == {"10.96.0.68 80": [], "fd96::44 80": []}


def test_only_the_families_and_kinds_of_a_service_have_frontends() -> None:
    single = service(
        clusterIPs=["10.96.0.1"], externalIPs=["2001:db8::7"], ports=[{"port": 53, "protocol": "UDP"}]
    )
    assert [(str(one.address), one.name, one.protocol) for one in state_of([single]).services] == [
        ("10.96.0.1", "x/web:53", 17)
    ]
    foreign = service()
    foreign["metadata"]["labels"] = {"service.kubernetes.io/service-proxy-name": "mesh"}
    for other in (
        service(clusterIPs=["None"], clusterIP="None"),
        service(type="ExternalName", clusterIPs=[], externalName="example.org"),
        service(clusterIPs=[]),
        foreign,
    ):
        assert not state_of([other]).services


def test_labels_of_other_programs_are_those_that_kube_proxy_ignores() -> None:
    proxy_name, headless = "service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless"
    name = {"kubernetes.io/service-name": "web"}
    for of_service, of_slice, expected in (
        ({headless: ""}, {**name, proxy_name: "mesh"}, {"10.96.0.1 80": ["10.0.1.1"]}),
        ({}, {**name, headless: ""}, {"10.96.0.1 80": []}),
        ({proxy_name: "mesh"}, name, {}),
    ):
        item, some = service(clusterIPs=["10.96.0.1"]), endpoint_slice([endpoint("10.0.1.1")])
        item["metadata"]["labels"], some["metadata"]["labels"] = of_service, of_slice
        assert shown(state_of([item], some)) == expected


def test_ipv4_mapped_addresses_and_leading_zeros_are_those_of_the_api() -> None:
    item = service(clusterIPs=["10.96.0.1"], externalIPs=["::ffff:192.0.2.7", "192.000.02.8", "192..0.2.9"])
    found = shown(state_of([item], endpoint_slice([endpoint("::ffff:10.0.1.1")])))
    assert found == {f"{one} 80": ["10.0.1.1"] for one in ("10.96.0.1", "192.0.2.7", "192.0.2.8")}


def test_an_address_is_that_of_the_pod_that_is_not_terminating() -> None:
    """Its former Pod still serves to the API, and must not stand in for a Pod that is not ready."""
    former = endpoint("10.0.1.1", ready=False, serving=True, terminating=True)
    starting = endpoint("10.0.1.1", ready=False, serving=False, terminating=False)
    for endpoints in ([former, starting], [starting, former]):
        found = shown(state_of([service(clusterIPs=["10.96.0.1"])], endpoint_slice(endpoints)))
        assert found == {"10.96.0.1 80": []}


def test_local_policies_select_the_endpoints_of_this_node() -> None:
    slices = endpoint_slice([endpoint("10.0.1.1", OWN), endpoint("10.0.2.1"), endpoint("10.0.2.2")])
    local = ["10.0.1.1"]
    everything = ["10.0.1.1", "10.0.2.1", "10.0.2.2"]
    ports = [{"name": "http", "port": 80, "nodePort": 30080}]
    internal = state_of(
        [service(type="NodePort", internalTrafficPolicy="Local", ports=ports, clusterIPs=["10.96.0.1"])],
        slices,
    )
    assert shown(internal) == {"10.96.0.1 80": local, "0.0.0.0 30080": everything}
    external = state_of(
        [service(type="NodePort", externalTrafficPolicy="Local", ports=ports, clusterIPs=["10.96.0.1"])],
        slices,
    )
    assert shown(external) == {"10.96.0.1 80": everything, "0.0.0.0 30080": everything}
    cluster, node_port = external.services
    assert cluster.external is None
    assert node_port.external is not None
    assert [str(one.address) for one in node_port.external if one.weight] == local
    assert draining(node_port.external) == everything[1:]


def test_an_address_of_two_services_is_that_of_the_cluster_and_is_reported() -> None:
    taken = service("b", externalIPs=["10.96.0.97", "192.0.2.1"])
    other = service("c", externalIPs=["192.0.2.1"])
    state = state_of([service("a"), taken, other])
    assert len({(one.address, one.port) for one in state.services}) == len(state.services) == 7
    assert next(one for one in state.services if str(one.address) == "10.96.0.97").name == "x/a:http"
    assert [(one.name, one.message) for one in state.unenforced] == [
        ("b", "10.96.0.97 is the address of service x/a in the cluster"),
        ("c", "service x/b:http already has 192.0.2.1 port 80"),
    ]


@pytest.mark.parametrize(
    ("ranges", "expected"),
    [
        ([], {"192.0.2.8": None, "2001:db8::8": None}),
        (["0.0.0.0/0"], {"192.0.2.8": None, "2001:db8::8": None}),
        (
            [" 198.51.100.0/24", "198.51.100.7/25 ", "::ffff:203.0.113.001/128"],
            {"192.0.2.8": ["198.51.100.0/24", "198.51.100.0/25", "203.0.113.1/32"], "2001:db8::8": []},
        ),
        (["0.0.0.0/0", "fd00::/8"], {"192.0.2.8": ["0.0.0.0/0"], "2001:db8::8": ["fd00::/8"]}),
    ],
)
def test_source_ranges_restrict_the_clients_of_a_load_balancer(ranges: list[str], expected: Json) -> None:
    """And of no other address; a family without ranges has no clients."""
    spec: Json = {
        "type": "LoadBalancer",
        "loadBalancerSourceRanges": ranges,
        "externalIPs": ["192.0.2.7"],
        "ports": [{"port": 80, "nodePort": 30080}],
    }
    ingress: Json = {"loadBalancer": {"ingress": [{"ip": one} for one in expected]}}
    state = state_of([service(**spec)], status=ingress)
    found = {str(one.address): one.sources for one in state.services}
    for address, sources in found.items():
        wanted = expected.get(address)
        assert (None if sources is None else [str(one) for one in sources]) == wanted, address
    assert {*expected, "192.0.2.7", "0.0.0.0", "::"} < found.keys() and not state.unenforced


def test_a_load_balancer_with_an_invalid_source_range_is_not_translated() -> None:
    spec: Json = {"type": "LoadBalancer", "loadBalancerSourceRanges": ["10.0.0.0/8", "10.0.0.0/33"]}
    ingress: Json = {"loadBalancer": {"ingress": [{"ip": "192.0.2.8"}]}}
    state = state_of([service(**spec)], status=ingress)
    assert shown(state).keys() == {"10.96.0.68 80", "fd96::44 80"}
    (problem,) = state.unenforced
    assert "10.0.0.0/33" in problem.message and "192.0.2.8 is not translated" in problem.message


def test_endpoints_follow_their_slices() -> None:
    first = endpoint_slice([endpoint("10.0.1.1"), endpoint("10.0.1.2")])
    second = endpoint_slice([endpoint("10.0.1.2", ready=False), endpoint("10.0.1.3")], name="web-2")
    state = state_of([service(clusterIPs=["10.96.0.1"])], first, second)
    assert shown(state) == {"10.96.0.1 80": ["10.0.1.1", "10.0.1.2", "10.0.1.3"]}
    state.apply("endpointslices", {"x/web-1": None})
    assert state.take().everything and shown(state) == {"10.96.0.1 80": ["10.0.1.3"]}
    state.apply("services", {"x/web": None})
    assert state.take().everything and not state.services


conditions = st.fixed_dictionaries(
    {},
    optional={
        "ready": st.sampled_from([True, False, None]),
        "serving": st.sampled_from([True, False, None]),
        "terminating": st.sampled_from([True, False, None]),
    },
)
hints = st.fixed_dictionaries(
    {},
    optional={
        "forZones": st.lists(st.sampled_from([{"name": "east"}, {"name": "west"}]), max_size=2),
        "forNodes": st.lists(st.sampled_from([{"name": OWN}, {"name": "other"}]), max_size=2),
    },
)
endpoints = st.lists(
    st.fixed_dictionaries(
        {"conditions": conditions, "nodeName": st.sampled_from([OWN, "other"])},
        optional={"hints": hints},
    ),
    max_size=4,
)


def serves(one: Json) -> bool:
    return one["conditions"].get("serving") in (None, True)


def kube_proxy(given: list[Json]) -> tuple[list[str], list[str]]:
    """Return the endpoints for the policies Cluster and Local, as CategorizeEndpoints of kube-proxy does."""

    def is_ready(one: Json) -> bool:
        return one["conditions"].get("ready") in (None, True)

    def is_ending(one: Json) -> bool:
        return serves(one) and one["conditions"].get("terminating") is True

    def names(one: Json, kind: str) -> list[str]:
        return [name["name"] for name in (one.get("hints") or {}).get(kind) or []]

    ready = [one for one in given if is_ready(one)]
    chosen = ready
    for kind, own in (("forNodes", OWN), ("forZones", ZONE)):
        if ready and all(names(one, kind) for one in ready) and any(own in names(one, kind) for one in ready):
            chosen = [one for one in ready if own in names(one, kind)]
            break
    cluster = chosen or [one for one in given if is_ending(one)]
    local = [one for one in given if one["nodeName"] == OWN]
    local_ready = [one for one in local if is_ready(one)]
    return (
        [one["addresses"][0] for one in cluster],
        [one["addresses"][0] for one in local_ready or [one for one in local if is_ending(one)]],
    )


@given(endpoints)
def test_endpoints_are_those_that_kube_proxy_chooses(given: list[Json]) -> None:
    for number, one in enumerate(given):
        one["addresses"] = [f"10.0.1.{number}"]
    spec: Json = {"type": "NodePort", "externalTrafficPolicy": "Local", "clusterIPs": ["10.96.0.1"]}
    spec["ports"] = [{"name": "http", "port": 80, "nodePort": 30080}]
    cluster, node_port = state_of([service(**spec)], endpoint_slice(given)).services
    external = [str(one.address) for one in node_port.external or () if one.weight]
    assert (backends(cluster), external) == kube_proxy(given)
    assert node_port.backends == cluster.backends
    # CleanStaleEntries of kube-proxy keeps the connections of all endpoints that serve
    serving = {one["addresses"][0] for one in given if serves(one)}
    assert {*draining(cluster.backends)} == serving - {*backends(cluster)}
    assert {*draining(node_port.external or ())} == serving - {*external}


def test_terminating_endpoints_drain_before_others() -> None:
    """The maps have only the first ones of many."""
    ending = endpoint("10.0.1.3", ready=False, serving=True, terminating=True)
    hints = [{"hints": {"forZones": [{"name": zone}]}} for zone in (ZONE, "west")]
    ready = [{**endpoint(f"10.0.1.{number}"), **one} for number, one in enumerate(hints)]
    state = state_of([service(clusterIPs=["10.96.0.1"])], endpoint_slice([*ready, ending]))
    (found,) = state.services
    assert (backends(found), draining(found.backends)) == (["10.0.1.0"], ["10.0.1.3", "10.0.1.1"])


def test_health_port() -> None:
    dual = [
        endpoint_slice(
            [endpoint("10.0.0.1", OWN), endpoint("10.0.0.2"), endpoint("10.0.0.3", OWN, ready=False)]
        ),
        endpoint_slice(
            [endpoint("fd00::1", OWN, ready=False, serving=True, terminating=True)], "IPv6", "web-2"
        ),
        # another port of the same endpoint
        endpoint_slice(
            [endpoint("10.0.0.1", OWN)],
            name="web-3",
            ports=[{"name": "tls", "port": 8443, "protocol": "TCP"}],
        ),
        # no Pod of this slice has the named port that is the target
        endpoint_slice([endpoint("10.0.0.4", OWN)], name="web-4", ports=[]),
    ]
    local = {"externalTrafficPolicy": "Local", "healthCheckNodePort": 30000}
    state = state_of([service(type="LoadBalancer", **local)], *dual)
    counts = {place: (one.namespace, one.name, one.endpoints) for place, one in state.health_checks.items()}
    assert counts == {(4, 30000): ("x", "web", 1), (6, 30000): ("x", "web", 0)}
    # only services whose load balancer selects nodes have one
    for spec in (
        {**local, "type": "NodePort"},
        {**local, "type": "LoadBalancer", "externalTrafficPolicy": "Cluster"},
    ):
        assert not state_of([service(**spec)], *dual).health_checks


def random_service(chance: random.Random, name: str) -> Json:
    number = sum(map(ord, name)) % 250
    families = chance.choice([[f"10.96.0.{number}"], [f"fd96::{number:x}", f"10.96.0.{number}"], None])
    spec: Json = {
        "type": chance.choice(["ClusterIP", "NodePort", "LoadBalancer", "LoadBalancer", "ExternalName"]),
        "externalIPs": chance.sample(["192.0.2.1", "192.0.2.2", "2001:db8::1", "10.96.0.97"], 2),
        "externalTrafficPolicy": chance.choice(["Local", "Cluster"]),
        "internalTrafficPolicy": chance.choice(["Local", "Cluster", None]),
        "ports": [
            {"name": "dns", "port": 53, "protocol": "UDP"},
            {"name": "dns-tcp", "port": 53, "nodePort": 30000 + number},
        ],
        **({"clusterIPs": families} if families else chance.choice([{}, {"clusterIPs": ["None"]}])),
    }
    made = service(name, **spec)
    made["metadata"]["creationTimestamp"] = f"2026-01-0{chance.randint(1, 3)}T00:00:00Z"
    made["status"] = {"loadBalancer": {"ingress": chance.choice([[], [{"ip": "192.0.2.1"}]])}}
    return made


def random_slice(chance: random.Random, name: str) -> Json:
    family = chance.choice(["IPv4", "IPv6", "FQDN"])
    prefix = {"IPv4": "10.0.1.", "IPv6": "fd00::", "FQDN": "host"}[family]
    found = [
        endpoint(
            f"{prefix}{chance.randint(1, 4)}", chance.choice([OWN, "other"]), ready=chance.random() < 0.7
        )
        for _endpoint in range(chance.randint(0, 3))
    ]
    ports = [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53}, {"name": "x"}]
    made = endpoint_slice(found, family, name, ports=chance.sample(ports, 2))
    made["metadata"]["labels"] = {"kubernetes.io/service-name": chance.choice("abc")}
    return made


def test_changes_in_any_order_have_the_result_of_a_list() -> None:
    chance = random.Random(SEED)
    served = 0
    for _round in range(40):
        state, current = state_of([]), {}
        for _change in range(30):
            kind, pool, make = chance.choice(
                [("services", "abc", random_service), ("endpointslices", "wxyz", random_slice)]
            )
            item = make(chance, chance.choice(pool))
            current[kind, key_of(item)] = item if chance.random() < 0.7 else None
            state.apply(kind, {key_of(item): REDUCE[kind](item) if current[kind, key_of(item)] else None})
            if chance.random() < 0.5:
                state.take()
        state.take()
        given: dict[str, list[Json]] = {"services": [], "endpointslices": []}
        for (kind, _key), one in current.items():
            given[kind] += [one] if one else []
        expected = state_of(given["services"], *given["endpointslices"])
        assert (state.services, state.unenforced) == (expected.services, expected.unenforced), SEED
        assert state.health_checks == expected.health_checks, SEED
        served += any(one.backends for one in state.services)
    assert served
