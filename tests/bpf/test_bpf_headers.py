# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Truncated and chained headers, invalid ARP and NDP, GSO."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPerror, IPOption_NOP, UDPerror
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6ND_NS,
    ICMPv6NDOptSrcLLAddr,
    IPerror6,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
)
from scapy.layers.l2 import ARP, Ether
from scapy.layers.sctp import SCTP, SCTPChunkInit
from scapy.packet import Packet, Raw

from ansible_collections.podnet.datapath.plugins.module_utils._datapath import layout
from ansible_collections.podnet.datapath.plugins.module_utils._kernel import bpf
from tests.bpf.state import (
    ALLOW,
    DENY_EGRESS,
    DENY_INGRESS,
    DROP,
    EGRESS,
    ENFORCE_EGRESS,
    ENFORCE_INGRESS,
    FAMILIES,
    MAC,
    PASS,
    POD1,
    POD2,
    POD_L2,
    POD_MASQUERADE,
    REMOTE,
    SCTP_,
    SENDER,
    TCP_,
    UDP_,
    State,
    echo,
    frame,
    from_pod,
    from_wire,
    syn,
    text,
)

ICMPS = {4: 1, 6: 58}


def options(*following: Packet) -> Packet:
    """Return a destination options header, and the headers after it."""
    found: Packet = IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 4)])
    for one in following:
        found = found / one
    return found


class TestHeaders:
    """Pods under policy: ports after extension headers, and truncated headers."""

    @pytest.mark.parametrize(
        ("payload", "counted"),
        [
            (options(syn(80)), "LOCAL"),
            (options(syn(81)), "DROP_POLICY_EGRESS"),
            (options(IPv6ExtHdrHopByHop(options=[PadN(optdata=b"\0" * 4)]), syn(80)), "LOCAL"),
            (options(IPv6ExtHdrRouting(segleft=0), syn(80)), "LOCAL"),
            (options(IPv6ExtHdrRouting(segleft=0), syn(81)), "DROP_POLICY_EGRESS"),
            (options(IPv6ExtHdrFragment(id=1, m=0, offset=0), syn(80)), "LOCAL"),
            (IPv6ExtHdrDestOpt(nh=51) / Raw(bytes(16)), "DROP_UNSUPPORTED"),
            (IPv6ExtHdrDestOpt(nh=135) / Raw(bytes(16)), "DROP_UNSUPPORTED"),
            (IPv6ExtHdrDestOpt(nh=60, len=9) / Raw(bytes(8)), "DROP_UNSUPPORTED"),
            (IPv6ExtHdrDestOpt(nh=44) / Raw(bytes(4)), "DROP_UNSUPPORTED"),
            (IPv6ExtHdrFragment(nh=44, id=1) / IPv6ExtHdrFragment(nh=6, id=1) / syn(80), "DROP_UNSUPPORTED"),
        ],
        ids=[
            *(
                "options",
                "options, other port",
                "hop-by-hop",
                "routing",
                "routing, other port",
                "atomic fragment",
            ),
            *(
                "AH",
                "mobility",
                "longer than the packet",
                "truncated fragment header",
                "two fragment headers",
            ),
        ],
    )
    def test_extension_headers(self, state: State, payload: Packet, counted: str) -> None:
        state.pods(ENFORCE_EGRESS | DENY_EGRESS)
        state.rule(POD1, POD2, EGRESS, (TCP_, ALLOW, 80, 80))
        assert from_pod(state, "1.11", "1.12", payload, 6).counted == {counted: 1}

    @FAMILIES
    @pytest.mark.parametrize("side", ["egress", "ingress"])
    @pytest.mark.parametrize(
        ("proto", "size"), [(TCP_, 2), (TCP_, 12), (UDP_, 3), (0, 5)], ids=["ports", "flags", "udp", "icmp"]
    )
    def test_truncated(self, state: State, family: int, side: str, proto: int, size: int) -> None:
        """Policy allows everything, but truncated headers cannot be parsed."""
        if side == "egress":
            state.pods(ENFORCE_EGRESS)
        else:
            state.pods(0, ENFORCE_INGRESS)
        number = proto or ICMPS[family]
        fields = {"proto": number} if family == 4 else {"nh": number}
        result = from_pod(state, "1.11", "1.12", Raw(bytes(size)), family, **fields)
        assert result.counted == {"DROP_UNSUPPORTED": 1}

    @FAMILIES
    def test_truncated_under_masquerade(self, state: State, family: int) -> None:
        """A packet that cannot be masqueraded must not leave with the Pod's address."""
        state.masquerade()
        state.pods(flags=POD_MASQUERADE)
        fields = {"proto": UDP_} if family == 4 else {"nh": UDP_}
        assert from_pod(state, "1.11", "8.1", Raw(b"123"), family, **fields).counted == {
            "DROP_UNSUPPORTED": 1
        }
        # to a Pod of another node: not masqueraded
        assert from_pod(state, "1.11", "2.11", Raw(b"123"), family, **fields).counted == {"REMOTE": 1}

    @FAMILIES
    def test_all_ranges_of_a_rule(self, state: State, family: int) -> None:
        state.pods(ENFORCE_EGRESS | DENY_EGRESS)
        state.rule(POD1, POD2, EGRESS, *((TCP_, ALLOW, 10 * n, 10 * n) for n in range(1, 17)))
        for port, counted in ((10, "LOCAL"), (160, "LOCAL"), (165, "DROP_POLICY_EGRESS")):
            assert from_pod(state, "1.11", "1.12", syn(port, 1000 + port), family).counted == {counted: 1}

    @FAMILIES
    def test_range_of_any_protocol(self, state: State, family: int) -> None:
        state.pods(ENFORCE_EGRESS | DENY_EGRESS)
        state.rule(POD1, POD2, EGRESS, (0, ALLOW, 80, 80))
        for payload, counted in (
            (syn(80), "LOCAL"),
            (UDP(dport=80), "LOCAL"),
            (UDP(dport=81), "DROP_POLICY_EGRESS"),
        ):
            assert from_pod(state, "1.11", "1.12", payload, family).counted == {counted: 1}

    @FAMILIES
    def test_unsupported_packet_from_the_wire(self, state: State, family: int) -> None:
        fields: dict[str, Any] = {"proto": UDP_} if family == 4 else {"nh": UDP_}
        state.pods(ENFORCE_INGRESS)
        assert from_wire(state, "2.11", "1.11", Raw(b"123"), family, **fields).counted == {
            "DROP_UNSUPPORTED": 1
        }
        state.pods()
        assert from_wire(state, "2.11", "1.11", Raw(b"123"), family, **fields).counted == {"INBOUND": 1}


