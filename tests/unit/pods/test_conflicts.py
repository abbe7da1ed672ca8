# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Conflicts of the desired state with other objects on the node are reported."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._pods.conflicts import (
    conflicts,
    exclude_foreign,
    shared_values,
)
from ansible_collections.podnet.datapath.plugins.module_utils._pods.model import (
    Interface,
    Namespace,
    NodeRoute,
    Route,
)
from tests.unit.pods.builders import POD, node, resolved

PEER = Interface(index=2, peer=7, kind="veth", owner="site", pod="")
OWN = Interface(index=7, peer=2, kind="veth", owner="site", pod="a")


@pytest.mark.parametrize(
    ("there", "part"),
    [
        (
            {"interfaces": {"hosta": replace(OWN, owner="", pod="")}},
            "hosta exists and is not managed",
        ),
        (
            {"interfaces": {"hosta": replace(OWN, owner="cni")}},
            "exists and belongs to Pod a of owner cni",
        ),
        ({"addresses": frozenset({"10.0.0.1"})}, "10.0.0.1 is assigned to the node itself"),
        (
            {"routes": (NodeRoute(Route("10.0.0.1/32", "", "eth0"), 0),)},
            "another route to 10.0.0.1",
        ),
        (
            {"namespaces": {"/run/netns/a": Namespace("other")}},
            "/run/netns/a is not a network namespace",
        ),
        (
            {"namespaces": {"/run/netns/a": Namespace("live", {"eth0": replace(PEER, owner="")})}},
            "interface: eth0 exists in /run/netns/a and does not belong to this Pod",
        ),
        (
            {
                "namespaces": {
                    "/run/netns/a": Namespace(
                        "live", routes=(NodeRoute(Route("0.0.0.0/0", "10.9.9.9", "net1"), 0),)
                    )
                }
            },
            "netns: /run/netns/a already has a default route",
        ),
    ],
)
def test_conflict_is_reported(there: dict[str, Any], part: str) -> None:
    (problem,) = conflicts(resolved(POD), node(**there), "site", frozenset())
    assert problem.startswith("Pod a: ")
    assert part in problem


def test_managed_objects_do_not_conflict() -> None:
    there = node(
        interfaces={"hosta": OWN},
        routes=(NodeRoute(Route("10.0.0.1/32", "", "hosta"), 0),),
        namespaces={
            "/run/netns/a": Namespace("live", {"eth0": PEER}, (NodeRoute(Route("0.0.0.0/0", "", "eth0"), 0),))
        },
        created_namespaces={"/run/netns/a": "site"},
    )
    assert conflicts(resolved(POD), there, "site", frozenset()) == []


def test_namespace_given_by_path_must_exist() -> None:
    desired = resolved({**POD, "netns": "/proc/4711/ns/net"})
    there = node(namespaces={"/proc/4711/ns/net": Namespace("absent")})
    (problem,) = conflicts(desired, there, "site", frozenset())
    assert "netns: /proc/4711/ns/net does not exist" in problem


def test_unsupported_size_is_reported_once() -> None:
    desired = resolved(POD, {"name": "b"}, gso_ipv4_max_size=100000)
    problems = conflicts(desired, node(supported_sizes=frozenset({"gso_max_size"})), "site", frozenset())
    assert problems == ["gso_ipv4_max_size: this kernel does not support it: omit the option"]


def test_host_route_conflicts_with_foreign_but_not_with_managed_routes() -> None:
    desired = resolved(host_routes=[{"to": "10.2.0.0/24", "via": "10.1.0.2", "dev": "eth0"}])
    other = Route("10.2.0.0/24", "10.1.0.9", "eth0")
    there = node(interfaces={"eth0": PEER}, routes=(NodeRoute(other, 0),))
    assert "the node has another route" in conflicts(desired, there, "site", frozenset())[0]
    assert conflicts(desired, there, "site", frozenset({other})) == []
    assert "interface eth0 does not exist" in conflicts(desired, node(), "site", frozenset())[0]


UPLINK = NodeRoute(Route("192.0.2.0/24", "", "eth0"), 0)
DEFAULT_ROUTE = NodeRoute(Route("0.0.0.0/0", "192.0.2.1", "eth0"), 0)


@pytest.mark.parametrize(
    ("controller", "to", "via", "refused"),
    [
        ("198.51.100.7", "198.51.100.0/24", "192.0.2.9", True),
        ("198.51.100.7", "128.0.0.0/1", "192.0.2.9", True),
        ("198.51.100.7", "198.51.100.0/24", "192.0.2.1", False),  # the current next hop
        ("198.51.100.7", "198.51.101.0/24", "192.0.2.9", False),
        ("192.0.2.7", "192.0.0.0/16", "192.0.2.9", False),  # a more specific route exists
        ("192.0.2.7", "192.0.2.0/28", "192.0.2.9", True),
        ("192.0.2.5", "192.0.2.0/28", "192.0.2.9", False),  # the node itself
        ("2001:db8::7", "2001:db8::/64", "fe80::1", True),  # its route is in another table
        ("", "198.51.100.0/24", "192.0.2.9", False),
    ],
)
def test_change_of_the_path_to_the_controller_is_refused(
    controller: str, to: str, via: str, refused: bool
) -> None:
    there = node(
        interfaces={"eth0": PEER},
        addresses=frozenset({"192.0.2.5"}),
        routes=(UPLINK, DEFAULT_ROUTE),
        controller=controller,
    )
    desired = resolved(host_routes=[{"to": to, "via": via, "dev": "eth0"}])
    problems = conflicts(desired, there, "site", frozenset())
    assert [f"the path to the Ansible controller {controller}" in text for text in problems] == [
        True
    ] * refused
    # A route that exists already carries this connection.
    there = replace(there, routes=(*there.routes, NodeRoute(Route(to, via, "eth0"), 0)))
    assert conflicts(desired, there, "site", frozenset()) == []


def test_address_of_the_controller_is_refused() -> None:
    there = node(routes=(DEFAULT_ROUTE,), controller="10.0.0.1")
    (problem,) = conflicts(resolved(POD), there, "site", frozenset())
    assert problem.startswith("Pod a: addresses: 10.0.0.1 is the address of the Ansible controller")


def test_foreign_namespaces_and_routes_are_used_and_not_managed() -> None:
    route = Route("10.2.0.0/24", "10.1.0.2", "eth0")
    desired = resolved(POD, host_routes=[{"to": route.to, "via": route.via, "dev": route.dev}])
    there = node(routes=(NodeRoute(route, 0),), namespaces={"/run/netns/a": Namespace("live")})
    target = exclude_foreign(desired, there, "site", frozenset())
    assert target.namespaces == target.host_routes == frozenset()
    managed = replace(there, created_namespaces={"/run/netns/a": "site"})
    assert exclude_foreign(desired, managed, "site", frozenset({route})) == desired.state


@pytest.mark.parametrize(
    ("pod", "part"),
    [
        ({"addresses": ["10.0.0.1/24"]}, "addresses: 10.0.0.1 is already used by Pod a"),
        ({"host_interface": "hosta"}, "host_interface: hosta is already used by Pod a"),
        ({"netns": "a"}, "netns: /run/netns/a is already used by Pod a"),
    ],
)
def test_value_of_a_pod_that_stays_is_refused(pod: dict[str, Any], part: str) -> None:
    others = resolved(POD).state.devices
    assert shared_values(resolved({"name": "b", **pod}).state, others) == [f"Pod b: {part}"]
    assert shared_values(resolved({"name": "b", "addresses": ["10.0.0.2"]}).state, others) == []
