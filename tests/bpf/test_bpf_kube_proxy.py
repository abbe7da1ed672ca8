# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Connections that netfilter translates in the stack; others bypass it."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPerror, UDPerror, fragment
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    IPerror6,
    IPv6,
    IPv6ExtHdrFragment,
    fragment6,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from ansible_collections.podnet.datapath.plugins.module_utils._datapath import layout, masquerade
from ansible_collections.podnet.datapath.plugins.module_utils._kernel import bpf
from tests.bpf.state import (
    BOTH,
    DENY_ALL_EGRESS,
    DENY_INGRESS,
    EGRESS,
    ENFORCE_INGRESS,
    FAMILIES,
    INGRESS,
    MAC,
    POD1,
    POD2,
    POD_ANY_SOURCE,
    POD_MASQUERADE,
    SENDER,
    TCP_,
    UDP_,
    State,
    age,
    echo,
    frame,
    from_pod,
    from_wire,
    options,
    syn,
    tcp,
    text,
)

SERVICES, SERVICE_IDENTITY = 96, 20  # number of the network, its identity
SERVICE, BACKEND, CLIENT = "96.10", "2.21", "2.77"  # 2.21, 2.77: no Pods
CLOSING_TIMEOUT, UDP_TIMEOUT, TCP_TIMEOUT = 120, 180, 8000
MAPS = ("stack_clients", "stack_peers")
QUOTA = 16384


def dns(sport: int = 1234, dport: int = 53) -> Packet:
    return UDP(sport=sport, dport=dport)


def answer(sport: int = 53, dport: int = 1234) -> Packet:
    return UDP(sport=sport, dport=dport) / Raw(b"answer")


@pytest.fixture
def nat(state: State) -> Iterator[State]:
    """The networks 10.31.96.0/24 and fd31:96::/64 of services that netfilter translates."""
    declare(state)
    yield state
    clear(state)


def declare(state: State, identity: int = 0) -> None:
    state.datapath.features |= layout.FEATURE_STACK_NAT
    for network in (f"10.31.{SERVICES}.0/24", f"fd31:{SERVICES}::/64"):
        state.cidr(network, identity, layout.CIDR_STACK_NAT)


def clear(state: State) -> None:
    for name in (*MAPS, "stack_places"):
        bpf.map_delete(state.maps[name], list(bpf.map_read(state.maps[name])))


def entries(state: State) -> tuple[int, int]:
    clients, peers = (len(bpf.map_read(state.maps[name])) for name in MAPS)
    return clients, peers


def to_pod(state: State, src: str, dst: str, payload: Packet, family: int) -> Any:
    """Run pod_ingress on a packet that the stack forwards.

    A test run cannot set the sign of packets from Pods of this node; that of a socket has the same effect.
    """
    device = "pod1" if dst == "1.11" else "pod2"
    with state.datapath.inside():
        wire = 0 if src.startswith("1.") else state.datapath.ifindex("wire0")
    packet = frame(src, dst, payload, family)
    return state.datapath.run("pod_ingress", packet, device, ingress_ifindex=wire)


def icmp_error(src: str, dst: str, payload: Packet, family: int) -> Packet:
    """Return an ICMP error about a UDP packet."""
    ports = UDPerror(sport=payload.sport, dport=payload.dport)
    if family == 4:
        return ICMP(type=3, code=3) / IPerror(src=text(src, 4), dst=text(dst, 4)) / ports
    return ICMPv6DestUnreach(code=4) / IPerror6(src=text(src, 6), dst=text(dst, 6)) / ports


def fragments(src: str, dst: str, payload: Packet, family: int) -> list[bytes]:
    if family == 4:
        pieces = fragment(IP(src=text(src, 4), dst=text(dst, 4), id=7) / payload, 1200)
    else:
        packet = IPv6(src=text(src, 6), dst=text(dst, 6)) / IPv6ExtHdrFragment(id=7) / payload
        pieces = fragment6(packet, 1200)
    assert len(pieces) > 2
    return [bytes(Ether(dst=MAC, src=SENDER) / piece) for piece in pieces]


def passes(result: Any) -> bool:
    """Return whether a packet passes to the stack because netfilter translates it, or bypasses it."""
    (reason,) = result.counted
    assert reason in ("STACK_NAT", "REMOTE", "LOCAL", "INBOUND"), reason
    return bool(reason == "STACK_NAT")


