# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every value that a sysctl or NIC setting reaches is applied as requested, journalled and restored."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._kernel import netns as _netns
from ansible_collections.podnet.datapath.plugins.module_utils._rollback import journal
from tests.support import node_state
from tests.support.node_state import differences

RunModule = Callable[..., dict[str, Any]]


class Node:
    """A namespace with NICs; modules run in it with a private journal."""

    def __init__(self, namespaces: Any, run: RunModule, folder: Path) -> None:
        self.namespaces, self._run, self.file = namespaces, run, folder / "zz-podnet.conf"
        self.netns = namespaces("node")
        # Addresses are usable at once, so that no state changes by itself.
        namespaces.sysctl(self.netns, ipv6__conf__default__dad_transmits=0)
        namespaces.sysctl(self.netns, ipv6__conf__default__accept_ra=0)
        namespaces.ip(
            self.netns,
            "link set lo up",
            "link add eth7 type veth peer name peer7",
            "link add eth8 type veth peer name peer8",
            "link set eth7 up", "link set peer7 up", "link set eth8 up", "link set peer8 up",
            "link add mv0 link eth8 type macvlan",
            "link add br0 type bridge",
            "link set peer7 master br0",
            "addr add 192.0.2.1/24 dev eth7",
            "addr add 2001:db8::1/64 dev eth7 nodad",
            "route add 198.51.100.0/24 via 192.0.2.2",
        )  # fmt: skip
        self.settle()

    def settle(self) -> None:
        """Wait until every interface that is up has its link-local address."""
        for dummy in range(100):
            links = json.loads(self.namespaces.run(self.netns, "ip", "-json", "-6", "addr"))
            usable = [
                one["ifname"]
                for one in links
                for address in one["addr_info"]
                if address["local"].startswith("fe80") and "tentative" not in address
            ]
            if {"eth7", "eth8", "peer7", "peer8"} <= {*usable} and "tentative" not in str(links):
                return
            time.sleep(0.1)
        raise AssertionError(f"no link-local addresses: {links}")

    def set(self, sysctls: dict[str, Any], **more: Any) -> dict[str, Any]:
        given = {"sysctls": sysctls, "file": str(self.file)}
        given.update({key: more.pop(key) for key in ("acknowledge_risk",) if key in more})
        return self._run("sysctl_zc", given, self.netns, **more)

    def run(self, name: str, **args: Any) -> dict[str, Any]:
        return self._run(name, args, self.netns)

    def read(self, key: str) -> str:
        return self.namespaces.run(self.netns, "sysctl", "-n", key).strip()

    def sysctls(self) -> dict[str, str]:
        with _netns.entered(f"/run/netns/{self.netns}"):
            return node_state.sysctls("/proc/sys/net")

    def state(self) -> dict[str, Any]:
        """Return sysctls, and what rtnetlink and ethtool show."""

        def run(*words: str) -> str:
            return str(self.namespaces.run(self.netns, *words, check=False))

        return {"sysctls": self.sysctls(), **node_state.network(run)}


@pytest.fixture
def node(
    namespaces: Any, run_module: RunModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Node]:
    monkeypatch.setattr(journal, "FOLDER", str(tmp_path / "journal"))
    yield Node(namespaces, run_module, tmp_path)


CASES: list[dict[str, Any]] = [
    {"net.ipv4.ip_forward": 1},
    {"net.ipv4.conf.all.forwarding": 1, "net.ipv4.conf.eth7.forwarding": 0},
    {
        "net.ipv4.conf.all.rp_filter": 0,
        "net.ipv4.conf.default.rp_filter": 2,
        "net.ipv4.conf.eth7.rp_filter": 0,
    },
    {"net.ipv4.conf.default.arp_ignore": 2},
    {"net.ipv4.conf.default.forwarding": 1},
    {"net.ipv6.conf.all.forwarding": 1, "net.ipv6.conf.eth7.forwarding": 0},
    {"net.ipv6.conf.all.ignore_routes_with_linkdown": 1, "net.ipv6.conf.eth8.ignore_routes_with_linkdown": 0},
    {"net.ipv6.conf.all.disable_policy": 1},
    {"net.ipv4.neigh.eth7.base_reachable_time": 40, "net.ipv4.neigh.eth8.retrans_time_ms": 2000},
    {"net.ipv6.neigh.eth7.base_reachable_time_ms": 40000},
    {"net.ipv6.route.gc_min_interval_ms": 2000},
    {"net.ipv4.tcp_congestion_control": "reno", "net.ipv4.tcp_sack": 0},
    {"net.ipv4.ip_local_reserved_ports": "10050,10051,11211"},
    {"net.ipv4.tcp_rmem": "4096 131072 134217728", "net.ipv4.ping_group_range": "0 100"},
]
# What the kernel makes of these along cannot be predicted.
UNPREDICTED = [{"net.ipv4.neigh.eth7.unres_qlen": 3}, {"net.ipv4.neigh.eth7.unres_qlen_bytes": 90000}]


@pytest.mark.parametrize("sysctls", CASES + UNPREDICTED)
def test_requested_values_hold_and_revert_restores_all(node: Node, sysctls: dict[str, Any]) -> None:
    node.namespaces.sysctl(
        node.netns,
        ipv4__conf__eth8__forwarding=1,
        ipv4__conf__eth8__rp_filter=1,
        ipv6__conf__eth8__forwarding=1,
        ipv4__conf__all__accept_redirects=1,
    )
    before = node.state()
    assert node.set(sysctls)["changed"]
    for key, value in sysctls.items():
        assert node.read(key).split() == str(value).split() or key.endswith("reserved_ports")
    assert not node.set(sysctls)["changed"]
    made = node.run("revert")
    assert made["drift"] == [] and made["archived"]
    assert differences(before, node.state()) == []


