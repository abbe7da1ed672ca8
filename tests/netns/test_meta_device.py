# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""meta_device with veth on the running kernel: one namespace is the node, others are Pods."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from socket import AF_INET, AF_INET6, IPPROTO_TCP, SOCK_STREAM, TCP_MAXSEG, socket
from typing import Any

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._core import plan as _plan
from ansible_collections.podnet.datapath.plugins.module_utils._core.plan import Problem
from ansible_collections.podnet.datapath.plugins.module_utils._kernel import netns as _netns
from ansible_collections.podnet.datapath.plugins.module_utils._kernel import rtnl
from ansible_collections.podnet.datapath.plugins.module_utils._pods import apply as _meta_device
from ansible_collections.podnet.datapath.plugins.module_utils._pods import drivers, model

Result = dict[str, Any]


class Bench:
    """A node and the owner of its Pods; names are unique to the test run."""

    def __init__(self, namespaces: Any, run_module: Callable[..., Result]) -> None:
        self.ns, self._run_module = namespaces, run_module
        self.node = namespaces("node")
        self.owner = f"test{os.getpid()}"
        namespaces.sysctl(self.node, ipv4__ip_forward=1, ipv6__conf__all__forwarding=1)

    def name(self, pod: str) -> str:
        """Return a Pod's name, which is also the name of its namespace."""
        return f"{self.owner}-{pod}"

    def pod(self, pod: str, number: int, **others: Any) -> dict[str, Any]:
        return {"name": self.name(pod), "addresses": [f"10.77.0.{number}", f"fd77::{number}/128"], **others}

    def module(
        self, *pods: dict[str, Any], check: bool = False, fails: bool = False, **others: Any
    ) -> Result:
        """Run meta_device as Ansible does; return its result."""
        args = {"owner": self.owner, "driver": "veth", "pods": list(pods), **others}
        return self._run_module("meta_device", args, netns=self.node, check=check, fails=fails)

    def apply(self, *pods: dict[str, Any], check: bool = False, **others: Any) -> _plan.Result:
        """Run meta_device's code in this process, which saves half a second."""
        suboptions = {"netns": None, "interface": "eth0", "host_interface": None, "driver": None, "mtu": None}
        options: dict[str, Any] = {
            "owner": self.owner,
            "driver": "veth",
            "pods": [{**suboptions, "addresses": [], **pod} for pod in pods],
            "mtu": None,
            "mode": "l3",
            "policy": "drop",
            "programs": None,
            "host_routes": [],
            "ipv4_advmss": None,
            **dict.fromkeys(model.SIZES),
            **others,
        }
        with _netns.entered(f"/run/netns/{self.node}"):
            return _meta_device.run(options, check, lambda: "this test has no module")

    def ip(self, netns: str, *words: str) -> Any:
        """Return the output of ``ip -json`` in a namespace."""
        return json.loads(self.ns.run(netns, "ip", "-json", *words) or "[]")

    def links(self, netns: str | None = None) -> set[str]:
        return {link["ifname"] for link in self.ip(netns or self.node, "link")}

    def inside(self, pod: str, *words: str) -> str:
        return str(self.ns.run(self.name(pod), *words))

    def pings(self, pod: str, to: str) -> bool:
        return " 0% packet loss" in self.ns.run(self.name(pod), "ping", "-c1", "-W2", to, check=False)


@pytest.fixture
def bench(namespaces: Any, run_module: Callable[..., Result]) -> Iterator[Bench]:
    bench = Bench(namespaces, run_module)
    yield bench
    bench.apply()
    Path(f"/run/podnet/routes/{bench.owner}.json").unlink(missing_ok=True)