@FAMILIES
class TestClients:
    """A Pod is the client: the backend is unknown, so its port decides."""

    @pytest.mark.parametrize("payload", [syn(), dns()])
    def test_packets_to_a_service_and_replies_pass_to_the_stack(
        self, nat: State, family: int, payload: Packet
    ) -> None:
        back = type(payload)(sport=80, dport=1234)
        assert not passes(from_wire(nat, BACKEND, "1.11", back, family))
        assert not passes(from_pod(nat, "1.12", "1.11", back, family))
        assert passes(from_pod(nat, "1.11", SERVICE, payload, family))
        assert passes(from_wire(nat, BACKEND, "1.11", back, family))
        assert passes(from_pod(nat, "1.12", "1.11", back, family))

    def test_other_ports_protocols_and_pods_bypass_the_stack(self, nat: State, family: int) -> None:
        assert passes(from_pod(nat, "1.11", SERVICE, syn(), family))
        assert not passes(from_pod(nat, "1.11", "2.11", syn(sport=1235), family))
        assert not passes(from_pod(nat, "1.11", "1.12", syn(sport=1235), family))
        assert not passes(from_pod(nat, "1.11", "2.11", dns(), family))
        assert not passes(from_wire(nat, BACKEND, "1.11", TCP(sport=80, dport=1235), family))
        assert not passes(from_wire(nat, BACKEND, "1.11", answer(), family))
        assert not passes(from_wire(nat, BACKEND, "1.12", TCP(sport=80, dport=1234), family))

    def test_both_directions_of_another_connection_with_the_port_pass_to_the_stack(
        self, nat: State, family: int
    ) -> None:
        assert passes(from_pod(nat, "1.11", SERVICE, syn(), family))
        for peer in ("2.11", "1.12"):
            assert passes(from_pod(nat, "1.11", peer, syn(81), family))
        assert passes(from_wire(nat, "2.11", "1.11", TCP(sport=81, dport=1234), family))
        assert passes(from_pod(nat, "1.12", "1.11", TCP(sport=81, dport=1234), family))

    def test_off(self, state: State, family: int) -> None:
        result = from_pod(state, "1.11", SERVICE, syn(), family)
        assert result.counted == {"STACK_NOT_FORWARDED": 1}
        assert not passes(from_wire(state, BACKEND, "1.11", tcp("SA", back=True), family))
        to_pod(state, CLIENT, "1.11", syn(), family)
        assert entries(state) == (0, 0)

    @pytest.mark.parametrize("flags", ["F", "R", "FA"])
    def test_a_closed_connection_frees_its_port(self, nat: State, family: int, flags: str) -> None:
        from_pod(nat, "1.11", SERVICE, syn(), family)
        assert passes(from_pod(nat, "1.11", "2.11", syn(81), family))  # open: both may be in use
        from_pod(nat, "1.11", SERVICE, tcp(flags), family)
        assert passes(from_wire(nat, BACKEND, "1.11", tcp("FA", back=True), family))
        assert not passes(from_pod(nat, "1.11", "2.11", syn(81), family))
        assert not passes(from_wire(nat, "2.11", "1.11", TCP(sport=81, dport=1234), family))

    def test_a_new_connection_keeps_the_port_of_a_closed_one(self, nat: State, family: int) -> None:
        for flags in ("S", "F", "S"):
            from_pod(nat, "1.11", SERVICE, tcp(flags), family)
        assert passes(from_pod(nat, "1.11", "2.11", syn(81), family))

    @pytest.mark.parametrize("flags,timeout", [("S", TCP_TIMEOUT), ("F", CLOSING_TIMEOUT)])
    def test_tcp_expires(self, nat: State, family: int, flags: str, timeout: int) -> None:
        from_pod(nat, "1.11", SERVICE, tcp(flags), family)
        for dummy in range(2):  # a packet renews it
            age(nat, "stack_clients", timeout - 1)
            assert passes(from_wire(nat, BACKEND, "1.11", tcp("A", back=True), family))
        age(nat, "stack_clients", timeout + 1)
        assert not passes(from_wire(nat, BACKEND, "1.11", tcp("A", back=True), family))
        assert not passes(from_pod(nat, "1.11", "2.11", tcp("A"), family))
        assert passes(from_pod(nat, "1.11", SERVICE, tcp("A"), family))
        assert passes(from_wire(nat, BACKEND, "1.11", tcp("A", back=True), family))

    def test_udp_expires(self, nat: State, family: int) -> None:
        from_pod(nat, "1.11", SERVICE, dns(), family)
        for dummy in range(2):
            age(nat, "stack_clients", UDP_TIMEOUT - 1)
            assert passes(from_pod(nat, "1.12", "1.11", answer(), family))
        age(nat, "stack_clients", UDP_TIMEOUT + 1)
        assert not passes(from_pod(nat, "1.12", "1.11", answer(), family))

    def test_icmp_errors_follow_their_packet(self, nat: State, family: int) -> None:
        """Netfilter translates the inner packet too."""
        from_pod(nat, "1.11", SERVICE, dns(), family)
        for sport, expected in ((1234, True), (1235, False)):
            packet = icmp_error("1.11", BACKEND, dns(sport=sport), family)
            assert passes(from_wire(nat, "3.1", "1.11", packet, family)) == expected
        assert passes(from_pod(nat, "1.12", "1.11", icmp_error("1.11", "1.12", dns(), family), family))

    def test_other_packets_to_a_service_pass_to_the_stack(self, nat: State, family: int) -> None:
        assert passes(from_pod(nat, "1.11", SERVICE, echo(family), family))
        assert passes(from_pod(nat, "1.11", SERVICE, icmp_error(SERVICE, "1.11", answer(), family), family))
        assert entries(nat) == (1, 0)  # of the error: the Pod is the client

    def test_fragments_follow_the_first_one(self, nat: State, family: int) -> None:
        from_pod(nat, "1.11", SERVICE, dns(), family)
        for dport, expected in ((1234, True), (1235, False)):
            for piece in fragments(BACKEND, "1.11", answer(dport=dport) / Raw(bytes(3000)), family):
                result = nat.datapath.run("host_ingress", piece)
                assert passes(result) == expected

    def test_extension_headers(self, nat: State, family: int) -> None:
        if family == 4:
            return
        assert passes(from_pod(nat, "1.11", SERVICE, options(dns()), family))
        assert passes(from_wire(nat, BACKEND, "1.11", options(answer()), family))
        assert not passes(from_wire(nat, BACKEND, "1.11", options(answer(dport=1235)), family))

    def test_the_flow_cache_holds_no_decision(self, nat: State, family: int, one_cpu: None) -> None:
        from_pod(nat, "1.11", SERVICE, dns(), family)
        for program, src, device in (("host_ingress", BACKEND, "wire0"), ("pod_egress", "1.12", "pod2")):
            packet = frame(src, "1.11", answer(), family)
            for dummy in range(2):
                assert passes(nat.datapath.run(program, packet, device, cached=True))

    def test_spoofed_replies_do_not_reach_the_stack(self, nat: State, family: int) -> None:
        """Netfilter would translate them as it does those of the Pod."""
        from_pod(nat, "1.11", SERVICE, syn(), family)
        assert not passes(from_wire(nat, "1.12", "1.11", tcp("SA", back=True), family))


