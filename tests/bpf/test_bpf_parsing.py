# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""VLAN tags, fragments, lengths, scope of addresses, neighbour discovery, inner headers of ICMP errors."""

from __future__ import annotations

import itertools
import struct
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6MLReport2,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    ICMPv6ND_RS,
    ICMPv6PacketTooBig,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    Jumbo,
    PadN,
    RouterAlert,
)
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.packet import Packet, Raw

from ansible_collections.podnet.datapath.plugins.module_utils._kernel import bpf
from tests.bpf.programs import possible_cpus
from tests.bpf.state import (
    ALLOW,
    DENY_EGRESS,
    DENY_INGRESS,
    DROP,
    EGRESS,
    ENFORCE_EGRESS,
    ENFORCE_INGRESS,
    FAMILIES,
    INGRESS,
    MAC,
    PASS,
    POD1,
    POD2,
    POD_MASQUERADE,
    REMOTE,
    SENDER,
    TCP_,
    UDP_,
    State,
    echo,
    frame,
    from_pod,
    syn,
    text,
)

BOTH = ENFORCE_INGRESS | ENFORCE_EGRESS | DENY_INGRESS | DENY_EGRESS
DENY_ALL_EGRESS = ENFORCE_EGRESS | DENY_EGRESS
FLOW_CACHE_ENTRY = struct.Struct("=48sQII24x")  # flow, expires, generation, sequence


def options(*following: Packet) -> Packet:
    """Return a destination options header, and the headers after it."""
    found: Packet = IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 4)])
    for one in following:
        found = found / one
    return found


def tagged(packet: bytes, *tags: Packet) -> bytes:
    """Return a frame with VLAN tags after its MAC addresses, the outer tag first."""
    kinds = [0x88A8 if isinstance(tag, Dot1AD) else 0x8100 for tag in tags]
    found = packet[:12]
    for kind, tag in zip(kinds, tags):
        found += kind.to_bytes(2, "big") + (tag.prio << 13 | tag.vlan).to_bytes(2, "big")
    return found + packet[12:]


PRIORITY_TAGS = {
    "802.1Q": (Dot1Q(vlan=0),),
    "802.1Q with priority": (Dot1Q(vlan=0, prio=5),),
    "802.1ad": (Dot1AD(vlan=0),),
    "802.1Q twice": (Dot1Q(vlan=0), Dot1Q(vlan=0)),
    "802.1ad and 802.1Q": (Dot1AD(vlan=0), Dot1Q(vlan=0)),
}
VLAN_TAGS = {
    "VLAN": (Dot1Q(vlan=100),),
    "VLAN of 802.1ad": (Dot1AD(vlan=100),),
    "VLAN in VLAN": (Dot1AD(vlan=5), Dot1Q(vlan=100)),
    "priority in VLAN": (Dot1Q(vlan=5), Dot1Q(vlan=0)),
}