def test_pods_are_created_kept_and_removed(bench: Bench) -> None:
    pods = [bench.pod("a", 1), bench.pod("b", 2)]
    planned = bench.module(*pods, mtu=8264, check=True)
    assert planned["changed"]
    assert bench.links() == {"lo"}
    assert not Path(f"/run/netns/{bench.name('a')}").exists()

    made = bench.module(*pods, mtu=8264, gso_max_size=180000)
    assert made["changed"]
    headers = [f"Pod {bench.name('a')}", f"Pod {bench.name('b')}", "node"]
    assert sorted(one["before_header"] for one in made["diff"]) == sorted(headers)
    assert all(not one["before"].startswith("device") for one in made["diff"])
    for pod in made["pods"]:
        (link,) = bench.ip(bench.node, "link", "show", pod["host_interface"])
        assert (link["ifindex"], link["mtu"], link["operstate"]) == (pod["host_ifindex"], 8264, "UP")
        assert link["ifalias"] == f"podnet:{bench.owner}/{pod['name']}"
        (inner,) = bench.ip(pod["name"], "link", "show", "eth0")
        assert (inner["mtu"], inner["operstate"]) == (8264, "UP")
    for other in ("10.77.0.2", "fd77::2"):
        assert bench.pings("a", other)
    # All neighbour entries are permanent, so nothing sends ARP or ND.
    states = {tuple(n["state"]) for ns in (bench.node, bench.name("a")) for n in bench.ip(ns, "neigh")}
    assert states == {("PERMANENT",)}

    again = bench.module(*pods, mtu=8264, gso_max_size=180000)
    assert not again["changed"]
    assert again["pods"] == made["pods"]
    assert again["changes"] == []

    gone = bench.module()
    assert gone["changed"]
    assert bench.links() == {"lo"}
    assert not Path(f"/run/netns/{bench.name('a')}").exists()
    assert not bench.module()["changed"]


def test_sizes_above_those_of_the_uplink_are_warnings(bench: Bench) -> None:
    bench.ns.ip(
        bench.node, "link add wire0 type veth peer name wire1", "link set wire0 up", "link set wire1 up"
    )
    routes = [{"to": "10.78.0.0/16", "dev": "wire0"}]
    sizes = {"mtu": 8264, "gso_max_size": 185000}
    planned = bench.apply(bench.pod("a", 1), host_routes=routes, **sizes, check=True)
    made = bench.apply(bench.pod("a", 1), host_routes=routes, **sizes)
    assert made.warnings == planned.warnings
    assert [text.partition(" in ")[0] for text in made.warnings] == ["mtu: 8264", "gso_max_size: 185000"]
    # A run that sets no sizes warns as well. There is no warning once the uplink has the same sizes.
    assert bench.apply(bench.pod("a", 1), host_routes=routes).warnings == made.warnings
    bench.ns.ip(bench.node, "link set wire0 mtu 8264 gso_max_size 185000")
    assert bench.apply(bench.pod("a", 1), host_routes=routes).warnings == []
    bench.ns.ip(bench.node, "route add default dev wire0 mtu 1400")
    assert [text.partition(":")[0] for text in bench.apply(bench.pod("a", 1), **sizes).warnings] == ["mtu"]


def test_all_errors_are_reported_and_nothing_changes(bench: Bench) -> None:
    bench.ns.ip(bench.node, "link add foreign0 type veth peer name other")
    result = bench.module(
        bench.pod("a", 1, host_interface="foreign0"),
        {"name": bench.name("b"), "addresses": ["10.77.0.300"], "mtu": 12},
        {"name": bench.name("c"), "netns": "/run/netns/missing"},
        host_routes=[{"to": "10.78.0.0/16", "dev": "wire0"}],
        fails=True,
    )
    message = result["msg"]
    for part in (
        f"Pod {bench.name('a')}: host_interface: foreign0 exists and is not managed",
        "addresses: '10.77.0.300' is not an IP address",
        "mtu: 12 is outside 68 to 65535",
        "netns: /run/netns/missing does not exist",
        "interface wire0 does not exist",
    ):
        assert part in message
    assert bench.links() == {"lo", "foreign0", "other"}
    assert not Path(f"/run/netns/{bench.name('a')}").exists()


