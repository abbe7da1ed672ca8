# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The maps have the verdicts of NetworkPolicy objects. PODNET_SEED repeats a failed run."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._cluster import objects
from ansible_collections.podnet.datapath.plugins.module_utils._cluster.policies import NamedPorts
from ansible_collections.podnet.datapath.plugins.module_utils._cluster.state import REDUCE, ClusterState
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.compile import Compiler
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.model import PROTOCOLS, Declaration
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.node import Interface, Node
from ansible_collections.podnet.datapath.plugins.module_utils._ops.watch import key_of
from tests.unit.cluster import semantics
from tests.unit.cluster.semantics import Cluster, Json
from tests.unit.datapath.programs import Programs

SEED = int(os.environ.get("PODNET_SEED") or random.randrange(1 << 32))
POLICIES = 1000
NODE = ("172.31.0.1", "fd31::1")
OUTSIDE = ("10.0.3.9", "192.0.2.1", "198.51.100.7", "fd00:0:0:3::9", "2001:db8::1")
HOST_POD = ("172.31.0.2", "fd31::2")  # the addresses of another node
PORTS = (79, 80, 81, 90, 100, 8080, 8081)


class Generator:
    """Generates clusters."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def some(self, pool: list[Any], most: int) -> list[Any]:
        return self.random.sample(pool, self.random.randint(0, min(most, len(pool))))

    def selector(self) -> Json:
        found: Json = {}
        if self.random.random() < 0.5:
            found["matchLabels"] = dict(self.some([("app", "web"), ("app", "db"), ("tier", "a")], 2))
        if self.random.random() < 0.4:
            found["matchExpressions"] = self.some(
                [
                    {"key": "app", "operator": "In", "values": ["web", "cache"]},
                    {"key": "app", "operator": "NotIn", "values": ["db"]},
                    {"key": "tier", "operator": "Exists"},
                    {"key": "tier", "operator": "DoesNotExist"},
                    {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["x", "y"]},
                ],
                2,
            )
        return found

    def block(self) -> Json:
        cidr, excepts = self.random.choice(
            [
                ("0.0.0.0/0", ["10.0.0.0/16", "10.0.1.0/24", "192.0.2.0/24"]),
                ("10.0.0.0/8", ["10.0.0.0/22", "10.0.1.0/24", "10.0.1.2/32"]),
                ("10.0.1.0/24", ["10.0.1.0/25", "10.0.1.2/32", "10.0.1.2/31"]),
                ("10.0.1.1/32", []),
                ("172.31.0.0/24", ["172.31.0.2/32"]),
                ("::/0", ["fd00::/32", "fd00:0:0:1::/64"]),
                ("fd00::/16", ["fd00:0:0:1::/64", "fd00:0:0:1::2/128"]),
                ("fd31::1/128", []),
            ]
        )
        return {"cidr": cidr, "except": self.some(excepts, 3)}

    def peer(self) -> Json:
        kind = self.random.randrange(4)
        if kind == 0:
            return {"ipBlock": self.block()}
        peer: Json = {}
        if kind in (1, 3):
            peer["podSelector"] = self.selector()
        if kind in (2, 3):
            peer["namespaceSelector"] = self.selector()
        return peer

    def port(self) -> Json:
        port: Json = {}
        if self.random.random() < 0.5:
            port["protocol"] = self.random.choice(["TCP", "UDP", "SCTP"])
        kind = self.random.randrange(5)
        if kind < 1:
            port["port"] = self.random.choice([80, 90])
        elif kind == 1:
            port.update(port=80, endPort=self.random.choice([80, 81, 100]))
        elif kind < 4:
            port["port"] = self.random.choice(["http", "metrics", "unknown"])
        return port

    def policy(self, name: str) -> Json:
        spec: Json = {"podSelector": self.selector()}
        if self.random.random() < 0.7:
            spec["policyTypes"] = self.some(["Ingress", "Egress"], 2) or ["Ingress", "Egress"]
        for direction, key in (("ingress", "from"), ("egress", "to")):
            if self.random.random() < 0.9:
                spec[direction] = []
                for _rule in range(self.random.randint(0, 3)):
                    rule: Json = {}
                    if self.random.random() < 0.8:
                        rule[key] = [self.peer() for _peer in range(self.random.randint(0, 2))]
                    if self.random.random() < 0.6:
                        rule["ports"] = [self.port() for _port in range(self.random.randint(0, 2))]
                    spec[direction].append(rule)
        meta = {"name": name, "namespace": self.random.choice(["x", "x", "y"]), "uid": name}
        return {"metadata": meta, "spec": spec}

    def pod(self, namespace: str, number: int) -> Json:
        labels = dict(self.some([("app", "web"), ("app", "db"), ("tier", "a")], 3))
        ports = [
            {"name": "http", "containerPort": self.random.choice([80, 8080])},
            {"name": "metrics", "containerPort": 90, "protocol": self.random.choice(["TCP", "UDP"])},
            {"containerPort": 100},
        ]
        sidecar = {"name": "metrics", "containerPort": self.random.choice([90, 8081])}
        containers: Json = {
            "containers": [{"ports": self.some(ports, 3)}, {}],
            "initContainers": [
                {"ports": [{"name": "unknown", "containerPort": 80}]},
                {"ports": [sidecar], "restartPolicy": "Always"},
            ],
        }
        v4, v6 = (
            f"10.0.{'xy'.index(namespace) + 1}.{number}",
            f"fd00:0:0:{'xy'.index(namespace) + 1}::{number}",
        )
        return {
            "metadata": {"name": f"p{number}", "namespace": namespace, "uid": f"u{number}", "labels": labels},
            "spec": {**containers, "nodeName": "node"},
            "status": {"podIPs": [{"ip": v4}, {"ip": v6}], "phase": "Running"},
        }

    def cluster(self, policies: int) -> Cluster:
        namespaces = {
            name: {"kubernetes.io/metadata.name": name, **dict(self.some([("app", "web"), ("tier", "a")], 2))}
            for name in ("x", "y")
        }
        pods = [self.pod(namespace, number) for namespace in "xy" for number in (1, 2, 3)]
        on_host = self.pod("x", 4)
        on_host["spec"]["hostNetwork"] = True
        on_host["status"]["podIPs"] = [{"ip": one} for one in HOST_POD]
        ended = self.pod("x", 1)
        ended["metadata"]["name"] = "ended"
        ended["status"]["phase"] = self.random.choice(["Succeeded", "Failed"])
        former = self.pod("y", self.random.choice([1, 4]))  # one of a Pod, and an own address
        former["metadata"].update(name="former", namespace="x", deletionTimestamp="2026-01-01T00:00:00Z")
        return Cluster(
            namespaces,
            [*pods, on_host, ended, former],
            [self.policy(f"policy{number}") for number in range(policies)],
            NODE,
        )


def items_of(cluster: Cluster) -> Iterator[tuple[str, Json]]:
    """Yield the objects of a cluster with their kinds."""
    addresses = [{"type": "InternalIP", "address": one} for one in cluster.node]
    yield "nodes", {"metadata": {"name": "node"}, "status": {"addresses": addresses}}
    for name, labels in cluster.namespaces.items():
        yield "namespaces", {"metadata": {"name": name, "labels": labels}}
    for pod in cluster.pods:
        yield "pods", pod
    for policy in cluster.policies:
        yield "networkpolicies", policy


def state_of(cluster: Cluster, order: random.Random | None = None) -> ClusterState:
    """Return the state after all objects became known, one after the other, in any order."""
    items = list(items_of(cluster))
    state = ClusterState("node")
    if order:
        order.shuffle(items)
    for kind, item in items:
        state.apply(kind, {key_of(item): REDUCE[kind](item)})
        state.take()
    return state


def programs_of(state: ClusterState) -> Programs:
    """Return the maps of a node that runs all Pods."""
    devices = {pod.name: f"h{number}" for number, pod in enumerate(state.pods.values())}
    pods = [replace(pod, device=devices[pod.name]) for pod in state.pods.values()]
    node = Node({device: Interface(10 + number) for number, device in enumerate(devices.values())})
    compiled = Compiler(Declaration(pods, state.policies), node, {})
    assert not compiled.problems and not compiled.unenforced
    return Programs(compiled.image, NODE)


def test_random_policies_have_the_verdicts_of_their_objects() -> None:
    generator = Generator(SEED)
    chance, verdicts = random.Random(SEED), [0, 0]
    for size in [1, 2, 3, 4] * (POLICIES // 10):
        cluster = generator.cluster(size)
        state = state_of(cluster, chance)
        assert not state.unenforced
        programs = programs_of(state)
        running = [one for pod in state.pods.values() for one in map(str, pod.addresses)]
        for _packet in range(250):
            subject = chance.choice(running)
            family = "." in subject
            peers = [one for one in (*running, *OUTSIDE, *NODE, *HOST_POD) if ("." in one) == family]
            peer, direction = chance.choice(peers), chance.choice(["ingress", "egress"])
            if peer == subject:
                continue
            protocol, port = chance.choice(["TCP", "TCP", "UDP", "SCTP"]), chance.choice(PORTS)
            packet = (subject, peer, direction, protocol, port)
            expected = semantics.allows(cluster, *packet)
            number = ("ingress", "egress").index(direction)
            actual = programs.allows(subject, peer, number, PROTOCOLS[protocol.lower()], port)
            assert actual == expected, (SEED, packet, cluster)
            verdicts[expected] += 1
    assert min(verdicts) > 1000, "the generator does not cover both verdicts"


def test_changes_have_the_result_of_a_list() -> None:
    """Objects change and are deleted one by one: the result is that of the last objects."""
    generator = Generator(SEED)
    chance = random.Random(SEED)
    for _round in range(40):
        first, second = generator.cluster(3), generator.cluster(2)
        state = state_of(first)
        former = {(kind, key_of(item)) for kind, item in items_of(first)}
        current = {(kind, key_of(item)): item for kind, item in items_of(second)}
        changes = sorted(former | current.keys())
        chance.shuffle(changes)
        pods = dict(state.pods)
        for kind, key in changes:
            item = current.get((kind, key))
            state.apply(kind, {key: REDUCE[kind](item) if item else None})
            if chance.random() < 0.3:
                for name, pod in state.take().pods.items():
                    _set(pods, name, pod)
        for name, pod in state.take().pods.items():
            _set(pods, name, pod)
        expected = state_of(second)
        assert pods == state.pods == expected.pods, SEED
        assert state.policies == expected.policies, SEED


def _set(pods: dict[str, Any], name: str, pod: Any) -> None:
    if pod is None:
        del pods[name]
    else:
        pods[name] = pod


def policy_facts(spec: Json) -> Json:
    return {"metadata": {"name": "p", "namespace": "x", "uid": "u"}, "spec": spec}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"podSelector": {"matchExpressions": [{"key": "a", "operator": "Near"}]}, "ingress": [{}]},
            "podSelector: operator 'Near' is unknown; all Pods of the namespace are denied all traffic",
        ),
        (
            {"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/99"}}]}]},
            "ingress[0].from[0]: '10.0.0.0/99' is not a network; this peer is not allowed",
        ),
        (
            {"podSelector": {}, "ingress": [{"from": [{}]}]},
            "ingress[0].from[0]: it has none of podSelector, namespaceSelector and ipBlock; this peer is not"
            " allowed",
        ),
        (
            {"podSelector": {}, "ingress": [{"ports": [{"protocol": "DCCP", "port": 80}]}]},
            "ingress[0].ports[0]: protocol 'dccp' is unknown; it is not allowed",
        ),
        (
            {"podSelector": {}, "ingress": [{"ports": [{"port": 90, "endPort": 80}]}]},
            "ingress[0].ports[0]: 90 to 80 are no ports; they are not allowed",
        ),
        (
            {"podSelector": {}, "ingress": [{"ports": [{"port": 80, "endPort": 1 << 16}]}]},
            "ingress[0].ports[0]: 80 to 65536 are no ports; they are not allowed",
        ),
        (
            {"podSelector": {}, "ingress": ["all"]},
            "it is invalid (AttributeError(\"'str' object has no attribute 'get'\"));"
            " all Pods of the namespace are denied all traffic",
        ),
    ],
)
def test_what_cannot_be_enforced_denies_and_is_reported(spec: Json, message: str) -> None:
    cluster = Generator(1).cluster(0)
    state = state_of(replace(cluster, policies=[policy_facts(spec)]))
    assert [(one.namespace, one.name, one.message) for one in state.unenforced] == [("x", "p", message)]
    programs = programs_of(state)
    assert not programs.allows("10.0.1.1", "10.0.1.2", 0, 6, 80)
    assert not programs.allows("10.0.1.1", "192.0.2.1", 0, 6, 80)
    assert programs.allows("10.0.1.1", NODE[0], 0, 6, 80), "probes"


def test_a_pod_of_an_unknown_namespace_is_not_matched() -> None:
    """Its namespace may have a label that the selector excludes."""
    cluster = Generator(1).cluster(0)
    outside = {"namespaceSelector": {"matchExpressions": [{"key": "a", "operator": "DoesNotExist"}]}}
    spec = {"podSelector": {}, "ingress": [{"from": [outside]}]}
    state = state_of(replace(cluster, namespaces={"x": {}}, policies=[policy_facts(spec)]))
    assert programs_of(state).allows("10.0.1.1", "10.0.1.2", 0, 6, 80)
    assert not programs_of(state).allows("10.0.1.1", "10.0.2.1", 0, 6, 80)
    state.apply("namespaces", {"y": {}})
    assert set(state.take().pods) == {"y/p1", "y/p2", "y/p3"}
    assert programs_of(state).allows("10.0.1.1", "10.0.2.1", 0, 6, 80)


def test_a_static_pod_has_the_uid_that_kubelet_gives_it() -> None:
    pod = Generator(1).pod("x", 1)
    pod["metadata"]["annotations"] = {"kubernetes.io/config.mirror": "static"}
    facts = objects.pod(pod)
    assert facts and facts.uid == "static"


def test_only_pods_of_this_node_are_known_before_they_have_addresses() -> None:
    pod = Generator(1).pod("x", 1)
    pod["status"] = {"phase": "Pending"}
    assert objects.pod(pod, "node") and not objects.pod(pod, "other")


def test_networks_with_host_bits_and_leading_zeros_are_those_of_the_api() -> None:
    cluster = Generator(1).cluster(0)
    for cidr in ("010.0.002.9/24", "::ffff:10.0.2.0/120"):
        spec = {"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": cidr}}]}]}
        state = state_of(replace(cluster, policies=[policy_facts(spec)]))
        assert not state.unenforced
        assert programs_of(state).allows("10.0.1.1", "10.0.2.1", 0, 6, 80)
        assert not programs_of(state).allows("10.0.1.1", "10.0.1.2", 0, 6, 80)


def test_nothing_remains_of_named_ports_that_no_pod_has() -> None:
    named = NamedPorts()
    pod = objects.PodFacts("x", "web", "u", "node", (), {}, (("tcp", "http", 80),))
    named.update(None, pod)
    assert named.numbers(("tcp", "http"), "x") == [80]
    named.update(pod, None)
    assert named._counts == {}