@FAMILIES
class TestPolicy:
    def test_egress_policy_sees_the_address_of_the_service(self, nat: State, family: int) -> None:
        declare(nat, SERVICE_IDENTITY)
        nat.pods(DENY_ALL_EGRESS)
        result = from_pod(nat, "1.11", SERVICE, syn(), family)
        assert result.counted == {"DROP_POLICY_EGRESS": 1}
        assert entries(nat) == (0, 0)
        nat.rule(POD1, SERVICE_IDENTITY, EGRESS, (TCP_, 1, 80, 80))
        assert passes(from_pod(nat, "1.11", SERVICE, syn(), family))
        assert from_pod(nat, "1.11", SERVICE, syn(81), family).counted == {"DROP_POLICY_EGRESS": 1}
        # the port is recorded: a connection to another destination passes to the stack, but not policy
        assert from_pod(nat, "1.11", "2.11", syn(), family).counted == {"DROP_POLICY_EGRESS": 1}
        # translated in the stack, the reply has the address of the service; only it passes
        assert passes(from_wire(nat, BACKEND, "1.11", tcp("SA", back=True), family))
        assert to_pod(nat, SERVICE, "1.11", tcp("SA", back=True), family).counted == {"HOST": 1}

    def test_replies_do_not_bypass_ingress_policy(self, nat: State, family: int) -> None:
        nat.pods(BOTH)
        nat.rule(POD1, 0, EGRESS, (TCP_, 1, 80, 80))
        assert passes(from_pod(nat, "1.11", SERVICE, syn(), family))
        assert passes(from_wire(nat, BACKEND, "1.11", tcp("SA", back=True), family))
        assert to_pod(nat, BACKEND, "1.11", tcp("SA", back=True), family).counted == {
            "DROP_POLICY_INGRESS": 1
        }

    def test_the_backend_sees_the_client(self, nat: State, family: int) -> None:
        nat.pods(0, BOTH)
        assert passes(from_pod(nat, "1.11", SERVICE, syn(), family))
        dropped = to_pod(nat, "1.11", "1.12", syn(), family)
        assert dropped.counted == {"DROP_POLICY_INGRESS": 1}
        nat.rule(POD2, POD1, INGRESS, (TCP_, 1, 80, 80))
        assert to_pod(nat, "1.11", "1.12", syn(), family).counted == {"HOST": 1}
        assert passes(from_pod(nat, "1.12", "1.11", tcp("SA", back=True), family))

    def test_replies_of_a_backend_on_this_node_reach_a_client_with_ingress_policy(
        self, nat: State, family: int
    ) -> None:
        nat.pods(ENFORCE_INGRESS | DENY_INGRESS)
        for payload in (syn(), dns()):
            back = type(payload)(sport=80, dport=1234)
            denied = from_pod(nat, "1.12", "1.11", back, family)
            assert denied.counted == {"DROP_POLICY_INGRESS": 1}
            assert passes(from_pod(nat, "1.11", SERVICE, payload, family))
            assert passes(from_pod(nat, "1.12", "1.11", back, family))
            port = 80 if payload.haslayer(TCP) else 53
            translated = to_pod(nat, SERVICE, "1.11", type(payload)(sport=port, dport=1234), family)
            assert translated.counted == {"HOST": 1}
            # not translated: no reply, or of another connection
            for untranslated in (back, type(payload)(sport=9, dport=1234)):
                assert passes(from_pod(nat, "1.12", "1.11", untranslated, family))
                result = to_pod(nat, "1.12", "1.11", untranslated, family)
                assert result.counted == {"DROP_POLICY_INGRESS": 1}

    def test_policy_of_the_sender_applies_to_recorded_ports(self, nat: State, family: int) -> None:
        nat.pods(0, BOTH)
        from_pod(nat, "1.11", SERVICE, syn(), family)
        result = from_pod(nat, "1.12", "1.11", syn(1234), family)
        assert result.counted == {"DROP_POLICY_EGRESS": 1}

    def test_policy_for_the_node_applies_to_recorded_ports(self, nat: State, family: int) -> None:
        """The node is known by the route, which the stack would look up."""
        node = "172.31.0.1" if family == 4 else "fd31::1"
        nat.cidr(f"{node}/{32 if family == 4 else 128}", SERVICE_IDENTITY)
        nat.pods(DENY_ALL_EGRESS)
        nat.rule(POD1, SERVICE_IDENTITY, EGRESS, (UDP_, 1, 0, 65535))
        nat.rule(POD1, 0, EGRESS, (UDP_, 1, 0, 65535))
        from_pod(nat, "1.11", SERVICE, dns(), family)
        assert entries(nat) == (1, 0)
        result = nat.datapath.run("pod_egress", to_node(dns(), family), "pod1")
        assert result.counted == {"DROP_POLICY_EGRESS": 1}