class TestVlan:
    """Frames with VLAN tags: the stack ignores priority tags (VLAN 0)."""

    @FAMILIES
    @pytest.mark.parametrize("program", ["pod_egress", "pod_ingress"])
    @pytest.mark.parametrize("enforce", [0, BOTH], ids=["no policy", "under policy"])
    @pytest.mark.parametrize("tags", [*PRIORITY_TAGS.values(), *VLAN_TAGS.values()], ids=str)
    def test_of_pods_are_dropped(
        self, state: State, family: int, program: str, enforce: int, tags: Any
    ) -> None:
        state.device(enforce=enforce)
        state.pods(enforce, enforce)
        packet = tagged(frame("1.11", "1.12", UDP(), family), *tags)
        result = state.datapath.run(program, packet, "pod1")
        assert (result.verdict, result.counted) == (DROP, {"DROP_VLAN": 1})

    @FAMILIES
    @pytest.mark.parametrize("tags", PRIORITY_TAGS.values(), ids=PRIORITY_TAGS)
    def test_priority_tags_from_the_wire_are_removed(self, state: State, family: int, tags: Any) -> None:
        packet = frame("2.11", "1.11", syn(), family)
        untagged = state.datapath.run("host_ingress", packet)
        assert untagged.counted == {"INBOUND": 1}
        assert state.datapath.run("host_ingress", tagged(packet, *tags)) == untagged

    @FAMILIES
    @pytest.mark.parametrize("tags", PRIORITY_TAGS.values(), ids=PRIORITY_TAGS)
    @pytest.mark.parametrize("source", ["2.11", "1.12"], ids=["denied", "spoofed"])
    def test_priority_tags_do_not_bypass_policy(
        self, state: State, family: int, source: str, tags: Any
    ) -> None:
        state.pods(ENFORCE_INGRESS | DENY_INGRESS)
        state.rule(POD1, POD2, INGRESS, verdict=ALLOW)
        packet = tagged(frame(source, "1.11", syn(), family), *tags)
        assert state.datapath.run("host_ingress", packet).counted == {"DROP_POLICY_INGRESS": 1}

    @FAMILIES
    def test_too_many_priority_tags(self, state: State, family: int) -> None:
        packet = tagged(frame("2.11", "1.11", syn(), family), *[Dot1Q(vlan=0)] * 3)
        result = state.datapath.run("host_ingress", packet)
        assert (result.verdict, result.counted) == (DROP, {"DROP_VLAN": 1})

    @FAMILIES
    @pytest.mark.parametrize("tags", VLAN_TAGS.values(), ids=VLAN_TAGS)
    def test_frames_of_vlan_devices_pass_to_the_stack(self, state: State, family: int, tags: Any) -> None:
        packet = tagged(frame("2.11", "1.11", syn(), family), *tags)
        result = state.datapath.run("host_ingress", packet)
        assert (result.verdict, result.counted, result.packet) == (PASS, {"STACK_VLAN": 1}, packet)
        behind = tagged(frame("2.11", "1.11", syn(), family), Dot1Q(vlan=0), Dot1Q(vlan=100))
        result = state.datapath.run("host_ingress", behind)
        assert (result.verdict, result.counted) == (PASS, {"STACK_VLAN": 1})

    def test_a_truncated_tag(self, state: State) -> None:
        packet = tagged(frame("2.11", "1.11", syn(), 4), Dot1Q(vlan=0))[:15]
        result = state.datapath.run("host_ingress", packet)
        assert (result.verdict, result.counted) == (PASS, {"STACK_MALFORMED": 1})


def entries(state: State) -> int:
    """Return the number of valid flow cache entries on all CPUs."""
    size, found = FLOW_CACHE_ENTRY.size, 0
    for slot in range(1024):
        raw = bpf.map_lookup(state.maps["flow_cache"], struct.pack("=I", slot), size * possible_cpus())
        for flow, dummy, generation, dummy in FLOW_CACHE_ENTRY.iter_unpack(raw):
            found += generation == state.datapath.generation and flow != bytes(48)
    return found


def fragment(
    port: int, family: int, later: bool, proto: int, number: int = 7
) -> tuple[Packet, dict[str, Any]]:
    """Return the payload and the header fields of a fragment of a datagram or segment to a port."""
    header = UDP(sport=5, dport=port, len=108) if proto == UDP_ else TCP(sport=5, dport=port)
    whole = bytes(header) + bytes(80)
    part = Raw(whole[40:] if later else whole[:40])
    if family == 4:
        fields = {"id": number, "proto": proto}
        return part, fields | ({"frag": 5} if later else {"flags": "MF"})
    return IPv6ExtHdrFragment(nh=proto, id=number, offset=5 * later, m=not later) / part, {}