class TestErrors:
    @pytest.mark.parametrize("kind", [3, 4, 11, 12])
    def test_each_type_belongs_to_the_inner_connection(self, state: State, kind: int) -> None:
        state.pods(ENFORCE_EGRESS | ENFORCE_INGRESS | DENY_EGRESS | DENY_INGRESS)
        state.rule(POD1, REMOTE, EGRESS, (TCP_, ALLOW, 80, 80))
        inner = bytes(IP(src=text("1.11", 4), dst=text("2.11", 4)) / TCP(sport=1234, dport=80))[:28]
        error = frame("3.1", "1.11", ICMP(type=kind) / Raw(inner), 4)
        assert state.datapath.run("host_ingress", error).counted == {"DROP_POLICY_INGRESS": 1}
        from_pod(state, "1.11", "2.11", syn(), 4)
        assert state.datapath.run("host_ingress", error, cached=True).counted == {"INBOUND": 1}

    @FAMILIES
    def test_an_echo_is_no_error(self, state: State, family: int) -> None:
        """Even if its payload looks like an inner packet."""
        state.pods(ENFORCE_EGRESS | ENFORCE_INGRESS | DENY_EGRESS | DENY_INGRESS)
        state.rule(POD1, REMOTE, EGRESS, (TCP_, ALLOW, 80, 80))
        from_pod(state, "1.11", "2.11", syn(), family)
        inner = bytes(
            (IP if family == 4 else IPv6)(src=text("1.11", family), dst=text("2.11", family)) / syn()
        )
        packet = frame("2.11", "1.11", echo(family) / Raw(inner), family)
        found = state.datapath.run("host_ingress", packet, cached=True)
        assert found.counted == {"DROP_POLICY_INGRESS": 1}

    @pytest.mark.parametrize("kind", [0, 5])
    def test_unknown_type(self, state: State, kind: int) -> None:
        """Only ICMPv6 types 1 to 4 are handled as errors."""
        state.pods(ENFORCE_INGRESS | DENY_INGRESS)
        payload = Raw(bytes([kind, 0, 0, 0]) + bytes(44))
        assert from_wire(state, "2.11", "1.11", payload, 6, nh=58).counted == {"DROP_POLICY_INGRESS": 1}