@pytest.mark.parametrize("driver", ["meta", "netkit"])
def test_explicit_driver_never_falls_back(bench: Bench, driver: str) -> None:
    with _netns.entered(f"/run/netns/{bench.node}"):
        chosen, reason, obstacles = drivers.choose_drivers(["auto"], lambda: "no such module")
    if chosen["auto"] != "veth":
        pytest.skip(f"the kernel that runs the tests has {chosen['auto']}")
    assert not obstacles
    assert "has no netkit" in reason and "meta cannot be loaded (no such module)" in reason
    with _netns.entered(f"/run/netns/{bench.node}"):
        untrusted = drivers.choose_drivers(["auto"], lambda: "", trusted_pods=False)
    assert untrusted == ({"auto": "meta"}, "auto: Pods are not trusted; meta is available", [])
    with pytest.raises(Problem, match=f"driver: {driver}: .*choose driver: auto"):
        bench.apply(bench.pod("a", 1), driver=driver)
    assert bench.links() == {"lo"}
    # In check mode it is a warning, because an earlier task may install the driver.
    planned = bench.apply(bench.pod("a", 1), driver=driver, check=True)
    assert planned.warnings and planned.changed


def test_differences_are_changed_in_place(bench: Bench) -> None:
    first = bench.apply(bench.pod("a", 1))
    index = first.values["pods"][0]["host_ifindex"]
    changed = bench.pod("a", 1, addresses=["10.77.0.9", "10.77.0.1/24", "fd77::9"], mtu=1400)
    second = bench.apply(changed, gro_max_size=65000)
    assert second.values["pods"][0]["host_ifindex"] == index
    assert not any("create" in change for change in second.values["changes"])
    addresses = {
        f"{a['local']}/{a['prefixlen']}"
        for a in bench.ip(bench.name("a"), "address", "show", "eth0")[0]["addr_info"]
        if a["scope"] == "global"
    }
    assert addresses == {"10.77.0.9/32", "10.77.0.1/24", "fd77::9/128"}
    routes = {(r["dst"], r["protocol"]) for r in bench.ip(bench.node, "route")}
    assert routes == {("10.77.0.9", "112"), ("10.77.0.1", "112")}
    assert {r["dst"] for r in bench.ip(bench.name("a"), "route")} == {"default", "10.77.0.0/24"}
    assert not bench.apply(changed, gro_max_size=65000).changed


def test_replaced_address_keeps_the_default_route(bench: Bench) -> None:
    # An IPv4 interface loses its routes with its last address.
    bench.apply(bench.pod("a", 1, addresses=["10.77.0.1/24", "10.77.0.2/24"]))
    bench.apply(bench.pod("a", 1, addresses=["10.77.0.2/24", "10.77.0.3/24"]))
    assert {r["dst"] for r in bench.ip(bench.name("a"), "route")} == {"default", "10.77.0.0/24"}
    assert not bench.apply(bench.pod("a", 1, addresses=["10.77.0.2/24", "10.77.0.3/24"])).changed


def test_drift_is_repaired(bench: Bench) -> None:
    pods = [bench.pod("a", 1), bench.pod("b", 2)]
    made = bench.apply(*pods)
    host = made.values["pods"][0]["host_interface"]
    bench.ns.ip(bench.node, f"link set {host} down", f"neigh flush dev {host}")
    bench.ns.ip(
        bench.name("a"),
        "address del 10.77.0.1/32 dev eth0",
        "address add 10.77.0.66/32 dev eth0",
        "link set eth0 mtu 1300",
        "link set lo down",
    )
    drifted = bench.apply(*pods)
    assert {change.partition(": ")[0] for change in drifted.values["changes"]} == {bench.name("a")}
    assert bench.pings("a", "10.77.0.2") and bench.pings("a", "fd77::2") and bench.pings("a", "127.0.0.1")
    assert not bench.apply(*pods).changed


def test_deleted_namespace_is_recreated(bench: Bench) -> None:
    bench.apply(bench.pod("a", 1), bench.pod("b", 2))
    bench.ns.run(bench.node, "ip", "netns", "delete", bench.name("a"))
    bench.apply(bench.pod("a", 1), bench.pod("b", 2))
    assert bench.pings("b", "10.77.0.1")