@pytest.mark.usefixtures("one_cpu")
class TestFragments:
    @FAMILIES
    @pytest.mark.parametrize("program", ["pod_egress", "host_ingress"])
    @pytest.mark.parametrize("proto", [UDP_, TCP_])
    @pytest.mark.parametrize("later", [False, True], ids=["first", "later"])
    def test_no_decision_of_the_flow_without_ports(
        self, state: State, family: int, program: str, proto: int, later: bool
    ) -> None:
        """A flow with ports 0 and 0 has the key that fragments would have."""
        state.pods(DENY_ALL_EGRESS, ENFORCE_INGRESS | DENY_INGRESS)
        subject, peer = (POD1, REMOTE) if program == "pod_egress" else (POD2, REMOTE)
        state.rule(subject, peer, EGRESS if program == "pod_egress" else INGRESS, (proto, ALLOW, 0, 0))
        path = ("1.11", "2.11") if program == "pod_egress" else ("2.11", "1.12")
        flow = frame(*path, UDP(sport=0, dport=0) if proto == UDP_ else TCP(sport=0, dport=0), family)
        payload, fields = fragment(53, family, later, proto)
        denied = frame(*path, payload, family, **fields)
        found = state.datapath.run_after(flow, program, denied)
        assert found.verdict == DROP
        assert set(found.counted) <= {
            "DROP_FRAG_NOT_FOUND", "DROP_POLICY_EGRESS", "DROP_POLICY_INGRESS"
        }  # fmt: skip

    @FAMILIES
    @pytest.mark.parametrize("policy", [False, True])
    @pytest.mark.parametrize("proto", [UDP_, TCP_])
    def test_no_entries(self, state: State, family: int, policy: bool, proto: int) -> None:
        if policy:
            state.pods(DENY_ALL_EGRESS)
            state.rule(POD1, POD2, EGRESS, verdict=ALLOW)
        for number, later in ((1, False), (1, True)):
            payload, fields = fragment(53, family, later, proto, number)
            packet = frame("1.11", "1.12", payload, family, **fields)
            assert state.datapath.run("pod_egress", packet).counted == {"LOCAL": 1}
            assert not entries(state)
        assert from_pod(state, "1.11", "1.12", UDP(dport=53), family).counted == {"LOCAL": 1}
        assert entries(state)

    @pytest.mark.parametrize(("port", "counted"), [(53, "REMOTE"), (54, "DROP_POLICY_EGRESS")])
    @pytest.mark.parametrize("headers", [1, 2])
    @pytest.mark.parametrize("other", [UDP_, TCP_, 60])
    def test_options_behind_the_fragment_header(
        self, state: State, port: int, counted: str, headers: int, other: int
    ) -> None:
        """RFC 8200, 4.5: they belong to the fragmentable part, and only the first next header counts."""
        state.pods(BOTH)
        state.rule(POD1, REMOTE, EGRESS, (UDP_, ALLOW, 53, 53))
        payload = UDP(sport=1234, dport=port, len=808, chksum=1) / Raw(bytes(800))
        whole = bytes(options(payload) if headers == 1 else options(options(payload)))
        for offset, more, proto in ((0, 1, 60), (50, 0, other)):
            part = Raw(whole[offset * 8 : (offset + 50) * 8] if more else whole[offset * 8 :])
            packet = IPv6ExtHdrFragment(nh=proto, m=more, offset=offset, id=9) / part
            assert from_pod(state, "1.11", "2.11", packet, 6).counted == {counted: 1}

    @FAMILIES
    def test_the_first_fragment_has_the_flags_of_tcp(self, state: State, family: int) -> None:
        """RFC 1858: a tiny first fragment hides whether the segment opens a connection."""
        state.pods(DENY_ALL_EGRESS)
        state.rule(POD1, POD2, EGRESS, verdict=ALLOW)
        payload = Raw(bytes(syn())[:8])
        fields: dict[str, Any] = {"flags": "MF", "proto": TCP_} if family == 4 else {}
        packet = payload if family == 4 else IPv6ExtHdrFragment(nh=TCP_, m=1, id=3) / payload
        assert from_pod(state, "1.11", "1.12", packet, family, **fields).counted == {"DROP_FRAG_NOT_FOUND": 1}


def cut(family: int, payload: bytes, length: int, proto: int, **fields: Any) -> bytes:
    """Return pod1's packet to pod2, whose length covers only the first bytes of its payload."""
    if family == 4:
        return frame("1.11", "1.12", Raw(payload), 4, proto=proto, len=20 + length, **fields)
    return frame("1.11", "1.12", Raw(payload), 6, nh=proto, plen=length, **fields)