class TestMasquerade:
    OUTSIDE = {4: "172.31.0.1", 6: "fd31::1"}

    def to_node(self, state: State, family: int, payload: Packet, **fields: Any) -> dict[str, int]:
        """Run host_ingress on a packet to the node's external address; return what it counted."""
        kind = IP if family == 4 else IPv6
        header = kind(src=text("8.1", family), dst=self.OUTSIDE[family], **fields)
        packet = bytes(Ether(dst=MAC, src=SENDER) / header / payload)
        counted: dict[str, int] = state.datapath.run("host_ingress", packet).counted
        return counted

    @FAMILIES
    def test_packets_to_the_node_itself(self, state: State, family: int) -> None:
        state.masquerade()
        state.pods(flags=POD_MASQUERADE)
        fields = {"proto": UDP_} if family == 4 else {"nh": UDP_}
        assert self.to_node(state, family, Raw(b"123"), **fields) == {"STACK_NO_ENDPOINT": 1}
        assert self.to_node(state, family, UDP(dport=61000)) == {"STACK_NO_ENDPOINT": 1}
        other = from_wire(state, "8.1", "9.99", UDP(dport=61000), family)
        assert other.counted == {"STACK_NO_ENDPOINT": 1}

    @FAMILIES
    @pytest.mark.parametrize("program", ["host_ingress", "pod_ingress"])
    def test_replies_to_direct_connections(self, state: State, family: int, program: str) -> None:
        """A client that connects to the Pod's own address gets replies from that address."""
        state.masquerade()
        state.pods(flags=POD_MASQUERADE)
        for request, reply in ((syn(), TCP(sport=80, dport=1234, flags="SA")), (UDP(sport=9), UDP(dport=9))):
            result = state.datapath.run(program, frame("8.1", "1.11", request, family), "pod1")
            assert result.counted == {"INBOUND" if program == "host_ingress" else "HOST": 1}
            result = from_pod(state, "1.11", "8.1", reply, family)
            assert result.counted == {"REMOTE": 1}
            assert Ether(result.packet)[1].src == text("1.11", family)

    @FAMILIES
    def test_pods_of_other_nodes(self, state: State, family: int) -> None:
        """Packets to them are no replies to masqueraded ones."""
        state.masquerade()
        state.pods(flags=POD_MASQUERADE)
        result = from_wire(state, "8.1", "2.11", UDP(sport=53, dport=61000), family)
        assert result.counted == {"STACK_NO_ENDPOINT": 1}

    @FAMILIES
    def test_other_pods_keep_their_address(self, state: State, family: int) -> None:
        state.masquerade()
        state.pods(flags=POD_MASQUERADE)
        result = from_pod(state, "1.12", "8.1", UDP(sport=1234, dport=53), family)
        assert Ether(result.packet)[1].src == text("1.12", family)

    @FAMILIES
    def test_sctp_is_not_supported(self, state: State, family: int) -> None:
        state.masquerade()
        state.pods(flags=POD_MASQUERADE)
        payload = SCTP(sport=1234, dport=80) / SCTPChunkInit()
        assert from_pod(state, "1.11", "8.1", payload, family).counted == {"DROP_NAT_FAILED": 1}

    @FAMILIES
    def test_an_icmp_error_hides_the_pods_address(self, state: State, family: int) -> None:
        """The error is about a reply, and the server knows only the node's address and port."""
        state.masquerade()
        state.pods(flags=POD_MASQUERADE)
        there = Ether(from_pod(state, "1.11", "8.1", UDP(sport=1234, dport=53), family).packet)
        about = UDPerror(sport=53, dport=1234)
        ends = {"src": text("8.1", family), "dst": text("1.11", family)}
        if family == 4:
            error = ICMP(type=3, code=3) / IPerror(**ends) / about
        else:
            error = ICMPv6DestUnreach(code=4) / IPerror6(**ends) / about
        packet = frame("1.11", "8.1", error, family)
        result = state.datapath.run("pod_egress", packet, cached=True)
        assert result.counted == {"REMOTE": 1}
        found = Ether(result.packet)
        inner = found[IPerror if family == 4 else IPerror6]
        assert found[1].src == inner.dst == self.OUTSIDE[family]
        assert found[UDPerror].dport == there[UDP].sport


