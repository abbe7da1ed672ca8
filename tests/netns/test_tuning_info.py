# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""sysctl_info and nic_info agree with sysctl(8), ss(8) and ethtool(8)."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

Namespaces = Any  # conftest.Namespaces
RunModule = Callable[..., dict[str, Any]]


def test_sysctls_are_reported_with_scopes_and_window_scale(
    namespaces: Namespaces, run_module: RunModule
) -> None:
    node, pod = namespaces("node"), namespaces("pod")
    namespaces.sysctl(node, ipv4__tcp_rmem="4096 131072 134217728")
    namespaces.sysctl(pod, ipv4__tcp_rmem="4096 131072 6291456", ipv4__tcp_sack=0)
    with namespaces.inside(pod), socket.create_server(("127.0.0.1", 0)) as server:
        ends = [socket.create_connection(server.getsockname()), server.accept()[0]]
    keys = ["net.ipv4.tcp_rmem", "net.ipv4.tcp_sack", "kernel.panic"]
    facts = run_module("sysctl_info", {"sysctls": keys, "pods": {"select": "named", "names": [pod]}}, node)
    rmem, sack, panic = facts["sysctls"]
    assert (rmem["scope"], rmem["value"], rmem["pods"]) == (
        "namespace", "4096 131072 134217728", {pod: "4096 131072 6291456"},
    )  # fmt: skip
    assert (sack["new_namespace"], sack["value"], sack["pods"]) == ("1", "1", {pod: "0"})
    assert (panic["scope"], panic["new_namespace"], panic["pods"]) == ("node", None, {})
    windows = {one["netns"]: one for one in facts["windows"]}
    assert windows[""]["window_scale"] == 12 and windows[""]["connections"] == []
    (reported,) = windows[pod]["connections"]
    shown = namespaces.run(pod, "ss", "-tinH", "state", "established")
    assert shown.count(f"wscale:{reported['scale']},{reported['scale']} ") == reported["count"] == len(ends)
    for end in ends:
        end.close()


def test_reported_window_scale_is_that_of_connections(namespaces: Namespaces, run_module: RunModule) -> None:
    node = namespaces("node")
    for largest in (134217728, 268435456, 536870912):
        namespaces.sysctl(node, ipv4__tcp_rmem=f"4096 131072 {largest}")
        with namespaces.inside(node), socket.create_server(("127.0.0.1", 0)) as server:
            client = socket.create_connection(server.getsockname())
        scale = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)[6] >> 4
        client.close()
        facts = run_module("sysctl_info", {"sysctls": ["net.ipv4.tcp_rmem"]}, node)
        assert [window["window_scale"] for window in facts["windows"]] == [scale]


def test_nics_are_reported_with_limits(namespaces: Namespaces, run_module: RunModule) -> None:
    node = namespaces("node")
    namespaces.ip(node, "link add v type veth peer name w", "link set v mtu 4168")
    facts = run_module("nic_info", {"nics": [{"driver": "veth"}]}, node)["nics"]
    assert [nic["name"] for nic in facts] == ["v", "w"]
    one = facts[0]
    assert (one["settings"]["mtu"], one["maximum"]["mtu"], one["driver"]) == (4168, 65535, "veth")
    assert "features.rx-lro" in one["fixed"] and one["header_split"] == [] and not one["persisted"]
    shown = namespaces.run(node, "ethtool", "-k", "v")
    on = {name for name, value in one["settings"].items() if name.startswith("features.") and value}
    assert ("generic-receive-offload: on" in shown) == ("features.rx-gro" in on)
    every = run_module("nic_info", {}, node)["nics"]
    assert {"lo", "v", "w"} <= {nic["name"] for nic in every}


def test_missing_nics_are_reported(namespaces: Namespaces, run_module: RunModule) -> None:
    failed = run_module("nic_info", {"nics": [{"name": "eth7"}]}, namespaces("node"), fails=True)
    assert "no NIC matches eth7" in failed["msg"]
