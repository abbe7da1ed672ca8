# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options are converted to the desired state, and all invalid values are reported."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.podnet.datapath.plugins.module_utils._kernel import netns
from ansible_collections.podnet.datapath.plugins.module_utils._pods import parse
from ansible_collections.podnet.datapath.plugins.module_utils._pods.model import Route
from tests.unit.pods.builders import DRIVERS, options, resolved


def problems_of(*pods: dict[str, Any], **others: Any) -> list[str]:
    return parse.parse(options(*pods, **others), DRIVERS, {})[1]


@given(st.text(min_size=1, max_size=80))
def test_default_host_interface_is_valid_and_stable(name: str) -> None:
    interface = parse.host_interface_of(name)
    assert parse.interface_problem(interface) is None
    assert interface == parse.host_interface_of(name)


@given(st.text(min_size=1, max_size=80))
def test_macs_are_unicast_local_and_differ_by_end(name: str) -> None:
    macs = {parse.mac_of(name, end) for end in ("host", "pod")}
    assert len(macs) == 2
    assert all(int(mac[:2], 16) & 3 == 2 for mac in macs)


@pytest.mark.parametrize("name", ["", "a" * 16, "a b", "a/b", "a:b", ".", "..", "lo", "eth%d", "ä" * 8])
def test_invalid_interface_name_is_reported(name: str) -> None:
    assert parse.interface_problem(name)


def test_path_of_a_namespace_is_canonical() -> None:
    assert {netns.path_of(p) for p in ("x", "/run/netns/x", "/var/run/netns/x", "/run/netns/../netns/x")} == {
        "/run/netns/x"
    }


def test_l3_pod_has_no_neighbour_entries() -> None:
    pod = {"name": "a", "addresses": ["10.0.0.1", "fd00::0001/128"]}
    device = resolved(pod, mtu=8264).state.devices["a"]
    assert device.pod.addresses == {"10.0.0.1/32", "fd00::1/128"}
    assert device.pod.routes == {Route("0.0.0.0/0"), Route("::/0")}
    assert device.host.routes == {Route("10.0.0.1/32"), Route("fd00::1/128")}
    assert device.host.neighbours == device.pod.neighbours == frozenset()
    assert device.host.settings == {"up": True, "mtu": 8264}
    assert device.driver_settings == {"policy": "drop", "peer_policy": "drop"}
    assert device.netns == "/run/netns/a"


@pytest.mark.parametrize("others", [{"driver": "veth"}, {"driver": "netkit", "mode": "l2"}])
def test_l2_ends_have_neighbour_entries_of_each_other(others: dict[str, Any]) -> None:
    device = resolved({"name": "a", "addresses": ["10.0.0.1/24"]}, **others).state.devices["a"]
    host_mac, pod_mac = device.host.settings["mac"], device.pod.settings["mac"]
    assert device.pod.neighbours == {("169.254.1.1", host_mac)}
    assert device.host.neighbours == {("10.0.0.1", pod_mac)}
    assert device.pod.routes == {Route("0.0.0.0/0", "169.254.1.1")}
    assert device.host.routes == {Route("10.0.0.1/32")}


def test_option_of_a_pod_overrides_that_of_the_call() -> None:
    pod = {"name": "a", "driver": "veth", "mtu": 1400, "host_interface": "hosta", "interface": "net0"}
    device = resolved({**pod, "netns": "/proc/1/ns/net"}, mtu=9000).state.devices["a"]
    assert (device.driver, device.host_interface, device.interface) == ("veth", "hosta", "net0")
    assert device.host.settings["mtu"] == 1400
    assert device.driver_settings == {}


def test_only_namespaces_given_by_name_are_created() -> None:
    desired = resolved({"name": "a"}, {"name": "b", "netns": "/proc/1/ns/net"})
    assert desired.state.namespaces == {"/run/netns/a"}
    assert desired.existing_namespaces == {"/proc/1/ns/net"}


@pytest.mark.parametrize(
    ("pod", "part"),
    [
        ({"addresses": ["10.0.0.300/32"]}, "addresses: '10.0.0.300/32' is not an IP address"),
        ({"addresses": ["10.0.0.1/33"]}, "addresses: '10.0.0.1/33' is not an IP address"),
        ({"addresses": ["224.0.0.1"]}, "is not an address that a Pod can have"),
        ({"addresses": ["127.0.0.1"]}, "is not an address that a Pod can have"),
        ({"addresses": ["::"]}, "is not an address that a Pod can have"),
        ({"addresses": ["fe80::1"]}, "link-local"),
        ({"addresses": ["169.254.1.1"]}, "link-local"),
        ({"addresses": ["10.0.0.1", "10.0.0.1/24"]}, "addresses: 10.0.0.1 is already used by pods[0] (a)"),
        ({"name": "a/b", "netns": "a"}, "name: 'a/b' must have at most 63 letters"),
        ({"netns": "../etc"}, "netns: '../etc' must be a name"),
        ({"interface": "sixteencharacters"}, "interface: 'sixteencharacters' must have 1 to 15 bytes"),
        ({"host_interface": "a b"}, "host_interface: 'a b' must not contain blanks"),
        ({"mtu": 67}, "mtu: 67 is outside 68 to 65535"),
        ({"mtu": 65536}, "mtu: 65536 is outside 68 to 65535"),
        ({"mtu": 1279, "addresses": ["fd00::1"]}, "mtu: 1279 is outside 1280 to 65535"),
    ],
)
def test_invalid_value_of_a_pod_is_reported(pod: dict[str, Any], part: str) -> None:
    (problem,) = problems_of({"name": "a", **pod})
    assert problem.startswith("pods[0] (")
    assert part in problem


@pytest.mark.parametrize(
    ("second", "part"),
    [
        ({"name": "a"}, "name: a is already used by pods[0] (a)"),
        ({"name": "b", "netns": "/var/run/netns/a"}, "netns: /run/netns/a is already used by pods[0] (a)"),
        ({"name": "b", "host_interface": "hosta"}, "host_interface: hosta is already used by pods[0] (a)"),
        ({"name": "b", "addresses": ["fd00:0::1/64"]}, "addresses: fd00::1 is already used by pods[0] (a)"),
    ],
)
def test_two_pods_cannot_have_the_same_value(second: dict[str, Any], part: str) -> None:
    (problem,) = problems_of({"name": "a", "host_interface": "hosta", "addresses": ["fd00::1"]}, second)
    assert part in problem


@pytest.mark.parametrize(
    ("route", "part"),
    [
        ({"to": "10.0.0.1/24", "dev": "eth0"}, "is not a network"),
        ({"to": "10.0.0.0/24", "via": "fd00::1", "dev": "eth0"}, "have different address families"),
        ({"to": "10.0.0.0/24", "via": "here", "dev": "eth0"}, "via: 'here' is not an IP address"),
        ({"to": "10.0.0.0/24", "via": "10.1.0.1", "dev": "a b"}, "dev: 'a b'"),
    ],
)
def test_invalid_host_route_is_reported(route: dict[str, Any], part: str) -> None:
    (problem,) = problems_of(host_routes=[route])
    assert problem.startswith("host_routes[0]: ")
    assert part in problem


def test_all_problems_are_reported_at_once() -> None:
    found = problems_of(
        {"name": "a", "addresses": ["x", "y"], "mtu": 5},
        {"name": "a"},
        owner="a/b",
        gso_max_size=0,
        host_routes=[
            {"to": "10.0.0.0/8", "dev": "eth0"},
            {"to": "10.0.0.0/8", "via": "10.1.1.1", "dev": "eth0"},
        ],
    )
    assert len(found) == 7