class TestQuota:
    """Each Pod displaces only its own clients, the least valuable first."""

    @staticmethod
    def begin(state: State, number: int) -> None:
        """Set the serial number of the first Pod's next client."""
        bpf.map_update(state.maps["stack_serial"], {struct.pack("=I", 1): struct.pack("=I", number)})

    @staticmethod
    def ports(state: State) -> set[tuple[str, int]]:
        """Return the ports of the clients of both Pods."""
        names = {state.pod1: "pod1", state.pod2: "pod2"}
        keys = (struct.unpack("=I2sBx", key) for key in bpf.map_read(state.maps["stack_clients"]))
        return {(names[ifindex], int.from_bytes(port, "big")) for ifindex, port, _proto in keys}

    def fill(self, state: State) -> None:
        """Let the first Pod use its quota, with the ports from 1 on."""
        now = int(time.clock_gettime(time.CLOCK_MONOTONIC))
        places, clients = {}, {}
        for position in range(QUOTA):
            key = struct.pack("=I2sBx", state.pod1, (position + 1).to_bytes(2, "big"), UDP_)
            place = QUOTA + position
            places[struct.pack("=I", place)] = key
            clients[key] = struct.pack("=III", now, 0, place)
        bpf.map_update(state.maps["stack_places"], places)
        bpf.map_update(state.maps["stack_clients"], clients)
        self.begin(state, QUOTA)

    def test_a_pod_displaces_only_its_own_clients(self, nat: State) -> None:
        from_pod(nat, "1.12", SERVICE, dns(sport=7), 4)
        self.fill(nat)
        for port in range(20_000, 20_100):
            assert passes(from_pod(nat, "1.11", SERVICE, dns(sport=port), 4))
            assert passes(from_wire(nat, BACKEND, "1.11", answer(dport=port), 4))
        assert entries(nat) == (QUOTA + 1, 0)
        assert passes(from_wire(nat, BACKEND, "1.12", answer(dport=7), 4))

    @FAMILIES
    def test_closing_and_idle_clients_are_displaced_first(self, nat: State, family: int) -> None:
        self.begin(nat, 0)
        for port in range(1, 9):
            from_pod(nat, "1.11", SERVICE, syn(sport=port), family)
        age(nat, "stack_clients", 10)
        for port in range(1, 9):
            flags = "A" if port not in (3, 5) else "F"
            if port != 6:
                from_pod(nat, "1.11", SERVICE, TCP(sport=port, dport=80, flags=flags), family)
        for number, displaced in enumerate((3, 5, 6)):
            before = self.ports(nat)
            self.begin(nat, 0)
            from_pod(nat, "1.11", SERVICE, syn(sport=100 + number), family)
            assert before - self.ports(nat) == {("pod1", displaced)}
            assert self.ports(nat) - before == {("pod1", 100 + number)}

    @FAMILIES
    def test_a_former_place_of_a_client_does_not_end_it(self, nat: State, family: int) -> None:
        self.begin(nat, 0)
        from_pod(nat, "1.11", SERVICE, tcp("S"), family)
        from_pod(nat, "1.11", SERVICE, tcp("R"), family)
        from_pod(nat, "1.11", "2.11", tcp("S"), family)  # a direct connection with the same port
        assert entries(nat) == (0, 0)
        from_pod(nat, "1.11", SERVICE, tcp("S"), family)
        self.begin(nat, 0)
        from_pod(nat, "1.11", SERVICE, syn(sport=99), family)
        assert self.ports(nat) == {("pod1", 99), ("pod1", 1234)}