def test_stale_managed_file_is_replaced_and_foreign_file_is_refused(bench: Bench) -> None:
    bench.apply(bench.pod("a", 1))
    path = Path(f"/run/netns/{bench.name('a')}")
    _netns.remove(str(path))
    path.touch()
    bench.apply(bench.pod("a", 1))
    assert _netns.is_namespace(str(path))
    other = Path(f"/run/netns/{bench.name('b')}")
    other.touch()
    try:
        with pytest.raises(Problem, match="is not a network namespace: remove the file"):
            bench.apply(bench.pod("a", 1), bench.pod("b", 2))
    finally:
        other.unlink()


def test_foreign_namespaces_are_used_and_kept(bench: Bench) -> None:
    mine = bench.ns("foreign")
    by_path = bench.ns("foreign2")
    bench.apply(
        bench.pod("a", 1, netns=mine), bench.pod("b", 2, netns=f"/var/run/netns/{by_path}", interface="net0")
    )
    assert bench.links(mine) == {"lo", "eth0"}
    assert bench.links(by_path) == {"lo", "net0"}
    bench.apply()
    assert bench.links(mine) == bench.links(by_path) == {"lo"}


def test_default_route_of_foreign_namespace_is_refused(bench: Bench) -> None:
    foreign = bench.ns("foreign")
    bench.ns.ip(
        foreign, "link add up0 type veth peer name up1", "link set up0 up", "route add default dev up0"
    )
    with pytest.raises(Problem, match="already has a default route"):
        bench.apply(bench.pod("a", 1, netns=foreign))
    with pytest.raises(Problem, match="interface: up0 exists in"):
        bench.apply(bench.pod("a", 1, netns=foreign, interface="up0", addresses=[]))


def test_owners_do_not_change_each_others_pods(bench: Bench) -> None:
    bench.apply(bench.pod("a", 1))
    other = {"owner": bench.owner + "-x"}
    bench.apply(bench.pod("b", 2), **other)
    try:
        assert len(bench.links()) == 3
        with pytest.raises(Problem, match=f"Pod {bench.name('a')} of owner {bench.owner} has it"):
            bench.apply(bench.pod("c", 1), **other)
        with pytest.raises(Problem, match=f"belongs to Pod .* of owner {bench.owner}"):
            bench.apply(bench.pod("a", 3, netns=bench.name("b")), **other)
    finally:
        bench.apply(**other)
    assert not bench.apply(bench.pod("a", 1)).changed


def test_pods_can_swap_names_and_addresses(bench: Bench) -> None:
    bench.apply(bench.pod("a", 1, host_interface="one"), bench.pod("b", 2, host_interface="two"))
    swapped = [bench.pod("a", 2, host_interface="two"), bench.pod("b", 1, host_interface="one")]
    bench.apply(*swapped)
    assert bench.pings("a", "10.77.0.1") and bench.pings("b", "fd77::2")
    assert not bench.apply(*swapped).changed


def test_only_managed_host_routes_are_changed_and_removed(bench: Bench) -> None:
    bench.ns.ip(
        bench.node,
        "link add wire0 type veth peer name wire1",
        "link set wire0 up",
        "link set wire1 up",
        "address add 192.0.2.1/24 dev wire0",
        "route add 10.99.0.0/24 via 192.0.2.9",
    )

    def routes() -> dict[str, str]:
        return {r["dst"]: r["gateway"] for r in bench.ip(bench.node, "route") if "gateway" in r}

    foreign = {"to": "10.99.0.0/24", "via": "192.0.2.9", "dev": "wire0"}
    managed = {"to": "10.98.0.0/24", "via": "192.0.2.2", "dev": "wire0"}
    (change,) = bench.apply(host_routes=[managed, foreign]).values["changes"]
    assert change == "add host route 10.98.0.0/24 via 192.0.2.2 dev wire0"
    assert not bench.apply(host_routes=[managed, foreign]).changed
    with pytest.raises(Problem, match="the node has another route"):
        bench.apply(host_routes=[{**foreign, "via": "192.0.2.3"}])
    bench.apply(host_routes=[{**managed, "via": "192.0.2.3"}])
    assert routes() == {"10.98.0.0/24": "192.0.2.3", "10.99.0.0/24": "192.0.2.9"}
    bench.apply()
    assert routes() == {"10.99.0.0/24": "192.0.2.9"}


