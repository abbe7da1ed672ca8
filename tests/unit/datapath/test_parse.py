# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Invalid declarations are rejected with all their problems."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._datapath.merge import merge
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.parse import parse


def problems_of(options: dict[str, Any]) -> list[str]:
    own, problems = parse(options, "site")
    _merged, conflicts = merge(own, [])
    return problems + conflicts


WEB = {"name": "web", "device": "h1", "addresses": ["10.0.0.1"], "labels": {"app": "web"}}


def rule(**words: Any) -> dict[str, Any]:
    return {"policies": [{"name": "x", "pods": {"labels": {"app": "web"}}, "ingress": [words]}]}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            rule(**{"from": [{"cidr": "10.0.0.0/33"}]}),
            "ingress[0].from[0]: cidr: '10.0.0.0/33' is not a valid IPv4",
        ),
        (rule(**{"from": [{"cidr": "10.0.0.1/8"}]}), "has host bits set; use 10.0.0.0/8"),
        (rule(**{"from": [{"cidr": "10.0.0.0/8", "except": ["11.0.0.0/8"]}]}), "not a subnet of 10.0.0.0/8"),
        (rule(**{"from": [{"cidr": "10.0.0.0/8", "except": ["fd00::/8"]}]}), "not a subnet of 10.0.0.0/8"),
        (
            rule(**{"from": [{"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]}]}),
            "10.0.0.0/8 excludes the complete cidr",
        ),
        (
            rule(**{"from": [{"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", "10.1.2.0/24"]}]}),
            "10.1.2.0/24 and 10.1.0.0/16 overlap",
        ),
        (rule(**{"from": [{"cidr": "10.0.0.0/8"}, {"cidr": "10.0.0.0/8"}]}), "is listed twice"),
        (rule(**{"from": [{"cidr": "10.0.0.0/8", "host": True}]}), "set exactly one of: labels"),
        (rule(**{"from": [{"names": ["nobody"]}]}), "no Pod has the name nobody"),
        (rule(**{"from": [{"labels": {"app": "wbe"}}]}), "no Pod has the labels app=wbe"),
        (
            rule(ports=[{"protocol": "tcp", "port": 90, "end_port": 80}]),
            "end_port: 80 is outside of 90 to 65535",
        ),
        (rule(ports=[{"protocol": "icmp", "port": 90}]), "port: protocol icmp has no ports"),
        (rule(ports=[{"protocol": "tcp", "type": 8}]), "type: protocol tcp has no types"),
        (rule(ports=[{"protocol": "tpc", "port": 1}]), "'tpc' is not one of tcp, udp"),
        (rule(ports=[{"port": 70000}]), "port: 70000 is outside of 0 to 65535"),
        ({"policies": [{"name": "x", "pods": {}}]}, "ingress or egress is required"),
        (
            {"policies": [{"name": "x", "ingress": [], "egress_default": "deny"}]},
            "egress_default: it requires egress",
        ),
        ({"endpoints": [{**WEB, "rate": "5kbit"}]}, "'5kbit' is outside of 1mbit to 1000gbit"),
        ({"endpoints": [{**WEB, "rate": "fast"}]}, "'fast' is not a rate like 100mbit"),
        ({"endpoints": [{**WEB, "masquerade": True}]}, "masquerade: it requires masquerade.ipv4"),
        ({"endpoints": [{**WEB, "addresses": ["10.0.0"]}]}, "'10.0.0' is not a valid IPv4 or IPv6 address"),
        ({"remote_pods": [{**WEB, "name": "b", "device": None}]}, "10.0.0.1 is assigned to both web and b"),
        (
            {"services": [{"name": "s", "address": "10.96.0.1", "port": 80}]},
            "none of its 0 backends has a weight above 0",
        ),
        (
            {
                "services": [
                    {"name": "s", "address": "10.96.0.1", "port": 80, "backends": [{"address": "fd00::1"}]}
                ]
            },
            "fd00::1 is an IPv6 address, but the service has an IPv4 address",
        ),
        (
            {
                "services": [
                    {"name": "s", "address": "10.96.0.1", "port": 80, "backends": [{"labels": {"app": "no"}}]}
                ]
            },
            "none of its 0 backends has a weight above 0",
        ),
        (
            {
                "services": [
                    {"name": n, "address": "10.96.0.1", "port": 80, "backends": [{"address": "10.0.0.1"}]}
                    for n in "st"
                ]
            },
            "service s already has 10.96.0.1 port 80",
        ),
        ({"masquerade": {"ipv4": "fd00::1"}}, "masquerade: ipv4: fd00::1 is an IPv6 address"),
    ],
)
def test_invalid_declaration(options: dict[str, Any], expected: str) -> None:
    options = {**options}
    options.setdefault("endpoints", [WEB])
    problems = problems_of(options)
    assert any(expected in problem for problem in problems), problems


def test_all_problems_are_reported() -> None:
    problems = problems_of(
        {
            "endpoints": [WEB, {**WEB, "name": "b", "device": "h2", "rate": "1bit"}],
            **rule(**{"from": [{"cidr": "10.0.0.0/33"}, {"names": ["nobody"]}]}),
            "services": [{"name": "s", "address": "10.96.0.1", "port": 80}],
        }
    )
    assert len(problems) == 5, problems


def test_service_selects_pods_by_labels() -> None:
    own, problems = parse(
        {
            "endpoints": [{**WEB, "addresses": ["10.0.0.1", "fd00::1"]}],
            "services": [
                {
                    "name": "s",
                    "address": "fd96::1",
                    "port": 80,
                    "backends": [{"labels": {"app": "web"}, "port": 8}],
                }
            ],
        },
        "site",
    )
    merged, conflicts = merge(own, [])
    assert not problems + conflicts
    (backend,) = merged.services[0].backends
    assert (str(backend.address), backend.port, backend.weight) == ("fd00::1", 8, 1)


def test_owners_may_not_share_addresses() -> None:
    own, other = (
        parse({"endpoints": [{**WEB, "name": name}]}, owner)[0]
        for name, owner in (("web", "site"), ("a", "cni"))
    )
    _merged, problems = merge(own, [other])
    assert problems == ["endpoints: 10.0.0.1 is assigned to both a of owner 'cni' and web"]
