# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Invalid objects are reported, open nothing and do not affect others. PODNET_SEED repeats a failed run."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._cluster.policies import Unenforced
from ansible_collections.podnet.datapath.plugins.module_utils._cluster.state import ClusterState, reduce
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.compile import Compiler
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.model import PROTOCOLS, Declaration
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.node import Node
from ansible_collections.podnet.datapath.plugins.module_utils._ops.watch import key_of
from tests.unit.cluster import semantics
from tests.unit.cluster.semantics import Json
from tests.unit.cluster.test_policies import PORTS, SEED, Generator, items_of, programs_of, state_of
from tests.unit.cluster.test_services import endpoint, endpoint_slice, service

HUGE = 1 << 64
# By the type of the field that they replace; null is the same as an absent field.
INVALID: dict[type, list[Any]] = {
    dict: ["", 0, False, [], "x", 5, ["x"]],
    list: ["", 0, False, {}, "x", 5, {"x": "y"}, [None], [5]],
    str: [0, False, True, [], {}, 5],
    int: [-1, 1.5, True, [], {}, 70000, HUGE, -HUGE, float("inf")],
    bool: [],
}


def paths_in(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield the path and the value of each field."""
    yield path, value
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield from paths_in(one, (*path, key))


def with_value(item: Json, path: tuple[Any, ...], value: Any) -> Json:
    """Return a copy of an object with another value of a field."""
    changed = copy.deepcopy(item)
    *outer, last = path
    target: Any = changed
    for key in outer:
        target = target[key]
    target[last] = value
    return changed


def test_an_invalid_policy_is_reported_and_allows_nothing_else() -> None:
    generator, chance, count = Generator(SEED), random.Random(SEED), 0
    for _round in range(12):
        cluster = generator.cluster(1)
        (policy,) = cluster.policies
        policy["spec"]["policyTypes"] = ["Ingress", "Egress"]
        denied = []
        addresses = [f"10.0.{net}.{host}" for net in (1, 2) for host in (1, 2, 3)]
        for _packet in range(150):
            subject, peer = chance.sample(addresses, 2)
            protocol, direction = chance.choice(["TCP", "UDP"]), chance.choice(["ingress", "egress"])
            packet = (subject, peer, direction, protocol, chance.choice(PORTS))
            if not semantics.allows(cluster, *packet):
                denied.append(packet)
        for path, value in [*paths_in(policy["spec"], ("spec",))]:
            pool = INVALID[int if path[-1] == "port" else type(value)]
            wrong = chance.choice(pool)
            state = state_of(replace(cluster, policies=[with_value(policy, path, wrong)]))
            assert [one.name for one in state.unenforced] == ["policy0"], (SEED, path, wrong)
            programs = programs_of(state)
            for subject, peer, direction, protocol, port in denied:
                number = ("ingress", "egress").index(direction)
                allowed = programs.allows(subject, peer, number, PROTOCOLS[protocol.lower()], port)
                assert not allowed, (SEED, path, wrong, subject, peer, direction, protocol, port)
                count += 1
    assert count > 1000


@pytest.mark.parametrize(
    ("peer", "message"),
    [
        (
            {"ipBlock": {"cidr": "10.0.1.0/24", "except": ["10.0.0.0/16"]}},
            "except: 10.0.0.0/16 is not a subnet",
        ),
        ({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["fd00::/8"]}}, "except: fd00::/8 is not a subnet"),
        ({"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}, "it has ipBlock and another selector"),
        ({"podSelector": {"matchExpressions": [{"key": "a", "operator": "NotIn"}]}}, "values [] do not fit"),
        ({"ipBlock": {"cidr": "10.0.0.0/+8"}}, "'10.0.0.0/+8' is not a network"),
        ({"ipBlock": {"cidr": "10..0.0.0/8"}}, "'10..0.0.0/8' is not a network"),
        ({"ipBlock": {"cidr": "fd00::1%eth0/64"}}, "'fd00::1%eth0/64' is not a network"),
    ],
)
def test_what_the_api_rejects_of_a_peer_is_not_allowed(peer: Json, message: str) -> None:
    cluster = Generator(1).cluster(0)
    meta = {"name": "p", "namespace": "x", "uid": "u"}
    spec = {"podSelector": {}, "ingress": [{"from": [peer]}]}
    state = state_of(replace(cluster, policies=[{"metadata": meta, "spec": spec}]))
    (problem,) = state.unenforced
    assert message in problem.message and problem.message.endswith("this peer is not allowed")
    assert not programs_of(state).allows("10.0.1.1", "10.0.1.2", 0, 6, 80)


@pytest.mark.parametrize(
    "port", [{"endPort": 90}, {"port": "http", "endPort": 9000}, {"port": 80, "endPort": 0}]
)
def test_an_end_port_without_its_port_is_not_allowed(port: Json) -> None:
    cluster = Generator(1).cluster(0)
    meta = {"name": "p", "namespace": "x", "uid": "u"}
    spec = {"podSelector": {}, "ingress": [{"ports": [port]}]}
    state = state_of(replace(cluster, policies=[{"metadata": meta, "spec": spec}]))
    (problem,) = state.unenforced
    assert "not allowed" in problem.message
    assert not any(programs_of(state).allows("10.0.1.1", "10.0.1.2", 0, 6, one) for one in PORTS)


def objects(generator: Generator) -> Iterator[tuple[str, Json]]:
    """Yield objects of all kinds but policies, each with all fields that are read."""
    yield from ((kind, item) for kind, item in items_of(generator.cluster(0)))
    spec: Json = {
        "type": "LoadBalancer",
        "externalIPs": ["192.0.2.7"],
        "externalTrafficPolicy": "Local",
        "healthCheckNodePort": 32000,
        "loadBalancerSourceRanges": ["198.51.100.0/24"],
        "ports": [{"name": "http", "port": 80, "nodePort": 30080, "protocol": "TCP"}],
        "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
    }
    made = service(**spec)
    made["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z"
    made["status"] = {"loadBalancer": {"ingress": [{"ip": "192.0.2.8", "ipMode": "VIP"}]}}
    yield "services", made
    hinted = endpoint("10.0.1.1", "node", ready=True, serving=True, terminating=False)
    hinted["hints"] = {"forZones": [{"name": "east"}], "forNodes": [{"name": "node"}]}
    yield "endpointslices", endpoint_slice([hinted, endpoint("10.0.2.1")])


def image_of(state: ClusterState) -> Any:
    return Compiler(Declaration([*state.pods.values()], state.policies, state.services), Node({}), {}).image


def test_an_invalid_object_does_not_affect_others() -> None:
    generator = Generator(SEED)
    found = [*objects(generator)]
    other = service("other", clusterIPs=["10.96.9.9"])
    slice_of_other = endpoint_slice([endpoint("10.0.2.2")], name="other-1")
    slice_of_other["metadata"]["labels"] = {"kubernetes.io/service-name": "other"}
    found += [("services", other), ("endpointslices", slice_of_other)]
    state = ClusterState("node")
    for kind, item in found:
        state.apply(kind, {key_of(item): reduce(kind, item, "node")})
    state.take()
    assert not state.unenforced
    before = image_of(state)
    invalid = 0
    for kind, item in found[:-2]:
        key = key_of(item)
        for path, value in paths_in(item):
            if path in ((), ("metadata",), *(("metadata", one) for one in ("name", "namespace", "uid"))):
                continue
            for wrong in INVALID[type(value)]:
                reduced = reduce(kind, with_value(item, path, wrong), "node")
                state.apply(kind, {key: reduced})
                state.take()
                if isinstance(reduced, Unenforced):
                    invalid += 1
                    assert state.unenforced == [reduced]
                shown = {str(one.address): one for one in state.services}
                assert [str(one.address) for one in shown["10.96.9.9"].backends] == ["10.0.2.2"]
                balanced = shown.get("192.0.2.8")
                assert balanced is None or balanced.sources, (kind, path, wrong)
                image_of(state)
        state.apply(kind, {key: reduce(kind, item, "node")})
        state.take()
    assert invalid > 200 and not state.unenforced and image_of(state) == before
