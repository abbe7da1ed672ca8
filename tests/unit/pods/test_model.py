# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which Pods an inventory means, what is wrong with it, and which changes lead there."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.podnet.datapath.plugins.module_utils._kernel import netns
from ansible_collections.podnet.datapath.plugins.module_utils._pods import agreement, model
from ansible_collections.podnet.datapath.plugins.module_utils._pods.model import (
    Change,
    Device,
    End,
    Interface,
    Namespace,
    Node,
    NodeRoute,
    Route,
    State,
)

DRIVERS = {"auto": "veth", "meta": "meta", "netkit": "netkit", "veth": "veth"}


def options(*pods: dict[str, Any], **others: Any) -> dict[str, Any]:
    """Return the module's options as Ansible would hand them over."""
    return {
        "pods": list(pods),
        "driver": "meta",
        "owner": "site",
        "mtu": None,
        "mode": "l3",
        "policy": "drop",
        **dict.fromkeys(model.SIZES),
        "host_routes": [],
        **others,
    }


def resolved(*pods: dict[str, Any], **others: Any) -> model.Desired:
    desired, problems = model.resolve(options(*pods, **others), DRIVERS, {})
    assert problems == []
    return desired


def problems_of(*pods: dict[str, Any], **others: Any) -> list[str]:
    return model.resolve(options(*pods, **others), DRIVERS, {})[1]


# Names


@given(st.text(min_size=1, max_size=80))
def test_default_host_interfaces_are_valid_and_stay_the_same(name: str) -> None:
    interface = model.host_interface_of(name)
    assert model.interface_problem(interface) is None
    assert interface == model.host_interface_of(name)


@given(st.text(min_size=1, max_size=80))
def test_macs_are_unicast_local_and_differ_by_end(name: str) -> None:
    macs = {model.mac_of(name, end) for end in ("host", "pod")}
    assert len(macs) == 2
    assert all(int(mac[:2], 16) & 3 == 2 for mac in macs)


@pytest.mark.parametrize("name", ["", "a" * 16, "a b", "a/b", "a:b", ".", "..", "lo", "eth%d", "ä" * 8])
def test_invalid_interface_names(name: str) -> None:
    assert model.interface_problem(name)


def test_run_netns_has_one_spelling() -> None:
    assert {netns.path_of(p) for p in ("x", "/run/netns/x", "/var/run/netns/x", "/run/netns/../netns/x")} == {
        "/run/netns/x"
    }


# What Pods get


def test_l3_pod_needs_no_neighbours() -> None:
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
def test_l2_pod_knows_its_gateways_and_the_host_knows_the_pod(others: dict[str, Any]) -> None:
    device = resolved({"name": "a", "addresses": ["10.0.0.1/24"]}, **others).state.devices["a"]
    host_mac, pod_mac = device.host.settings["mac"], device.pod.settings["mac"]
    assert device.pod.neighbours == {("169.254.1.1", host_mac)}
    assert device.host.neighbours == {("10.0.0.1", pod_mac)}
    assert device.pod.routes == {Route("0.0.0.0/0", "169.254.1.1")}
    assert device.host.routes == {Route("10.0.0.1/32")}


def test_what_a_pod_says_itself_comes_first() -> None:
    pod = {"name": "a", "driver": "veth", "mtu": 1400, "host_interface": "hosta", "interface": "net0"}
    device = resolved({**pod, "netns": "/proc/1/ns/net"}, mtu=9000).state.devices["a"]
    assert (device.driver, device.host_interface, device.interface) == ("veth", "hosta", "net0")
    assert device.host.settings["mtu"] == 1400
    assert device.driver_settings == {}


def test_only_namespaces_given_by_name_are_made() -> None:
    desired = resolved({"name": "a"}, {"name": "b", "netns": "/proc/1/ns/net"})
    assert desired.state.namespaces == {"/run/netns/a"}
    assert desired.existing_namespaces == {"/proc/1/ns/net"}


# Bad input


