# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Policy, services, masquerade and L2 mode on single packets, with IPv4 and IPv6."""

from __future__ import annotations

import ipaddress
import struct
import time
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPerror, IPOption_NOP, TCPerror, UDPerror
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    ICMPv6PacketTooBig,
    IPerror6,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrRouting,
    PadN,
)
from scapy.layers.l2 import ARP, Ether
from scapy.layers.sctp import SCTP, SCTPChunkInit
from scapy.packet import Packet, Raw

from ansible_collections.podnet.datapath.plugins.module_utils._datapath import layout
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.identity import ANY
from tests.bpf.state import (
    ALLOW,
    DENY,
    DENY_EGRESS,
    DENY_INGRESS,
    DROP,
    EGRESS,
    ENFORCE_EGRESS,
    ENFORCE_INGRESS,
    FAMILIES,
    HOST,
    INGRESS,
    MAC,
    PASS,
    POD1,
    POD2,
    POD_ANY_SOURCE,
    POD_L2,
    POD_MASQUERADE,
    REDIRECT,
    REMOTE,
    SCTP_,
    SENDER,
    TCP_,
    UDP_,
    State,
    echo,
    frame,
    from_host,
    from_pod,
    from_wire,
    packed,
    syn,
    text,
    valid,
)


class TestSource:
    @FAMILIES
    @pytest.mark.parametrize("src", ["1.12", "2.11", "1.99"], ids=["pod", "remote pod", "unknown"])
    def test_invalid_source(self, state: State, family: int, src: str) -> None:
        packet = frame(src, "1.12", UDP(), family)
        result = state.datapath.run("pod_egress", packet, "pod1")
        assert (result.verdict, result.counted) == (DROP, {"DROP_INVALID_SOURCE_IP": 1})
        assert result.packet == packet

    @FAMILIES
    @pytest.mark.parametrize("src", ["1.12", "2.11", "1.99"], ids=["pod", "remote pod", "unknown"])
    def test_any_source_allows_addresses_of_no_pod(self, state: State, family: int, src: str) -> None:
        state.device(POD_ANY_SOURCE)
        result = state.datapath.run("pod_egress", frame(src, "1.12", UDP(), family), "pod1")
        assert result.counted == ({"LOCAL": 1} if src == "1.99" else {"DROP_INVALID_SOURCE_IP": 1})

    @FAMILIES
    def test_a_device_without_flags(self, state: State, family: int) -> None:
        state.device()
        spoofed = from_pod(state, "1.99", "2.11", UDP(), family)
        assert spoofed.counted == {"DROP_INVALID_SOURCE_IP": 1}
        assert from_pod(state, "1.11", "2.11", UDP(), family).counted == {"REMOTE": 1}

    def test_source_check_of_packets_for_the_stack(self, state: State) -> None:
        result = from_pod(state, "1.11", "1.12", UDP(), 4, options=[IPOption_NOP()])
        assert result.counted == {"STACK_IP_OPTIONS": 1}
        packet = frame("1.99", "1.12", UDP(), 4, options=[IPOption_NOP()])
        assert state.datapath.run("pod_egress", packet, "pod1").counted == {"DROP_INVALID_SOURCE_IP": 1}