DATAGRAM = bytes(UDP(sport=9, dport=80, len=8))
SEGMENT = bytes(TCP(sport=9, dport=80, flags="S"))
ECHO = {4: bytes(echo(4)), 6: bytes(echo(6))}
PADDING = bytes(IPv6ExtHdrDestOpt(nh=60, options=[PadN(optdata=b"\0" * 4)]))
OPTION_UDP = bytes(IPv6ExtHdrDestOpt(nh=17, options=[PadN(optdata=b"\0" * 4)]))
ROUTING_UDP = bytes(IPv6ExtHdrRouting(nh=17, segleft=0))
ATOMIC_UDP = bytes(IPv6ExtHdrFragment(nh=17))
FIRST_UDP = bytes(IPv6ExtHdrFragment(nh=17, m=1))
FIRST_OPTION = bytes(IPv6ExtHdrFragment(nh=60, m=1))
# protocol, payload, and its bytes that belong to the packet
CUT: dict[str, tuple[int, bytes, int]] = {
    "no ports": (17, DATAGRAM, 0),
    "half of the ports": (17, DATAGRAM, 3),
    "no TCP ports": (6, SEGMENT, 0),
    "TCP ports without flags": (6, SEGMENT, 4),
    "TCP header to the flags": (6, SEGMENT, 13),
}
CUT6: dict[str, tuple[int, bytes, int]] = {
    "options": (60, OPTION_UDP + DATAGRAM, 0),
    "half of the options' head": (60, OPTION_UDP + DATAGRAM, 3),
    "ports after options": (60, OPTION_UDP + DATAGRAM, 8),
    "second options": (60, PADDING + OPTION_UDP + DATAGRAM, 8),
    "ports after two options": (60, PADDING + OPTION_UDP + DATAGRAM, 16),
    "ports after routing": (43, ROUTING_UDP + DATAGRAM, 8),
    "fragment header": (44, ATOMIC_UDP + DATAGRAM, 0),
    "half of the fragment header": (44, ATOMIC_UDP + DATAGRAM, 4),
    "ports after an atomic fragment": (44, ATOMIC_UDP + DATAGRAM, 8),
    "ports of a first fragment": (44, FIRST_UDP + DATAGRAM, 8),
    "options of a first fragment": (44, FIRST_OPTION + OPTION_UDP + DATAGRAM, 8),
    "ports after options of a first fragment": (44, FIRST_OPTION + OPTION_UDP + DATAGRAM, 16),
}


class TestLength:
    """Bytes after the IP packet, such as the padding of a frame, are no headers."""

    @staticmethod
    def restrict(state: State) -> None:
        """Allow all packets with ports 80 and 0, to which missing ports default."""
        state.pods(DENY_ALL_EGRESS)
        state.rule(POD1, POD2, EGRESS, verdict=ALLOW)

    @FAMILIES
    @pytest.mark.parametrize(("proto", "payload", "length"), CUT.values(), ids=CUT)
    def test_cut_off(self, state: State, family: int, proto: int, payload: bytes, length: int) -> None:
        self.restrict(state)
        packet = cut(family, payload, length, proto)
        result = state.datapath.run("pod_egress", packet)
        assert (result.verdict, result.counted) == (DROP, {"DROP_UNSUPPORTED": 1})

    @pytest.mark.parametrize(("proto", "payload", "length"), CUT6.values(), ids=CUT6)
    def test_cut_off_extension_headers(self, state: State, proto: int, payload: bytes, length: int) -> None:
        self.restrict(state)
        result = state.datapath.run("pod_egress", cut(6, payload, length, proto))
        (counted,) = result.counted
        assert result.verdict == DROP and counted in ("DROP_FRAG_NOT_FOUND", "DROP_UNSUPPORTED")

    @FAMILIES
    @pytest.mark.parametrize("length", [0, 1, 4, 6])
    def test_cut_off_icmp(self, state: State, family: int, length: int) -> None:
        """Type, code or identifier."""
        self.restrict(state)
        packet = cut(family, ECHO[family], length, 1 if family == 4 else 58)
        assert state.datapath.run("pod_egress", packet).counted == {"DROP_UNSUPPORTED": 1}

    def test_cut_off_first_fragment(self, state: State) -> None:
        self.restrict(state)
        packet = cut(4, DATAGRAM, 0, 17, flags="MF")
        assert state.datapath.run("pod_egress", packet).counted == {"DROP_FRAG_NOT_FOUND": 1}

    @pytest.mark.parametrize("dst", ["fd31:1::12", "ff02::1:ff00:12", "fe80::1"])
    def test_cut_off_discovery(self, state: State, dst: str) -> None:
        state.device(enforce=DENY_ALL_EGRESS)
        state.pods(DENY_ALL_EGRESS)
        header = IPv6(src="fd31:1::11", dst=dst, hlim=255, plen=0, nh=58)
        packet = bytes(Ether(dst=MAC, src=SENDER) / header / Raw(bytes(ICMPv6ND_NS(tgt="fd31:1::12"))))
        assert state.datapath.run("pod_egress", packet).verdict == DROP

    @FAMILIES
    @pytest.mark.parametrize(
        "payload", [DATAGRAM, SEGMENT, OPTION_UDP + DATAGRAM], ids=["udp", "tcp", "options"]
    )
    def test_padding_is_legal(self, state: State, family: int, payload: bytes) -> None:
        state.pods(DENY_ALL_EGRESS)
        state.rule(POD1, POD2, EGRESS, (UDP_, ALLOW, 80, 80), (TCP_, ALLOW, 80, 80))
        proto = {DATAGRAM: 17, SEGMENT: 6}.get(payload, 60)
        if family == 4 and proto == 60:
            payload, proto = DATAGRAM, 17
        packet = cut(family, payload + b"\xff" * 20, len(payload), proto)
        result = state.datapath.run("pod_egress", packet)
        assert result.counted == {"LOCAL": 1}
        assert len(result.packet) == len(packet)

    @pytest.mark.usefixtures("one_cpu")
    @FAMILIES
    def test_cut_off_packets_miss_the_cache(self, state: State, family: int) -> None:
        """Also those whose ports match a cached flow: TCP flags decide whether it ends."""
        self.restrict(state)
        whole = cut(family, DATAGRAM.replace(b"\0\x09\0\x50", bytes(4)), 8, 17)
        part = cut(family, DATAGRAM, 0, 17)
        assert state.datapath.run_after(whole, "pod_egress", part).counted == {"DROP_UNSUPPORTED": 1}
        whole = cut(family, bytes(TCP(sport=9, dport=80, flags="A")), 20, 6)
        part = cut(family, bytes(TCP(sport=9, dport=80, flags="A")), 13, 6)
        assert state.datapath.run_after(whole, "pod_egress", part).counted == {"DROP_UNSUPPORTED": 1}

    @FAMILIES
    @pytest.mark.parametrize(("gso_size", "counted"), [(1000, "LOCAL"), (0, "DROP_UNSUPPORTED")])
    def test_length_0_of_big_tcp(self, state: State, family: int, gso_size: int, counted: str) -> None:
        """Only GSO packets may have it."""
        self.restrict(state)
        payload = bytes(TCP(sport=9, dport=80, flags="A")) + bytes(3000)
        fields = {"proto": TCP_, "len": 0} if family == 4 else {"nh": TCP_, "plen": 0}
        packet = frame("1.11", "1.12", Raw(payload), family, **fields)
        assert state.datapath.run("pod_egress", packet, gso_size=gso_size).counted == {counted: 1}

    @pytest.mark.parametrize("length", [0, 4, 7])
    def test_a_jumbo_option_beyond_the_packet(self, state: State, length: int) -> None:
        self.restrict(state)
        payload = IPv6ExtHdrHopByHop(nh=6, options=[Jumbo(jumboplen=70000)]) / TCP() / Raw(bytes(3000))
        packet = frame("1.11", "1.12", payload, 6, plen=length)
        counted = "LOCAL" if not length else "DROP_UNSUPPORTED"
        assert state.datapath.run("pod_egress", packet, gso_size=1000).counted == {counted: 1}