@pytest.mark.parametrize(
    ("pod", "part"),
    [
        ({"addresses": ["10.0.0.300/32"]}, "addresses: '10.0.0.300/32' is no IP address"),
        ({"addresses": ["10.0.0.1/33"]}, "addresses: '10.0.0.1/33' is no IP address"),
        ({"addresses": ["224.0.0.1"]}, "no address that a Pod can have"),
        ({"addresses": ["127.0.0.1"]}, "no address that a Pod can have"),
        ({"addresses": ["::"]}, "no address that a Pod can have"),
        ({"addresses": ["fe80::1"]}, "link-local"),
        ({"addresses": ["169.254.1.1"]}, "link-local"),
        ({"addresses": ["10.0.0.1", "10.0.0.1/24"]}, "addresses: 10.0.0.1 is already that of pods[0] (a)"),
        ({"name": "a/b", "netns": "a"}, "name: 'a/b' must be letters"),
        ({"netns": "../etc"}, "netns: '../etc' must be a name"),
        ({"interface": "sixteencharacters"}, "interface: 'sixteencharacters' must have 1 to 15 bytes"),
        ({"host_interface": "a b"}, "host_interface: 'a b' must not hold blanks"),
        ({"mtu": 67}, "mtu: 67 is outside 68 to 65535"),
        ({"mtu": 65536}, "mtu: 65536 is outside 68 to 65535"),
        ({"mtu": 1279, "addresses": ["fd00::1"]}, "mtu: 1279 is outside 1280 to 65535"),
    ],
)
def test_what_is_wrong_with_a_pod_is_named(pod: dict[str, Any], part: str) -> None:
    (problem,) = problems_of({"name": "a", **pod})
    assert problem.startswith("pods[0] (")
    assert part in problem


@pytest.mark.parametrize(
    ("second", "part"),
    [
        ({"name": "a"}, "name: a is already that of pods[0] (a)"),
        ({"name": "b", "netns": "/var/run/netns/a"}, "netns: /run/netns/a is already that of pods[0] (a)"),
        ({"name": "b", "host_interface": "hosta"}, "host_interface: hosta is already that of pods[0] (a)"),
        ({"name": "b", "addresses": ["fd00:0::1/64"]}, "addresses: fd00::1 is already that of pods[0] (a)"),
    ],
)
def test_two_pods_cannot_share(second: dict[str, Any], part: str) -> None:
    (problem,) = problems_of({"name": "a", "host_interface": "hosta", "addresses": ["fd00::1"]}, second)
    assert part in problem


@pytest.mark.parametrize(
    ("route", "part"),
    [
        ({"to": "10.0.0.1/24", "dev": "eth0"}, "is no network"),
        ({"to": "10.0.0.0/24", "via": "fd00::1", "dev": "eth0"}, "are of two families"),
        ({"to": "10.0.0.0/24", "via": "here", "dev": "eth0"}, "via: 'here' is no IP address"),
        ({"to": "10.0.0.0/24", "via": "10.1.0.1", "dev": "a b"}, "dev: 'a b'"),
    ],
)
def test_wrong_host_routes_are_named(route: dict[str, Any], part: str) -> None:
    (problem,) = problems_of(host_routes=[route])
    assert problem.startswith("host_routes[0]: ")
    assert part in problem


def test_all_problems_are_named_at_once() -> None:
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


# Collisions with the node

PEER = Interface(index=2, peer=7, kind="veth", owner="site", pod="")
OWN = Interface(index=7, peer=2, kind="veth", owner="site", pod="a")


def node(**parts: Any) -> Node:
    """Return a node with nothing on it but the given parts."""
    return Node(
        **{
            "interfaces": {},
            "addresses": frozenset(),
            "routes": (),
            "namespaces": {},
            "made_namespaces": {},
            "supported_sizes": frozenset(model.SIZES),
            **parts,
        }
    )


POD = {"name": "a", "host_interface": "hosta", "addresses": ["10.0.0.1"]}