def test_refusal_of_the_kernel_names_pod_and_option_and_restores_everything(bench: Bench) -> None:
    kept = bench.pod("a", 1, mtu=1400)
    before = bench.apply(kept)
    # A device with IPv6 disabled refuses IPv6 neighbours.
    bench.ns.sysctl(bench.node, ipv6__conf__default__disable_ipv6=1)
    with pytest.raises(Problem) as caught:
        bench.apply(bench.pod("a", 1, mtu=1500), bench.pod("b", 2))
    message = str(caught.value)
    assert message.startswith(f"Pod {bench.name('b')}: addresses: the kernel rejected this step")
    assert "fd77::2" in message
    assert message.endswith("The former state was restored")
    assert not Path(f"/run/netns/{bench.name('b')}").exists()
    assert not bench.apply(kept).changed
    assert bench.apply(kept).values["pods"] == before.values["pods"]


def test_many_pods_are_created_in_one_call(bench: Bench) -> None:
    pods = [bench.pod(f"m{n}", n) for n in range(1, 41)]
    bench.apply(*pods)
    assert not bench.apply(*pods).changed
    assert len(bench.links()) == 41
    assert bench.pings("m1", "10.77.0.40")


def test_link_attributes_of_meta_are_encoded_by_number() -> None:
    message = rtnl.message_types().link()
    data = rtnl.nested(("IFLA_META_MODE", 1), ("IFLA_META_PROG_FD", -1), ("IFLA_META_PEER_PROG_FD", 5))
    info = rtnl.nested(("IFLA_INFO_KIND", "meta"), ("IFLA_INFO_DATA", data))
    message["attrs"] = [("IFLA_LINKINFO", info)]
    message.encode()
    encoded = bytes(message.data)
    for attribute in ("0800 0500 01000000", "0800 2000 ffffffff", "0800 2100 05000000"):
        assert bytes.fromhex(attribute) in encoded


def segment_sizes(bench: Bench, source: str, target: str) -> list[int]:
    """Return TCP's segment size from one Pod to another, for IPv4 and IPv6."""
    found = []
    for family, any_address, address in ((AF_INET, "0.0.0.0", "10.77.0.2"), (AF_INET6, "::", "fd77::2")):
        with bench.ns.inside(bench.name(target)), socket(family, SOCK_STREAM) as server:
            server.bind((any_address, 0))
            server.listen()
            with bench.ns.inside(bench.name(source)), socket(family, SOCK_STREAM) as client:
                client.connect((address, server.getsockname()[1]))
                found.append(client.getsockopt(IPPROTO_TCP, TCP_MAXSEG))
    return found


def test_segments_of_both_families_are_page_sized(bench: Bench) -> None:
    pods = [bench.pod("a", 1), bench.pod("b", 2)]
    bench.module(*pods, mtu=8264)
    assert segment_sizes(bench, "a", "b") == [8212, 8192]
    made = bench.module(*pods, mtu=8264, ipv4_advmss=8204)
    assert made["changed"] and "advmss 8204" in json.dumps(made["diff"])
    assert segment_sizes(bench, "a", "b") == [8192, 8192]
    assert not bench.module(*pods, mtu=8264, ipv4_advmss=8204)["changed"]
    bench.module(*pods, mtu=8264)
    assert segment_sizes(bench, "a", "b") == [8212, 8192]


def test_advmss_above_mtu_is_refused(bench: Bench) -> None:
    message = bench.module(bench.pod("a", 1), mtu=1500, ipv4_advmss=8204, fails=True)["msg"]
    assert "ipv4_advmss: 8204 is outside 256 to 1460" in message
