# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Expiry and end of connections, fragments and NAT mappings, and ICMP errors."""

from __future__ import annotations

import ipaddress
import struct
import time

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPerror, UDPerror
from scapy.layers.inet6 import ICMPv6DestUnreach, IPerror6, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from ansible_collections.podnet.datapath.plugins.module_utils._datapath import masquerade
from ansible_collections.podnet.datapath.plugins.module_utils._kernel import bpf
from tests.bpf.state import (
    ALLOW,
    DENY,
    DENY_EGRESS,
    DENY_INGRESS,
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
    POD_MASQUERADE,
    REMOTE,
    TCP_,
    UDP_,
    State,
    echo,
    frame,
    from_pod,
    from_wire,
    syn,
    text,
    valid,
)

BOTH = ENFORCE_EGRESS | ENFORCE_INGRESS | DENY_EGRESS | DENY_INGRESS
LAST_SEEN = 84  # ct.h: offset in struct connection
# ct.h: offset of `tuple` in the keys of ct4 and ct6, and its value for reply tuples
KEY_TUPLE, CT_REPLY = {4: 13, 6: 37}, 1
FRAGMENT_TIMEOUT = 30  # fragments.h
CT_QUOTA = 16384  # ct.h
WORLD = 0  # enum identity


def age(state: State, name: str, seconds: int, offset: int = 0) -> None:
    """Age all entries of a map by ``seconds``; ``offset``: of last_seen in the value."""
    aged = {}
    for key, value in bpf.map_read(state.maps[name]).items():
        seen = struct.unpack_from("=I", value, offset)[0]
        aged[key] = value[:offset] + struct.pack("=I", (seen - seconds) % 2**32) + value[offset + 4 :]
    assert aged
    bpf.map_update(state.maps[name], aged)


def tcp(flags: str, back: bool = False) -> Packet:
    ports = (80, 1234) if back else (1234, 80)
    return TCP(sport=ports[0], dport=ports[1], flags=flags)


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
    def test_a_client_that_forgot_its_connection_leaves_a_removed_backend(
        self, state: State, family: int
    ) -> None:
        state.service("9.10", 80, TCP_, [("2.11", 80)], family)
        assert Ether(from_pod(state, "1.11", "9.10", tcp("S"), family).packet)[1].dst == text("2.11", family)
        assert from_wire(state, "2.11", "1.11", tcp("SA", back=True), family).counted == {"INBOUND": 1}
        state.service("9.10", 80, TCP_, [("2.12", 80)], family)
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


