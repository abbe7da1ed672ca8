# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The interfaces of all next hops of default routes, whatever form these have, and source addresses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._kernel.routes import source_addresses

RunModule = Callable[..., dict[str, Any]]

HOPS4 = "nexthop via 192.0.2.1 dev e0 nexthop via 198.51.100.1 dev e1"
HOPS6 = "nexthop via fd00:0::1 dev e0 nexthop via fd00:1::1 dev e1"
OBJECTS = (
    "nexthop add id 1 via 192.0.2.1 dev e0",
    "nexthop add id 2 via 198.51.100.1 dev e1",
    "nexthop add id 9 group 1/2,5",
)


@pytest.mark.parametrize("compatible", ["1", "0"])
@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ([f"route add default {HOPS4}"], ["e0", "e1"]),
        ([f"-6 route add default {HOPS6}"], ["e0", "e1"]),
        (["route add default dev e2", f"-6 route add default {HOPS6}"], ["e0", "e1", "e2"]),
        (["route add default via 192.0.2.1", "route add default dev e1 metric 9"], ["e0", "e1"]),
        ([*OBJECTS, "route add default nhid 9"], ["e0", "e1"]),
        ([*OBJECTS, "route add default nhid 2"], ["e1"]),
        (["route add default via inet6 fd00:1::1 dev e1"], ["e1"]),
        (["route add unreachable default metric 9", "-6 route add blackhole default"], []),
        (["route add default dev e0 table 100", "route add 0.0.0.0/1 dev e1"], []),
        ([], []),
    ],
)
def test_interfaces_of_default_routes(
    namespaces: Any, run_module: RunModule, lines: list[str], found: list[str], compatible: str
) -> None:
    netns = namespaces("router")
    namespaces.sysctl(netns, ipv4__nexthop_compat_mode=compatible)
    for number, network in enumerate(("192.0.2", "198.51.100", "203.0.113")):
        namespaces.ip(
            netns,
            f"link add e{number} type veth peer name p{number}",
            f"link set p{number} up",
            f"link set e{number} up",
            f"addr add {network}.9/24 dev e{number}",
            f"addr add fd00:{number}::9/64 dev e{number} nodad",
        )
    for line in lines:
        namespaces.run(netns, "ip", *line.split())
    result = run_module("nic_info", {}, netns)
    assert [nic["name"] for nic in result["nics"] if nic["default_route"]] == found
    if found:
        made = run_module("nic_tuning", {"nics": [{"default_route": True, "mtu": 1400}]}, netns)
        assert [nic["name"] for nic in made["nics"]] == found


def test_source_addresses_are_neither_secondary_nor_deprecated(namespaces: Any) -> None:
    netns = namespaces("router")
    namespaces.ip(
        netns,
        *("link add e0 up type veth peer p0", "link set p0 up", "link add e1 up type veth peer p1"),
        *("addr add 192.0.2.9/24 dev e0", "addr add 192.0.2.8/24 dev e0", "addr add 198.51.100.9/24 dev e1"),
        *("addr add fd00::9/64 dev e0 nodad", "addr add fd00::8/64 dev e0 nodad preferred_lft 0"),
    )
    with namespaces.inside(netns):
        assert {*map(str, source_addresses({"e0"}))} == {"192.0.2.9", "fd00::9"}
        assert source_addresses(()) == frozenset()
