# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""path_probe between namespaces: by a direct pair past the host, and through the host's upper stack."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest


@dataclass
class Hosts:
    """A host and two Pods, connected directly (10.9.0.0/24) and by the host (10.9.1.0, 10.9.2.0)."""

    host: str
    pod1: str
    pod2: str


@pytest.fixture(scope="module")
def hosts(module_namespaces: Any) -> Iterator[Hosts]:
    """Yield two Pods with two paths; the host's link to the second one has an MTU of 1400."""
    ns = module_namespaces
    hosts = Hosts(ns("host"), ns("pod1"), ns("pod2"))
    for name in (hosts.host, hosts.pod1, hosts.pod2):
        # no DAD: neighbour discovery needs a link-local address that is not tentative
        ns.sysctl(name, ipv6__conf__all__accept_dad=0, ipv6__conf__default__accept_dad=0)
    ns.ip(
        hosts.pod1,
        f"link add direct type veth peer name direct netns {hosts.pod2}",
        f"link add eth0 type veth peer name pn1 netns {hosts.host}",
    )
    ns.ip(hosts.pod2, f"link add eth0 type veth peer name pn2 netns {hosts.host}")
    for number, pod in ((1, hosts.pod1), (2, hosts.pod2)):
        mtu = 1500 if number == 1 else 1400
        ns.ip(
            pod,
            f"address add 10.9.0.{number}/24 dev direct",
            f"address add fd09::{number}/64 dev direct nodad",
            "link set direct up",
            f"address add 10.9.{number}.1/24 dev eth0",
            f"address add fd09:{number}::1/64 dev eth0 nodad",
            f"link set eth0 mtu {mtu} up",
            f"route add default via 10.9.{number}.254",
            f"route add ::/0 via fd09:{number}::254",
        )
        ns.ip(
            hosts.host,
            f"address add 10.9.{number}.254/24 dev pn{number}",
            f"address add fd09:{number}::254/64 dev pn{number} nodad",
            f"link set pn{number} mtu {mtu} up",
        )
    ns.sysctl(hosts.host, ipv4__ip_forward=1, ipv6__conf__all__forwarding=1)
    yield hosts


def test_direct_packets_are_not_forwarded(run_module: Any, hosts: Hosts) -> None:
    result = run_module(
        "path_probe",
        {
            "probes": [{"netns": hosts.pod1, "to": to} for to in ("10.9.0.2", "fd09::2")],
            "streams": [
                {"from_netns": hosts.pod1, "to_netns": hosts.pod2, "to": to, "bytes": 3_000_001}
                for to in ("10.9.0.2", "fd09::2")
            ],
            "expect_bypass": True,
        },
        netns=hosts.host,
    )
    assert not result["changed"]
    assert [(probe["sent"], probe["received"], probe["loss"]) for probe in result["probes"]] == [
        (200, 200, 0)
    ] * 2
    assert result["probes"][0]["ttl"] == 64
    assert all(0 < p["rtt"]["min"] <= p["rtt"]["avg"] <= p["rtt"]["max"] for p in result["probes"])
    assert [stream["bytes"] for stream in result["streams"]] == [3_000_001] * 2
    assert all(stream["mbits"] > 0 and stream["mss"] > 1000 for stream in result["streams"])
    assert result["host_counters"]["ipv4"] == {"in_receives": 0, "forwarded": 0}
    assert result["host_counters"]["ipv6"]["forwarded"] == 0