class TestMasqueradePort:
    OUTSIDE = {4: "172.31.0.1", 6: "fd31::1"}

    @FAMILIES
    def test_a_discarded_reply_tuple_is_added_again(self, state: State, family: int) -> None:
        """It is the least recently used one while only the Pod sends."""
        state.masquerade()
        state.pods(flags=POD_MASQUERADE)
        data = frame("1.11", "8.1", UDP(sport=1234, dport=53), family)
        first = valid(state.datapath.run("pod_egress", data, "pod1").packet)
        name = f"ct{family}"
        discarded = [key for key in bpf.map_read(state.maps[name]) if key[KEY_TUPLE[family]] == CT_REPLY]
        assert len(discarded) == 1
        bpf.map_delete(state.maps[name], discarded)
        age(state, "connections", 2, LAST_SEEN)
        again = valid(state.datapath.run("pod_egress", data, "pod1").packet)
        assert (again[1].src, again[UDP].sport) == (self.OUTSIDE[family], first[UDP].sport)
        assert discarded[0] in bpf.map_read(state.maps[name])

    @FAMILIES
    def test_a_discarded_original_tuple_is_added_again(self, state: State, family: int) -> None:
        """It is the least recently used one while only the server sends."""
        state.masquerade(61000, 61000)
        state.pods(flags=POD_MASQUERADE)
        from_pod(state, "1.11", "8.1", UDP(sport=1234, dport=53), family)
        name = f"ct{family}"
        tuples = bpf.map_read(state.maps[name])
        original = [key for key in tuples if key[KEY_TUPLE[family]] != CT_REPLY]
        bpf.map_delete(state.maps[name], original)
        for dummy in range(2):
            age(state, "connections", 2, LAST_SEEN)
            reply = self.to_node(family, UDP(sport=53, dport=61000))
            assert state.datapath.run("host_ingress", reply).counted == {"INBOUND": 1}
            assert bpf.map_read(state.maps[name]) == tuples

    def to_node(self, family: int, payload: Packet) -> bytes:
        """Return a packet of the server to the node's external address."""
        header = (IP if family == 4 else IPv6)(src=text("8.1", family), dst=self.OUTSIDE[family])
        return bytes(Ether(dst=MAC) / header / payload)

    @FAMILIES
    @pytest.mark.parametrize("expired", [False, True], ids=["discarded", "expired"])
    def test_the_port_of_a_connection_without_record_is_free(
        self, state: State, family: int, expired: bool
    ) -> None:
        state.masquerade(61000, 61000)
        state.pods(flags=POD_MASQUERADE)
        assert from_pod(state, "1.11", "8.1", UDP(sport=1, dport=53), family).counted == {"REMOTE": 1}
        if expired:
            age(state, "connections", 200, LAST_SEEN)
        else:
            bpf.map_delete(state.maps["connections"], list(bpf.map_read(state.maps["connections"])))
        result = from_pod(state, "1.11", "8.1", UDP(sport=2, dport=53), family)
        assert valid(result.packet)[UDP].sport == 61000
        back = state.datapath.run("host_ingress", self.to_node(family, UDP(sport=53, dport=61000)))
        assert valid(back.packet)[UDP].dport == 2

    @FAMILIES
    def test_a_reset_frees_the_port(self, state: State, family: int) -> None:
        """Even that of a connection that both sides used."""
        state.masquerade(61000, 61000)
        state.pods(flags=POD_MASQUERADE)
        reply = self.to_node(family, TCP(sport=80, dport=61000, flags="A"))
        for flags in ("S", "A", "R"):
            assert from_pod(state, "1.11", "8.1", tcp(flags), family).counted == {"REMOTE": 1}
            if flags != "R":
                assert state.datapath.run("host_ingress", reply).counted == {"INBOUND": 1}
        age(state, "connections", 62, LAST_SEEN)
        assert state.datapath.run("host_ingress", reply).counted == {"STACK_NO_ENDPOINT": 1}

    @FAMILIES
    @pytest.mark.parametrize("ports", [(60000, 60999), (61001, 62000)], ids=["below", "above"])
    def test_ports_outside_of_the_range_are_the_nodes(
        self, state: State, family: int, ports: tuple[int, int]
    ) -> None:
        state.masquerade(61000, 61000)
        state.pods(flags=POD_MASQUERADE)
        from_pod(state, "1.11", "8.1", UDP(sport=1234, dport=53), family)
        reply = self.to_node(family, UDP(sport=53, dport=61000))
        assert state.datapath.run("host_ingress", reply).counted == {"INBOUND": 1}
        state.masquerade(*ports)
        result = state.datapath.run("host_ingress", reply)
        assert (result.counted, result.packet) == ({"STACK_NO_ENDPOINT": 1}, reply)

    @FAMILIES
    def test_no_ports(self, state: State, family: int) -> None:
        state.masquerade(61000, 60999)
        state.pods(flags=POD_MASQUERADE)
        assert from_pod(state, "1.11", "8.1", UDP(), family).counted == {"DROP_NAT_NO_MAPPING": 1}

    @FAMILIES
    @pytest.mark.parametrize("count", [512, 16384], ids=["one port", "32 ports"])
    def test_each_pod_has_a_window(self, state: State, family: int, count: int) -> None:
        """A Pod that occupies all shared ports and its window leaves the others theirs."""
        first = 65536 - count
        state.masquerade(first, 65535)
        state.pods(flags=POD_MASQUERADE)
        state.datapath.endpoint(12, state.pod2, POD2, 0, 2, POD_MASQUERADE)
        result = from_pod(state, "1.11", "8.1", syn(), family)
        port = valid(result.packet)[TCP].sport.to_bytes(2, "big")
        name = f"ct{family}"
        ((key, value),) = (
            item for item in bpf.map_read(state.maps[name]).items() if item[0][KEY_TUPLE[family]] == CT_REPLY
        )
        at = KEY_TUPLE[family] - 5
        at += 0 if key[at : at + 2] == port else 2
        window = count // 512
        shared = count - 128 * window
        last = first + shared + 3 * window - 1  # of slot 2
        occupied = set(range(first, 65536)) - {last}
        filled = {key[:at] + number.to_bytes(2, "big") + key[at + 2 :]: value for number in occupied}
        bpf.map_update(state.maps[name], filled)
        denied = from_pod(state, "1.11", "8.1", syn(sport=2), family)
        assert denied.counted == {"DROP_NAT_NO_MAPPING": 1}
        found = from_pod(state, "1.12", "8.1", syn(sport=2), family)
        assert valid(found.packet)[TCP].sport == last

    @FAMILIES
    def test_the_nodes_address_changes(self, state: State, family: int) -> None:
        """The connection gets the new address, and after a second change its former port again."""
        state.masquerade()
        state.pods(flags=POD_MASQUERADE)
        found = []
        for number in (1, 99, 1):
            address4, address6 = (
                ipaddress.IPv4Address(f"172.31.0.{number}"),
                ipaddress.IPv6Address(f"fd31::{number}"),
            )
            for buffer in (0, 1):
                value = masquerade.encode_node(address4, address6, (61000, 65535))
                bpf.map_update(state.maps["node"], {struct.pack("=I", buffer): value})
            packet = valid(from_pod(state, "1.11", "8.1", UDP(sport=1234, dport=53), family).packet)
            assert packet[1].src == str(address4 if family == 4 else address6)
            found.append(packet[UDP].sport)
        assert found[0] == found[2]

    @FAMILIES
    def test_a_reset_without_connection_is_dropped(self, state: State, family: int) -> None:
        """It has no port, and must not leave with the Pod's address."""
        state.masquerade()
        state.pods(flags=POD_MASQUERADE)
        assert from_pod(state, "1.11", "8.1", tcp("R"), family).counted == {"DROP_NAT_FAILED": 1}
        assert not bpf.map_read(state.maps["connections"])

    @FAMILIES
    def test_an_unresolved_next_hop(self, state: State, family: int) -> None:
        """The stack would not translate the packet."""
        state.masquerade()
        state.pods(flags=POD_MASQUERADE)
        result = from_pod(state, "1.11", "3.11", UDP(), family)
        assert (result.counted, Ether(result.packet)[1].src) == ({"REMOTE": 1}, self.OUTSIDE[family])

    @FAMILIES
    def test_a_port_changes_its_owner_completely(self, state: State, family: int) -> None:
        """A Pod that reset its connection cannot send into the connection that got the port."""
        state.masquerade(61000, 61000)
        state.pods(flags=POD_MASQUERADE)
        assert from_pod(state, "1.11", "8.1", TCP(sport=1, dport=80, flags="S"), family).counted == {
            "REMOTE": 1
        }
        no_port = from_pod(state, "1.11", "8.1", TCP(sport=2, dport=80, flags="S"), family)
        assert no_port.counted == {"DROP_NAT_NO_MAPPING": 1}
        from_pod(state, "1.11", "8.1", TCP(sport=1, dport=80, flags="R"), family)
        taken = from_pod(state, "1.11", "8.1", TCP(sport=2, dport=80, flags="S"), family)
        assert valid(taken.packet)[TCP].sport == 61000
        late = from_pod(state, "1.11", "8.1", TCP(sport=1, dport=80, flags="PA"), family)
        assert late.counted == {"DROP_NAT_NO_MAPPING": 1}
        reply = frame("8.1", "1.11", TCP(sport=80, dport=61000, flags="SA"), family)
        header = IP if family == 4 else IPv6
        answer = Ether(reply)
        answer[header].dst = self.OUTSIDE[family]
        for layer in (IP, TCP):
            if layer in answer:
                del answer[layer].chksum
        back = state.datapath.run("host_ingress", bytes(answer))
        assert valid(back.packet)[TCP].dport == 2

    @FAMILIES
    def test_node_without_address_of_the_family(self, state: State, family: int) -> None:
        state.masquerade()
        for buffer in (0, 1):
            key = struct.pack("=I", buffer)
            bpf.map_update(state.maps["node"], {key: struct.pack("=4sHH16s", b"", 61000, 65535, b"")})
        state.pods(flags=POD_MASQUERADE)
        result = from_pod(state, "1.11", "8.1", UDP(sport=1234, dport=53), family)
        assert result.counted == {"REMOTE": 1}
        assert Ether(result.packet)[1].src == text("1.11", family)

    @FAMILIES
    @pytest.mark.parametrize(
        ("packets", "idle", "counted"),
        [
            ([tcp("S"), tcp("A")], 50, "DROP_NAT_NO_MAPPING"),
            ([UDP(sport=1234, dport=80)], 40, "REMOTE"),
            ([UDP(sport=1234, dport=80)], 20, "DROP_NAT_NO_MAPPING"),
            ([UDP(sport=1234, dport=80), UDP(sport=80, dport=61000)] * 2, 40, "DROP_NAT_NO_MAPPING"),
        ],
        ids=["open", "one request", "recent request", "stream"],
    )
    def test_a_port_has_one_connection(
        self, state: State, family: int, packets: list[Packet], idle: int, counted: str
    ) -> None:
        """Another connection gets it only after a request that nothing followed; the former one loses it."""
        state.masquerade(61000, 61000)
        state.pods(flags=POD_MASQUERADE)
        for payload in packets:
            if payload.dport == 80:
                assert from_pod(state, "1.11", "8.1", payload, family).counted == {"REMOTE": 1}
            else:
                header = (IP if family == 4 else IPv6)(src=text("8.1", family), dst=self.OUTSIDE[family])
                data = bytes(Ether(dst=MAC) / header / payload)
                assert state.datapath.run("host_ingress", data).counted == {"INBOUND": 1}
        age(state, "connections", idle, LAST_SEEN)
        kind = type(packets[0])
        second = syn(sport=4321) if kind is TCP else UDP(sport=4321, dport=80)
        assert from_pod(state, "1.11", "8.1", second, family).counted == {counted: 1}
        if counted == "REMOTE":
            found = from_pod(state, "1.11", "8.1", packets[0], family)
            assert found.counted == {"DROP_NAT_NO_MAPPING": 1}

    @FAMILIES
    def test_a_port_of_an_untranslated_connection(self, state: State, family: int) -> None:
        """Two connections to one server get different ports, also if the Pod uses them itself."""
        state.masquerade(61000, 61001)
        state.pods(BOTH)
        state.rule(POD1, REMOTE, EGRESS, (UDP_, ALLOW, 53, 53))
        state.service("9.10", 80, UDP_, [("2.11", 53)], family)
        used = set()
        for sport, target, dport in ((61000, "2.11", 53), (1, "2.11", 53), (1, "9.10", 80)):
            found = from_pod(state, "1.11", target, UDP(sport=sport, dport=dport), family)
            assert found.counted == {"REMOTE": 1}
            used.add(valid(found.packet)[UDP].sport)
        assert used == {1, 61000, 61001}

    @FAMILIES
    @pytest.mark.parametrize("service", [False, True], ids=["untranslated", "service"])
    def test_a_spare_port_of_the_pod(self, state: State, family: int, service: bool) -> None:
        """A Pod's port is free for another of its connections once its own is spare."""
        state.masquerade(61000, 61000)
        state.pods(BOTH)
        state.rule(POD1, REMOTE, EGRESS, (TCP_, ALLOW, 53, 53))
        state.service("9.10", 80, TCP_, [("2.11", 53)], family)
        where, dport = ("9.10", 80) if service else ("2.11", 53)
        for flags in ("S", "SA", "A", "R"):
            payload = TCP(sport=61000, dport=dport, flags=flags)
            if flags == "SA":
                payload = TCP(sport=53, dport=61000, flags=flags)
                assert from_wire(state, "2.11", "1.11", payload, family).counted == {"INBOUND": 1}
            else:
                assert from_pod(state, "1.11", where, payload, family).counted == {"REMOTE": 1}
        age(state, "connections", 1000, LAST_SEEN)
        assert from_pod(state, "1.11", "2.11", syn(53, 1), family).counted == {"REMOTE": 1}
        for dummy in range(2):
            found = from_pod(state, "1.11", "9.10", syn(80, 1), family)
            assert valid(found.packet)[TCP].sport == 61000

    @FAMILIES
    def test_two_services_with_one_backend(self, state: State, family: int) -> None:
        """The second connection of a Pod's port keeps that port if the first one is closed."""
        state.masquerade(61000, 61000)
        state.service("9.10", 80, TCP_, [("2.11", 53)], family)
        state.service("9.11", 80, TCP_, [("2.11", 53)], family)
        for where, flags, sport in (
            ("9.10", "S", 1),
            ("9.11", "S", 61000),
            ("9.11", "R", 61000),
            ("9.10", "R", 1),
        ):
            found = from_pod(state, "1.11", where, TCP(sport=1, dport=80, flags=flags), family)
            assert valid(found.packet)[TCP].sport == sport
        state.service("9.12", 80, TCP_, [("2.11", 53)], family)
        found = from_pod(state, "1.11", "9.12", syn(sport=1), family)
        assert valid(found.packet)[TCP].sport == 1
        back = from_wire(state, "2.11", "1.11", TCP(sport=53, dport=1, flags="SA"), family)
        assert Ether(back.packet)[1].src == text("9.12", family)

    @FAMILIES
    @pytest.mark.parametrize("enforce", [0, BOTH], ids=["no policy", "policy"])
    def test_a_direct_connection_after_that_of_a_service(
        self, state: State, family: int, enforce: int
    ) -> None:
        state.masquerade(61000, 61000)
        state.pods(enforce)
        state.rule(POD1, REMOTE, EGRESS, (UDP_, ALLOW, 53, 53))
        state.service("9.10", 80, UDP_, [("2.11", 53)], family)
        payload = UDP(sport=1, dport=53)
        assert from_pod(state, "1.11", "9.10", UDP(sport=1, dport=80), family).counted == {"REMOTE": 1}
        for dummy in range(2):
            found = from_pod(state, "1.11", "2.11", payload, family)
            assert valid(found.packet)[UDP].sport == 61000
        back = from_wire(state, "2.11", "1.11", UDP(sport=53, dport=61000), family)
        assert (Ether(back.packet)[1].src, Ether(back.packet)[UDP].dport) == (text("2.11", family), 1)


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