@pytest.mark.parametrize(
    ("there", "part"),
    [
        (
            {"interfaces": {"hosta": replace(OWN, owner="", pod="")}},
            "hosta exists and is not this collection's",
        ),
        ({"interfaces": {"hosta": replace(OWN, owner="cni")}}, "hosta exists and is cni's (a)"),
        ({"addresses": frozenset({"10.0.0.1"})}, "10.0.0.1 is an address of the node itself"),
        ({"routes": (NodeRoute(Route("10.0.0.1/32", "", "eth0"), 0),)}, "10.0.0.1 is routed elsewhere"),
        ({"namespaces": {"/run/netns/a": Namespace("other")}}, "netns: /run/netns/a is no network namespace"),
        (
            {"namespaces": {"/run/netns/a": Namespace("live", {"eth0": replace(PEER, owner="")})}},
            "interface: eth0 exists in /run/netns/a and is not this Pod's",
        ),
        (
            {
                "namespaces": {
                    "/run/netns/a": Namespace(
                        "live", routes=(NodeRoute(Route("0.0.0.0/0", "10.9.9.9", "net1"), 0),)
                    )
                }
            },
            "netns: /run/netns/a has another way out",
        ),
    ],
)
def test_collisions_are_named(there: dict[str, Any], part: str) -> None:
    (problem,) = model.conflicts(resolved(POD), node(**there), "site", frozenset())
    assert problem.startswith("Pod a: ")
    assert part in problem


def test_what_is_ours_does_not_collide() -> None:
    there = node(
        interfaces={"hosta": OWN},
        routes=(NodeRoute(Route("10.0.0.1/32", "", "hosta"), 0),),
        namespaces={
            "/run/netns/a": Namespace("live", {"eth0": PEER}, (NodeRoute(Route("0.0.0.0/0", "", "eth0"), 0),))
        },
        made_namespaces={"/run/netns/a": "site"},
    )
    assert model.conflicts(resolved(POD), there, "site", frozenset()) == []


def test_a_namespace_given_by_path_must_exist() -> None:
    desired = resolved({**POD, "netns": "/proc/4711/ns/net"})
    there = node(namespaces={"/proc/4711/ns/net": Namespace("absent")})
    (problem,) = model.conflicts(desired, there, "site", frozenset())
    assert "netns: /proc/4711/ns/net is gone" in problem


def test_sizes_that_the_kernel_does_not_have_are_named_once() -> None:
    desired = resolved(POD, {"name": "b"}, gso_ipv4_max_size=100000)
    problems = model.conflicts(
        desired, node(supported_sizes=frozenset({"gso_max_size"})), "site", frozenset()
    )
    assert problems == ["gso_ipv4_max_size: this kernel has no such limit: leave it out"]


def test_host_routes_collide_with_others_but_not_with_our_former_ones() -> None:
    desired = resolved(host_routes=[{"to": "10.2.0.0/24", "via": "10.1.0.2", "dev": "eth0"}])
    other = Route("10.2.0.0/24", "10.1.0.9", "eth0")
    there = node(interfaces={"eth0": PEER}, routes=(NodeRoute(other, 0),))
    assert "there is another route" in model.conflicts(desired, there, "site", frozenset())[0]
    assert model.conflicts(desired, there, "site", frozenset({other})) == []
    assert "there is no interface eth0" in model.conflicts(desired, node(), "site", frozenset())[0]


UPLINK = NodeRoute(Route("192.0.2.0/24", "", "eth0"), 0)
WAY_OUT = NodeRoute(Route("0.0.0.0/0", "192.0.2.1", "eth0"), 0)


@pytest.mark.parametrize(
    ("controller", "to", "via", "refused"),
    [
        ("198.51.100.7", "198.51.100.0/24", "192.0.2.9", True),
        ("198.51.100.7", "128.0.0.0/1", "192.0.2.9", True),
        ("198.51.100.7", "198.51.100.0/24", "192.0.2.1", False),  # the way that it takes now
        ("198.51.100.7", "198.51.101.0/24", "192.0.2.9", False),
        ("192.0.2.7", "192.0.0.0/16", "192.0.2.9", False),  # there is a more specific one
        ("192.0.2.7", "192.0.2.0/28", "192.0.2.9", True),
        ("192.0.2.5", "192.0.2.0/28", "192.0.2.9", False),  # this node itself
        ("2001:db8::7", "2001:db8::/64", "fe80::1", True),  # whose way is in another table
        ("", "198.51.100.0/24", "192.0.2.9", False),
    ],
)
def test_no_route_takes_the_way_to_the_controller(controller: str, to: str, via: str, refused: bool) -> None:
    there = node(
        interfaces={"eth0": PEER},
        addresses=frozenset({"192.0.2.5"}),
        routes=(UPLINK, WAY_OUT),
        controller=controller,
    )
    desired = resolved(host_routes=[{"to": to, "via": via, "dev": "eth0"}])
    problems = model.conflicts(desired, there, "site", frozenset())
    assert [f"the way to {controller}, from where this run comes" in text for text in problems] == [
        True
    ] * refused
    # One that is there already carries this very run.
    there = replace(there, routes=(*there.routes, NodeRoute(Route(to, via, "eth0"), 0)))
    assert model.conflicts(desired, there, "site", frozenset()) == []


