# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images compiled from declarations have the verdicts of the policies."""

from __future__ import annotations

import ipaddress
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.podnet.datapath.plugins.module_utils._datapath import layout
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.compile import Compiler
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.model import (
    CidrSelector,
    Declaration,
    HostSelector,
    PodSelector,
)
from tests.unit.datapath.declarations import HOST, NODE, PODS, declare, image_of, labels, policies
from tests.unit.datapath.programs import Programs

OTHERS = (HOST, "10.0.1.200", "10.1.2.3", "192.0.2.1", "fd00::1", "fd00:1::1")


def expected_verdict(
    declaration: Declaration, pod: str, peer: str, direction: int, protocol: int, port: int
) -> bool:
    """Return the verdict by the definition of policies, without identities."""
    by_address = {str(address): one for one in declaration.pods for address in one.addresses}

    def matches(selector: object) -> bool:
        if isinstance(selector, HostSelector):
            return peer == HOST
        if isinstance(selector, CidrSelector):
            return peer != HOST and selector.matches(ipaddress.ip_address(peer))
        assert isinstance(selector, PodSelector)
        return peer in by_address and selector.matches(by_address[peer])

    selecting = [
        policy
        for policy in declaration.policies
        if policy.subject.matches(by_address[pod]) and policy.defaults[direction] is not None
    ]
    verdicts = [
        rule.allow
        for policy in selecting
        for rule in policy.rules
        if rule.direction == direction
        and (not rule.peers or any(matches(one) for one in rule.peers))
        and (not rule.ports or any(p.protocol == protocol and p.first <= port <= p.last for p in rule.ports))
    ]
    if direction == 0 and peer == HOST:
        verdicts.append(True)
    if verdicts:
        return all(verdicts)
    return all(policy.defaults[direction] for policy in selecting)


@given(st.lists(labels, min_size=4, max_size=4), policies)
def test_verdicts_are_those_of_the_policies(pod_labels: Any, raw_policies: Any) -> None:
    declaration = declare(pod_labels, raw_policies)
    programs = Programs(image_of(declaration), [HOST])
    for pod in PODS[:2]:
        for peer in (*PODS, *OTHERS):
            for direction in (0, 1):
                for protocol, port in ((6, 80), (6, 81), (6, 90), (17, 80), (1, 0x800), (47, 0)):
                    packet = (pod, peer, direction, protocol, port)
                    assert programs.allows(*packet) == expected_verdict(declaration, *packet), packet


def test_too_many_port_ranges_are_reported_with_the_policy() -> None:
    many = [{"protocol": "tcp", "port": port} for port in range(1, 140, 2)]
    declaration = declare(
        [{"app": "web"}] * 4,
        [{"name": "many", "pods": {"labels": {"app": "web"}}, "ingress": [{"from": [], "ports": many}]}],
    )
    assert Compiler(declaration, NODE, {}).problems == [
        "policies (many): 70 port ranges exceed the maximum of 64; merge some of them"
    ]


def test_flags_of_networks_apply_to_the_networks_in_them() -> None:
    rules = [{"to": [{"cidr": "10.96.1.0/24"}]}]
    declaration = declare(
        [{"app": "web"}] * 4,
        [{"name": "web", "pods": {"labels": {"app": "web"}}, "egress": rules}],
    )
    assert not image_of(declaration).features
    declaration.stack_services = frozenset(map(ipaddress.ip_network, ("10.96.0.0/16", "fd96::/108")))
    image = image_of(declaration)
    assert image.features == layout.FEATURE_STACK_NAT
    flags = {str(ipaddress.ip_network((key[1], key[0]))): value[1] for key, value in image.cidrs.items()}
    assert flags == dict.fromkeys(("10.96.0.0/16", "10.96.1.0/24", "fd96::/108"), layout.CIDR_STACK_NAT)
