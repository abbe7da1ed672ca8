# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""ICMP errors and queries, and the inner packets of errors."""

from __future__ import annotations

import struct
from typing import Any, ClassVar

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPerror, IPOption_NOP, UDPerror
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    IPerror6,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
    RouterAlert,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from ansible_collections.podnet.datapath.plugins.module_utils._datapath import layout
from tests.bpf.state import (
    ALLOW,
    BOTH,
    EGRESS,
    FAMILIES,
    INGRESS,
    MAC,
    POD1,
    POD_ANY_SOURCE,
    POD_MASQUERADE,
    REMOTE,
    SENDER,
    UDP_,
    State,
    frame,
    from_pod,
    from_wire,
    options,
    text,
)


class TestErrors:
    """ICMP errors from either end of a connection, or from a router on the path."""

    @staticmethod
    def error(family: int, src: str, dst: str, inner: Packet) -> Packet:
        if family == 4:
            return ICMP(type=3, code=3) / IPerror(src=src, dst=dst) / inner
        return ICMPv6DestUnreach(code=4) / IPerror6(src=src, dst=dst) / inner

    @FAMILIES
    def test_from_the_server(self, state: State, family: int) -> None:
        state.pods(BOTH)
        state.rule(POD1, REMOTE, INGRESS, (UDP_, ALLOW, 53, 53))
        about = (text("2.11", family), text("1.11", family), UDPerror(sport=1234, dport=53))
        error = frame("1.11", "2.11", self.error(family, *about), family)
        assert state.datapath.run("pod_egress", error, "pod1").counted == {"DROP_POLICY_EGRESS": 1}
        assert from_wire(state, "2.11", "1.11", UDP(sport=1234, dport=53), family).counted == {"INBOUND": 1}
        result = state.datapath.run("pod_egress", error, "pod1", cached=True)
        assert result.counted == {"REMOTE": 1}
        assert Ether(result.packet)[1:] == Ether(error)[1:] or result.packet[34:] == error[34:]

    @FAMILIES
    @pytest.mark.parametrize("cause", ["stale", "denied"])
    def test_of_a_connection_that_policy_no_longer_allows(
        self, state: State, family: int, cause: str
    ) -> None:
        state.pods(BOTH)
        state.rule(POD1, REMOTE, EGRESS, (UDP_, ALLOW, 53, 53))
        about = (text("1.11", family), text("2.11", family), UDPerror(sport=1234, dport=53))
        error = frame("2.11", "1.11", self.error(family, *about), family)
        request = frame("1.11", "2.11", UDP(sport=1234, dport=53), family)
        assert state.datapath.run("pod_egress", request, "pod1").counted == {"REMOTE": 1}
        assert state.datapath.run("host_ingress", error, cached=True).counted == {"INBOUND": 1}
        state.rule(POD1, REMOTE, EGRESS)
        if cause == "denied":
            result = state.datapath.run("pod_egress", request, "pod1")
            assert result.counted == {"DROP_POLICY_EGRESS": 1}
        result = state.datapath.run("host_ingress", error, cached=cause == "denied")
        assert result.counted == {"DROP_POLICY_INGRESS": 1}

    @FAMILIES
    def test_from_the_client(self, state: State, family: int) -> None:
        """About a reply; no other Pod may send it."""
        state.pods(BOTH, BOTH)
        state.rule(POD1, REMOTE, EGRESS, (UDP_, ALLOW, 53, 53))
        from_pod(state, "1.11", "2.11", UDP(sport=1234, dport=53), family)
        about = (text("2.11", family), text("1.11", family), UDPerror(sport=53, dport=1234))
        for src, device, counted in (("1.11", "pod1", "REMOTE"), ("1.12", "pod2", "DROP_ICMP_ERROR")):
            error = frame(src, "2.11", self.error(family, *about), family)
            assert state.datapath.run("pod_egress", error, device, cached=True).counted == {counted: 1}

    @FAMILIES
    def test_about_a_reply_as_the_backend_sent_it(self, state: State, family: int) -> None:
        """It already has the addresses that the backend knows."""
        state.service("9.10", 80, UDP_, [("1.12", 53)], family)
        from_pod(state, "1.11", "9.10", UDP(sport=1234, dport=80), family)
        about = (text("1.12", family), text("1.11", family), UDPerror(sport=53, dport=1234))
        error = frame("1.11", "1.12", self.error(family, *about), family)
        result = state.datapath.run("pod_egress", error, "pod1", cached=True)
        assert result.counted == {"LOCAL": 1}
        assert result.packet[34:] == error[34:]

    @pytest.mark.parametrize("other", ["fd32:1::11", "fd31:1:1::11", "fd31:1:0:0:1::11", "fd31:1::12"])
    def test_about_a_packet_of_another_address(self, state: State, other: str) -> None:
        """All words of the addresses count."""
        state.pods(BOTH)
        state.rule(POD1, REMOTE, EGRESS, (UDP_, ALLOW, 53, 53))
        from_pod(state, "1.11", "2.11", UDP(sport=1234, dport=53), 6)
        about = (text("2.11", 6), UDPerror(sport=1234, dport=53))
        for src, counted in ((text("1.11", 6), "INBOUND"), (other, "DROP_POLICY_INGRESS")):
            error = frame("2.11", "1.11", self.error(6, src, *about), 6)
            assert state.datapath.run("host_ingress", error, cached=True).counted == {counted: 1}

    @FAMILIES
    def test_from_a_client_about_a_reply_of_its_service(self, state: State, family: int) -> None:
        """The client's port is closed: the error must reach the backend, with the backend's address."""
        state.service("9.10", 80, UDP_, [("1.12", 53)], family)
        assert from_pod(state, "1.11", "9.10", UDP(sport=1234, dport=80), family).counted == {"LOCAL": 1}
        about = (text("9.10", family), text("1.11", family), UDPerror(sport=80, dport=1234))
        packet = frame("1.11", "9.10", self.error(family, *about), family)
        result = state.datapath.run("pod_egress", packet, "pod1", cached=True)
        assert result.counted == {"LOCAL": 1}
        found = Ether(result.packet)
        inner = found[IPerror if family == 4 else IPerror6]
        assert found[1].dst == inner.src == text("1.12", family)
        assert found[UDPerror].sport == 53

    @FAMILIES
    @pytest.mark.parametrize("what", ["truncated", "options", "version", "header length", "later fragment"])
    def test_inner_packet_that_cannot_be_parsed(self, state: State, family: int, what: str) -> None:
        """Policy then applies to the error itself."""
        state.pods(BOTH)
        state.rule(POD1, REMOTE, EGRESS, (UDP_, ALLOW, 53, 53))
        from_pod(state, "1.11", "2.11", UDP(sport=1234, dport=53), family)
        about = (text("1.11", family), text("2.11", family), UDPerror(sport=1234, dport=53))
        packet = bytearray(frame("2.11", "1.11", self.error(family, *about), family))
        whole = state.datapath.run("host_ingress", bytes(packet), cached=True)
        assert whole.counted == {"INBOUND": 1}
        inner = 14 + (20 if family == 4 else 40) + 8
        if what == "truncated":
            del packet[inner + 12 :]
            outer = Ether(bytes(packet))[1]
            del packet[14:]
            size = {"len": len(outer)} if family == 4 else {"plen": len(outer) - 40}
            for name, value in size.items():
                setattr(outer, name, value)
            if family == 4:
                del outer.chksum
            packet += bytes(outer)
        elif what == "options":
            packet[inner] = 0x46 if family == 4 else 0x50
        elif what == "version":
            packet[inner] = 0x65 if family == 4 else 0x40
        elif what == "header length":
            packet[inner] = 0x44 if family == 4 else 0x70
        elif family == 4:
            packet[inner + 7] = 10
        else:
            packet[inner + 6] = 44
        result = state.datapath.run("host_ingress", bytes(packet), cached=True)
        assert result.counted == {"DROP_POLICY_INGRESS": 1}


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