def test_no_pod_takes_the_controllers_address() -> None:
    there = node(routes=(WAY_OUT,), controller="10.0.0.1")
    (problem,) = model.conflicts(resolved(POD), there, "site", frozenset())
    assert problem.startswith("Pod a: addresses: 10.0.0.1 is the address from where this run comes")


def told(wanted: dict[str, Any], wire: dict[str, Any], *routes: NodeRoute) -> list[str]:
    """Return what is told of a Pod on a node whose wire0 has other sizes."""
    desired = resolved({**POD, "mtu": wanted.pop("mtu", None)}, **wanted)
    there = node(sizes={"wire0": wire, "other": {"mtu": 68}}, routes=routes)
    return agreement.disagreements(desired.state, State(), there)


DEFAULT = NodeRoute(Route("0.0.0.0/0", "10.9.9.9", "wire0"), 0)


@pytest.mark.parametrize(
    ("pod", "wire", "part"),
    [
        ({"mtu": 8264}, {"mtu": 1500}, "mtu: 8264 in a, 1500 at wire0: "),
        ({"gso_max_size": 185000}, {"gso_max_size": 65536}, "gso_max_size: 185000 in a, 65536 at wire0: "),
        ({"gro_max_size": 65536}, {"gro_max_size": 185000}, "gro_max_size: 65536 in a, 185000 at wire0: "),
        (
            {"gso_ipv4_max_size": 9},
            {"gso_ipv4_max_size": 70000},
            "gso_ipv4_max_size: 9 in a, 70000 at wire0: ",
        ),
    ],
)
def test_sizes_that_differ_from_those_of_the_way_out_are_told(
    pod: dict[str, Any], wire: dict[str, Any], part: str
) -> None:
    way = {"host_routes": [{"to": "10.78.0.0/16", "dev": "wire0"}]}
    (sentence,) = told({**pod, **way}, wire)
    assert sentence.startswith(part)
    # The default route's interface counts where there are no host routes.
    assert told(dict(pod), wire, DEFAULT) == [sentence]
    assert told(dict(pod), wire) == []
    assert told({**pod, "host_routes": [{"to": "10.78.0.0/16", "dev": "x"}]}, wire, DEFAULT) == []


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
def test_what_does_no_harm_is_not_told(pod: dict[str, Any], wire: dict[str, Any]) -> None:
    assert told(dict(pod), wire, DEFAULT) == []


def test_a_route_with_an_mtu_of_its_own_is_told() -> None:
    (sentence,) = told({"mtu": 8264}, {"mtu": 8264}, DEFAULT._replace(mtu=1400))
    assert sentence.startswith("mtu: 8264 in a, 1400 on the route 0.0.0.0/0 via 10.9.9.9 dev wire0: ")
    assert told({"mtu": 1400}, {"mtu": 8264}, DEFAULT._replace(mtu=1400)) == []


def test_what_others_made_is_used_and_not_taken_over() -> None:
    route = Route("10.2.0.0/24", "10.1.0.2", "eth0")
    desired = resolved(POD, host_routes=[{"to": route.to, "via": route.via, "dev": route.dev}])
    there = node(routes=(NodeRoute(route, 0),), namespaces={"/run/netns/a": Namespace("live")})
    settled = model.settle(desired, there, "site", frozenset())
    assert settled.namespaces == settled.host_routes == frozenset()
    ours = replace(there, made_namespaces={"/run/netns/a": "site"})
    assert model.settle(desired, ours, "site", frozenset({route})) == desired.state