class TestFromHost:
    """Packets of the node itself to a Pod, with policies or services in use."""

    @FAMILIES
    @pytest.mark.parametrize(
        ("enforce", "counted"),
        [(0, "HOST"), (ENFORCE_INGRESS, "DROP_UNSUPPORTED")],
        ids=["no policy", "under policy"],
    )
    def test_unsupported(self, state: State, family: int, enforce: int, counted: str) -> None:
        state.pods(enforce | ENFORCE_EGRESS)
        if family == 4:
            packet = frame("8.9", "1.11", UDP(), 4, options=[IPOption_NOP()])
        else:
            hop = IPv6ExtHdrHopByHop(options=[PadN(optdata=b"\0" * 4)])
            packet = frame("8.9", "1.11", hop / UDP(), 6)
        assert state.datapath.run("pod_ingress", packet, "pod1").counted == {counted: 1}

    @pytest.mark.parametrize("dst", ["fe80::11", "ff02::1"])
    def test_link_scope_passes(self, state: State, dst: str) -> None:
        state.pods(ENFORCE_INGRESS | DENY_INGRESS)
        packet = bytes(Ether(dst=MAC, src=SENDER) / IPv6(src="fe80::1", dst=dst) / UDP())
        result = state.datapath.run("pod_ingress", packet, "pod1")
        assert (result.verdict, result.counted) == (PASS, {"HOST": 1})

    def test_arp_passes(self, state: State) -> None:
        state.pods(ENFORCE_INGRESS | DENY_INGRESS)
        assert state.datapath.run("pod_ingress", arp(), "pod1").counted == {"HOST": 1}