def test_forwarded_packets_are_counted_and_refused(run_module: Any, hosts: Hosts) -> None:
    probes = [{"netns": hosts.pod1, "to": to, "count": 50} for to in ("10.9.2.1", "fd09:2::1")]
    result = run_module("path_probe", {"probes": probes, "expect_bypass": True}, netns=hosts.host, fails=True)
    assert "upper stack forwarded 100 IPv4 and 100 IPv6 packets" in result["msg"]
    assert "max_forwarded is 0" in result["msg"] and "podnet.datapath.bpf_attach" in result["msg"]
    assert [probe["loss"] for probe in result["probes"]] == [0, 0]
    assert result["probes"][0]["ttl"] == 63
    assert result["host_counters"]["ipv4"]["forwarded"] == 100
    # requests leave by pn2, replies by pn1
    interfaces = result["host_counters"]["interfaces"]
    assert (interfaces["pn1"]["ipv6_forwarded"], interfaces["pn2"]["ipv6_forwarded"]) == (50, 50)
    allowed = {"probes": probes, "expect_bypass": True, "max_forwarded": 200}
    assert not run_module("path_probe", allowed, netns=hosts.host)["changed"]


@pytest.mark.parametrize("to", ["10.9.2.1", "fd09:2::1"])
def test_packets_above_path_mtu_are_reported(run_module: Any, hosts: Hosts, to: str) -> None:
    def probe(size: int, fails: bool) -> dict[str, Any]:
        result = run_module(
            "path_probe",
            {"probes": [{"netns": hosts.pod1, "to": to, "size": size, "count": 3, "timeout": 0.3}]},
            netns=hosts.host,
            fails=fails,
        )
        return result["probes"][0]

    assert probe(1400, False)["received"] == 3
    beyond = probe(1401, True)
    assert beyond["received"] == 0
    assert beyond["path_mtu"] == 1400
    assert beyond["errors"] == ["too big for the path's MTU", "the path MTU is 1400 bytes"]
    # above the MTU of the Pod's device
    assert probe(1501, True)["sent"] == 0


def test_loss_fails_unless_allowed(run_module: Any, hosts: Hosts) -> None:
    probes = [{"netns": hosts.pod1, "to": "10.9.0.77", "count": 5, "timeout": 0.2}]
    result = run_module("path_probe", {"probes": probes}, netns=hosts.host, fails=True)
    assert f"from {hosts.pod1} to 10.9.0.77, 84 bytes: 5 sent, 0 received (100.0 % loss)" in result["msg"]
    allowed = run_module("path_probe", {"probes": probes, "max_loss": 100}, netns=hosts.host, check=True)
    assert allowed["probes"][0]["loss"] == 100


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"probes": [{"netns": "gone", "to": "10.9.0.2"}]}, "netns: 'gone' does not exist"),
        ({"probes": [{"to": "10.9.0.2/24"}]}, "'10.9.0.2/24' is not an IPv4 or IPv6 address"),
        ({"probes": [{"to": "10.9.0.2", "size": 20}]}, "size: 20 for 10.9.0.2"),
        ({"probes": [{"to": "192.0.2.1"}]}, "no route (ENETUNREACH)"),
        ({"streams": [{"to": "10.9.0.2"}]}, "assign the address to the receiver"),
    ],
)
def test_invalid_probe_is_reported(run_module: Any, hosts: Hosts, args: dict[str, Any], message: str) -> None:
    assert message in run_module("path_probe", args, netns=hosts.host, fails=True)["msg"]


def test_transfer_of_missing_pods_is_skipped_if_allowed(hosts: Hosts, run_module: Any) -> None:
    there = {"from_netns": hosts.pod1, "to_netns": hosts.pod2, "to": "10.9.0.2", "bytes": 1000}
    gone = {"from_netns": hosts.pod1, "to_netns": "missing", "to": "10.9.0.9", "bytes": 1000}
    result = run_module("path_probe", {"streams": [there, {**gone, "optional": True}]}, hosts.host)
    assert [stream["to"] for stream in result["streams"]] == ["10.9.0.2"]
    assert "skipped the stream to 10.9.0.9: no network namespace missing" in str(result["warnings"])
    failed = run_module("path_probe", {"streams": [gone]}, hosts.host, fails=True)
    assert "netns: 'missing' does not exist" in failed["msg"]