def to_node(payload: Packet, family: int) -> bytes:
    header = (
        IP(src=text("1.11", 4), dst="172.31.0.1") if family == 4 else IPv6(src=text("1.11", 6), dst="fd31::1")
    )
    return bytes(Ether(dst=MAC, src=SENDER) / header / payload)


def from_node(payload: Packet, family: int) -> bytes:
    header = (
        IP(dst=text("1.11", 4), src="172.31.0.1") if family == 4 else IPv6(dst=text("1.11", 6), src="fd31::1")
    )
    return bytes(Ether(dst=MAC, src=SENDER) / header / payload)


@FAMILIES
class TestServers:
    """A client outside of this node's Pods: packets of its exact tuple come from the stack."""

    @pytest.mark.parametrize("client", [CLIENT, "2.11"])
    @pytest.mark.parametrize("payload", [syn(), UDP(sport=1234, dport=80)])
    def test_replies_pass_to_the_stack(self, nat: State, family: int, client: str, payload: Packet) -> None:
        back = type(payload)(sport=80, dport=1234)
        assert not passes(from_pod(nat, "1.11", client, back, family))
        assert to_pod(nat, client, "1.11", payload, family).counted == {"HOST": 1}
        assert entries(nat) == (0, 1)
        assert passes(from_pod(nat, "1.11", client, back, family))
        for other in (type(payload)(sport=81, dport=1234), type(payload)(sport=80, dport=1235)):
            assert not passes(from_pod(nat, "1.11", client, other, family))
        assert not passes(from_pod(nat, "1.12", client, back, family))
        # the client's direct connection to another port
        assert not passes(from_wire(nat, client, "1.11", type(payload)(sport=1234, dport=81), family))

    def test_pods_of_this_node_are_no_such_clients(self, nat: State, family: int) -> None:
        to_pod(nat, "1.12", "1.11", syn(), family)
        assert entries(nat) == (0, 0)
        assert not passes(from_pod(nat, "1.11", "1.12", tcp("SA", back=True), family))

    def test_a_reply_to_a_client_records_no_other_client(self, nat: State, family: int) -> None:
        from_pod(nat, "1.11", SERVICE, dns(), family)
        to_pod(nat, SERVICE, "1.11", answer(), family)
        assert entries(nat) == (1, 0)

    def test_dropped_packets_record_nothing(self, nat: State, family: int) -> None:
        nat.pods(BOTH)
        assert to_pod(nat, CLIENT, "1.11", syn(), family).counted == {"DROP_POLICY_INGRESS": 1}
        assert entries(nat) == (0, 0)

    def test_icmp(self, nat: State, family: int) -> None:
        to_pod(nat, "2.11", "1.11", echo(family), family)
        to_pod(nat, "2.11", "1.11", icmp_error("1.11", CLIENT, dns(), family), family)
        assert entries(nat) == (0, 0)
        to_pod(nat, "2.11", "1.11", dns(), family)
        error = icmp_error("2.11", "1.11", dns(), family)
        assert passes(from_pod(nat, "1.11", "2.11", error, family))

    def test_they_expire(self, nat: State, family: int) -> None:
        to_pod(nat, "2.11", "1.11", syn(), family)
        age(nat, "stack_peers", TCP_TIMEOUT - 1)
        assert passes(from_pod(nat, "1.11", "2.11", tcp("SA", back=True), family))
        to_pod(nat, "2.11", "1.11", tcp("F"), family)
        age(nat, "stack_peers", CLOSING_TIMEOUT + 1)
        assert not passes(from_pod(nat, "1.11", "2.11", tcp("A", back=True), family))

    def test_fragments(self, nat: State, family: int) -> None:
        to_pod(nat, "2.11", "1.11", dns(), family)
        for piece in fragments("1.11", "2.11", answer() / Raw(bytes(3000)), family):
            assert passes(nat.datapath.run("pod_egress", piece, "pod1"))

    def test_replies_of_masqueraded_pods(self, nat: State, family: int) -> None:
        """They are not masqueraded; the Pod's own connections are, also with a recorded port."""
        nat.masquerade()
        nat.pods(flags=POD_MASQUERADE)
        to_pod(nat, "8.7", "1.11", syn(), family)
        assert passes(from_pod(nat, "1.11", "8.7", tcp("SA", back=True), family))
        from_pod(nat, "1.11", SERVICE, syn(sport=80), family)
        assert not passes(from_pod(nat, "1.11", "8.8", syn(sport=80), family))