class TestTranslatedPackets:
    """On netkit a redirected packet passes the program of the receiver with its new addresses."""

    def pods(self, state: State, family: int) -> None:
        state.pods(BOTH, BOTH)
        state.rule(POD1, POD2, EGRESS, (UDP_, ALLOW, 53, 53))
        state.rule(POD2, POD1, INGRESS, (UDP_, ALLOW, 53, 53))
        state.service("9.10", 80, UDP_, [("1.12", 53)], family)

    @FAMILIES
    @pytest.mark.parametrize("direct", [False, True], ids=["service", "after a direct connection"])
    def test_both_directions(self, state: State, family: int, direct: bool) -> None:
        self.pods(state, family)
        if direct:
            state.masquerade()
            assert from_pod(state, "1.11", "1.12", UDP(sport=1, dport=53), family).counted == {"LOCAL": 1}
        request = from_pod(state, "1.11", "9.10", UDP(sport=1, dport=80), family)
        port = valid(request.packet)[UDP].sport
        assert (port != 1) == direct
        reply = from_pod(state, "1.12", "1.11", UDP(sport=53, dport=port), family)
        assert Ether(reply.packet)[1].src == text("9.10", family)
        for result, device in ((request, "pod2"), (reply, "pod1")):
            assert result.counted == {"LOCAL": 1}
            again = state.datapath.run("pod_ingress", result.packet, device, cached=True)
            assert (again.verdict, again.counted, again.packet) == (PASS, {"HOST": 1}, result.packet)

    @FAMILIES
    def test_a_service_before_a_direct_connection(self, state: State, family: int) -> None:
        """Each packet to the service has the tuple of the direct connection as the backend sees it."""
        self.pods(state, family)
        state.masquerade()
        request = from_pod(state, "1.11", "9.10", UDP(sport=1, dport=80), family)
        direct = from_pod(state, "1.11", "1.12", UDP(sport=1, dport=53), family)
        port = valid(direct.packet)[UDP].sport
        assert port != 1
        reply = from_pod(state, "1.12", "1.11", UDP(sport=53, dport=1), family)
        assert Ether(reply.packet)[1].src == text("9.10", family)
        direct_reply = from_pod(state, "1.12", "1.11", UDP(sport=53, dport=port), family)
        assert Ether(direct_reply.packet)[1].src == text("1.12", family)
        for result, device in ((request, "pod2"), (direct, "pod2"), (reply, "pod1"), (direct_reply, "pod1")):
            again = state.datapath.run("pod_ingress", result.packet, device, cached=True)
            assert (again.verdict, again.counted, again.packet) == (PASS, {"HOST": 1}, result.packet)

    @FAMILIES
    def test_between_pods(self, state: State, family: int) -> None:
        self.pods(state, family)
        request = from_pod(state, "1.11", "1.12", UDP(sport=1, dport=53), family)
        again = state.datapath.run("pod_ingress", request.packet, "pod2")
        assert (again.verdict, again.counted) == (PASS, {"HOST": 1})
        denied = frame("1.11", "1.12", UDP(sport=1, dport=54), family)
        result = state.datapath.run("pod_ingress", denied, "pod2")
        assert result.counted == {"DROP_POLICY_EGRESS": 1}

    @FAMILIES
    @pytest.mark.parametrize("enforce", [0, BOTH], ids=["no policy", "policy"])
    def test_an_address_of_no_pod(self, state: State, family: int, enforce: int) -> None:
        """The host routes it to the Pod, which forwards it."""
        state.pods(enforce)
        packet = frame("8.1", "20.1", UDP(), family)
        result = state.datapath.run("pod_ingress", packet, "pod1")
        assert (result.verdict, result.counted, result.packet) == (PASS, {"HOST": 1}, packet)

    @FAMILIES
    @pytest.mark.parametrize("reply", [False, True])
    def test_from_the_wire_they_are_forged(self, state: State, family: int, reply: bool) -> None:
        """The wire neither sends from a service nor to the backend of a connection inside the node."""
        state.device(flags=POD_ANY_SOURCE)
        self.pods(state, family)
        state.rule(POD1, 0, INGRESS, verdict=ALLOW)
        state.rule(POD2, 0, INGRESS, verdict=ALLOW)
        source = "1.11" if reply else "20.1"
        request = frame(source, "9.10", UDP(sport=1, dport=80), family)
        assert state.datapath.run("pod_egress", request, "pod1").counted == {"LOCAL": 1}
        if reply:
            forged = from_wire(state, "9.10", "1.11", UDP(sport=80, dport=1), family)
        else:
            forged = from_wire(state, "20.1", "1.12", UDP(sport=1, dport=53), family)
        assert forged.counted == {"DROP_INVALID_SOURCE_IP": 1}

    @FAMILIES
    def test_a_pod_to_its_own_address(self, state: State, family: int) -> None:
        """Only the ports distinguish the two directions."""
        state.pods(BOTH)
        state.rule(POD1, POD1, EGRESS, (UDP_, ALLOW, 80, 80))
        state.rule(POD1, POD1, INGRESS, (UDP_, ALLOW, 80, 80))
        ports = [(1234, 80, "LOCAL"), (80, 1234, "LOCAL"), (80, 1235, "DROP_POLICY_EGRESS")]
        for sport, dport, counted in [*ports, (12, 80, "LOCAL"), (80, 12, "LOCAL")]:
            found = from_pod(state, "1.11", "1.11", UDP(sport=sport, dport=dport), family)
            assert found.counted == {counted: 1}

    @FAMILIES
    def test_connections_of_pods_to_a_masqueraded_one_are_not_tracked(
        self, state: State, family: int
    ) -> None:
        state.masquerade()
        state.datapath.endpoint(12, state.pod2, POD2, 0, 2, POD_MASQUERADE)
        assert from_pod(state, "1.11", "1.12", UDP(), family).counted == {"LOCAL": 1}
        assert not bpf.map_read(state.maps["connections"])
        assert from_wire(state, "8.1", "1.12", UDP(), family).counted == {"INBOUND": 1}
        assert len(bpf.map_read(state.maps["connections"])) == 1


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
        bpf.map_update(state.maps["ct_serial"], {struct.pack("=I", slot): struct.pack("=I", CT_QUOTA)})

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
        for src, device, counted in (("1.11", "pod1", "REMOTE"), ("1.12", "pod2", "DROP_POLICY_EGRESS")):
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