class TestServices:
    @FAMILIES
    def test_only_its_protocol_and_port(self, state: State, family: int) -> None:
        """Other packets to the service's address are not translated."""
        state.service("2.99", 80, TCP_, [("1.12", 8080)], family)
        for payload in (UDP(dport=80), syn(81), echo(family)):
            result = from_pod(state, "1.11", "2.99", payload, family)
            assert result.counted == {"REMOTE": 1}
            assert Ether(result.packet)[1].dst == text("2.99", family)

    @FAMILIES
    def test_unsupported_packets_are_not_translated(self, state: State, family: int) -> None:
        state.service("9.10", 80, TCP_, [("2.11", 8080)], family)
        fields = {"proto": UDP_} if family == 4 else {"nh": UDP_}
        assert from_pod(state, "1.11", "1.12", Raw(b"123"), family, **fields).counted == {"LOCAL": 1}

    @FAMILIES
    def test_a_retransmitted_syn_keeps_its_backend(self, state: State, family: int) -> None:
        state.service("9.10", 80, TCP_, [("2.11", 8080)], family)
        for dummy in range(2):
            found = Ether(from_pod(state, "1.11", "9.10", syn(), family).packet)
            assert found[1].dst == text("2.11", family)
            state.service("9.10", 80, TCP_, [("2.12", 8080)], family)

    @FAMILIES
    @pytest.mark.parametrize("change", ["removed", "port", "address", "table"])
    def test_udp_leaves_a_backend_that_the_service_lost(self, state: State, family: int, change: str) -> None:
        """Also if its index has another backend."""
        state.service("2.99", 80, UDP_, [("2.11", 8080)], family)
        payload = UDP(sport=1234, dport=80)
        for dummy in range(2):
            found = Ether(from_pod(state, "1.11", "2.99", payload, family).packet)
            assert (found[1].dst, found[UDP].dport) == (text("2.11", family), 8080)
        if change == "removed":
            state.remove("services")
        else:
            where, port = ("2.12" if change != "port" else "2.11"), (8080 if change == "address" else 8081)
            backends = [(where, port)]
            if change == "table":
                backends.insert(0, ("2.11", 8080))
            state.service("2.99", 80, UDP_, backends, family)
            if change == "table":
                state.table([2])
        found = Ether(from_pod(state, "1.11", "2.99", payload, family).packet)
        expected = ("2.99", 80) if change == "removed" else (where, port)
        assert (found[1].dst, found[UDP].dport) == (text(expected[0], family), expected[1])

    @FAMILIES
    @pytest.mark.parametrize("layer", [UDP, SCTP])
    @pytest.mark.parametrize("remaining", [2, layout.NO_BACKEND], ids=["another", "none"])
    def test_a_draining_backend_keeps_its_flows(
        self, state: State, family: int, layer: type[Packet], remaining: int
    ) -> None:
        """It gets no new ones, even if there is no other backend. The flows move when it is removed."""

        def sent(port: int) -> str:
            result = from_pod(state, "1.11", "9.10", layer(sport=port, dport=80), family)
            return "" if result.counted == {"DROP_NO_BACKEND": 1} else Ether(result.packet)[1].dst

        drained, other = text("2.11", family), text("2.12", family) if remaining == 2 else ""
        proto = UDP_ if layer is UDP else SCTP_
        state.service("9.10", 80, proto, [("2.11", 80), ("2.12", 80)], family)
        state.table([1])
        assert sent(1000) == drained
        state.table([remaining], draining=[3] * (layout.DRAINING_MAX - 1) + [1])
        assert [sent(1000), *map(sent, range(1001, 1011))] == [drained, *[other] * 10]
        state.table([remaining])
        assert sent(1000) == other

    @FAMILIES
    def test_udp_keeps_a_backend_of_several(self, state: State, family: int) -> None:
        state.service("9.10", 80, UDP_, [("2.11", 8080), ("2.12", 8080)], family)
        for port in range(2000, 2016):
            found = [
                Ether(from_pod(state, "1.11", "9.10", UDP(sport=port, dport=80), family).packet)[1].dst
                for dummy in range(2)
            ]
            assert found[0] == found[1]

    @FAMILIES
    def test_a_table_entry_without_backend(self, state: State, family: int) -> None:
        state.service("9.10", 80, TCP_, [("1.12", 8080)], family)
        bpf.map_update(state.maps["backends"], {struct.pack("=I", 1): bytes(20)})
        assert from_pod(state, "1.11", "9.10", syn(), family).counted == {"DROP_NO_BACKEND": 1}

    @FAMILIES
    @pytest.mark.parametrize("change", ["backend", "table"])
    def test_indexes_beyond_the_maps(self, state: State, family: int, change: str) -> None:
        """UDP does not stay at the backend either."""
        state.service("9.10", 80, UDP_, [("2.11", 8080)], family)
        payload = UDP(sport=1234, dport=80)
        assert from_pod(state, "1.11", "9.10", payload, family).counted == {"REMOTE": 1}
        if change == "backend":
            state.table([2**20])
        else:
            key = next(key for name, key in state.written if name == "services")
            for buffer in (0, 1):
                value = layout.SERVICE.pack(2**20, 2**20, 1, 0, 0)
                state.put("services", key[:-4] + layout.INDEX.pack(buffer), value)
        assert from_pod(state, "1.11", "9.10", payload, family).counted == {"DROP_NO_BACKEND": 1}

    @FAMILIES
    def test_no_memory_for_the_conntrack_entry(self, full_datapath: Any, family: int) -> None:
        state = State(full_datapath)
        state.pods()
        state.service("9.10", 80, TCP_, [("1.12", 8080)], family)
        try:
            assert from_pod(state, "1.11", "9.10", syn(), family).counted == {"DROP_CT_CREATE_FAILED": 1}
        finally:
            state.clear()


