# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""VLAN tags, fragments and lengths."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6ND_NS,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    Jumbo,
    PadN,
)
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.packet import Packet, Raw

from ansible_collections.podnet.datapath.plugins.module_utils._kernel import bpf
from tests.bpf.programs import possible_cpus
from tests.bpf.state import (
    ALLOW,
    BOTH,
    DENY_ALL_EGRESS,
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
    REMOTE,
    SENDER,
    TCP_,
    UDP_,
    State,
    echo,
    frame,
    from_pod,
    options,
    syn,
    text,
)

FLOW_CACHE_ENTRY = struct.Struct("=48sQII56x")  # flow, expires, generation, sequence


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
    assert size == state.datapath.object.layouts["flow_cache"].value_size
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
