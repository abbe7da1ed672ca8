# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Expiry, end, charge and peers of connections; fragments."""

from __future__ import annotations

import struct
import time

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import (
    IPv6,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from ansible_collections.podnet.datapath.plugins.module_utils._kernel import bpf
from tests.bpf.state import (
    ALLOW,
    BOTH,
    DENY,
    DENY_EGRESS,
    DENY_INGRESS,
    EGRESS,
    ENFORCE_EGRESS,
    ENFORCE_INGRESS,
    FAMILIES,
    HOST,
    INGRESS,
    LAST_SEEN,
    MAC,
    POD1,
    POD2,
    POD_ANY_SOURCE,
    REMOTE,
    TCP_,
    UDP_,
    State,
    age,
    echo,
    frame,
    from_pod,
    from_wire,
    syn,
    tcp,
    text,
)

FRAGMENT_TIMEOUT = 30  # fragments.h


CT_QUOTA = 16384  # ct.h


WORLD = 0  # enum identity


class TestTimeout:
    """Entries expire after the timeouts of ct.h, counted from their last packet."""

    @FAMILIES
    @pytest.mark.parametrize(
        ("packets", "timeout"),
        [
            ([tcp("S")], 60),
            ([tcp("S"), tcp("SA", back=True)], 8000),
            ([tcp("S"), tcp("SA", back=True), tcp("FA")], 8000),
            ([tcp("S"), tcp("SA", back=True), tcp("FA"), tcp("FA", back=True)], 60),
            ([tcp("S"), tcp("RA", back=True)], 60),
            ([UDP(sport=1234, dport=80)], 180),
            ([UDP(sport=1234, dport=80), UDP(sport=80, dport=1234)], 180),
        ],
        ids=["opening", "established", "half-closed", "closed", "refused", "unreplied", "replied"],
    )
    def test_replies_pass_until_the_timeout(
        self, state: State, family: int, packets: list[Packet], timeout: int
    ) -> None:
        state.pods(BOTH)
        state.rule(POD1, REMOTE, EGRESS, (0, ALLOW, 80, 80))
        # cached: a new generation would apply policy to each packet again
        for packet in packets:
            data = frame("1.11", "2.11", packet, family) if packet.dport == 80 else None
            if data:
                state.datapath.run("pod_egress", data, "pod1", cached=True)
            else:
                data = frame("2.11", "1.11", packet, family)
                state.datapath.run("host_ingress", data, cached=True)
        reply = frame("2.11", "1.11", type(packets[0])(sport=80, dport=1234), family)
        if packets[0].name == "TCP":
            reply = frame("2.11", "1.11", tcp("A", back=True), family)
        kept = bpf.map_read(state.maps["connections"])
        for older, counted in ((timeout - 5, "INBOUND"), (timeout + 5, "DROP_POLICY_INGRESS")):
            bpf.map_update(state.maps["connections"], kept)
            age(state, "connections", older, LAST_SEEN)
            time.sleep(0.05)  # the flow cache expires
            assert state.datapath.run("host_ingress", reply, cached=True).counted == {counted: 1}

    def test_a_late_fragment(self, state: State) -> None:
        state.pods(0, ENFORCE_INGRESS | DENY_INGRESS)
        state.rule(POD2, POD1, INGRESS, (UDP_, ALLOW, 53, 53))
        first = UDP(dport=53, len=200) / Raw(bytes(72))
        later = {"frag": 10, "proto": UDP_, "id": 5}
        assert from_pod(state, "1.11", "1.12", first, 4, flags="MF", id=5).counted == {"LOCAL": 1}
        for older, counted in ((FRAGMENT_TIMEOUT - 5, "LOCAL"), (10, "DROP_FRAG_NOT_FOUND")):
            age(state, "fragments", older)
            assert from_pod(state, "1.11", "1.12", Raw(bytes(64)), 4, **later).counted == {counted: 1}


class TestClose:
    @FAMILIES
    def test_policy_applies_to_reused_ports_in_the_other_direction(self, state: State, family: int) -> None:
        """After a FIN, a SYN on the same ports is a new connection, which policy denies from the wire."""
        state.pods(BOTH)
        state.rule(POD1, REMOTE, EGRESS, (TCP_, ALLOW, 80, 80))
        assert from_pod(state, "1.11", "2.11", tcp("S"), family).counted == {"REMOTE": 1}
        assert from_wire(state, "2.11", "1.11", tcp("S", back=True), family).counted == {"INBOUND": 1}
        assert from_pod(state, "1.11", "2.11", tcp("FA"), family).counted == {"REMOTE": 1}
        assert from_wire(state, "2.11", "1.11", tcp("A", back=True), family).counted == {"INBOUND": 1}
        assert from_wire(state, "2.11", "1.11", tcp("S", back=True), family).counted == {
            "DROP_POLICY_INGRESS": 1
        }
        # the client of the last connection may open another
        assert from_pod(state, "1.11", "2.11", tcp("S"), family).counted == {"REMOTE": 1}
        assert from_wire(state, "2.11", "1.11", tcp("SA", back=True), family).counted == {"INBOUND": 1}

    @FAMILIES
    def test_policy_applies_to_a_syn_after_a_reset(self, state: State, family: int) -> None:
        """Also if the server sent other packets since: its reset may have been outside the window."""
        state.pods(BOTH)
        state.rule(POD1, REMOTE, EGRESS, (TCP_, ALLOW, 80, 80))
        assert from_pod(state, "1.11", "2.11", tcp("S"), family).counted == {"REMOTE": 1}
        for flags, counted in (
            ("SA", "INBOUND"),
            ("RA", "INBOUND"),
            ("A", "INBOUND"),
            ("S", "DROP_POLICY_INGRESS"),
        ):
            found = from_wire(state, "2.11", "1.11", tcp(flags, back=True), family)
            assert found.counted == {counted: 1}

    @FAMILIES
    def test_a_forged_reset_ends_no_idle_connection(self, state: State, family: int) -> None:
        """Whoever guesses addresses and ports can send it; the client ignores it outside its window."""
        state.pods(BOTH)
        state.rule(POD1, REMOTE, EGRESS, (TCP_, ALLOW, 80, 80))
        from_pod(state, "1.11", "2.11", tcp("S"), family)
        from_wire(state, "2.11", "1.11", tcp("SA", back=True), family)
        from_pod(state, "1.11", "2.11", tcp("A"), family)
        assert from_wire(state, "2.11", "1.11", tcp("R", back=True), family).counted == {"INBOUND": 1}
        age(state, "connections", 7200, LAST_SEEN)
        assert from_pod(state, "1.11", "2.11", tcp("A"), family).counted == {"REMOTE": 1}

    @FAMILIES
    @pytest.mark.parametrize("revoked", [EGRESS, INGRESS])
    def test_both_directions_of_an_unknown_start(self, state: State, family: int, revoked: int) -> None:
        """Policy was declared under traffic, and the server sent first: it is not the client."""
        rules = {EGRESS: (TCP_, ALLOW, 80, 80), INGRESS: (TCP_, ALLOW, 1234, 1234)}
        state.pods(BOTH)
        for direction, ports in rules.items():
            state.rule(POD1, REMOTE, direction, ports)
        assert from_wire(state, "2.11", "1.11", tcp("A", back=True), family).counted == {"INBOUND": 1}
        assert from_pod(state, "1.11", "2.11", tcp("A"), family).counted == {"REMOTE": 1}
        state.rule(POD1, REMOTE, revoked)
        counted = "DROP_POLICY_EGRESS" if revoked == EGRESS else "DROP_POLICY_INGRESS"
        assert from_pod(state, "1.11", "2.11", tcp("A"), family).counted == {counted: 1}
        assert from_wire(state, "2.11", "1.11", tcp("A", back=True), family).counted == {counted: 1}

    @FAMILIES
    @pytest.mark.parametrize("draining", [(), (1,)], ids=["removed", "draining"])
    def test_a_client_that_forgot_its_connection_leaves_its_backend(
        self, state: State, family: int, draining: tuple[int, ...]
    ) -> None:
        state.service("9.10", 80, TCP_, [("2.11", 80), ("2.12", 80)], family)
        state.table([1])
        assert Ether(from_pod(state, "1.11", "9.10", tcp("S"), family).packet)[1].dst == text("2.11", family)
        assert from_wire(state, "2.11", "1.11", tcp("SA", back=True), family).counted == {"INBOUND": 1}
        state.table([2], draining)
        assert Ether(from_pod(state, "1.11", "9.10", tcp("A"), family).packet)[1].dst == text("2.11", family)
        assert Ether(from_pod(state, "1.11", "9.10", tcp("S"), family).packet)[1].dst == text("2.12", family)

    @FAMILIES
    @pytest.mark.usefixtures("one_cpu")
    @pytest.mark.parametrize("flags", ["FA", "RA"])
    def test_a_fin_is_tracked_despite_the_flow_cache(self, state: State, family: int, flags: str) -> None:
        state.pods(BOTH)
        state.rule(POD1, POD2, EGRESS, (TCP_, ALLOW, 80, 80))
        packets = [frame("1.11", "1.12", tcp(f), family) for f in ("S", "A", "A", flags)]
        for number, packet in enumerate(packets):
            found = state.datapath.run("pod_egress", packet, "pod1", cached=number > 0)
            assert found.counted == {"LOCAL": 1}
        back = frame("1.12", "1.11", tcp("S", back=True), family)
        found = state.datapath.run("pod_egress", back, "pod2", cached=True)
        assert found.counted == {"DROP_POLICY_INGRESS": 1}

    @FAMILIES
    @pytest.mark.usefixtures("one_cpu")
    def test_another_source_port_is_not_cached(self, state: State, family: int) -> None:
        """A Pod sends with one port to a server and to a service of it."""
        state.masquerade(61000, 61999)
        state.pods()
        state.service("9.10", 80, UDP_, [("2.11", 80)], family)
        from_pod(state, "1.11", "9.10", UDP(sport=1234, dport=80), family)
        direct = frame("1.11", "2.11", UDP(sport=1234, dport=80), family)
        found = [state.datapath.run("pod_egress", direct, "pod1", cached=number > 0) for number in range(2)]
        ports = {Ether(one.packet)[UDP].sport for one in found}
        assert len(ports) == 1 and 1234 not in ports


class TestPeers:
    """A connection keeps the identity of a peer that is no Pod's address, whoever sends next."""

    NODE, VIA_NODE = {4: "172.31.0.1", 6: "fd31::1"}, 21

    def packet(self, family: int, payload: Packet, *, to_node: bool) -> bytes:
        header = (IP if family == 4 else IPv6)()
        header.src, header.dst = text("1.11", family), self.NODE[family]
        if not to_node:
            header.src, header.dst = header.dst, header.src
        return bytes(Ether(dst=MAC) / header / payload)

    @FAMILIES
    @pytest.mark.parametrize("host", [True, False], ids=["the node", "forwarded"])
    def test_client_with_the_address_of_the_node(self, state: State, family: int, host: bool) -> None:
        """Others reach Pods with that address by SNAT of the node, as NodePort does."""
        state.pods(BOTH)
        state.cidr(f"{self.NODE[family]}/{32 if family == 4 else 128}", self.VIA_NODE)
        state.rule(POD1, HOST if host else self.VIA_NODE, INGRESS, (UDP_, ALLOW, 80, 80))
        request = self.packet(family, UDP(sport=1234, dport=80), to_node=False)
        reply = self.packet(family, UDP(sport=80, dport=1234), to_node=True)
        device = 0 if host else state.pod2
        for dummy in range(2):
            found = state.datapath.run("pod_ingress", request, "pod1", ingress_ifindex=device)
            assert found.counted == {"HOST": 1}
            found = state.datapath.run("pod_egress", reply, "pod1")
            assert found.counted == {"STACK_NOT_FORWARDED": 1}

    @FAMILIES
    @pytest.mark.parametrize("host", [True, False], ids=["the node", "forwarded"])
    def test_server_with_the_address_of_the_node(self, state: State, family: int, host: bool) -> None:
        """The node may forward to another host by DNAT, whose replies it forwards."""
        state.pods(BOTH)
        state.rule(POD1, HOST, EGRESS, (UDP_, ALLOW, 80, 80))
        request = self.packet(family, UDP(sport=1234, dport=80), to_node=True)
        reply = self.packet(family, UDP(sport=80, dport=1234), to_node=False)
        device = 0 if host else state.pod2
        for dummy in range(2):
            found = state.datapath.run("pod_egress", request, "pod1")
            assert found.counted == {"STACK_NOT_FORWARDED": 1}
            found = state.datapath.run("pod_ingress", reply, "pod1", ingress_ifindex=device)
            assert found.counted == {"HOST": 1}

    @FAMILIES
    def test_the_wire_takes_no_part_in_connections_of_pods(self, state: State, family: int) -> None:
        """A host outside, which policy allows, does not admit a Pod by packets with its address."""
        state.pods(0, ENFORCE_INGRESS | DENY_INGRESS)
        state.rule(POD2, WORLD, INGRESS, (UDP_, ALLOW, 80, 80))
        packet = UDP(sport=1234, dport=80)
        spoofed = {"DROP_INVALID_SOURCE_IP": 1}
        assert from_wire(state, "1.11", "1.12", packet, family).counted == spoofed
        data = frame("1.11", "1.12", packet, family)
        found = state.datapath.run("pod_egress", data, "pod1", cached=True)
        assert found.counted == {"DROP_POLICY_INGRESS": 1}
        state.rule(POD2, POD1, INGRESS, (UDP_, ALLOW, 80, 80))
        assert from_pod(state, "1.11", "1.12", packet, family).counted == {"LOCAL": 1}
        assert from_wire(state, "1.11", "1.12", packet, family).counted == spoofed

    @FAMILIES
    def test_client_behind_a_pod(self, state: State, family: int) -> None:
        """It has the identity of the Pod that it sends through, not that of its address."""
        state.device(flags=POD_ANY_SOURCE)
        state.pods(enforce2=ENFORCE_INGRESS | DENY_INGRESS)
        state.rule(POD2, POD1, INGRESS, (UDP_, ALLOW, 80, 80))
        request = frame("20.1", "1.12", UDP(sport=1234, dport=80), family)
        for dummy in range(2):
            assert state.datapath.run("pod_egress", request, "pod1").counted == {"LOCAL": 1}
            found = from_pod(state, "1.12", "20.1", UDP(sport=80, dport=1234), family)
            assert found.counted == {"STACK_NO_NEIGH": 1}
        # revoked, although policy allows its address: the server does not admit it by a reply
        state.rule(POD2, POD1, INGRESS)
        state.rule(POD2, WORLD, INGRESS, (UDP_, ALLOW, 80, 80))
        found = from_pod(state, "1.12", "20.1", UDP(sport=80, dport=1234), family)
        assert found.counted == {"DROP_POLICY_INGRESS": 1}
        # no Pod has this device any more: policy for its address applies
        state.remove("pods")
        found = from_pod(state, "1.12", "20.1", UDP(sport=80, dport=1234), family)
        assert found.counted == {"STACK_NO_NEIGH": 1}


class TestNewPods:
    """A Pod that gets the address of another one does not take over its connections."""

    @FAMILIES
    @pytest.mark.parametrize("new", ["client", "server"])
    @pytest.mark.parametrize(("later", "counted"), [(1, "DROP_POLICY_EGRESS"), (-1, "LOCAL")])
    def test_replies(self, state: State, family: int, new: str, later: int, counted: str) -> None:
        state.pods(BOTH, BOTH)
        state.rule(POD1, POD2, EGRESS, (UDP_, ALLOW, 80, 80))
        state.rule(POD2, POD1, INGRESS, (UDP_, ALLOW, 80, 80))
        assert from_pod(state, "1.11", "1.12", UDP(sport=1, dport=80), family).counted == {"LOCAL": 1}
        since = state.datapath.generation + later
        if new == "client":
            state.datapath.endpoint(11, state.pod1, POD1, BOTH, 1, since=since)
        else:
            state.datapath.endpoint(12, state.pod2, POD2, BOTH, 2, since=since)
        reply = from_pod(state, "1.12", "1.11", UDP(sport=80, dport=1), family)
        assert reply.counted == {counted: 1}


class TestNode:
    """Policy for the node applies to packets that the stack delivers to it, by any address."""

    @FAMILIES
    @pytest.mark.parametrize("kind", ["udp", "tcp", "reset"])
    @pytest.mark.parametrize("known", [False, True], ids=["by route", "by address"])
    @pytest.mark.parametrize("ttl", [64, 1])
    @pytest.mark.parametrize("denied", [False, True], ids=["allowed", "denied"])
    def test_to_the_node(
        self, state: State, family: int, kind: str, known: bool, ttl: int, denied: bool
    ) -> None:
        state.pods(ENFORCE_EGRESS)
        if known:
            state.cidr(f"{TestPeers.NODE[family]}/{32 if family == 4 else 128}", HOST)
        payload = {"udp": UDP(), "tcp": tcp("S"), "reset": tcp("R")}[kind]
        header = (IP if family == 4 else IPv6)(src=text("1.11", family), dst=TestPeers.NODE[family])
        header.setfieldval("ttl" if family == 4 else "hlim", ttl)
        packet = bytes(Ether(dst=MAC) / header / payload)
        if denied:
            state.rule(POD1, HOST, EGRESS, verdict=DENY)
        for dummy in range(2):
            result = state.datapath.run("pod_egress", packet, "pod1")
            passed = "STACK_TTL" if ttl == 1 else "STACK_NOT_FORWARDED"
            assert result.counted == {"DROP_POLICY_EGRESS" if denied else passed: 1}

    @FAMILIES
    @pytest.mark.parametrize("dst", ["2.11", "8.1"], ids=["pod", "other"])
    def test_an_expired_packet_to_others(self, state: State, family: int, dst: str) -> None:
        state.pods(ENFORCE_EGRESS)
        state.rule(POD1, HOST, EGRESS, verdict=DENY)
        expired = {"ttl" if family == 4 else "hlim": 1}
        assert from_pod(state, "1.11", dst, UDP(), family, **expired).counted == {"STACK_TTL": 1}

    @FAMILIES
    def test_without_forwarding_all_packets_are_to_the_node(self, state: State, family: int) -> None:
        with state.datapath.inside():
            closed = state.datapath.ifindex("closed")
        state.datapath.endpoint(15, closed, POD1, ENFORCE_EGRESS, 1)
        state.rule(POD1, HOST, EGRESS, verdict=DENY)
        try:
            packet = frame("1.15", "8.1", UDP(), family)
            result = state.datapath.run("pod_egress", packet, "closed")
            assert result.counted == {"DROP_POLICY_EGRESS": 1}
        finally:
            state.datapath.endpoint(15, closed)

    @FAMILIES
    def test_others_have_no_policy_of_the_node(self, state: State, family: int) -> None:
        """The route shows whether a denied destination is the node."""
        state.pods(ENFORCE_EGRESS | DENY_EGRESS)
        state.rule(POD1, HOST, EGRESS, verdict=ALLOW)
        denied = {"DROP_POLICY_EGRESS": 1}
        assert from_pod(state, "1.11", "8.1", UDP(sport=1, dport=80), family).counted == denied
        state.pods(BOTH)
        state.rule(POD1, WORLD, INGRESS, (UDP_, ALLOW, 80, 80))
        assert from_wire(state, "8.1", "1.11", UDP(sport=1, dport=80), family).counted == {"INBOUND": 1}
        state.rule(POD1, WORLD, INGRESS)
        reply = from_pod(state, "1.11", "8.1", UDP(sport=80, dport=1), family)
        assert reply.counted == {"DROP_POLICY_INGRESS": 1}


class TestQuota:
    """Each Pod displaces only its own records, the least valuable first."""

    @staticmethod
    def repeat_places(state: State, slot: int = 1) -> None:
        """Allocate the same places again."""
        value = struct.pack("=III", CT_QUOTA, 0, 0)
        bpf.map_update(state.maps["ct_slots"], {struct.pack("=I", slot): value})

    @staticmethod
    def places(state: State) -> dict[int, int]:
        """Return the client's port by place."""
        return {
            struct.unpack("=I", key)[0]: int.from_bytes(value[16:18], "big")
            for key, value in bpf.map_read(state.maps["connections"]).items()
        }

    @FAMILIES
    def test_a_displaced_connection_leaves_no_tuple(self, state: State, family: int) -> None:
        """They would displace the tuples of other Pods' connections."""
        state.pods(BOTH)
        state.rule(POD1, REMOTE, EGRESS, verdict=ALLOW)
        state.service("9.10", 80, UDP_, [("2.11", 80)], family)
        for port in range(1, 6):
            self.repeat_places(state)
            for payload, target in (
                (UDP(sport=port, dport=80), "9.10"),
                (tcp("S"), "2.11"),
                (echo(family, number=port), "2.11"),
            ):
                assert from_pod(state, "1.11", target, payload, family).counted == {"REMOTE": 1}
            age(state, "connections", 10000, LAST_SEEN)
        assert len(bpf.map_read(state.maps["connections"])) == 3
        assert len(bpf.map_read(state.maps[f"ct{family}"])) == 4

    @FAMILIES
    def test_a_pod_is_charged_for_any_source(self, state: State, family: int) -> None:
        """Else it displaces the connections of the Pod that it sends to."""
        state.device(flags=POD_ANY_SOURCE)
        state.pods(enforce2=ENFORCE_INGRESS)
        data = frame("9.9", "1.12", UDP(sport=1, dport=80), family)
        assert state.datapath.run("pod_egress", data, "pod1").counted == {"LOCAL": 1}
        assert [place // CT_QUOTA for place in self.places(state)] == [1]

    @FAMILIES
    def test_a_flood_of_syn_displaces_no_idle_connection(self, state: State, family: int) -> None:
        """The Pod answers each SYN, but no client goes on."""
        state.pods(BOTH)
        state.rule(POD1, REMOTE, INGRESS, (TCP_, ALLOW, 80, 80))
        self.repeat_places(state)
        for port in range(1, 10):
            for sport, dport, flags in (
                (port, 80, "S"),
                (80, port, "SA"),
                *([(port, 80, "A")] if port == 1 else []),
            ):
                payload = TCP(sport=sport, dport=dport, flags=flags)
                if dport == 80:
                    assert from_wire(state, "2.11", "1.11", payload, family).counted == {"INBOUND": 1}
                else:
                    assert from_pod(state, "1.11", "2.11", payload, family).counted == {"REMOTE": 1}
            if port == 1:
                age(state, "connections", 1000, LAST_SEEN)
            if port == 8:
                self.repeat_places(state)
        assert sorted(self.places(state).values()) == [1, 3, 4, 5, 6, 7, 8, 9]

    @FAMILIES
    @pytest.mark.parametrize("worthless", ["closed", "unreplied"])
    def test_the_least_valuable_record_is_displaced(self, state: State, family: int, worthless: str) -> None:
        state.pods(BOTH)
        state.rule(POD1, REMOTE, EGRESS, (TCP_, ALLOW, 80, 80))
        self.repeat_places(state)
        for port in range(1, 9):
            from_pod(state, "1.11", "2.11", syn(sport=port), family)
            if port != 5 or worthless == "closed":
                from_wire(state, "2.11", "1.11", TCP(sport=80, dport=port, flags="SA"), family)
        if worthless == "closed":
            from_pod(state, "1.11", "2.11", TCP(sport=5, dport=80, flags="R"), family)
        self.repeat_places(state)
        assert from_pod(state, "1.11", "2.11", syn(sport=9), family).counted == {"REMOTE": 1}
        assert sorted(self.places(state).values()) == [1, 2, 3, 4, 6, 7, 8, 9]

    @FAMILIES
    @pytest.mark.parametrize("other", ["of another record", "discarded"])
    def test_a_displaced_connection_keeps_tuples_that_are_not_its_own(
        self, state: State, family: int, other: str
    ) -> None:
        """A new connection with the same ports has another record."""
        state.pods(BOTH)
        state.rule(POD1, REMOTE, EGRESS, (TCP_, ALLOW, 80, 80))
        self.repeat_places(state)
        for flags in ("S", "R", "S"):
            assert from_pod(state, "1.11", "2.11", tcp(flags), family).counted == {"REMOTE": 1}
        tuples = bpf.map_read(state.maps[f"ct{family}"])
        assert (len(tuples), list(self.places(state).values())) == (1, [1234, 1234])
        if other == "discarded":
            bpf.map_delete(state.maps[f"ct{family}"], list(tuples))
        age(state, "connections", 100, LAST_SEEN)
        if other == "of another record":
            assert from_pod(state, "1.11", "2.11", tcp("S"), family).counted == {"REMOTE": 1}
            tuples = bpf.map_read(state.maps[f"ct{family}"])
        self.repeat_places(state)
        assert from_pod(state, "1.11", "2.11", syn(sport=9), family).counted == {"REMOTE": 1}
        kept = bpf.map_read(state.maps[f"ct{family}"])
        assert len(kept) == (2 if other == "of another record" else 1)
        assert (tuples.items() <= kept.items()) == (other == "of another record")