# Plans, held against a model of what the kernel does


class Model:
    """A node that takes changes as the kernel would: what is not possible there fails here too."""

    def __init__(self, state: State) -> None:
        self.devices = dict(state.devices)
        self.namespaces = set(state.namespaces)
        self.host_routes = set(state.host_routes)

    def state(self) -> State:
        return State(self.devices, frozenset(self.namespaces), frozenset(self.host_routes))

    def apply(self, changes: Sequence[Change]) -> State:
        for change in changes:
            getattr(self, change.action, self.change_end)(change)
        return self.state()

    def make_namespace(self, change: Change) -> None:
        assert change.value not in self.namespaces
        self.namespaces.add(change.value)

    def remove_namespace(self, change: Change) -> None:
        self.namespaces.remove(change.value)
        assert all(device.netns != change.value for device in self.devices.values())

    def add_host_route(self, change: Change) -> None:
        assert all(route.to != change.value.to for route in self.host_routes)
        self.host_routes.add(change.value)

    def remove_host_route(self, change: Change) -> None:
        self.host_routes.remove(change.value)

    def remove_device(self, change: Change) -> None:
        assert change.device is not None
        del self.devices[change.device.name]

    def make_device(self, change: Change) -> None:
        device = change.device
        assert device is not None
        for other in self.devices.values():
            assert other.host_interface != device.host_interface
            assert other.netns != device.netns
        if device.netns.startswith("/run/netns"):
            assert device.netns in self.namespaces
        ends = [
            End({k: v for k, v in e.settings.items() if k in ("mtu", "mac")})
            for e in (device.host, device.pod)
        ]
        self.devices[device.name] = replace(device, host=ends[0], pod=ends[1])

    def set_driver(self, change: Change) -> None:
        assert change.device is not None
        device = self.devices[change.device.name]
        self.devices[device.name] = replace(
            device, driver_settings={**device.driver_settings, **change.value}
        )

    def change_end(self, change: Change) -> None:
        assert change.device is not None
        device = self.devices[change.device.name]
        end: End = getattr(device, change.end)
        if change.action == "set":
            end = replace(end, settings={**end.settings, **change.value})
        else:
            verb, dummy, what = change.action.partition("_")
            attribute = {"address": "addresses", "neighbour": "neighbours", "route": "routes"}[what]
            values = set(getattr(end, attribute))
            if verb == "add":
                if what == "route":
                    assert end.settings["up"], "the kernel takes routes through links that are up only"
                assert change.value not in values
                values.add(change.value)
            else:
                values.remove(change.value)
            end = replace(end, **{attribute: frozenset(values)})
        self.devices[device.name] = replace(device, **{change.end: end})


