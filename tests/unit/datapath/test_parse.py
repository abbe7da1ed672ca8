# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Invalid declarations are rejected with all their problems."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._datapath.merge import merge, without_backends
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.model import CidrSelector
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
        (rule(**{"from": [{"cidr": "010.0.0.0/8"}]}), "remove leading zeros"),
        (rule(**{"from": [{"cidr": "fe80::%eth0/64"}]}), "is not a valid IPv6 network; remove the zone"),
        (rule(**{"from": [{"cidr": "::ffff:10.0.0.1/64"}]}), "below 96, which is neither an IPv4 nor"),
        (rule(**{"from": [{"cidr": "10.0.0.0/8", "except": ["11.0.0.0/8"]}]}), "not a subnet of 10.0.0.0/8"),
        (rule(**{"from": [{"cidr": "10.0.0.0/8", "except": ["fd00::/8"]}]}), "not a subnet of 10.0.0.0/8"),
        (
            rule(**{"from": [{"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]}]}),
            "10.0.0.0/8 excludes the complete cidr",
        ),
        (
            rule(**{"from": [{"cidr": "::ffff:10.0.0.0/104", "except": ["::ffff:10.0.0.0/104"]}]}),
            "10.0.0.0/8 excludes the complete cidr",
        ),
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
        (rule(ports=[{"protocol": "²", "port": 1}]), "'²' is not one of tcp, udp"),
        (rule(ports=[{"port": 70000}]), "port: 70000 is outside of 0 to 65535"),
        (rule(ports=[{"port": "http"}]), "port: 'http' is not a number; names are not supported"),
        (rule(ports=[{"port": 1, "end_port": "x"}]), "end_port: 'x' is not a number"),
        ({"policies": [{"name": "x", "pods": {}}]}, "ingress or egress is required"),
        (
            {"policies": [{"name": "x", "ingress": [], "egress_default": "deny"}]},
            "egress_default: it requires egress",
        ),
        ({"endpoints": [{**WEB, "rate": "5kbit"}]}, "'5kbit' is outside of 1mbit to 1000gbit"),
        ({"endpoints": [{**WEB, "rate": "fast"}]}, "'fast' is not a rate like 100mbit"),
        ({"endpoints": [{**WEB, "masquerade": True}]}, "masquerade: it requires masquerade.ipv4"),
        ({"endpoints": [{**WEB, "addresses": ["10.0.0"]}]}, "'10.0.0' is not a valid IPv4 or IPv6 address"),
        ({"endpoints": [{**WEB, "addresses": ["::ffff:10.0.0.1"]}]}, "write it as 10.0.0.1"),
        ({"remote_pods": [{**WEB, "name": "b", "device": None}]}, "10.0.0.1 is assigned to both web and b"),
        (
            {"services": [{"name": "s", "address": "10.96.0.1", "port": 80, "protocol": "ICMP"}]},
            "'icmp' is not one of tcp, udp, sctp, the protocols that are translated",
        ),
        ({"services": [{"name": "s", "address": "10.96.0.1", "port": 0}]}, "port: 0 is not a port"),
        (
            {
                "services": [
                    {
                        "name": "s",
                        "address": "10.96.0.1",
                        "port": 80,
                        "backends": [{"address": "10.0.0.1"}, {"address": "10.0.0.1", "weight": 2}],
                    }
                ]
            },
            "10.0.0.1 port 80 is listed twice, with weights 1 and 2",
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
                    {"name": n, "address": "10.96.0.1", "port": 80, "backends": [{"address": "10.0.0.1"}]}
                    for n in "st"
                ]
            },
            "service s already has 10.96.0.1 port 80",
        ),
        ({"masquerade": {"ipv4": "fd00::1"}}, "masquerade: ipv4: fd00::1 is an IPv6 address"),
        ({"stack_services": ["10.96.0.0/33"]}, "stack_services: '10.96.0.0/33' is not a valid IPv4 or IPv6"),
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
            "services": [{"name": "s", "address": "10.96.0.1", "port": 0}],
        }
    )
    assert len(problems) == 5, problems


@pytest.mark.parametrize(
    ("written", "network", "excluded"),
    [
        ({"cidr": "10.0.0.1/8"}, "10.0.0.0/8", []),
        ({"cidr": "fd00::1/8"}, "fd00::/8", []),
        ({"cidr": "::ffff:10.1.2.3/104"}, "10.0.0.0/8", []),
        ({"cidr": "::FFFF:0a01:0203/128"}, "10.1.2.3/32", []),
        ({"cidr": "::ffff:0:0/96"}, "0.0.0.0/0", []),
        ({"cidr": "::10.0.0.0/104"}, "::a00:0/104", []),  # IPv4-compatible addresses are IPv6
        (
            {"cidr": "10.0.0.0/8", "except": ["10.1.2.3/16", "10.1.2.0/24", "10.1.0.0/16"]},
            "10.0.0.0/8",
            ["10.1.0.0/16", "10.1.2.0/24"],
        ),
        ({"cidr": "10.0.0.0/8", "except": ["::ffff:10.1.0.0/112"]}, "10.0.0.0/8", ["10.1.0.0/16"]),
    ],
)
def test_networks_that_kubernetes_accepts(written: dict[str, Any], network: str, excluded: list[str]) -> None:
    options = {"endpoints": [WEB], **rule(**{"from": [written]})}
    assert problems_of(options) == []
    (peer,) = parse(options, "site")[0].policies[0].rules[0].peers
    assert isinstance(peer, CidrSelector)
    assert (str(peer.network), sorted(map(str, peer.excluded))) == (network, excluded)


def test_duplicates_that_kubernetes_accepts() -> None:
    network = {"cidr": "10.0.0.0/8"}
    backend = {"address": "10.0.0.1"}
    options = {
        "endpoints": [WEB],
        **rule(**{"from": [network, {"cidr": "10.0.0.1/8"}, network], "ports": [{"port": 80}] * 2}),
        "services": [{"name": "s", "address": "10.96.0.1", "port": 80, "backends": [backend, backend]}],
    }
    assert problems_of(options) == []
    assert len(parse(options, "site")[0].services[0].backends) == 1


@pytest.mark.parametrize(("written", "protocol"), [("TCP", 6), ("Udp", 17), ("udp", 17), (None, 6)])
def test_protocols_in_any_case(written: str | None, protocol: int) -> None:
    service = {"name": "s", "address": "10.96.0.1", "port": 80, "protocol": written}
    options = {
        "endpoints": [WEB],
        **rule(ports=[{"protocol": written, "port": 80}]),
        "services": [{**service, "backends": [{"address": "10.0.0.1"}]}],
    }
    assert problems_of(options) == []
    declaration = parse(options, "site")[0]
    assert declaration.services[0].protocol == protocol
    assert declaration.policies[0].rules[0].ports[0].protocol == protocol


@pytest.mark.parametrize(
    "backends", [[], [{"labels": {"app": "no"}}], [{"address": "10.0.0.1", "weight": 0}]]
)
def test_a_service_without_backends_is_a_warning(backends: list[dict[str, Any]]) -> None:
    options = {
        "endpoints": [WEB],
        "services": [{"name": "s", "address": "10.96.0.1", "port": 80, "backends": backends}],
    }
    own, problems = parse(options, "site")
    merged, conflicts = merge(own, [])
    assert not problems + conflicts
    (warning,) = without_backends(merged.services, "site")
    assert "services (s): none of its" in warning and not without_backends(merged.services, "cni")


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