@FAMILIES
class TestNode:
    """The node itself: node ports and host ports."""

    def test_tcp_connections_of_the_node_need_no_record(self, nat: State, family: int) -> None:
        """Replies to the node pass to the stack anyway. Probes would displace others."""
        nat.datapath.run("pod_ingress", from_node(syn(), family), "pod1")
        assert entries(nat) == (0, 0)

    def test_tcp(self, nat: State, family: int) -> None:
        for flags, expected in (("SA", 0), ("A", 0), ("S", 1)):
            result = nat.datapath.run("pod_egress", to_node(tcp(flags), family), "pod1")
            assert result.counted == {"STACK_NOT_FORWARDED": 1}
            assert entries(nat) == (expected, 0)
        assert passes(from_wire(nat, BACKEND, "1.11", tcp("SA", back=True), family))

    def test_udp_replies_record_no_client(self, nat: State, family: int) -> None:
        """Otherwise all packets of a server that the node asks would pass to the stack."""
        nat.datapath.run("pod_ingress", from_node(dns(), family), "pod1")
        assert entries(nat) == (0, 1)
        assert passes(nat.datapath.run("pod_egress", to_node(answer(), family), "pod1"))
        assert entries(nat) == (0, 1)
        assert not passes(from_wire(nat, BACKEND, "1.11", dns(), family))

    def test_udp_requests_record_a_client(self, nat: State, family: int) -> None:
        nat.datapath.run("pod_egress", to_node(dns(), family), "pod1")
        assert entries(nat) == (1, 0)
        assert passes(from_wire(nat, BACKEND, "1.11", answer(), family))
        # in case it is a server that replied late, packets of others do not keep it recorded
        age(nat, "stack_clients", UDP_TIMEOUT - 1)
        assert passes(from_wire(nat, BACKEND, "1.11", answer(), family))
        age(nat, "stack_clients", 2)
        assert not passes(from_wire(nat, BACKEND, "1.11", answer(), family))
        # certainly a client
        from_pod(nat, "1.11", SERVICE, dns(), family)
        for dummy in range(2):
            nat.datapath.run("pod_egress", to_node(dns(), family), "pod1")
            age(nat, "stack_clients", UDP_TIMEOUT - 1)
            assert passes(from_wire(nat, BACKEND, "1.11", answer(), family))
            age(nat, "stack_clients", 2)
            assert passes(from_wire(nat, BACKEND, "1.11", answer(), family))