@pytest.mark.parametrize("program", ["pod_egress", "host_ingress", "pod_ingress"])
@pytest.mark.parametrize("kind", range(19))
@FAMILIES
def test_icmp_of_the_other_family(state: State, program: str, kind: int, family: int) -> None:
    """Protocol 58 in IPv4 and 1 in IPv6 are no ICMP, even if they look like errors."""
    state.pods(ENFORCE_EGRESS | ENFORCE_INGRESS, ENFORCE_EGRESS | ENFORCE_INGRESS)
    inner = bytes((IP if family == 4 else IPv6)(src=text("1.11", family), dst=text("2.11", family)) / syn())
    payload = Raw(bytes([kind, 0, 0, 0, 0, 0, 0, 0]) + inner)
    fields = {"proto": 58} if family == 4 else {"nh": 1}
    path = ("1.11", "1.12") if program == "pod_egress" else ("2.11", "1.11")
    packet = frame(*path, payload, family, **fields)
    device = "wire0" if program == "host_ingress" else "pod1"
    assert state.datapath.run(program, packet, device).counted == {"DROP_UNSUPPORTED": 1}


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


NOT_UNICAST = [
    *("224.0.0.251", "239.255.255.250", "255.255.255.255", "240.0.0.1", "0.0.0.0", "0.1.2.3", "127.0.0.1"),
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

    @pytest.mark.parametrize("dst", NOT_UNICAST)
    def test_not_unicast_under_policy(self, default_route: State, dst: str) -> None:
        default_route.pods(ENFORCE_EGRESS)
        result = default_route.datapath.run("pod_egress", to(dst, UDP(sport=5353, dport=5353)))
        assert (result.verdict, result.counted) == (DROP, {"DROP_UNSUPPORTED": 1})

    @pytest.mark.parametrize("dst", NOT_UNICAST)
    def test_source_is_checked(self, default_route: State, dst: str) -> None:
        family = 6 if ":" in dst else 4
        header = (IP if family == 4 else IPv6)(src=text("1.12", family), dst=dst)
        packet = bytes(Ether(dst=MAC, src=SENDER) / header / UDP())
        assert default_route.datapath.run("pod_egress", packet).counted == {"DROP_INVALID_SOURCE_IP": 1}

    @pytest.mark.parametrize("src", ["ff02::1", "::1", "::ffff:10.31.1.11"])
    def test_sources_of_no_pod(self, state: State, src: str) -> None:
        packet = bytes(Ether(dst=MAC, src=SENDER) / IPv6(src=src, dst="fd31:1::12") / UDP())
        assert state.datapath.run("pod_egress", packet).counted == {"DROP_INVALID_SOURCE_IP": 1}

    @pytest.mark.parametrize("dst", UNICAST)
    def test_unicast(self, default_route: State, dst: str) -> None:
        assert default_route.datapath.run("pod_egress", to(dst, UDP())).counted == {"REMOTE": 1}


LINK = ["ff02::1", "ff02::2", "ff02::1:ff00:12", "fe80::1"]
BEYOND = ["fd31:1::12", "fd31:2::11", "fd31::1", "2001:db8::1", "ff05::1", "ff0e::1:ff00:12", "fec0::1"]
DISCOVERY = {
    "RS": ICMPv6ND_RS(),
    "NS": ICMPv6ND_NS(tgt="fd31:1::12"),
    "NA": ICMPv6ND_NA(tgt="fd31:1::12"),
}
ROUTER = {"RA": ICMPv6ND_RA(), "redirect": ICMPv6ND_Redirect()}


def discovery(message: Packet, dst: str, src: str = "fd31:1::11", hlim: int = 255) -> bytes:
    return bytes(Ether(dst=MAC, src=SENDER) / IPv6(src=src, dst=dst, hlim=hlim) / message)


class TestDiscovery:
    """Neighbour discovery of Pods under a policy that denies all, and router messages of Pods."""

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
        """The stack accepts them behind extension headers, too."""
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


INNER6 = {
    "plain": Raw(b""),
    "options": options(),
    "two options": options(options()),
    "routing": IPv6ExtHdrRouting(segleft=0),
    "first fragment": IPv6ExtHdrFragment(m=1, id=7),
    "atomic fragment": IPv6ExtHdrFragment(id=7),
    "options and fragment": options(IPv6ExtHdrFragment(m=1, id=7)),
    "fragment and options": IPv6ExtHdrFragment(m=1, id=7) / options(),
}


class TestInner:
    """The inner headers of ICMP errors are parsed like outer ones."""

    UDP = UDP(sport=1234, dport=53, len=608, chksum=1) / Raw(bytes(600))

    def sent(self, state: State, payload: Packet, family: int, masqueraded: bool, **fields: Any) -> Packet:
        """Send pod1's packet under policy; return the IP packet that leaves."""
        if masqueraded:
            state.masquerade()
        state.pods(BOTH, flags=POD_MASQUERADE * masqueraded)
        state.rule(POD1, 0, EGRESS, verdict=ALLOW)
        result = from_pod(state, "1.11", "8.1", payload, family, **fields)
        assert result.counted == {"REMOTE": 1}
        assert (Ether(result.packet)[1].src == text("1.11", family)) != masqueraded
        return Ether(result.packet)[1]

    def error(self, state: State, inner: bytes, family: int, dst: str, size: int = 0) -> Any:
        """Return the result of an ICMP error about a packet; ``size``: its length, else that of all bytes."""
        router = "172.31.9.9" if family == 4 else "2001:db8::99"
        if family == 4:
            header: Packet = IP(src=router, dst=dst) / ICMP(type=3, code=4, nexthopmtu=1280)
        else:
            header = IPv6(src=router, dst=dst) / ICMPv6PacketTooBig(mtu=1280)
        header = header / Raw(inner)
        if size:
            header[0].setfieldval("len" if family == 4 else "plen", size)
        packet = bytes(Ether(dst=MAC, src=SENDER) / header)
        return state.datapath.run("host_ingress", packet, cached=True)

    @pytest.mark.parametrize("masqueraded", [False, True])
    @pytest.mark.parametrize("headers", INNER6.values(), ids=INNER6)
    def test_ipv6_headers(self, state: State, headers: Packet, masqueraded: bool) -> None:
        """tailscale#20083, cilium#26193: an error belongs to its connection, whatever precedes the ports."""
        payload = headers / self.UDP if headers != Raw(b"") else self.UDP
        inner = self.sent(state, payload, 6, masqueraded)
        result = self.error(state, bytes(inner)[:1200], 6, inner.src)
        assert result.counted == {"INBOUND": 1}
        found = Ether(result.packet)[IPv6]
        assert found.dst == text("1.11", 6)
        about = bytes(found)[48:]
        before = bytes(IPv6(src=text("1.11", 6), dst=text("8.1", 6)) / payload)
        assert about[8:40] == before[8:40]
        at = len(bytes(payload)) - len(bytes(self.UDP)) + 40
        assert about[at : at + 4] == struct.pack("!HH", 1234, 53)

    @pytest.mark.parametrize("words", [1, 3, 10])
    def test_ipv4_options(self, state: State, words: int) -> None:
        """The inner packet may have options; a router on the path may have added them."""
        self.sent(state, self.UDP, 4, False)
        inner = IP(src=text("1.11", 4), dst=text("8.1", 4), options=[IPOption_NOP()] * 4 * words) / self.UDP
        assert self.error(state, bytes(inner), 4, text("1.11", 4)).counted == {"INBOUND": 1}
        other = IP(src=text("1.11", 4), dst=text("8.1", 4), options=[IPOption_NOP()] * 4 * words) / UDP(
            sport=1234, dport=54
        )
        assert self.error(state, bytes(other), 4, text("1.11", 4)).counted == {"DROP_POLICY_INGRESS": 1}

    @FAMILIES
    def test_first_fragments(self, state: State, family: int) -> None:
        fields = {"flags": "MF", "id": 3} if family == 4 else {}
        payload = self.UDP if family == 4 else IPv6ExtHdrFragment(m=1, id=3) / self.UDP
        inner = self.sent(state, payload, family, False, **fields)
        assert self.error(state, bytes(inner)[:80], family, inner.src).counted == {"INBOUND": 1}

    @FAMILIES
    @pytest.mark.parametrize("missing", ["outer", "inner"])
    def test_bytes_beyond_either_packet(self, state: State, family: int, missing: str) -> None:
        """The ports are in the frame, but behind the end of the error or of the inner packet."""
        packet = self.sent(state, self.UDP, family, False)
        header = 20 if family == 4 else 40
        inner = packet.copy()
        size = 0
        if missing == "outer":
            size = 8 + header + 2 + (20 if family == 4 else 0)
        else:
            inner.setfieldval("len" if family == 4 else "plen", header + 2 if family == 4 else 2)
        result = self.error(state, bytes(inner), family, packet.src, size)
        assert result.counted == {"DROP_POLICY_INGRESS": 1}
        assert self.error(state, bytes(packet), family, packet.src).counted == {"INBOUND": 1}

    @FAMILIES
    def test_without_length(self, state: State, family: int) -> None:
        """An error about a BIG TCP packet."""
        packet = self.sent(state, self.UDP, family, False)
        inner = packet.copy()
        inner.setfieldval("len" if family == 4 else "plen", 0)
        assert self.error(state, bytes(inner), family, packet.src).counted == {"INBOUND": 1}

    @pytest.mark.parametrize("missing", ["outer", "inner"])
    def test_extension_headers_beyond_either_packet(self, state: State, missing: str) -> None:
        packet = self.sent(state, options(self.UDP), 6, False)
        inner = packet.copy()
        size = 8 + 40 + 8 if missing == "outer" else 0
        if missing == "inner":
            inner.plen = 8
        assert self.error(state, bytes(inner), 6, packet.src, size).counted == {"DROP_POLICY_INGRESS": 1}

    @pytest.mark.parametrize(
        "payload",
        [
            IPv6ExtHdrFragment(nh=17, offset=5, id=7) / Raw(b"\x04\xd2\0\x35" + bytes(60)),
            IPv6ExtHdrRouting(nh=17, addresses=["fd31:2::1"]) / UDP,
            Raw(bytes(UDP)[:3]),
            options() / IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(254))]) / UDP,
        ],
        ids=["later fragment", "source routing", "truncated", "headers beyond 255 bytes"],
    )
    def test_unknown_ports(self, state: State, payload: Packet) -> None:
        self.sent(state, self.UDP, 6, False)
        inner = IPv6(src=text("1.11", 6), dst=text("8.1", 6)) / payload
        if isinstance(payload, Raw):
            inner.nh = 17
        assert self.error(state, bytes(inner), 6, text("1.11", 6)).counted == {"DROP_POLICY_INGRESS": 1}