NODE = {4: "172.31.0.1", 6: "fd31::1"}


def _errors(family: int, target: str, kind: str = "") -> Packet:
    """Return an ICMP error, or a redirect, about a packet to ``target``."""
    if family == 4:
        head = {"": ICMP(type=3, code=4, nexthopmtu=700), "redirect": ICMP(type=5)}
        return head[kind] / IPerror(src=NODE[4], dst=target) / ICMP(type=0)
    head6 = ICMPv6PacketTooBig(mtu=1280, **({"type": 100} if kind == "unknown" else {}))
    return head6 / IPerror6(src=NODE[6], dst=target) / ICMPv6EchoReply()


class TestForeignErrors:
    """ICMP errors of Pods about packets that were not to them: the node would learn an MTU for all Pods."""

    OTHERS: ClassVar = {4: ["10.31.2.11", "10.31.1.12"], 6: ["fd31:2::11", "fd31:1::12"]}
    PASSES: ClassVar = {"2.11": "REMOTE", "1.12": "LOCAL", "node": "STACK_NOT_FORWARDED"}

    @FAMILIES
    @pytest.mark.parametrize(("dst", "passes"), PASSES.items())
    @pytest.mark.parametrize("enforce", [0, BOTH], ids=["no policy", "policy"])
    def test_about_packets_to_others(
        self, state: State, family: int, dst: str, passes: str, enforce: int
    ) -> None:
        state.pods(enforce)
        state.rule(POD1, layout.ANY, EGRESS, verdict=ALLOW)
        to = NODE[family] if dst == "node" else text(dst, family)

        def run(target: str, cached: bool) -> Any:
            header = (IP if family == 4 else IPv6)(src=text("1.11", family), dst=to)
            packet = bytes(Ether(dst=MAC, src=SENDER) / header / _errors(family, target))
            return state.datapath.run("pod_egress", packet, cached=cached).counted

        assert run(text("1.11", family), False) == {passes: 1}
        for other in self.OTHERS[family]:
            assert run(other, True) == {"DROP_ICMP_ERROR": 1}, "the cache has the decision of another error"

    @FAMILIES
    def test_all_headers(self, state: State, family: int) -> None:
        error, own = _errors(family, self.OTHERS[family][0]), _errors(family, text("1.11", family))
        if family == 4:
            foreign = [
                frame("1.11", "2.11", error, 4, options=[IPOption_NOP()] * 4),
                frame("1.11", "2.11", error, 4, flags="MF"),
                frame("1.11", "2.11", own, 4, flags="MF"),
                frame("1.11", "2.11", _errors(4, "10.31.2.11", "redirect"), 4),
            ]
        else:
            many = options(*[options() for dummy in range(5)])
            foreign = [
                frame("1.11", "2.11", chain, 6)
                for chain in (
                    options(error),
                    IPv6ExtHdrHopByHop(options=[RouterAlert()]) / error,
                    IPv6ExtHdrRouting(segleft=0) / error,
                    IPv6ExtHdrFragment() / error,
                    IPv6ExtHdrFragment(m=1) / error,
                    IPv6ExtHdrFragment(m=1) / own,
                    _errors(6, "fd31:2::11", "unknown"),
                )
            ]
            for last in (options(error), IPv6ExtHdrRouting(segleft=0) / error, IPv6ExtHdrFragment() / error):
                result = state.datapath.run("pod_egress", frame("1.11", "2.11", many / last, 6))
                assert result.counted == {"DROP_UNSUPPORTED": 1}, "it may be behind too many headers"
        for packet in foreign:
            assert state.datapath.run("pod_egress", packet).counted == {"DROP_ICMP_ERROR": 1}, Ether(packet)

    @FAMILIES
    def test_a_router(self, state: State, family: int) -> None:
        state.pods(flags=POD_ANY_SOURCE)
        state.device(POD_ANY_SOURCE)
        error = _errors(family, self.OTHERS[family][0])
        assert from_pod(state, "1.11", "2.11", error, family).counted == {"REMOTE": 1}
        if family == 4:
            packet = frame("1.11", "2.11", error, 4, options=[IPOption_NOP()] * 4)
            assert state.datapath.run("pod_egress", packet).counted == {"STACK_IP_OPTIONS": 1}
