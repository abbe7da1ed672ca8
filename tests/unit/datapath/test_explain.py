# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Verdicts are explained by the policies that cause them."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.podnet.datapath.plugins.module_utils._datapath.drops import Drop, line
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.explain import (
    describe_pod,
    explain,
    find_pods,
    parse_port,
)
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.model import (
    CidrSelector,
    Declaration,
    HostSelector,
    Pod,
    PodSelector,
    Policy,
    Ports,
    Rule,
)
from tests.unit.datapath.declarations import HOST, PODS, declare, image_of, labels, policies
from tests.unit.datapath.programs import Programs


def pod(name: str, address: str, **more: str) -> Pod:
    return Pod(name, "kubernetes", (ipaddress.ip_address(address),), more, "node", f"h{name}")


WEB = PodSelector(frozenset({("app", "web")}))
CLIENT = PodSelector(frozenset({("app", "client")}))
BLOCK = CidrSelector(
    ipaddress.ip_network("192.0.2.0/24"), frozenset([ipaddress.ip_network("192.0.2.128/25")])
)


def declaration(*policies: Policy) -> Declaration:
    pods = [pod("x/web", "10.0.0.1", app="web"), pod("x/client", "10.0.0.2", app="client")]
    return Declaration(pods, list(policies))


def verdict(found: Declaration, peer: str, direction: int = 0) -> str:
    (shown,) = explain(found, found.pods[0], peer, direction, 6, 80)
    return shown.partition(": ")[2]


def test_the_policies_of_a_pod_are_described() -> None:
    rules = (
        Rule(0, True, (CLIENT, BLOCK), (Ports(6, 80, 80), Ports(17, 1, 9))),
        Rule(0, False, (HostSelector(),), (Ports(6),)),
        Rule(0),
    )
    found = declaration(
        Policy("x/closed", "kubernetes", WEB, (), (False, None)),
        Policy("x/open", "kubernetes", WEB, rules, (False, None)),
        Policy("other", "kubernetes", CLIENT, (), (False, False)),
    )
    assert describe_pod(found, found.pods[0]) == [
        "Pod x/web: 10.0.0.1",
        "ingress: denied if no rule matches",
        "  x/closed: no rules",
        "  x/open: allow from Pods (app=client), 192.0.2.0/24 except 192.0.2.128/25, tcp 80, udp 1-9",
        "  x/open: deny from the node, tcp",
        "  x/open: allow from all",
        "egress: allowed because no policy selects the Pod",
    ]


def test_a_verdict_names_the_policies_that_cause_it() -> None:
    found = declaration()
    assert verdict(found, "x/client") == "allowed, because no policy selects the Pod"
    closed = Policy("x/closed", "kubernetes", WEB, (), (False, None))
    found = declaration(closed)
    assert verdict(found, "x/client") == "denied, because no rule allows it in x/closed"
    assert verdict(found, "node") == "allowed, because the node reaches its Pods"
    opened = Policy("x/open", "kubernetes", WEB, (Rule(0, True, (CLIENT,)),), (False, None))
    found = declaration(closed, opened)
    assert verdict(found, "10.0.0.2") == verdict(found, "x/client") == "allowed by x/open"
    assert "denied" in verdict(found, "192.0.2.1")
    assert verdict(found, "x/client", 1) == "allowed, because no policy selects the Pod"
    denied = Policy("site/deny", "site", WEB, (Rule(0, False, (CLIENT,)),), (True, None))
    assert verdict(declaration(closed, opened, denied), "x/client") == "denied by site/deny"
    unknown = Policy("unknown", "kubernetes", WEB, (), (False, False), exclusive=True)
    found = declaration(opened, unknown)
    assert verdict(found, "x/client") == "denied, because no rule allows it in unknown"


@given(st.lists(labels, min_size=4, max_size=4), policies)
def test_explained_verdicts_are_those_of_the_programs(pod_labels: Any, raw_policies: Any) -> None:
    found = declare(pod_labels, raw_policies)
    programs = Programs(image_of(found), [HOST])
    (first,) = find_pods(found.pods, "p0")
    for peer in (*PODS[1:], "node", HOST, "192.0.2.1", "10.0.1.200"):
        for direction in (0, 1):
            for protocol, port in ((6, 80), (6, 81), (17, 80)):
                (shown,) = explain(
                    found, first, peer, direction, protocol, port, [ipaddress.ip_address(HOST)]
                )
                address = HOST if peer == "node" else peer
                assert ("allowed" in shown) == programs.allows(PODS[0], address, direction, protocol, port), (
                    shown
                )


def test_unknown_peers_and_ports_are_errors() -> None:
    found = declaration()
    with pytest.raises(ValueError, match="x/none is not an address, 'node' or the name of a Pod"):
        verdict(found, "x/none")
    found.pods.append(Pod("x/starting", "kubernetes", ()))
    with pytest.raises(ValueError, match="x/starting is not"):
        verdict(found, "x/starting")
    assert parse_port("sctp/7") == (132, 7)
    for text in ("80", "icmp/1", "tcp/0", "tcp/65536", "tcp/-1", "tcp/x"):
        with pytest.raises(ValueError, match="is not a port such as tcp/80"):
            parse_port(text)


def test_a_drop_names_peer_and_policies() -> None:
    drop = Drop(0, "10.0.0.2:5000", "10.0.0.1:80", 6, 7, 60, 9, 1, 2, True)
    known = {2: "DROP_POLICY_INGRESS"}, {1: "x/web"}, {7: "eth0"}
    shown = line(drop, *known, "Pod x/client", ["x/closed", "x/open"])
    assert shown.endswith(
        "drop (policy ingress) x/web ingress at eth0: 10.0.0.2:5000 -> 10.0.0.1:80 tcp, 60 bytes, peer Pod"
        " x/client, policies x/closed, x/open"
    )
    assert line(drop, *known).endswith("60 bytes, peer identity 9")


@pytest.mark.parametrize("address", ["10.0.0.2:5000", "10.0.0.2", "[fd00::2]:5000", "fd00::2"])
def test_the_peer_of_a_drop_is_the_other_end(address: str) -> None:
    expected = "fd00::2" if "fd" in address else "10.0.0.2"
    assert Drop(0, address, "x", 6, 7, 60, 9, 1, 2, True).remote == expected
    assert Drop(0, "x", address, 6, 7, 60, 9, 1, 2, False).remote == expected