IDENTIFIERS = [0, 1, 0x0800, 0x0D00, 0x8000, 0xFFFF]
QUERIES = {4: {"echo": (8, 0), "timestamp": (13, 14)}, 6: {"echo": (128, 129)}}
QUERY = pytest.mark.parametrize(
    ("family", "request_type", "reply_type"),
    [(family, *types) for family, found in QUERIES.items() for types in found.values()],
    ids=[f"{name} v{family}" for family, found in QUERIES.items() for name in found],
)


def query(src: str, dst: str, kind: int, number: int, family: int, code: int = 0) -> bytes:
    payload: Packet
    if family == 4:
        payload = ICMP(type=kind, code=code, id=number)
    else:
        payload = ICMPv6EchoRequest(type=kind, code=code, id=number)
    return frame(src, dst, payload, family)


class TestQueries:
    """ICMP queries with any identifier, among them those that look like types."""

    @QUERY
    @pytest.mark.parametrize("number", IDENTIFIERS)
    @pytest.mark.parametrize("code", [0, 3])
    def test_policy(
        self, state: State, family: int, request_type: int, reply_type: int, number: int, code: int
    ) -> None:
        state.pods(BOTH)
        state.rule(POD1, REMOTE, EGRESS, verdict=ALLOW)
        reply = query("2.11", "1.11", reply_type, number, family, code)
        request = query("2.11", "1.11", request_type, number, family, code)
        denied = {"DROP_POLICY_INGRESS": 1}
        assert state.datapath.run("host_ingress", reply).counted == denied
        sent = query("1.11", "2.11", request_type, number, family, code)
        assert state.datapath.run("pod_egress", sent, cached=True).counted == {"REMOTE": 1}
        assert state.datapath.run("host_ingress", reply, cached=True).counted == {"INBOUND": 1}
        assert state.datapath.run("host_ingress", request, cached=True).counted == denied
        other = query("2.11", "1.11", reply_type, number ^ 1, family, code)
        assert state.datapath.run("host_ingress", other, cached=True).counted == denied

    @QUERY
    @pytest.mark.parametrize("number", IDENTIFIERS)
    def test_masquerade(
        self, state: State, family: int, request_type: int, reply_type: int, number: int
    ) -> None:
        state.masquerade()
        state.pods(flags=POD_MASQUERADE)
        sent = query("1.11", "8.1", request_type, number, family)
        result = state.datapath.run("pod_egress", sent)
        assert result.counted == {"REMOTE": 1}
        outside = Ether(result.packet)[1]
        assert outside.src == {4: "172.31.0.1", 6: "fd31::1"}[family]
        reply = (IP if family == 4 else IPv6)(src=outside.dst, dst=outside.src) / outside.payload
        reply.payload.type = reply_type
        packet = bytes(Ether(dst=MAC, src=SENDER) / reply)
        result = state.datapath.run("host_ingress", packet, cached=True)
        assert result.counted == {"INBOUND": 1}
        inside = Ether(result.packet)[1]
        assert (inside.dst, inside.payload.id) == (text("1.11", family), number)

    @FAMILIES
    @pytest.mark.parametrize("kind", [UDP, TCP])
    def test_source_port_0(self, state: State, family: int, kind: Any) -> None:
        state.masquerade()
        state.pods(flags=POD_MASQUERADE)
        result = from_pod(state, "1.11", "8.1", kind(sport=0, dport=53), family)
        assert result.counted == {"REMOTE": 1}
        outside = Ether(result.packet)[1]
        answer = kind(sport=53, dport=outside.payload.sport)
        reply = (IP if family == 4 else IPv6)(src=outside.dst, dst=outside.src) / answer
        packet = bytes(Ether(dst=MAC, src=SENDER) / reply)
        result = state.datapath.run("host_ingress", packet, cached=True)
        assert result.counted == {"INBOUND": 1}
        assert Ether(result.packet)[1].payload.dport == 0