@pytest.mark.parametrize("sysctls", CASES)
def test_a_run_that_is_killed_is_reverted(node: Node, sysctls: dict[str, Any]) -> None:
    """The journal has no end of the change, only what the kernel was predicted to change along."""
    node.namespaces.sysctl(node.netns, ipv4__conf__eth8__forwarding=1, ipv6__conf__eth8__forwarding=1)
    before = node.state()
    node.set(sysctls)
    records = journal.read()
    Path(journal.path()).write_text("".join(json.dumps(one) + "\n" for one in records if "end" not in one))
    assert node.run("revert")["drift"] == []
    assert differences(before, node.state()) == []


@pytest.mark.parametrize("upper", ["mv0", "aa0"])
def test_nics_and_sysctls_are_restored_together(node: Node, upper: str) -> None:
    node.namespaces.ip(node.netns, f"link set mv0 name {upper}")
    before = node.state()
    node.set(
        {"net.ipv4.ip_forward": 1, "net.ipv6.conf.all.forwarding": 1, "net.ipv4.conf.default.rp_filter": 2}
    )
    node.run(
        "nic_tuning",
        nics=[
            {"name": upper, "mtu": 9000},
            {"name": "eth8", "mtu": 9000, "features": {"tso": False, "gro": True}, "gso_max_size": 60000},
            {"name": "peer7", "mtu": 4000, "features": {"sg": False}},
        ],
    )
    changed = node.state()
    assert {link["ifname"]: link["mtu"] for link in changed["-d link"]}["br0"] == 4000, "the bridge follows"
    made = node.run("revert")
    assert made["drift"] == [] and made["archived"]
    assert differences(before, node.state()) == []


def test_a_refusal_restores_what_was_reached(node: Node) -> None:
    before = node.state()
    message = node.set(
        {
            "net.ipv4.ip_forward": 1,
            "net.ipv4.conf.default.rp_filter": 2,
            "net.ipv6.conf.all.forwarding": 1,
            "net.ipv4.tcp_congestion_control": "nosuch",
        },
        fails=True,
    )["msg"]
    assert "Every sysctl has its former value." in message
    assert differences(before, node.state()) == []


def test_interfaces_that_come_and_go_are_skipped(node: Node) -> None:
    script = (
        "while :; do ip link add gone0 type veth peer name gone1; ip link set gone0 up;"
        " ip link del gone0; done"
    )
    other = subprocess.Popen(
        ["nsenter", f"--net=/run/netns/{node.netns}", "sh", "-c", script], stderr=subprocess.DEVNULL
    )
    try:
        end = time.monotonic() + 10
        while time.monotonic() < end:
            for value in (1, 0):
                node.set({"net.ipv4.ip_forward": value, "net.ipv6.conf.all.forwarding": value})
            node.run("revert")
    finally:
        other.kill()
        other.wait()


@pytest.mark.parametrize("name", ["all", "eth7"])
def test_disabling_ipv6_needs_an_acknowledgement(node: Node, name: str) -> None:
    before = node.state()
    key = f"net.ipv6.conf.{name}.disable_ipv6"
    message = node.set({key: 1}, fails=True)["msg"]
    assert f"{key} = 1 removes the IPv6 addresses and routes of eth7" in message
    assert "set acknowledge_risk: true" in message
    assert differences(before, node.state()) == []
    assert node.set({key: 1}, acknowledge_risk=True)["changed"] and node.read(key) == "1"


def test_unused_ipv6_may_be_disabled_and_comes_back(node: Node) -> None:
    before = node.sysctls()
    node.set({"net.ipv6.conf.eth8.disable_ipv6": 1})
    node.run("revert")
    node.settle()
    assert node.sysctls() == before


def test_new_link_local_addresses_need_an_acknowledgement(node: Node) -> None:
    message = node.set({"net.ipv6.conf.all.addr_gen_mode": 3}, fails=True)["msg"]
    assert "makes the kernel add link-local addresses, and a revert does not remove them" in message
    assert node.set({"net.ipv6.conf.default.addr_gen_mode": 3})["changed"]


def test_ports_in_another_form_change_once(node: Node) -> None:
    wanted = {"net.ipv4.ip_local_reserved_ports": "10050,10051,11211"}
    (change,) = node.set(wanted)["changes"]
    assert change["after"] == "10050-10051,11211" == node.read("net.ipv4.ip_local_reserved_ports")
    assert not node.set(wanted)["changed"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("net.ipv4.ip_local_reserved_ports", "11211,10051,10050,"),
        ("net.ipv4.tcp_rmem", "0x1000\t0400000  6291456"),
        ("net.ipv4.tcp_fastopen_key", "A-0-0-1,1-2-3-4"),
        ("net.ipv4.fib_multipath_hash_fields", "0x0037"),
        ("net.ipv4.neigh.eth7.base_reachable_time_ms", 30001),
        ("net.ipv4.neigh.eth7.retrans_time_ms", 1001),
        ("net.ipv4.neigh.eth7.locktime", 99),
        ("net.ipv6.icmp.ratelimit", 1001),
        ("net.ipv6.icmp.ratemask", "0,1,3-127"),
    ],
)
def test_a_value_that_the_kernel_shows_otherwise_is_set_once(node: Node, key: str, value: object) -> None:
    before = node.sysctls()
    assert node.set({key: value})["changed"]
    assert not node.set({key: value})["changed"]
    node.run("revert")
    assert node.sysctls() == before
