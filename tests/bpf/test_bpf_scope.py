# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Scope of addresses, and neighbour discovery."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from scapy.layers.inet import IP, UDP, IPOption_NOP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6MLReport2,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    ICMPv6ND_RS,
    IPv6,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    RouterAlert,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from tests.bpf.state import (
    ALLOW,
    DENY_ALL_EGRESS,
    DENY_INGRESS,
    DROP,
    ENFORCE_EGRESS,
    ENFORCE_INGRESS,
    INGRESS,
    MAC,
    PASS,
    POD1,
    POD2,
    SENDER,
    State,
    frame,
    options,
    text,
)


@pytest.fixture
def default_route(state: State) -> Iterator[State]:
    """Default routes to a resolved neighbour."""
    routes = (("-4", "172.31.0.2"), ("-6", "fd31::2"))

    def run(command: str) -> None:
        for family, via in routes:
            words = ["ip", family, "-n", state.datapath.netns, "route", command, "default", "via", via]
            subprocess.run(words, check=True)

    run("add")
    yield state
    run("del")


LOOPBACK = ["127.0.0.1", "127.255.255.254"]
NOT_UNICAST = [
    *("224.0.0.251", "239.255.255.250", "255.255.255.255", "240.0.0.1", "0.0.0.0", "0.1.2.3"),
    *("ff02::fb", "ff05::1", "ff0e::1", "fe80::1", "febf::1", "::", "::1", "::ffff:10.0.0.1"),
]


UNICAST = ["1.0.0.1", "126.0.0.1", "128.0.0.1", "223.255.255.254", "64:ff9b::1", "fec0::1", "fd00::1"]


def to(dst: str, payload: Packet, **fields: Any) -> bytes:
    """Return pod1's packet to an address."""
    family = 6 if ":" in dst else 4
    header = (IP if family == 4 else IPv6)(src=text("1.11", family), dst=dst, **fields)
    return bytes(Ether(dst=MAC, src=SENDER) / header / payload)


class TestScope:
    @pytest.mark.parametrize("dst", NOT_UNICAST)
    @pytest.mark.parametrize("program", ["pod_egress", "host_ingress"])
    def test_not_unicast(self, default_route: State, dst: str, program: str) -> None:
        """A default route is none to these: the stack knows how to deliver them."""
        packet = to(dst, UDP(sport=5353, dport=5353))
        result = default_route.datapath.run(program, packet)
        assert (result.verdict, result.counted, result.packet) == (PASS, {"STACK_LINK_SCOPE": 1}, packet)

    @pytest.mark.parametrize("dst", LOOPBACK)
    def test_loopback_of_the_node(self, default_route: State, dst: str) -> None:
        """With route_localnet the stack would deliver it (CVE-2020-8558)."""
        for fields in ({}, {"options": [IPOption_NOP()] * 4}, {"flags": "MF"}):
            result = default_route.datapath.run("pod_egress", to(dst, UDP(), **fields))
            assert (result.verdict, result.counted) == (DROP, {"DROP_UNSUPPORTED": 1})

    @pytest.mark.parametrize("dst", [*NOT_UNICAST, *LOOPBACK])
    def test_not_unicast_under_policy(self, default_route: State, dst: str) -> None:
        default_route.pods(ENFORCE_EGRESS)
        result = default_route.datapath.run("pod_egress", to(dst, UDP(sport=5353, dport=5353)))
        assert (result.verdict, result.counted) == (DROP, {"DROP_UNSUPPORTED": 1})

    @pytest.mark.parametrize("dst", [*NOT_UNICAST, *LOOPBACK])
    def test_source_is_checked(self, default_route: State, dst: str) -> None:
        family = 6 if ":" in dst else 4
        header = (IP if family == 4 else IPv6)(src=text("1.12", family), dst=dst)
        packet = bytes(Ether(dst=MAC, src=SENDER) / header / UDP())
        assert default_route.datapath.run("pod_egress", packet).counted == {"DROP_INVALID_SOURCE_IP": 1}

    @pytest.mark.parametrize("src", ["ff02::1", "::1", "::ffff:10.31.1.11"])
    def test_sources_of_no_pod(self, state: State, src: str) -> None:
        packet = bytes(Ether(dst=MAC, src=SENDER) / IPv6(src=src, dst="fd31:1::12") / UDP())
        assert state.datapath.run("pod_egress", packet).counted == {"DROP_INVALID_SOURCE_IP": 1}

    @pytest.mark.parametrize("src", ["fe80::1", "0:0:1::1", "::"])
    def test_sources_of_link_scope_under_ingress_policy(self, state: State, src: str) -> None:
        """Only the destination decides whether a packet from the stack is under policy."""
        state.pods(ENFORCE_INGRESS | DENY_INGRESS)
        for payload, reason in ((UDP(), "POLICY_INGRESS"), (ICMPv6EchoRequest(), "UNSUPPORTED")):
            packet = bytes(Ether(dst=MAC, src=SENDER) / IPv6(src=src, dst="fd31:1::11", hlim=255) / payload)
            found = state.datapath.run("pod_ingress", packet, "pod1", ingress_ifindex=1)
            assert (found.verdict, found.counted) == (DROP, {f"DROP_{reason}": 1})

    def test_discovery_of_the_node_under_ingress_policy(self, state: State) -> None:
        state.pods(ENFORCE_INGRESS | DENY_INGRESS)
        for hlim, reason in ((255, "HOST"), (254, "DROP_UNSUPPORTED")):
            header = IPv6(src="fe80::1", dst="fd31:1::11", hlim=hlim)
            packet = bytes(Ether(dst=MAC, src=SENDER) / header / ICMPv6ND_NS(tgt="fd31:1::11"))
            assert state.datapath.run("pod_ingress", packet, "pod1").counted == {reason: 1}

    @pytest.mark.parametrize("dst", UNICAST)
    def test_unicast(self, default_route: State, dst: str) -> None:
        assert default_route.datapath.run("pod_egress", to(dst, UDP())).counted == {"REMOTE": 1}


