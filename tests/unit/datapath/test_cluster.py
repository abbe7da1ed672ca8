# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Objects of a cluster: their storage, their addresses, and the Pods that the API does not know."""

from __future__ import annotations

import ipaddress
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._datapath import cluster_store
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.cluster import (
    Cluster,
    ClusterChanges,
    Holders,
    by_name,
    changes_between,
)
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.cluster_store import ClusterStore
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.codec import decode, encode
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.compile import Compiler
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.merge import merge
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.model import (
    EGRESS,
    INGRESS,
    Backend,
    CidrSelector,
    Declaration,
    Expression,
    HostSelector,
    Pod,
    PodSelector,
    Policy,
    Ports,
    Rule,
    Service,
)
from tests.unit.datapath.declarations import HOST, NODE
from tests.unit.datapath.programs import Programs


def network(text: str) -> Any:
    return ipaddress.ip_network(text)


def pod(name: str, *addresses: str, **labels: str) -> Pod:
    parsed = tuple(map(ipaddress.ip_address, addresses))
    return Pod(f"ns/{name}", "kubernetes", parsed, labels, "other", uid=f"uid-{name}")


EVERY = PodSelector(
    frozenset({("app", "web")}), (Expression("tier", "In", frozenset({"a", "b"})),), frozenset({"one"})
)
POLICY = Policy(
    "ns/p",
    "kubernetes",
    EVERY,
    (
        Rule(
            INGRESS, True, (EVERY, CidrSelector(network("10.0.0.0/8"), frozenset({network("10.1.0.0/16")})))
        ),
        Rule(EGRESS, False, (HostSelector(), CidrSelector(network("fd00::/8"))), (Ports(6, 80, 90), Ports())),
    ),
    (False, None),
)
BACKENDS = (Backend(ipaddress.ip_address("10.0.0.1"), 80), Backend(ipaddress.ip_address("fd00::1"), 81, 7))
SERVICE = Service(
    "ns/s:http", "kubernetes", BACKENDS[0].address, 80, 6, BACKENDS, ((EVERY, 80, 2),), 30, BACKENDS[:1]
)