class TestPolicy:
    @FAMILIES
    def test_ports_and_directions(self, state: State, family: int) -> None:
        state.pods(ENFORCE_EGRESS | DENY_EGRESS, ENFORCE_INGRESS | DENY_INGRESS)
        assert from_pod(state, "1.11", "1.12", syn(), family).counted == {"DROP_POLICY_EGRESS": 1}
        state.rule(POD1, POD2, EGRESS, (TCP_, ALLOW, 80, 90))
        assert from_pod(state, "1.11", "1.12", syn(), family).counted == {"DROP_POLICY_INGRESS": 1}
        state.rule(POD2, POD1, INGRESS, (TCP_, DENY, 81, 81), (TCP_, ALLOW, 80, 85))
        for port, counted in (
            (79, "DROP_POLICY_EGRESS"),
            (80, "LOCAL"),
            (81, "DROP_POLICY_INGRESS"),
            (85, "LOCAL"),
            (86, "DROP_POLICY_INGRESS"),
            (91, "DROP_POLICY_EGRESS"),
        ):
            assert from_pod(state, "1.11", "1.12", syn(port, 1000 + port), family).counted == {counted: 1}, (
                port
            )
        assert from_pod(state, "1.11", "1.12", UDP(dport=80), family).counted == {"DROP_POLICY_EGRESS": 1}

    @FAMILIES
    def test_sctp(self, state: State, family: int) -> None:
        state.pods(enforce2=ENFORCE_INGRESS | DENY_INGRESS)
        state.rule(POD2, POD1, INGRESS, (SCTP_, ALLOW, 80, 80))
        for port, verdict in ((80, REDIRECT), (81, DROP)):
            payload = SCTP(sport=1234, dport=port) / SCTPChunkInit()
            assert from_pod(state, "1.11", "1.12", payload, family).verdict == verdict
        assert from_pod(state, "1.11", "1.12", syn(80), family).verdict == DROP

    @FAMILIES
    def test_default_allow_with_a_deny(self, state: State, family: int) -> None:
        state.pods(ENFORCE_EGRESS)
        state.rule(POD1, REMOTE, EGRESS, verdict=DENY)
        assert from_pod(state, "1.11", "2.11", syn(), family).counted == {"DROP_POLICY_EGRESS": 1}
        assert from_pod(state, "1.11", "1.12", syn(), family).counted == {"LOCAL": 1}

    @FAMILIES
    def test_a_rule_for_all_peers(self, state: State, family: int) -> None:
        """It applies to peers without a rule of their own."""
        state.pods(ENFORCE_EGRESS | DENY_EGRESS)
        state.rule(POD1, ANY, EGRESS, (TCP_, ALLOW, 80, 80))
        state.rule(POD1, POD2, EGRESS, (TCP_, ALLOW, 81, 81))
        for dst, port, verdict in (("1.12", 80, DROP), ("1.12", 81, REDIRECT), ("2.11", 80, REDIRECT)):
            assert from_pod(state, "1.11", dst, syn(port, 1000 + port), family).verdict == verdict, port
        assert from_pod(state, "1.11", "2.11", syn(81), family).verdict == DROP

    @FAMILIES
    def test_the_last_of_the_most_ranges(self, state: State, family: int) -> None:
        state.pods(ENFORCE_EGRESS | DENY_EGRESS)
        ranges = [(TCP_, ALLOW, port, port) for port in range(1000, 1000 + 2 * layout.MAX_RANGES, 2)]
        state.rule(POD1, REMOTE, EGRESS, *ranges)
        last = ranges[-1][2]
        for port, counted in ((last, "REMOTE"), (last + 1, "DROP_POLICY_EGRESS")):
            assert from_pod(state, "1.11", "2.11", syn(port, port), family).counted == {counted: 1}

    @FAMILIES
    def test_policy_applies_to_a_new_pod_without_a_generation(self, state: State, family: int) -> None:
        """In both directions, as soon as the flow cache has expired."""
        state.pods(ENFORCE_EGRESS | ENFORCE_INGRESS | DENY_EGRESS | DENY_INGRESS)
        state.rule(POD1, REMOTE, EGRESS, (TCP_, ALLOW, 80, 80))
        packets = {
            "pod_egress": frame("1.11", "2.11", TCP(sport=1234, dport=80, flags="A"), family),
            "host_ingress": frame("2.11", "1.11", TCP(sport=80, dport=1234, flags="A"), family),
        }
        assert from_pod(state, "1.11", "2.11", syn(), family).counted == {"REMOTE": 1}
        for identity, passes in ((REMOTE, True), (REMOTE + 1, False), (REMOTE, True)):
            state.datapath.endpoint(11, 0, identity, node=2)
            for program, packet in packets.items():
                time.sleep(0.05)
                verdict = state.datapath.run(program, packet, cached=True).verdict
                assert (verdict == REDIRECT) == passes, (program, identity)

    @FAMILIES
    def test_only_replies_pass(self, state: State, family: int) -> None:
        state.pods(ENFORCE_EGRESS | ENFORCE_INGRESS | DENY_EGRESS | DENY_INGRESS)
        state.rule(POD1, REMOTE, EGRESS, (TCP_, ALLOW, 80, 80))
        reply = TCP(sport=80, dport=1234, flags="SA")
        assert from_wire(state, "2.11", "1.11", reply, family).counted == {"DROP_POLICY_INGRESS": 1}
        assert from_pod(state, "1.11", "2.11", syn(), family).counted == {"REMOTE": 1}
        assert from_wire(state, "2.11", "1.11", reply, family).counted == {"INBOUND": 1}
        other = TCP(sport=80, dport=1235, flags="SA")
        assert from_wire(state, "2.11", "1.11", other, family).counted == {"DROP_POLICY_INGRESS": 1}
        # a new generation: policy applies again, in the direction of the first packet
        state.rule(POD1, REMOTE, EGRESS, verdict=DENY)
        assert from_wire(state, "2.11", "1.11", reply, family).counted == {"DROP_POLICY_EGRESS": 1}
        assert from_pod(state, "1.11", "2.11", syn(), family).counted == {"DROP_POLICY_EGRESS": 1}

    @FAMILIES
    def test_echo(self, state: State, family: int) -> None:
        state.pods(ENFORCE_EGRESS | ENFORCE_INGRESS | DENY_EGRESS | DENY_INGRESS)
        request = (8 if family == 4 else 128) << 8
        state.rule(POD1, REMOTE, EGRESS, (1 if family == 4 else 58, ALLOW, request, request + 255))
        assert from_pod(state, "1.11", "2.11", echo(family, reply=True), family).counted == {
            "DROP_POLICY_EGRESS": 1
        }
        assert from_pod(state, "1.11", "2.11", echo(family), family).counted == {"REMOTE": 1}
        assert from_wire(state, "2.11", "1.11", echo(family, True), family).counted == {"INBOUND": 1}
        assert from_wire(state, "2.11", "1.11", echo(family, True, 8), family).counted == {
            "DROP_POLICY_INGRESS": 1
        }

    @FAMILIES
    def test_cidrs_and_the_host(self, state: State, family: int) -> None:
        state.pods(ENFORCE_INGRESS | DENY_INGRESS)
        state.cidr("10.31.8.0/24" if family == 4 else "fd31:8::/64", 20)
        state.rule(POD1, 20, INGRESS, verdict=ALLOW)
        state.rule(POD1, HOST, INGRESS, verdict=ALLOW)
        assert from_wire(state, "8.1", "1.11", syn(), family).counted == {"INBOUND": 1}
        assert from_wire(state, "7.1", "1.11", syn(), family).counted == {"DROP_POLICY_INGRESS": 1}
        # whatever its address, a packet that did not enter by a device is from the host
        assert from_host(state, "7.1", "1.11", syn(), family).counted == {"HOST": 1}
        forwarded = frame("7.1", "1.11", syn(81), family)
        found = state.datapath.run("pod_ingress", forwarded, "pod1", ingress_ifindex=1)
        assert found.counted == {"DROP_POLICY_INGRESS": 1}
        # spoofed: the addresses of local Pods do not come from the wire, nor from other devices by the stack
        state.rule(POD1, POD2, INGRESS, verdict=ALLOW)
        spoofed = frame("1.12", "1.11", syn(81), family)
        for program, fields in (("host_ingress", {}), ("pod_ingress", {"ingress_ifindex": 1})):
            device = "wire0" if program == "host_ingress" else "pod1"
            found = state.datapath.run(program, spoofed, device, **fields)
            assert found.counted == {"DROP_POLICY_INGRESS": 1}

    @FAMILIES
    def test_errors_about_an_allowed_flow(self, state: State, family: int) -> None:
        state.pods(ENFORCE_EGRESS | ENFORCE_INGRESS | DENY_EGRESS | DENY_INGRESS)
        state.rule(POD1, REMOTE, EGRESS, (TCP_, ALLOW, 80, 80))

        def error(dport: int) -> Packet:
            inner = TCPerror(sport=1234, dport=dport)
            if family == 4:
                about = IPerror(src=text("1.11", 4), dst=text("2.11", 4)) / inner
                return ICMP(type=3, code=4, nexthopmtu=1300) / about
            return ICMPv6PacketTooBig(mtu=1300) / IPerror6(src=text("1.11", 6), dst=text("2.11", 6)) / inner

        assert from_wire(state, "3.1", "1.11", error(80), family).counted == {"DROP_POLICY_INGRESS": 1}
        from_pod(state, "1.11", "2.11", syn(), family)
        cached = {"cached": True}
        packet = frame("3.1", "1.11", error(80), family)
        assert state.datapath.run("host_ingress", packet, **cached).counted == {"INBOUND": 1}
        assert state.datapath.run(
            "pod_ingress", frame("8.9", "1.11", error(80), family), "pod1", **cached
        ).counted == {"HOST": 1}
        packet = frame("3.1", "1.11", error(81), family)
        assert state.datapath.run("host_ingress", packet, **cached).counted == {"DROP_POLICY_INGRESS": 1}

    def test_fragments_v4(self, state: State) -> None:
        state.pods(0, ENFORCE_INGRESS | DENY_INGRESS)
        state.rule(POD2, POD1, INGRESS, (UDP_, ALLOW, 53, 53))
        later = {"frag": 10, "proto": UDP_, "id": 5}
        assert from_pod(state, "1.11", "1.12", Raw(bytes(64)), 4, **later).counted == {
            "DROP_FRAG_NOT_FOUND": 1
        }
        for port, first, then in (
            (54, "DROP_POLICY_INGRESS", "DROP_POLICY_INGRESS"),
            (53, "LOCAL", "LOCAL"),
        ):
            number = {"id": port}
            payload = UDP(dport=port, len=200) / Raw(bytes(72))
            assert from_pod(state, "1.11", "1.12", payload, 4, flags="MF", **number).counted == {first: 1}
            assert from_pod(state, "1.11", "1.12", Raw(bytes(64)), 4, **{**later, **number}).counted == {
                then: 1
            }
        tiny = from_pod(state, "1.11", "1.12", Raw(b"\0\0"), 4, flags="MF", proto=UDP_, id=9)
        assert tiny.counted == {"DROP_FRAG_NOT_FOUND": 1}

    def test_fragments_v6(self, state: State) -> None:
        state.pods(0, ENFORCE_INGRESS | DENY_INGRESS)
        state.rule(POD2, POD1, INGRESS, (UDP_, ALLOW, 53, 53))

        def fragment(number: int, offset: int, more: int) -> Packet:
            return IPv6ExtHdrFragment(nh=UDP_, id=number, offset=offset, m=more)

        def send(packet: Packet) -> Any:
            return from_pod(state, "1.11", "1.12", packet, 6).counted

        assert send(fragment(1, 10, 0) / Raw(bytes(64))) == {"DROP_FRAG_NOT_FOUND": 1}
        assert send(fragment(2, 0, 1) / UDP(dport=53) / Raw(bytes(64))) == {"LOCAL": 1}
        assert send(fragment(2, 9, 0) / Raw(bytes(64))) == {"LOCAL": 1}
        assert send(fragment(3, 0, 1) / UDP(dport=54)) == {"DROP_POLICY_INGRESS": 1}
        assert send(fragment(4, 0, 0) / UDP(dport=53)) == {"LOCAL": 1}
        assert send(IPv6ExtHdrFragment(nh=44) / fragment(5, 0, 0) / UDP(dport=53)) == {"DROP_UNSUPPORTED": 1}

    def test_extension_headers(self, state: State) -> None:
        state.pods(0, ENFORCE_INGRESS | DENY_INGRESS)
        state.rule(POD2, POD1, INGRESS, (UDP_, ALLOW, 53, 53))
        options = IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 4)])
        routing = IPv6ExtHdrRouting(addresses=["fd31:2::1"])
        for payload, counted in (
            (options / UDP(dport=53), "LOCAL"),
            (options / UDP(dport=54), "DROP_POLICY_INGRESS"),
            (options / options / options / UDP(dport=53), "LOCAL"),
            (options / options / options / options / options / options / UDP(dport=53), "DROP_UNSUPPORTED"),
            (routing / UDP(dport=53), "DROP_UNSUPPORTED"),
        ):
            result = from_pod(state, "1.11", "1.12", payload, 6)
            assert result.counted == {counted: 1}, payload.summary()

    @pytest.mark.usefixtures("one_cpu")
    def test_fragments_are_not_cached(self, state: State) -> None:
        """The flow key has no ports for fragments: all fragments between two Pods would match."""
        state.pods(ENFORCE_EGRESS | DENY_EGRESS)
        state.rule(POD1, POD2, EGRESS, (UDP_, ALLOW, 53, 53))
        first = frame("1.11", "1.12", UDP(dport=53) / Raw(bytes(64)), 4, flags="MF", id=1)
        later = frame("1.11", "1.12", Raw(bytes(64)), 4, frag=9, proto=UDP_, id=2)
        assert state.datapath.run_after(first, "pod_egress", later).counted == {"DROP_FRAG_NOT_FOUND": 1}

    @pytest.mark.usefixtures("one_cpu")
    @FAMILIES
    def test_the_cache_distinguishes_ports(self, state: State, family: int) -> None:
        state.pods(ENFORCE_EGRESS | DENY_EGRESS)
        state.rule(POD1, POD2, EGRESS, (UDP_, ALLOW, 53, 53))
        for repeat in range(2):
            for port, counted in ((53, "LOCAL"), (54, "DROP_POLICY_EGRESS")):
                packet = frame("1.11", "1.12", UDP(sport=9, dport=port), family)
                options = {"cached": repeat == 1}
                assert state.datapath.run("pod_egress", packet, "pod1", **options).counted == {counted: 1}

    def test_unsupported_packets_under_policy(self, state: State) -> None:
        both = ENFORCE_EGRESS | ENFORCE_INGRESS
        state.pods(both)
        state.device(enforce=both)
        options = {"options": [IPOption_NOP()]}
        assert from_pod(state, "1.11", "1.12", UDP(), 4, **options).counted == {"DROP_UNSUPPORTED": 1}
        assert from_wire(state, "2.11", "1.11", UDP(), 4, **options).counted == {"DROP_UNSUPPORTED": 1}
        packet = frame("2.11", "1.11", UDP(), 4, **options)
        assert state.datapath.run("pod_ingress", packet, "pod1").counted == {"DROP_UNSUPPORTED": 1}
        for payload, counted in (
            (ARP(pdst="10.31.1.12"), "STACK_PROTOCOL"),
            (IPv6(src="fe80::2", dst="fe80::1", hlim=255) / ICMPv6ND_NS(tgt="fe80::1"), "STACK_LINK_SCOPE"),
            (IPv6(src="fe80::2", dst="fe80::1") / UDP(), "DROP_UNSUPPORTED"),
        ):
            packet = bytes(Ether(dst=MAC, src=SENDER) / payload)
            assert state.datapath.run("pod_egress", packet, "pod1").counted == {counted: 1}

    def test_drops_are_reported(self, state: State) -> None:
        state.datapath.drops()
        from_pod(state, "1.12", "1.11", UDP(), 4)
        state.pods(ENFORCE_EGRESS | DENY_EGRESS)
        from_pod(state, "1.11", "2.11", TCP(sport=5, dport=6), 6)
        (drop,) = state.datapath.drops()
        assert drop["reason"] == state.datapath.names.index("DROP_POLICY_EGRESS")
        assert (drop["slot"], drop["peer"], drop["direction"]) == (1, REMOTE, EGRESS)
        assert (drop["src"], drop["dst"]) == (packed("1.11", 6), packed("2.11", 6))
        assert (drop["sport"], drop["dport"], drop["proto"], drop["family"]) == (5, 6, TCP_, 10)
        assert drop["ifindex"] == state.pod1

    def test_a_full_ring_buffer(self, state: State) -> None:
        state.pods(ENFORCE_EGRESS | DENY_EGRESS)
        packet = frame("1.11", "1.12", UDP(), 4)
        for dummy in range(256 * 1024 // 64):
            state.datapath.test_run("pod_egress", packet, "pod1")
        result = state.datapath.run("pod_egress", packet, "pod1")
        assert result.counted == {"DROP_POLICY_EGRESS": 1, "EVENT_LOST": 1}
        state.datapath.drops()


@FAMILIES
def test_no_memory_for_a_connection(full_datapath: Any, family: int) -> None:
    """A full conntrack map stands in for a failed allocation."""
    state = State(full_datapath)
    state.pods(enforce1=ENFORCE_EGRESS)
    try:
        result = from_pod(state, "1.11", "1.12", syn(), family)
        assert (result.verdict, result.counted) == (DROP, {"DROP_CT_CREATE_FAILED": 1})
        state.pods(flags=POD_MASQUERADE)
        state.masquerade()
        result = from_pod(state, "1.11", "2.99", syn(), family)
        assert (result.verdict, result.counted) == (DROP, {"DROP_CT_CREATE_FAILED": 1})
    finally:
        state.clear()


class TestServices:
    @FAMILIES
    @pytest.mark.parametrize("proto", [TCP_, UDP_])
    def test_there_and_back(self, state: State, family: int, proto: int) -> None:
        state.service("9.10", 80, proto, [("2.11", 8080)], family)
        transport = TCP if proto == TCP_ else UDP
        result = from_pod(state, "1.11", "9.10", transport(sport=1234, dport=80) / Raw(b"hello"), family)
        assert result.counted == {"REMOTE": 1}
        there = valid(result.packet)
        assert (there[1].dst, there[2].dport) == (text("2.11", family), 8080)
        result = from_wire(state, "2.11", "1.11", transport(sport=8080, dport=1234) / Raw(b"hello!"), family)
        back = valid(result.packet)
        assert (back[1].src, back[2].sport) == (text("9.10", family), 80)
        assert result.counted == {"INBOUND": 1}

    @FAMILIES
    def test_a_local_backend(self, state: State, family: int) -> None:
        state.service("9.10", 80, UDP_, [("1.12", 53)], family)
        result = from_pod(state, "1.11", "9.10", UDP(sport=1234, dport=80), family)
        assert result.counted == {"LOCAL": 1}
        assert valid(result.packet)[UDP].dport == 53
        result = from_pod(state, "1.12", "1.11", UDP(sport=53, dport=1234), family)
        assert valid(result.packet)[1].src == text("9.10", family)

    @FAMILIES
    def test_a_backend_on_the_host(self, state: State, family: int) -> None:
        state.service("9.10", 80, UDP_, [("8.9", 53)], family)
        from_pod(state, "1.11", "9.10", UDP(sport=1234, dport=80), family)
        result = from_host(state, "8.9", "1.11", UDP(sport=53, dport=1234), family)
        assert result.counted == {"HOST": 1}
        assert valid(result.packet)[1].src == text("9.10", family)
        # on netkit the redirected packet passes here again, with the service's address
        state.pods(ENFORCE_INGRESS | DENY_INGRESS)
        again = from_host(state, "9.10", "1.11", UDP(sport=80, dport=1234), family)
        assert again.counted == {"HOST": 1}

    @FAMILIES
    def test_policy_sees_the_backend(self, state: State, family: int) -> None:
        state.pods(ENFORCE_EGRESS | DENY_EGRESS)
        state.service("9.10", 80, TCP_, [("2.11", 8080)], family)
        assert from_pod(state, "1.11", "9.10", syn(), family).counted == {"DROP_POLICY_EGRESS": 1}
        state.rule(POD1, REMOTE, EGRESS, (TCP_, ALLOW, 8080, 8080))
        assert from_pod(state, "1.11", "9.10", syn(), family).counted == {"REMOTE": 1}

    @FAMILIES
    def test_connections_keep_their_backend(self, state: State, family: int) -> None:
        state.service("9.10", 80, TCP_, [("2.11", 8080), ("2.12", 8080)], family)

        def backend(sport: int, flags: str) -> str:
            result = from_pod(state, "1.11", "9.10", TCP(sport=sport, dport=80, flags=flags), family)
            return str(valid(result.packet)[1].dst)

        chosen = {port: backend(port, "S") for port in range(2000, 2032)}
        assert set(chosen.values()) == {text("2.11", family), text("2.12", family)}
        state.service("9.10", 80, TCP_, [("2.13", 8080)], family)
        assert {port: backend(port, "A") for port in chosen} == chosen
        port = next(iter(chosen))
        backend(port, "FA")
        # the next connection of this port selects again
        assert backend(port, "S") == text("2.13", family)

    @FAMILIES
    def test_only_some_clients_may_use_it(self, state: State, family: int) -> None:
        """What is refused is only new connections; another port of the service is another service."""
        own, other = (f"{text(where, family)}/{32 if family == 4 else 128}" for where in ("1.11", "1.12"))
        everyone = "0.0.0.0/0" if family == 4 else "::/0"
        refused = {"DROP_SOURCE_RANGE": 1}
        for port, sources in enumerate(([], [other], [other, own], [everyone]), 80):
            state.service("9.10", port, TCP_, [("2.11", 8080)], family, sources)
            for flags in ("S", "A"):
                sent = from_pod(state, "1.11", "9.10", TCP(sport=port, dport=port, flags=flags), family)
                assert sent.counted == (refused if port < 82 else {"REMOTE": 1})
        state.datapath.features |= layout.FEATURE_EXTERNAL
        assert from_wire(state, "8.9", "9.10", syn(dport=82), family).counted == refused
        assert from_wire(state, "8.9", "9.10", syn(dport=83), family).counted != refused

    @FAMILIES
    def test_no_backend_and_hairpin(self, state: State, family: int) -> None:
        state.service("9.10", 80, TCP_, [], family)
        assert from_pod(state, "1.11", "9.10", syn(), family).counted == {"DROP_NO_BACKEND": 1}
        state.service("9.10", 80, TCP_, [("1.11", 80)], family)
        assert from_pod(state, "1.11", "9.10", syn(), family).counted == {"DROP_HAIRPIN": 1}

    @FAMILIES
    @pytest.mark.parametrize("elsewhere", [False, True], ids=["no endpoints", "on other nodes"])
    def test_node_ports_without_backends(self, state: State, family: int, elsewhere: bool) -> None:
        """The stack rejects packets, unless endpoints of other nodes are excluded by the policy Local."""
        node, everywhere = {4: ("172.31.0.1", "0.0.0.0"), 6: ("fd31::1", "::")}[family]
        state.service("9.10", 80, TCP_, [("2.11", 80)] if elsewhere else [], family)
        state.datapath.features |= layout.FEATURE_NODE_PORTS | layout.FEATURE_EXTERNAL
        for buffer in (0, 1):
            key = layout.encode_service(ipaddress.ip_address(everywhere), 80, TCP_)
            value = layout.SERVICE.pack(1, 2 if elsewhere else 1, 1, 0, 0)
            state.put("services", layout.SERVICE_KEY.pack(*key, buffer), value)
        header = (IP if family == 4 else IPv6)(src=text("8.9", family), dst=node)
        result = state.datapath.run("host_ingress", bytes(Ether(dst=MAC) / header / syn()))
        expected = "DROP_NO_BACKEND" if elsewhere else "STACK_NO_ENDPOINT"
        assert result.counted == {expected: 1}

    @FAMILIES
    def test_icmp_errors_to_the_client(self, state: State, family: int) -> None:
        """An error from a router or the backend contains the packet that the client sent."""
        state.service("9.10", 80, UDP_, [("2.11", 53)], family)
        from_pod(state, "1.11", "9.10", UDP(sport=1234, dport=80), family)
        inner = UDPerror(sport=1234, dport=53)
        for source, seen in (("3.1", "3.1"), ("2.11", "9.10")):
            if family == 4:
                about = IPerror(src=text("1.11", 4), dst=text("2.11", 4)) / inner
                packet = frame(source, "1.11", ICMP(type=3, code=4, nexthopmtu=1300) / about, 4)
            else:
                about = IPerror6(src=text("1.11", 6), dst=text("2.11", 6)) / inner
                packet = frame(source, "1.11", ICMPv6PacketTooBig(mtu=1300) / about, 6)
            for program in ("host_ingress", "pod_ingress"):
                device = "pod1" if program == "pod_ingress" else ""
                result = state.datapath.run(program, packet, device, cached=True)
                back = Ether(result.packet)
                about_now = back[IPerror if family == 4 else IPerror6]
                assert about_now.dst == text("9.10", family)
                assert back[UDPerror].dport == 80
                assert back[1].src == text(seen, family)
                assert_icmp_sum(result.packet, family)

    @FAMILIES
    def test_too_big_after_translation(self, state: State, family: int) -> None:
        """The stack gets the translated packet, so its ICMP error refers to that one."""
        state.service("9.10", 80, UDP_, [("8.11", 53)], family)
        result = from_pod(state, "1.11", "9.10", UDP(sport=1234, dport=80) / Raw(bytes(1400)), family)
        assert (result.verdict, result.counted) == (PASS, {"STACK_MTU": 1})
        assert valid(result.packet)[1].dst == text("8.11", family)

    def test_fragments(self, state: State) -> None:
        state.service("9.10", 80, UDP_, [("2.11", 53)], 4)
        state.pods(ENFORCE_EGRESS)
        first = from_pod(state, "1.11", "9.10", UDP(dport=80, len=200) / Raw(bytes(72)), 4, flags="MF", id=3)
        later = from_pod(state, "1.11", "9.10", Raw(bytes(64)), 4, frag=10, proto=UDP_, id=3)
        for result in (first, later):
            assert result.counted == {"REMOTE": 1}
            assert Ether(result.packet)[IP].dst == text("2.11", 4)


def assert_icmp_sum(packet: bytes, family: int) -> None:
    """Assert that the ICMP checksum, for IPv6 with the pseudo header, is valid."""
    data = packet[34:] if family == 4 else packet[54:]
    if family == 6:
        data = packet[22:54] + struct.pack("!II", len(data), 58) + data
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    assert total == 0xFFFF


class TestMasquerade:
    OUTSIDE = {4: "172.31.0.1", 6: "fd31::1"}

    @FAMILIES
    @pytest.mark.parametrize("kind", ["tcp", "udp", "echo"])
    def test_there_and_back(self, state: State, family: int, kind: str) -> None:
        state.masquerade()
        state.pods(flags=POD_MASQUERADE)

        def payload(port: int, back: bool) -> Packet:
            if kind == "echo":
                return echo(family, back, port)
            transport = TCP if kind == "tcp" else UDP
            return transport(sport=53, dport=port) if back else transport(sport=port, dport=53)

        result = from_pod(state, "1.11", "8.1", payload(1234, False), family)
        assert result.counted == {"REMOTE": 1}
        there = valid(result.packet)
        port = there[2].id if kind == "echo" else there[2].sport
        assert there[1].src == self.OUTSIDE[family] and 61000 <= port <= 65535
        again = valid(from_pod(state, "1.11", "8.1", payload(1234, False), family).packet)
        assert again[1].src == there[1].src and bytes(again[2]) == bytes(there[2])

        reply = (IP if family == 4 else IPv6)(src=text("8.1", family), dst=self.OUTSIDE[family])
        packet = bytes(Ether(dst=MAC, src=SENDER) / reply / payload(port, True))
        result = state.datapath.run("host_ingress", packet)
        assert result.counted == {"INBOUND": 1}
        back = valid(result.packet)
        assert back[1].dst == text("1.11", family)
        assert (back[2].id if kind == "echo" else back[2].dport) == 1234
        packet = bytes(Ether(dst=MAC, src=SENDER) / reply / payload(port - 1, True))
        assert state.datapath.run("host_ingress", packet).counted == {"STACK_NO_ENDPOINT": 1}

    @FAMILIES
    def test_icmp_errors_to_the_pod(self, state: State, family: int) -> None:
        state.masquerade()
        state.pods(flags=POD_MASQUERADE)
        there = Ether(from_pod(state, "1.11", "8.1", UDP(sport=1234, dport=53), family).packet)
        inner = UDPerror(sport=there[UDP].sport, dport=53)
        outside = self.OUTSIDE[family]
        if family == 4:
            error = (
                IP(src=text("3.1", 4), dst=outside)
                / ICMP(type=3, code=1)
                / IPerror(src=outside, dst=text("8.1", 4))
            )
        else:
            error = (
                IPv6(src=text("3.1", 6), dst=outside)
                / ICMPv6DestUnreach()
                / IPerror6(src=outside, dst=text("8.1", 6))
            )
        packet = bytes(Ether(dst=MAC, src=SENDER) / error / inner)
        result = state.datapath.run("host_ingress", packet, cached=True)
        assert result.counted == {"INBOUND": 1}
        back = Ether(result.packet)
        assert back[1].dst == back[IPerror if family == 4 else IPerror6].src == text("1.11", family)
        assert back[UDPerror].sport == 1234
        assert_icmp_sum(result.packet, family)

    @FAMILIES
    def test_exempt_destinations(self, state: State, family: int) -> None:
        state.masquerade()
        state.pods(flags=POD_MASQUERADE)
        state.cidr("10.31.8.0/24" if family == 4 else "fd31:8::/64", 0, 1)
        for target in ("2.11", "8.1"):
            result = from_pod(state, "1.11", target, UDP(sport=1234, dport=53), family)
            assert Ether(result.packet)[1].src == text("1.11", family)

    @FAMILIES
    def test_ports_run_out(self, state: State, family: int) -> None:
        state.masquerade(61000, 61001)
        state.pods(flags=POD_MASQUERADE)
        found = [
            from_pod(state, "1.11", "8.1", UDP(sport=port, dport=53), family).counted for port in range(1, 8)
        ]
        assert found[-1] == {"DROP_NAT_NO_MAPPING": 1}
        assert found.count({"REMOTE": 1}) == 2

    @FAMILIES
    def test_protocol_without_ports(self, state: State, family: int) -> None:
        state.masquerade()
        state.pods(flags=POD_MASQUERADE)
        fields = {"proto": 47} if family == 4 else {"nh": 47}
        result = from_pod(state, "1.11", "8.1", Raw(bytes(8)), family, **fields)
        assert result.counted == {"DROP_NAT_FAILED": 1}


class TestL2:
    @pytest.mark.parametrize(
        ("target", "sender", "answered"),
        [("1.12", "1.11", True), ("9.9", "1.11", True), ("1.11", "1.11", False), ("1.12", "", False)],
        ids=["pod", "any address", "own address", "probe"],
    )
    def test_arp(self, state: State, target: str, sender: str, answered: bool) -> None:
        state.device(POD_L2)
        request = ARP(hwsrc=SENDER, psrc=text(sender, 4) if sender else "0.0.0.0", pdst=text(target, 4), op=1)
        packet = bytes(Ether(dst="ff:ff:ff:ff:ff:ff", src=SENDER) / request)
        result = state.datapath.run("pod_egress", packet)
        if not answered:
            assert (result.verdict, result.counted) == (DROP, {"DROP_UNSUPPORTED": 1})
            return
        assert (result.verdict, result.counted) == (REDIRECT, {"ARP_REPLY": 1})
        answer = Ether(result.packet)
        assert (answer.dst, answer.src, answer[ARP].op) == (SENDER, MAC, 2)
        assert (answer[ARP].hwsrc, answer[ARP].psrc) == (MAC, text(target, 4))
        assert (answer[ARP].hwdst, answer[ARP].pdst) == (SENDER, text("1.11", 4))

    @pytest.mark.parametrize(
        ("target", "src", "answered"),
        [
            ("fd31:1::12", "fd31:1::11", True),
            ("fe80::1", "fe80::2", True),
            ("fd31:1::11", "fd31:1::11", False),
            ("fd31:1::12", "::", False),
        ],
        ids=["pod", "link-local", "own address", "probe"],
    )
    def test_ndp(self, state: State, target: str, src: str, answered: bool) -> None:
        state.device(POD_L2)
        option = ICMPv6NDOptSrcLLAddr(lladdr=SENDER) if src != "::" else Raw(b"")
        request = IPv6(src=src, dst="ff02::1:ff00:12", hlim=255) / ICMPv6ND_NS(tgt=target) / option
        packet = bytes(Ether(dst="33:33:ff:00:00:12", src=SENDER) / request)
        result = state.datapath.run("pod_egress", packet)
        if not answered:
            assert (result.verdict, result.counted) == (PASS, {"STACK_LINK_SCOPE": 1})
            return
        assert (result.verdict, result.counted) == (REDIRECT, {"NDP_REPLY": 1})
        answer = valid(result.packet)
        assert (answer.dst, answer.src) == (SENDER, MAC)
        assert (answer[IPv6].src, answer[IPv6].dst, answer[IPv6].hlim) == (target, src, 255)
        assert (answer[ICMPv6ND_NA].R, answer[ICMPv6ND_NA].S, answer[ICMPv6ND_NA].O) == (1, 1, 1)
        assert answer[ICMPv6ND_NA].tgt == target
        assert answer[ICMPv6NDOptDstLLAddr].lladdr == MAC
