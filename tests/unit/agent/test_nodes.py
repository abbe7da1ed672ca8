# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Routes follow from Node objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from ansible_collections.podnet.datapath.plugins.module_utils._agent.nodes import (
    NodeFacts,
    NodeWatch,
    facts_of,
    plan,
)
from ansible_collections.podnet.datapath.plugins.module_utils._agent.warning_file import Warnings
from ansible_collections.podnet.datapath.plugins.module_utils._agent.worker import Worker
from ansible_collections.podnet.datapath.plugins.module_utils._kernel.rtnl import NextHop
from ansible_collections.podnet.datapath.plugins.module_utils._ops.kubernetes import Access, Api
from ansible_collections.podnet.datapath.plugins.module_utils._pods.model import Route


def node(addresses: list[str], cidrs: list[str], **spec: Any) -> NodeFacts:
    found = [{"type": "Hostname", "address": "x"}]
    found += [{"type": "InternalIP", "address": address} for address in addresses]
    return facts_of({"spec": {"podCIDRs": cidrs, **spec}, "status": {"addresses": found}})


def on_link(address: str) -> NextHop | None:
    """Look up a next hop: 192.0.2.0/24 and fd00::/64 are on eth0, 198.51.100.0/24 is behind a router."""
    if address.startswith(("192.0.2.", "fd00::")):
        return NextHop("eth0")
    return NextHop("eth0", "192.0.2.254") if address.startswith("198.51.100.") else None


def test_other_nodes_on_the_link_are_next_hops() -> None:
    nodes = {
        "a": node(["192.0.2.1", "fd00::1"], ["10.1.0.0/24", "fd01::/64"]),
        "b": node(["192.0.2.2", "fd00::2"], ["10.2.0.0/24", "fd02::/64"]),
    }
    found = plan(nodes, "a", on_link)
    assert list(found.pod_cidrs) == ["10.1.0.0/24", "fd01::/64"]
    assert found.routes == {
        Route("10.2.0.0/24", "192.0.2.2", "eth0"),
        Route("fd02::/64", "fd00::2", "eth0"),
    }
    assert not found.problems


def test_nodes_without_a_next_hop_are_reported() -> None:
    nodes = {
        "a": node(["192.0.2.1"], ["10.1.0.0/24"]),
        "routed": node(["198.51.100.1"], ["10.2.0.0/24"]),
        "unreachable": node(["203.0.113.1"], ["10.3.0.0/24"]),
        "single": node(["192.0.2.4"], ["10.4.0.0/24", "fd04::/64"]),
        "new": facts_of({"metadata": {}, "spec": {}, "status": {}}),
    }
    found = plan(nodes, "a", on_link)
    assert found.routes == {Route("10.4.0.0/24", "192.0.2.4", "eth0")}
    assert [problem.partition(":")[0] for problem in found.problems] == [
        "node routed",
        "node single",
        "node unreachable",
    ]
    assert "behind 192.0.2.254" in found.problems[0] and "cni_routes: none" in found.problems[0]


def test_an_invalid_node_does_not_affect_the_routes_to_others() -> None:
    nodes = {
        "b": node(["192.0.2.2"], ["10.2.0.0/24"]),
        "copy": node(["192.0.2.3"], ["10.2.0.0/24"]),
        "invalid": node(["unknown"], ["10.4.0.0/24"]),
        "prefix": node(["192.0.2.5"], ["10.5.0.0/33"]),
        "type": facts_of({"spec": {"podCIDRs": "10.6.0.0/24"}}),
    }
    found = plan(nodes, "a", on_link)
    assert found.routes == {Route("10.2.0.0/24", "192.0.2.2", "eth0")}
    assert [problem.partition(":")[0] for problem in found.problems] == [
        "node copy",
        "node invalid",
        "node prefix",
        "node type",
    ]
    assert found.problems[2] == "node prefix: it is invalid: '10.5.0.0/33' is not a network"


def test_ranges_and_addresses_are_those_of_the_api() -> None:
    """It accepts leading zeros, host bits and IPv4-mapped addresses."""
    nodes = {
        "a": node([], ["10.1.0.1/24"]),
        "b": node(["::ffff:192.0.2.2"], ["010.002.0.7/24"]),
    }
    found = plan(nodes, "a", on_link)
    assert list(found.pod_cidrs) == ["10.1.0.0/24"]
    assert found.routes == {Route("10.2.0.0/24", "192.0.2.2", "eth0")}


class Routes:
    """Stands in for the worker."""

    def __init__(self) -> None:
        self.found: frozenset[Route] = frozenset()

    def next_hop(self, address: str) -> NextHop | None:
        return on_link(address)

    def set_routes(self, routes: frozenset[Route]) -> None:
        self.found = routes


def test_routes_are_set_again_and_a_full_disk_does_not_end_the_watch(tmp_path: Path) -> None:
    nodes = {
        "a": node(["192.0.2.1"], ["10.1.0.0/24"]),
        "b": node(["192.0.2.2"], ["10.2.0.0/24"]),
    }
    access = Access("http://127.0.0.1:1")
    routes = Routes()
    warnings = Warnings(str(tmp_path / "warnings"))
    file = str(tmp_path / "missing" / "ranges")
    watch = NodeWatch(Api(access), "a", cast(Worker, routes), True, file, warnings)
    assert not watch.update(), "nothing is known"
    watch.apply(nodes)
    assert not watch.update() and list(watch.pod_cidrs) == ["10.1.0.0/24"]
    assert watch.update()
    (route,) = routes.found
    routes.found = frozenset()  # The kernel deletes routes of an interface that is set down.
    assert watch.update() and routes.found == {route}


def test_a_wrong_node_name_is_named_with_the_nodes_of_the_cluster(tmp_path: Path) -> None:
    warnings = Warnings(str(tmp_path / "warnings"))
    api = Api(Access("http://127.0.0.1:1"))
    watch = NodeWatch(api, "b.example", cast(Worker, Routes()), True, str(tmp_path / "ranges"), warnings)
    watch.apply({"a": node(["192.0.2.1"], []), "b": node(["192.0.2.2"], [])})
    assert "no Node b.example (it has a, b)" in watch.problem and "set cni_node" in watch.problem
    watch.apply({"b.example": node(["192.0.2.3"], [])})
    assert "no podCIDRs yet" in watch.problem


def test_an_unknown_own_node_has_no_ranges() -> None:
    assert plan({}, "a", on_link).pod_cidrs == []
    old = facts_of({"spec": {"podCIDR": "10.1.0.0/24"}})
    assert list(plan({"a": old}, "a", on_link).pod_cidrs) == ["10.1.0.0/24"]
