# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Packets between real namespaces: past a host by a pair of their own, or through its upper stack."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest


@dataclass
class Place:
    """A host and two Pods: joined by a pair (10.9.0.0/24), and through the host (10.9.1.0, 10.9.2.0)."""

    host: str
    pod1: str
    pod2: str


@pytest.fixture(scope="module")
def place(module_namespaces: Any) -> Iterator[Place]:
    """Two Pods that reach each other in two ways; the host's link to the second has an MTU of 1400."""
    ns = module_namespaces
    here = Place(ns("host"), ns("pod1"), ns("pod2"))
    ns.ip(
        here.pod1,
        f"link add direct type veth peer name direct netns {here.pod2}",
        f"link add eth0 type veth peer name pn1 netns {here.host}",
    )
    ns.ip(here.pod2, f"link add eth0 type veth peer name pn2 netns {here.host}")
    for number, pod in ((1, here.pod1), (2, here.pod2)):
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
            here.host,
            f"address add 10.9.{number}.254/24 dev pn{number}",
            f"address add fd09:{number}::254/64 dev pn{number} nodad",
            f"link set pn{number} mtu {mtu} up",
        )
    ns.sysctl(here.host, ipv4__ip_forward=1, ipv6__conf__all__forwarding=1)
    yield here


def test_packets_past_the_host_are_not_forwarded(run_module: Any, place: Place) -> None:
    told = run_module(
        "path_probe",
        {
            "probes": [{"netns": place.pod1, "to": to} for to in ("10.9.0.2", "fd09::2")],
            "streams": [
                {"from_netns": place.pod1, "to_netns": place.pod2, "to": to, "bytes": 3_000_001}
                for to in ("10.9.0.2", "fd09::2")
            ],
            "expect_bypass": True,
        },
        netns=place.host,
    )
    assert not told["changed"]
    assert [(probe["sent"], probe["received"], probe["loss"]) for probe in told["probes"]] == [
        (200, 200, 0)
    ] * 2
    assert told["probes"][0]["ttl"] == 64
    assert all(0 < p["rtt"]["min"] <= p["rtt"]["avg"] <= p["rtt"]["max"] for p in told["probes"])
    assert [stream["bytes"] for stream in told["streams"]] == [3_000_001] * 2
    assert all(stream["mbits"] > 0 and stream["mss"] > 1000 for stream in told["streams"])
    assert told["host_counters"]["ipv4"] == {"in_receives": 0, "forwarded": 0}
    assert told["host_counters"]["ipv6"]["forwarded"] == 0


def test_packets_through_the_host_are_counted_and_refused(run_module: Any, place: Place) -> None:
    probes = [{"netns": place.pod1, "to": to, "count": 50} for to in ("10.9.2.1", "fd09:2::1")]
    told = run_module("path_probe", {"probes": probes, "expect_bypass": True}, netns=place.host, fails=True)
    assert "upper stack forwarded 100 IPv4 and 100 IPv6 packets" in told["msg"]
    assert "max_forwarded is 0" in told["msg"] and "podnet.datapath.bpf_attach" in told["msg"]
    assert [probe["loss"] for probe in told["probes"]] == [0, 0]
    assert told["probes"][0]["ttl"] == 63
    assert told["host_counters"]["ipv4"]["forwarded"] == 100
    # by interface: the requests leave by pn2, the answers by pn1
    interfaces = told["host_counters"]["interfaces"]
    assert (interfaces["pn1"]["ipv6_forwarded"], interfaces["pn2"]["ipv6_forwarded"]) == (50, 50)
    allowed = {"probes": probes, "expect_bypass": True, "max_forwarded": 200}
    assert not run_module("path_probe", allowed, netns=place.host)["changed"]


@pytest.mark.parametrize("to", ["10.9.2.1", "fd09:2::1"])
def test_a_path_carries_its_mtu_and_no_more(run_module: Any, place: Place, to: str) -> None:
    def probe(size: int, fails: bool) -> dict[str, Any]:
        told = run_module(
            "path_probe",
            {"probes": [{"netns": place.pod1, "to": to, "size": size, "count": 3, "timeout": 0.3}]},
            netns=place.host,
            fails=fails,
        )
        return told["probes"][0]

    assert probe(1400, False)["received"] == 3
    beyond = probe(1401, True)
    assert beyond["received"] == 0
    assert beyond["path_mtu"] == 1400
    assert beyond["errors"] == ["too big for the path's MTU", "the path carries 1400 bytes"]
    # more than the Pod's own device takes
    assert probe(1501, True)["sent"] == 0


def test_loss_fails_unless_it_is_only_looked_at(run_module: Any, place: Place) -> None:
    probes = [{"netns": place.pod1, "to": "10.9.0.77", "count": 5, "timeout": 0.2}]
    told = run_module("path_probe", {"probes": probes}, netns=place.host, fails=True)
    assert f"from {place.pod1} to 10.9.0.77, 84 bytes: 5 sent, 0 came back (100.0 % lost)" in told["msg"]
    looked = run_module("path_probe", {"probes": probes, "max_loss": 100}, netns=place.host, check=True)
    assert looked["probes"][0]["loss"] == 100


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"probes": [{"netns": "gone", "to": "10.9.0.2"}]}, "there is no network namespace 'gone'"),
        ({"probes": [{"to": "10.9.0.2/24"}]}, "'10.9.0.2/24' is no IPv4 or IPv6 address"),
        ({"probes": [{"to": "10.9.0.2", "size": 20}]}, "size 20 for 10.9.0.2"),
        ({"probes": [{"to": "192.0.2.1"}]}, "no route (ENETUNREACH)"),
        ({"streams": [{"to": "10.9.0.2"}]}, "the receiver has no such address"),
    ],
)
def test_what_cannot_be_tried_is_named(
    run_module: Any, place: Place, args: dict[str, Any], said: str
) -> None:
    assert said in run_module("path_probe", args, netns=place.host, fails=True)["msg"]


def test_a_transfer_of_pods_that_are_not_there_is_left_out_where_it_may_be(
    place: Place, run_module: Any
) -> None:
    there = {"from_netns": place.pod1, "to_netns": place.pod2, "to": "10.9.0.2", "bytes": 1000}
    gone = {"from_netns": place.pod1, "to_netns": "nobody", "to": "10.9.0.9", "bytes": 1000}
    told = run_module("path_probe", {"streams": [there, {**gone, "optional": True}]}, place.host)
    assert [stream["to"] for stream in told["streams"]] == ["10.9.0.2"]
    assert "skipped the stream to 10.9.0.9: no network namespace nobody" in str(told["warnings"])
    failed = run_module("path_probe", {"streams": [gone]}, place.host, fails=True)
    assert "there is no network namespace 'nobody'" in failed["msg"]