@FAMILIES
def test_masqueraded_pods_reach_services(nat: State, family: int) -> None:
    """The stack gets their packets with the Pod's address, whatever the route of the service is."""
    nat.masquerade()
    nat.pods(flags=POD_MASQUERADE)
    nat.cidr("10.31.8.0/24", 0, layout.CIDR_STACK_NAT)
    nat.cidr("fd31:8::/64", 0, layout.CIDR_STACK_NAT)
    for service in (SERVICE, "8.10"):
        assert passes(from_pod(nat, "1.11", service, syn(), family))
    # its reply comes to the Pod, not to the node
    assert passes(from_wire(nat, BACKEND, "1.11", tcp("SA", back=True), family))


@FAMILIES
def test_pods_without_a_masquerade_address_of_the_family(nat: State, family: int) -> None:
    """The stack would have to masquerade, so it does not get other packets from the port."""
    nat.masquerade()
    nat.pods(flags=POD_MASQUERADE)
    for buffer in (0, 1):
        value = masquerade.encode_node(None, None, (61000, 65535))
        bpf.map_update(nat.maps["node"], {layout.INDEX.pack(buffer): value})
    assert passes(from_pod(nat, "1.11", SERVICE, syn(), family))
    assert not passes(from_pod(nat, "1.11", CLIENT, syn(), family))


@FAMILIES
def test_services_of_the_programs_take_precedence(nat: State, family: int) -> None:
    nat.service(SERVICE, 80, TCP_, [("1.12", 80)], family)
    assert not passes(from_pod(nat, "1.11", SERVICE, syn(), family))
    assert passes(from_pod(nat, "1.11", SERVICE, syn(81), family))
    # the port is recorded, but the programs translate the reply
    result = from_pod(nat, "1.12", "1.11", tcp("SA", back=True), family)
    assert not passes(result)


@FAMILIES
def test_an_unknown_next_hop_is_resolved_without_the_stack(nat: State, family: int) -> None:
    """Netfilter, which sees the other packets of the connection nowhere, may drop it."""
    assert not passes(from_pod(nat, "1.11", "3.7", tcp("SA", back=True), family))
    nat.datapath.features = 0
    assert from_pod(nat, "1.11", "3.7", syn(), family).counted == {"STACK_NO_NEIGH": 1}


@FAMILIES
def test_other_sources_are_no_clients(nat: State, family: int) -> None:
    nat.device(POD_ANY_SOURCE)
    packet = frame("9.9", SERVICE, syn(), family)
    assert passes(nat.datapath.run("pod_egress", packet, "pod1"))
    assert entries(nat) == (0, 0)


@FAMILIES
def test_a_rate_applies_to_packets_that_the_stack_may_send_to_the_wire(nat: State, family: int) -> None:
    """The destination after the translation is unknown."""
    nat.device(rate=125_000)
    node = nat.datapath.run("pod_egress", to_node(syn(), family), "pod1")
    assert node.counted == {"STACK_NOT_FORWARDED": 1}
    departure = nat.next_departure()
    assert departure
    assert passes(from_pod(nat, "1.11", SERVICE, syn(), family))
    assert nat.next_departure() > departure