def pods_strategy() -> st.SearchStrategy[list[dict[str, Any]]]:
    """Any valid list of Pods, from few names and addresses so that two of them have much in common."""

    def build(raw: list[tuple[str, int, str, int | None, bool, bool]], shift: int) -> list[dict[str, Any]]:
        pods = []
        for position, (name, count, driver, mtu, renamed, by_path) in enumerate(raw):
            base = int(ipaddress.ip_address("10.0.0.0")) + (position + shift) * 4
            base6 = int(ipaddress.ip_address("fd00::")) + (position + shift) * 4
            addresses = [str(ipaddress.IPv4Address(base + n)) for n in range(count)]
            addresses += [str(ipaddress.IPv6Address(base6 + n)) for n in range(count // 2)]
            pod: dict[str, Any] = {"name": name, "driver": driver, "mtu": mtu, "addresses": addresses}
            if renamed:
                pod["host_interface"] = f"host{position}"
            if by_path:
                pod["netns"] = f"/proc/{position + 1}/ns/net"
            pods.append(pod)
        return pods

    one = st.tuples(
        st.sampled_from("abcdef"),
        st.integers(0, 3),
        st.sampled_from(["meta", "netkit", "veth"]),
        st.sampled_from([None, 1500, 8264]),
        st.booleans(),
        st.booleans(),
    )
    return st.builds(build, st.lists(one, max_size=5, unique_by=lambda pod: pod[0]), st.integers(0, 3))


ROUTES = [{"to": "10.2.0.0/24", "via": f"10.1.0.{n}", "dev": "eth0"} for n in (1, 2)]
ROUTES.append({"to": "fd02::/64", "via": "fd01::2", "dev": "eth0"})
states = st.builds(
    lambda pods, mode, policy, size, routes: (
        resolved(*pods, mode=mode, policy=policy, gso_max_size=size, host_routes=routes).state
    ),
    pods_strategy(),
    st.sampled_from(["l2", "l3"]),
    st.sampled_from(["drop", "pass"]),
    st.sampled_from([None, 65536, 180000]),
    st.lists(st.sampled_from(ROUTES), max_size=2, unique_by=lambda route: route["to"]),
)


def covers(have: State, want: State) -> bool:
    """Tell whether ``have`` is what ``want`` asks for; settings that it does not name may be anything."""
    return not model.plan(have, want)


@given(states)
def test_there_is_nothing_to_do_where_all_is_done(state: State) -> None:
    assert model.plan(state, state) == []


@given(states, states)
def test_a_plan_leads_to_the_desired_state(current: State, desired: State) -> None:
    assert covers(Model(current).apply(model.plan(current, desired)), desired)


@given(states, states, st.data())
def test_whatever_was_done_of_a_plan_a_new_plan_leads_back(
    before: State, desired: State, data: st.DataObject
) -> None:
    changes = model.plan(before, desired)
    made = changes[: data.draw(st.integers(0, len(changes)))]
    there = Model(before).apply(made)
    assert covers(Model(there).apply(model.plan(there, before)), before)


@given(states, st.data())
def test_what_drifted_is_put_right_and_nothing_else_touched(state: State, data: st.DataObject) -> None:
    if not state.devices:
        return
    name = data.draw(st.sampled_from(sorted(state.devices)))
    device = state.devices[name]
    drifted = replace(
        device,
        host=replace(device.host, settings={**device.host.settings, "up": False}, routes=frozenset()),
        pod=replace(device.pod, addresses=device.pod.addresses | {"192.0.2.1/32"}),
    )
    current = replace(state, devices={**state.devices, name: drifted})
    changes = model.plan(current, state)
    assert {change.device.name for change in changes if change.device} == {name}
    assert all(change.end for change in changes), "a device in place is not made anew"
    assert covers(Model(current).apply(changes), state)


def _device(**changes: Any) -> Device:
    return replace(resolved(POD).state.devices["a"], **changes)


@pytest.mark.parametrize(
    "changes",
    [{"driver": "veth"}, {"mode": "l2"}, {"netns": "/run/netns/b"}, {"interface": "net0"}, {"whole": False}],
)
def test_devices_are_made_anew_only_where_the_kernel_cannot_change_them(changes: dict[str, Any]) -> None:
    state = State({"a": _device(**changes)})
    actions = [change.action for change in model.plan(state, State({"a": _device()}))]
    assert actions[:2] == ["remove_device", "make_device"]


def test_policy_and_programs_change_in_place() -> None:
    have = _device(driver_settings={"policy": "pass", "peer_policy": "drop", "to_pod": 3})
    want = _device(driver_settings={"policy": "drop", "peer_policy": "drop", "to_pod": 4})
    (change,) = model.plan(State({"a": have}), State({"a": want}))
    assert (change.action, change.option) == ("set_driver", "policy, programs")
    assert change.value == {"policy": "drop", "to_pod": 4}


def test_a_second_device_with_the_same_alias_goes() -> None:
    double = _device(host_interface="copy", whole=False)
    (change,) = model.plan(State({"a": _device(), "a (copy)": double}), State({"a": _device()}))
    assert change.action == "remove_device"
    assert change.device is not None and change.device.host_interface == "copy"


@given(states, states)
def test_the_diff_names_every_pod_that_changes(current: State, desired: State) -> None:
    changes = model.plan(current, desired)
    before, after = model.describe(current, changes), model.describe(desired, changes)
    touched = {change.device.name for change in changes if change.device}
    assert set(before["pods"]) | set(after["pods"]) == touched
    if changes:
        assert before != after
