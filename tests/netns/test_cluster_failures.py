# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Errors while a cluster's objects are stored or applied, and objects that do not fit into the maps.

Nothing is reported as enforced that is not, and objects of one namespace do not affect those of others.
"""

from __future__ import annotations

import errno
import ipaddress
import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._datapath import identities
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.cluster_store import ClusterStore
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.compile import Compiler
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.live import LiveEntries
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.model import (
    INGRESS,
    Backend,
    CidrSelector,
    Pod,
    PodSelector,
    Policy,
    Ports,
    Rule,
    Service,
)
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.node import read_interfaces
from tests.netns.bpf_node import Node
from tests.netns.test_cluster_changes import World, api_pod, endpoint, without_numbers
from tests.unit.datapath.declarations import HOST
from tests.unit.datapath.programs import Programs

ADDRESS = ipaddress.ip_address("10.0.0.1")
POD = Pod("ns/p0", "kubernetes", (ADDRESS,), {"app": "web"}, "n", uid="u0")
POLICY = Policy("ns/deny", "kubernetes", PodSelector(), (), (False, False), optional=True)
SERVICE = Service("ns/s:80", "kubernetes", ipaddress.ip_address("10.96.0.1"), 80, 6, (Backend(ADDRESS, 80),))
DESIRED = ({"ns/p0": POD}, [POLICY], [SERVICE])


@pytest.fixture
def world(node: Node) -> Iterator[World]:
    node.ns.ip(node.name, *(f"link add s{number} type veth peer name t{number}" for number in range(2)))
    node.attach()
    with node.ns.inside(node.name):
        made = World(node.pins)
        yield made
        made.entries.close()


def is_complete(world: World) -> bool:
    """Return whether the objects are stored, and the maps are those of a new process."""
    found = world.store.cluster.read()
    return bool(
        found
        and {*found.pods} == {"ns/p0"}
        and {*found.policies} == {"ns/deny"}
        and {*found.services} == {"ns/s:80"}
        and without_numbers(world.image()) == without_numbers(world.desired())
        and world.image().services
    )


STEPS = (
    (ClusterStore, "replace"),
    (ClusterStore, "append"),
    (Compiler, "__init__"),
    (Compiler, "set_services"),
    (LiveEntries, "_update_pods"),
)
ERRORS = (OSError(errno.ENOSPC, "No space left on device"), KeyError("bug"))


@pytest.mark.parametrize("known", [False, True])
def test_what_fails_is_repeated(world: World, monkeypatch: pytest.MonkeyPatch, known: bool) -> None:
    failed = 0
    for (where, method), error in itertools.product(STEPS, ERRORS):

        def fail(*_arguments: Any, error: Exception = error) -> None:
            raise error

        world.store.cluster.remove()
        if known:
            world.entries.set_cluster({}, [], [])
        with monkeypatch.context() as patch:
            patch.setattr(where, method, fail)
            try:
                world.entries.set_cluster(*DESIRED)
                assert is_complete(world), method
            except type(error):
                failed += 1
        world.entries.set_cluster(*DESIRED)
        assert is_complete(world), method
    assert failed >= 6


def labelled(name: str, **labels: str) -> Pod:
    number = int(name[1:])
    return Pod(f"ns/{name}", "kubernetes", (ipaddress.ip_address(f"10.0.9.{number}"),), labels, "o", uid=name)


def test_address_blocks_of_one_namespace_do_not_affect_policies_of_others(world: World) -> None:
    blocks = [CidrSelector(ipaddress.ip_network((0x64000000 + (n << 8), 24))) for n in range(30_000)]
    peers = [Rule(INGRESS, peers=tuple(blocks))]
    hostile = Policy("evil/blocks", "kubernetes", PodSelector(), tuple(peers), (False, None), optional=True)
    problems = world.entries.set_cluster({}, [hostile], [])
    assert [one.partition(":")[0] for one in problems] == ["policies (evil/blocks)"]
    assert world.entries.set_cluster({"ns/p0": POD}, [hostile, POLICY], [SERVICE]) == problems
    stored = world.store.cluster.read()
    assert stored and {*stored.policies} == {"evil/blocks", "ns/deny"}
    assert without_numbers(world.image()) == without_numbers(world.desired()) and world.image().services


def test_pods_whose_pairs_do_not_fit_are_denied(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The maps are computed again when a change of one Pod does not fit."""
    rules = tuple(
        Rule(INGRESS, peers=(PodSelector(frozenset({("n", str(n))})),), ports=(Ports(6, n, n),))
        for n in range(20)
    )
    many = Policy("ns/many", "kubernetes", PodSelector(), rules, (False, None), optional=True)
    own = {f"ns/p{number}": api_pod(number, {}) for number in range(2)}
    world.entries.add([endpoint(0)], read_interfaces())
    assert world.entries.set_cluster(own, [many], []) == []
    monkeypatch.setattr(identities, "POLICY", 20)
    pods = [labelled(f"p{number}", n=str(number)) for number in range(2, 20)]
    found = [world.entries.update_pods({pod.display_name or pod.name: pod}) for pod in pods]
    assert found[0] == [] and "policies (ns/many)" in found[-1][0]
    assert without_numbers(world.image()) == without_numbers(world.desired())
    allowed = [programs_of(world).allows("10.0.0.1", f"10.0.9.{n}", INGRESS, 6, n) for n in range(2, 20)]
    assert not any(allowed)
    world.entries.add([endpoint(1)], read_interfaces())
    world.entries.remove(["e0"])
    assert without_numbers(world.image()) == without_numbers(world.desired())
    monkeypatch.undo()
    assert world.entries.set_cluster({**own, **{pod.name: pod for pod in pods}}, [many, POLICY], []) == []
    assert programs_of(world).allows("10.0.1.2", "10.0.9.3", INGRESS, 6, 3)


def programs_of(world: World) -> Programs:
    return Programs(world.image(), [HOST])
