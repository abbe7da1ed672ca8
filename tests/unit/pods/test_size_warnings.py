# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Packet sizes of Pods that do not match the uplink are reported."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._pods.model import NodeRoute, Route, State
from ansible_collections.podnet.datapath.plugins.module_utils._pods.size_warnings import size_warnings
from tests.unit.pods.builders import POD, node, resolved


def warnings_of(pod: dict[str, Any], wire: dict[str, Any], *routes: NodeRoute) -> list[str]:
    """Return the warnings for a Pod on a node whose wire0 has these sizes."""
    desired = resolved({**POD, "mtu": pod.pop("mtu", None)}, **pod)
    there = node(sizes={"wire0": wire, "other": {"mtu": 68}}, routes=routes)
    return size_warnings(desired.state, State(), there)


DEFAULT = NodeRoute(Route("0.0.0.0/0", "10.9.9.9", "wire0"), 0)


@pytest.mark.parametrize(
    ("pod", "wire", "part"),
    [
        ({"mtu": 8264}, {"mtu": 1500}, "mtu: 8264 in a, 1500 on wire0: "),
        ({"gso_max_size": 185000}, {"gso_max_size": 65536}, "gso_max_size: 185000 in a, 65536 on wire0: "),
        ({"gro_max_size": 65536}, {"gro_max_size": 185000}, "gro_max_size: 65536 in a, 185000 on wire0: "),
        (
            {"gso_ipv4_max_size": 9},
            {"gso_ipv4_max_size": 70000},
            "gso_ipv4_max_size: 9 in a, 70000 on wire0: ",
        ),
    ],
)
def test_sizes_that_differ_from_the_uplink_are_reported(
    pod: dict[str, Any], wire: dict[str, Any], part: str
) -> None:
    routes = {"host_routes": [{"to": "10.78.0.0/16", "dev": "wire0"}]}
    (message,) = warnings_of({**pod, **routes}, wire)
    assert message.startswith(part)
    # Without host routes, the interface of the default route is the uplink.
    assert warnings_of(dict(pod), wire, DEFAULT) == [message]
    assert warnings_of(dict(pod), wire) == []
    assert warnings_of({**pod, "host_routes": [{"to": "10.78.0.0/16", "dev": "x"}]}, wire, DEFAULT) == []


@pytest.mark.parametrize(
    ("pod", "wire"),
    [
        ({"mtu": 1500}, {"mtu": 8264}),
        ({"mtu": 1500}, {"mtu": 1500}),
        ({}, {"mtu": 1500}),
        ({"gso_max_size": 60000}, {"gso_max_size": 65536}),
        ({"gso_max_size": 185000}, {"gso_max_size": 185000}),
        ({"gso_max_size": 185000}, {}),
    ],
)
def test_harmless_differences_are_not_reported(pod: dict[str, Any], wire: dict[str, Any]) -> None:
    assert warnings_of(dict(pod), wire, DEFAULT) == []


def test_smaller_mtu_of_a_route_is_reported() -> None:
    (message,) = warnings_of({"mtu": 8264}, {"mtu": 8264}, DEFAULT._replace(mtu=1400))
    assert message.startswith("mtu: 8264 in a, 1400 on the route 0.0.0.0/0 via 10.9.9.9 dev wire0: ")
    assert warnings_of({"mtu": 1400}, {"mtu": 8264}, DEFAULT._replace(mtu=1400)) == []