def arp(**fields: Any) -> bytes:
    request = ARP(hwsrc=SENDER, psrc=text("1.11", 4), pdst=text("1.12", 4), op=1)
    for name, value in fields.items():
        setattr(request, name, value)
    return bytes(Ether(dst="ff:ff:ff:ff:ff:ff", src=SENDER, type=0x0806) / request)


def solicitation(
    hlim: int = 255, code: int = 0, more: bytes = b"", option: bytes = b"", kind: int = 135
) -> bytes:
    body = ICMPv6ND_NS(tgt="fd31:1::12", code=code, type=kind)
    payload = body / (Raw(option) if option else ICMPv6NDOptSrcLLAddr(lladdr=SENDER)) / Raw(more)
    packet = IPv6(src="fd31:1::11", dst="ff02::1:ff00:12", hlim=hlim) / payload
    return bytes(Ether(dst="33:33:ff:00:00:12", src=SENDER) / packet)


SHORT_SOLICITATION = bytes(
    Ether(dst="33:33:ff:00:00:12", src=SENDER)
    / IPv6(src="fd31:1::11", dst="ff02::1:ff00:12", hlim=255, nh=58)
    / Raw(b"\x87" + bytes(7))
)
MDNS = bytes(
    Ether(dst="33:33:00:00:00:fb", src=SENDER)
    / IPv6(src="fd31:1::11", dst="ff02::fb", hlim=255)
    / UDP(sport=5353, dport=5353)
    / Raw(bytes(40))
)


class TestDiscovery:
    """Unusual or invalid NDP requests pass to the stack, ARP requests do not."""

    @pytest.mark.parametrize(
        "packet",
        [
            arp(op=2),
            *(solicitation(code=1), solicitation(more=bytes(8)), solicitation(kind=136)),
            *(solicitation(option=b"\x0e\x01nonce!"), solicitation(option=b"\x01\x02" + bytes(6))),
            *(solicitation()[:70], SHORT_SOLICITATION, MDNS),
        ],
        ids=[
            "reply",
            *("code", "more options", "advertisement", "nonce", "longer option", "truncated solicitation"),
            *("without target", "mDNS"),
        ],
    )
    def test_passed_to_the_stack(self, state: State, packet: bytes) -> None:
        state.device(POD_L2)
        result = state.datapath.run("pod_egress", packet)
        assert (result.verdict, result.packet) == (PASS, packet)
        (counted,) = result.counted
        assert counted in ("STACK_PROTOCOL", "STACK_LINK_SCOPE", "STACK_MALFORMED")

    @pytest.mark.parametrize(
        "packet",
        [arp(hwtype=6), arp(ptype=0x86DD), arp(hwlen=8), arp(plen=16), arp(op=3), arp()[:40], arp()[:20]],
        ids=[
            "hardware",
            "protocol",
            "hardware length",
            "protocol length",
            "RARP",
            "truncated",
            "without operation",
        ],
    )
    def test_the_stack_stores_no_senders_of_requests(self, state: State, packet: bytes) -> None:
        state.device(POD_L2)
        result = state.datapath.run("pod_egress", packet)
        assert (result.verdict, result.counted) == (DROP, {"DROP_UNSUPPORTED": 1})

    def test_a_forwarded_solicitation_is_no_ndp(self, state: State) -> None:
        state.device(POD_L2, ENFORCE_EGRESS | DENY_EGRESS)
        state.pods(ENFORCE_EGRESS | DENY_EGRESS)
        packet = solicitation(hlim=254)
        result = state.datapath.run("pod_egress", packet)
        assert result.counted == {"DROP_UNSUPPORTED": 1}