@pytest.mark.parametrize(
    "found",
    [
        POLICY,
        SERVICE,
        replace(SERVICE, external=()),
        replace(SERVICE, external=None),
        replace(SERVICE, sources=()),
        replace(SERVICE, sources=(ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8"))),
        pod("a", "10.0.0.1", x="y"),
    ],
)
def test_stored_objects_are_equal(found: Any) -> None:
    assert decode(type(found), json.loads(json.dumps(encode(found)))) == found


def test_an_unfinished_line_is_ignored_and_replaced(tmp_path: Path) -> None:
    store, cluster = ClusterStore(str(tmp_path)), Cluster({"ns/a": pod("a")}, by_name([POLICY]), {})
    assert store.read() is None and store.token() == ()
    store.replace(cluster)
    for name in ("b", "c"):
        changes = ClusterChanges({f"ns/{name}": pod(name)}, services={"ns/s:http": (SERVICE,)})
        changes.apply(cluster)
        store.append(changes, cluster)
    path = tmp_path / "cluster.log"
    complete = path.read_bytes()
    path.write_bytes(complete + b'{"pods": {"ns/d": nu')
    assert ClusterStore(str(tmp_path)).read() == cluster
    changes = ClusterChanges({"ns/a": None}, {"ns/p": None})
    changes.apply(cluster)
    store = ClusterStore(str(tmp_path))
    store.append(changes, cluster)
    assert path.read_bytes().startswith(complete) and store.read() == cluster
    assert list(cluster.pods) == ["ns/b", "ns/c"]


def test_a_large_log_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_store, "_MIN_CHANGES", 1000)
    store, cluster = ClusterStore(str(tmp_path)), Cluster()
    store.replace(cluster)
    sizes = []
    for number in range(100):
        changes = ClusterChanges({"ns/a": pod("a", app=str(number))})
        changes.apply(cluster)
        store.append(changes, cluster)
        sizes.append((tmp_path / "cluster.log").stat().st_size)
        assert ClusterStore(str(tmp_path)).read() == cluster
    assert max(sizes) < 2500


def test_reversed_changes_restore_the_objects() -> None:
    before = Cluster({"ns/a": pod("a"), "ns/b": pod("b")}, by_name([POLICY]), by_name([SERVICE]))
    after = Cluster({"ns/b": pod("b", app="web"), "ns/c": pod("c")}, {}, by_name([SERVICE, SERVICE]))
    changes = changes_between(before, after)
    former = changes.reversed(before)
    now = Cluster({**before.pods}, {**before.policies}, {**before.services})
    changes.apply(now)
    assert now == after
    former.apply(now)
    assert now == before and not changes_between(now, before)


def test_the_last_pod_of_the_api_has_an_address() -> None:
    old, new, address = pod("old", "10.0.0.1"), pod("new", "10.0.0.1"), ipaddress.ip_address("10.0.0.1")
    own = replace(pod("own", "10.0.0.1"), device="hp0")
    for first, second in ((old, new), (new, old)):
        holders = Holders([], [old, new])
        assert holders.get(address) is new
        holders.remove(first)
        assert holders.get(address) is second
        holders.declared[address] = own
        assert holders.get(address) is own
        del holders.declared[address]
        holders.remove(second)
        assert holders.get(address) is None


def image_with(cluster: Cluster | None, node: Any = NODE, uid: str = "uid-own") -> Any:
    own = Pod("c1", "cni", (ipaddress.ip_address("10.0.0.1"),), device="hp0", in_cluster=True)
    own = replace(own, display_name="ns/own", uid=uid)
    merged, problems = merge(Declaration([own]), [], cluster)
    assert not problems
    return Compiler(merged, node, {}).image


@pytest.mark.parametrize(
    ("cluster", "uid", "known"),
    [
        (None, "uid-own", False),
        (Cluster(), "uid-own", False),
        (Cluster({"ns/own": pod("own")}), "uid-own", True),
        (Cluster({"ns/own": pod("own")}), "uid-former", False),
        (Cluster({"ns/own": replace(pod("own"), uid="")}), "", False),
    ],
    ids=["no lists", "no Pod", "known", "another UID", "no UID"],
)
def test_unknown_pods_deny_all_but_their_node(cluster: Cluster | None, uid: str, known: bool) -> None:
    # A policy that allows everything does not apply to them.
    if cluster:
        rules = (Rule(INGRESS), Rule(EGRESS))
        everything = Policy("ns/all", "kubernetes", PodSelector(), rules, (False, False))
        cluster = replace(cluster, policies=by_name([everything]))
    programs = Programs(image_with(cluster, uid=uid), [HOST])
    for direction in (INGRESS, EGRESS):
        assert programs.allows("10.0.0.1", "192.0.2.1", direction, 6, 80) == known
    assert programs.allows("10.0.0.1", HOST, INGRESS, 6, 80)


def test_a_pod_of_the_api_never_has_an_address_of_the_node() -> None:
    node = replace(NODE, addresses=frozenset({ipaddress.ip_address(HOST)}))
    cluster = Cluster({"ns/own": pod("own"), "ns/forged": pod("forged", HOST, "10.0.0.9")})
    found = {str(ipaddress.ip_address(key)) for key in image_with(cluster, node).endpoints}
    assert found == {"10.0.0.1", "10.0.0.9"}


def test_what_cannot_be_encoded_is_denied_and_reported() -> None:
    ports = tuple(Ports(6, port, port) for port in range(1, 140, 2))
    policy = Policy("ns/many", "kubernetes", PodSelector(), (Rule(INGRESS, ports=ports),), (False, None))
    own = replace(pod("own", "10.0.0.1"), device="hp0")
    compiler = Compiler(Declaration([own], [policy]), NODE, {})
    assert not compiler.problems
    assert compiler.unenforced == [
        "policies (ns/many): 70 port ranges exceed the maximum of 64; merge some of them"
    ]
    programs = Programs(compiler.image, [HOST])
    assert not programs.allows("10.0.0.1", "192.0.2.1", INGRESS, 6, 1)
    assert programs.allows("10.0.0.1", HOST, INGRESS, 6, 2)