LINK = ["ff02::1", "ff02::2", "ff02::1:ff00:12", "fe80::1"]


BEYOND = ["fd31:1::12", "fd31:2::11", "fd31::1", "2001:db8::1", "ff05::1", "ff0e::1:ff00:12", "fec0::1"]


DISCOVERY = {
    "NS": ICMPv6ND_NS(tgt="fd31:1::12"),
    "NA": ICMPv6ND_NA(tgt="fd31:1::12"),
}


ROUTER = {"RA": ICMPv6ND_RA(), "redirect": ICMPv6ND_Redirect(), "RS": ICMPv6ND_RS()}


def discovery(message: Packet, dst: str, src: str = "fd31:1::11", hlim: int = 255) -> bytes:
    return bytes(Ether(dst=MAC, src=SENDER) / IPv6(src=src, dst=dst, hlim=hlim) / message)


class TestDiscovery:
    """Neighbour discovery of Pods under a policy that denies all, and their messages of and to routers."""

    @pytest.fixture
    def denied(self, default_route: State) -> State:
        default_route.device(enforce=DENY_ALL_EGRESS)
        default_route.pods(DENY_ALL_EGRESS)
        return default_route

    @pytest.mark.parametrize("message", DISCOVERY.values(), ids=DISCOVERY)
    @pytest.mark.parametrize("src", ["fd31:1::11", "fe80::11", "::"])
    @pytest.mark.parametrize("dst", LINK)
    def test_on_the_link(self, denied: State, message: Packet, src: str, dst: str) -> None:
        packet = discovery(message, dst, src)
        result = denied.datapath.run("pod_egress", packet)
        assert (result.verdict, result.counted, result.packet) == (PASS, {"STACK_LINK_SCOPE": 1}, packet)

    @pytest.mark.parametrize("message", DISCOVERY.values(), ids=DISCOVERY)
    @pytest.mark.parametrize("src", ["fd31:1::11", "fe80::11"])
    @pytest.mark.parametrize("dst", BEYOND)
    def test_beyond_the_link(self, denied: State, message: Packet, src: str, dst: str) -> None:
        packet = discovery(message / Raw(bytes(480)), dst, src)
        assert denied.datapath.run("pod_egress", packet).verdict == DROP

    @pytest.mark.parametrize("message", DISCOVERY.values(), ids=DISCOVERY)
    @pytest.mark.parametrize("dst", LINK)
    @pytest.mark.parametrize("hlim", [0, 1, 64, 254])
    def test_hop_limit(self, denied: State, message: Packet, dst: str, hlim: int) -> None:
        packet = discovery(message, dst, hlim=hlim)
        assert denied.datapath.run("pod_egress", packet).verdict == DROP

    @pytest.mark.parametrize("message", DISCOVERY.values(), ids=DISCOVERY)
    def test_behind_extension_headers(self, denied: State, message: Packet) -> None:
        packet = discovery(options(message), "ff02::1")
        assert denied.datapath.run("pod_egress", packet).verdict == DROP

    def test_to_a_pod_under_policy_from_the_wire(self, state: State) -> None:
        """The stack would forward it, and trust the source address."""
        state.pods(ENFORCE_INGRESS | DENY_INGRESS)
        state.rule(POD1, POD2, INGRESS, verdict=ALLOW)
        for src in ("2.11", "1.12"):
            packet = frame(src, "1.11", ICMPv6ND_NS(tgt="fd31:1::11"), 6, hlim=255)
            assert state.datapath.run("host_ingress", packet).verdict == DROP

    @pytest.mark.parametrize("policy", [False, True])
    @pytest.mark.parametrize("message", ROUTER.values(), ids=ROUTER)
    @pytest.mark.parametrize(
        ("src", "dst"),
        # RFC 4861: to a global address they are valid only with a link-local source
        [*itertools.product(("fe80::11", "fd31:1::11"), LINK), ("fe80::11", "fd31::1")],
    )
    @pytest.mark.parametrize(
        "headers", ["none", "options", "hop-by-hop", "two options", "atomic", "first", "hidden", "too many"]
    )
    def test_a_pod_is_no_router(
        self, state: State, policy: bool, message: Packet, src: str, dst: str, headers: str
    ) -> None:
        """The stack accepts them behind extension headers, too. It stores the sender of a solicitation."""
        if policy:
            state.device(enforce=ENFORCE_EGRESS)
            state.pods(ENFORCE_EGRESS)
        chain = {
            "none": message,
            "options": options(message),
            "hop-by-hop": IPv6ExtHdrHopByHop(options=[RouterAlert()]) / message,
            "two options": options(options(message)),
            "atomic": IPv6ExtHdrFragment() / message,
            "first": IPv6ExtHdrFragment(m=1) / message,
            "hidden": IPv6ExtHdrFragment(m=1, nh=60) / Raw(bytes(options(message))[:8]),
            "too many": options(*[options() for dummy in range(7)], message),
        }[headers]
        result = state.datapath.run("pod_egress", discovery(chain, dst, src))
        assert (result.verdict, result.counted) == (DROP, {"DROP_NDP": 1})

    @pytest.mark.parametrize(
        "payload",
        [
            UDP(sport=5353, dport=5353),
            options(UDP(sport=5353, dport=5353)),
            IPv6ExtHdrHopByHop(options=[RouterAlert()]) / ICMPv6MLReport2(),
            ICMPv6EchoRequest(),
            IPv6ExtHdrFragment(nh=58, offset=9, m=1) / Raw(bytes([134]) * 16),
            IPv6ExtHdrFragment(nh=58, m=1) / ICMPv6EchoRequest() / Raw(bytes(16)),
        ],
        ids=["mDNS", "options", "MLD", "echo", "later fragment", "first fragment"],
    )
    @pytest.mark.parametrize("dst", ["ff02::fb", "fe80::1"])
    def test_other_packets_on_the_link(self, state: State, payload: Packet, dst: str) -> None:
        packet = bytes(Ether(dst=MAC, src=SENDER) / IPv6(src="fe80::11", dst=dst) / payload)
        result = state.datapath.run("pod_egress", packet)
        assert (result.verdict, result.counted, result.packet) == (PASS, {"STACK_LINK_SCOPE": 1}, packet)
