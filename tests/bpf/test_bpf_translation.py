# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ports and tuples of connections whose source or destination is translated."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import (
    IPv6,
)
from scapy.layers.l2 import Ether
from scapy.layers.sctp import SCTP
from scapy.packet import Packet, Raw

from ansible_collections.podnet.datapath.plugins.module_utils._datapath import layout, masquerade
from ansible_collections.podnet.datapath.plugins.module_utils._kernel import bpf
from tests.bpf.state import (
    ALLOW,
    BOTH,
    EGRESS,
    ENFORCE_EGRESS,
    FAMILIES,
    INGRESS,
    LAST_SEEN,
    MAC,
    PASS,
    POD1,
    POD2,
    POD_ANY_SOURCE,
    POD_MASQUERADE,
    REMOTE,
    SCTP_,
    TCP_,
    UDP_,
    State,
    age,
    frame,
    from_pod,
    from_wire,
    syn,
    tcp,
    text,
    valid,
)

# ct.h: offset of `tuple` in the keys of ct4 and ct6, and its value for reply tuples
KEY_TUPLE, CT_REPLY = {4: 13, 6: 37}, 1


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
    @pytest.mark.parametrize("node_port", [True, False], ids=["node port", "external IP"])
    def test_ports_of_services_are_not_free(self, state: State, family: int, node_port: bool) -> None:
        """Else a Pod gets what a host that it connected to sends to the service (CVE-2021-3773)."""
        state.masquerade(61000, 61000)
        state.pods(flags=POD_MASQUERADE)
        state.datapath.features |= layout.FEATURE_SERVICES | layout.FEATURE_NODE_PORTS
        where = ipaddress.ip_address({4: "0.0.0.0", 6: "::"}[family] if node_port else self.OUTSIDE[family])
        for buffer in (0, 1):
            key = layout.SERVICE_KEY.pack(*layout.encode_service(where, 61000, UDP_), buffer)
            state.put("services", key, layout.SERVICE.pack(1, 1, 1, 0, 0))
        denied = from_pod(state, "1.11", "8.1", UDP(sport=1234, dport=53), family)
        assert denied.counted == {"DROP_NAT_NO_MAPPING": 1}
        assert from_pod(state, "1.11", "8.1", syn(), family).counted == {"REMOTE": 1}

    @FAMILIES
    @pytest.mark.parametrize("node_port", [True, False], ids=["node port", "external IP"])
    def test_a_port_that_a_service_gets_later(self, state: State, family: int, node_port: bool) -> None:
        """A host that the Pod has sent to opens a connection to the service."""
        state.masquerade(61000, 61000)
        state.pods(flags=POD_MASQUERADE)
        assert from_pod(state, "1.11", "8.1", tcp("S"), family).counted == {"REMOTE": 1}
        state.service("9.10", 80, TCP_, [("1.12", 8080)], family)
        state.datapath.features |= layout.FEATURE_EXTERNAL | layout.FEATURE_NODE_PORTS * node_port
        where = ipaddress.ip_address({4: "0.0.0.0", 6: "::"}[family] if node_port else self.OUTSIDE[family])
        for buffer in (0, 1):
            key = layout.SERVICE_KEY.pack(*layout.encode_service(where, 61000, TCP_), buffer)
            state.put("services", key, layout.SERVICE.pack(1, 1, 1, 0, 0))
        opened = self.to_node(family, TCP(sport=80, dport=61000, flags="S"))
        found = valid(state.datapath.run("host_ingress", opened).packet)
        assert (found[1].dst, found[TCP].dport) == (text("1.12", family), 8080)

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


class TestNewServices:
    """A connection that nothing answered moves to a service that gets its destination."""

    @FAMILIES
    @pytest.mark.parametrize("proto", [TCP_, UDP_])
    @pytest.mark.parametrize("masqueraded", [False, True], ids=["policy", "masquerade"])
    @pytest.mark.parametrize("answered", [False, True])
    def test_its_clients(
        self, state: State, family: int, proto: int, masqueraded: bool, answered: bool
    ) -> None:
        layer = TCP if proto == TCP_ else UDP
        flags = [{"flags": one} for one in ("S", "SA", "A" if answered else "S")]
        first, answer, following = flags if proto == TCP_ else [{}] * 3
        if masqueraded:
            state.masquerade(61000, 61000)
        state.pods(*((0, 0, POD_MASQUERADE) if masqueraded else (ENFORCE_EGRESS,)))
        found = from_pod(state, "1.11", "8.1", layer(sport=1, dport=80, **first), family)
        assert found.counted == {"REMOTE": 1}
        if answered:
            back = Ether(found.packet)
            header = (IP if family == 4 else IPv6)(src=text("8.1", family), dst=back[1].src)
            reply = bytes(Ether(dst=MAC) / header / layer(sport=80, dport=back[layer].sport, **answer))
            assert state.datapath.run("host_ingress", reply).counted == {"INBOUND": 1}
        state.service("8.1", 80, proto, [("2.11", 53)], family)
        for dummy in range(2):
            found = from_pod(state, "1.11", "8.1", layer(sport=1, dport=80, **following), family)
            assert valid(found.packet)[1].dst == text("8.1" if answered else "2.11", family)

    @FAMILIES
    def test_clients_of_a_port_of_the_node(self, state: State, family: int) -> None:
        """The port of another host is none of the node."""
        state.masquerade(61000, 61000)
        state.pods(flags=POD_MASQUERADE)
        node, everywhere = {4: ("172.31.0.1", "0.0.0.0"), 6: ("fd31::1", "::")}[family]
        header = (IP if family == 4 else IPv6)(src=text("1.11", family), dst=node)
        to_node = bytes(Ether(dst=MAC) / header / UDP(sport=1, dport=80))
        state.service("9.10", 80, UDP_, [], family)
        state.datapath.features |= layout.FEATURE_NODE_PORTS
        own = ipaddress.ip_address(node)
        key = layout.NODE_ADDRESS.pack(own.packed.ljust(16, b"\0"), layout.family_of(own))
        state.put("node_addresses", key, layout.INDEX.pack(0))

        def declare(*backends: tuple[str, int]) -> None:
            state.service("9.10", 80, UDP_, [*backends], family)
            for buffer in (0, 1):
                key = layout.encode_service(ipaddress.ip_address(everywhere), 80, UDP_)
                value = layout.SERVICE.pack(1, 1, 1, 0, 0)
                state.put("services", layout.SERVICE_KEY.pack(*key, buffer), value)

        declare()
        assert state.datapath.run("pod_egress", to_node, "pod1").counted == {"STACK_NOT_FORWARDED": 1}
        other = from_pod(state, "1.11", "8.1", UDP(sport=1, dport=80), family)
        declare(("2.11", 53))
        found = state.datapath.run("pod_egress", to_node, "pod1")
        assert valid(found.packet)[1].dst == text("2.11", family)
        again = from_pod(state, "1.11", "8.1", UDP(sport=1, dport=80), family)
        assert again.packet == other.packet


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
    def test_a_connection_that_policy_has_forbidden_since(self, state: State, family: int) -> None:
        """What has the tuple of a translated connection need not be a packet of it, nor have its verdict."""
        self.pods(state, family)
        from_pod(state, "1.11", "9.10", UDP(sport=1, dport=80), family)
        direct = frame("1.11", "1.12", UDP(sport=1, dport=53), family)
        assert state.datapath.run("pod_ingress", direct, "pod2").counted == {"HOST": 1}
        state.rule(POD2, POD1, INGRESS)
        assert state.datapath.run("pod_ingress", direct, "pod2").counted == {"DROP_POLICY_INGRESS": 1}

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


class TestSctp:
    """Only addresses are translated: the checksum of SCTP does not include them."""

    @FAMILIES
    def test_addresses_change_and_the_rest_does_not(self, state: State, family: int) -> None:
        state.service("9.10", 80, SCTP_, [("2.20", 80)], family)
        payload = SCTP(sport=1234, dport=80, chksum=0x12345678) / Raw(b"x" * 8)
        result = from_pod(state, "1.11", "9.10", payload, family)
        assert result.counted == {"REMOTE": 1}
        sent = Ether(result.packet)
        assert sent[1].dst == text("2.20", family)
        assert bytes(sent[SCTP]) == bytes(payload)
        if family == 4:
            assert bytes(valid(result.packet)) == result.packet
        answer = SCTP(sport=80, dport=1234, chksum=0x12345678) / Raw(b"y" * 8)
        back = Ether(from_wire(state, "2.20", "1.11", answer, family).packet)
        assert (back[1].src, bytes(back[SCTP])) == (text("9.10", family), bytes(answer))

    @FAMILIES
    def test_another_port_is_impossible(self, state: State, family: int) -> None:
        state.service("9.10", 80, SCTP_, [("2.20", 8080)], family)
        payload = SCTP(sport=1234, dport=80) / Raw(b"x" * 8)
        assert from_pod(state, "1.11", "9.10", payload, family).counted == {"DROP_NAT_FAILED": 1}


class TestPodsWithoutTranslation:
    """Nothing is looked up for a Pod that has had no translated connection for 8,000 seconds."""

    @FAMILIES
    @pytest.mark.parametrize("since", [0, 1000, 9000])
    def test_replies(self, state: State, family: int, since: int) -> None:
        state.service("9.10", 80, UDP_, [("2.20", 8080)], family)
        from_pod(state, "1.11", "9.10", UDP(sport=1234, dport=80), family)
        pod1 = struct.pack("=I", 1)
        serial, translated, _masqueraded = struct.unpack("=3I", bpf.map_read(state.maps["ct_slots"])[pod1])
        assert translated
        seen = (translated - since) % 2**32 if since else 0
        bpf.map_update(state.maps["ct_slots"], {pod1: struct.pack("=3I", serial, seen, 0)})
        reply = from_wire(state, "2.20", "1.11", UDP(sport=8080, dport=1234), family)
        source = "9.10" if since == 1000 else "2.20"
        assert valid(reply.packet)[1].src == text(source, family)


@pytest.mark.usefixtures("one_cpu")
class TestCachedTranslation:
    """Following packets of a connection to a service are translated by the flow cache."""

    @staticmethod
    def forget(state: State) -> None:
        """Remove all connections: only the flow cache has the translation."""
        for name in ("connections", "ct4", "ct6"):
            bpf.map_delete(state.maps[name], list(bpf.map_read(state.maps[name])))

    @FAMILIES
    @pytest.mark.parametrize("backend", ["2.20", "1.12"], ids=["remote", "local"])
    @pytest.mark.parametrize("layer", [TCP, UDP])
    def test_both_directions(self, state: State, family: int, backend: str, layer: type[Packet]) -> None:
        proto = TCP_ if layer is TCP else UDP_
        state.service("9.10", 80, proto, [(backend, 8080)], family)
        flags = {"flags": "A"} if layer is TCP else {}
        back = ("pod_egress", "pod2") if backend == "1.12" else ("host_ingress", "wire0")
        request = frame("1.11", "9.10", layer(sport=1234, dport=80, **flags) / Raw(b"request"), family)
        reply = frame(backend, "1.11", layer(sport=8080, dport=1234, **flags) / Raw(b"reply"), family)
        opened = layer(sport=1234, dport=80, **({"flags": "S"} if flags else {}))
        server, service = (text(backend, family), 8080), (text("9.10", family), 80)
        for dummy in range(100):
            from_pod(state, "1.11", "9.10", opened, family)
            ends = []
            for _again in range(2):  # the first packet of each direction fills the cache
                sent = valid(state.datapath.run("pod_egress", request, "pod1", cached=True).packet)
                got = valid(state.datapath.run(back[0], reply, back[1], cached=True).packet)
                ends += [(sent[1].dst, sent[layer].dport), (got[1].src, got[layer].sport)]
                assert (bytes(sent[Raw]), bytes(got[Raw])) == (b"request", b"reply")
                self.forget(state)
            # on a busy machine entries expire, after three jiffies, before the second packets
            if ends[2:] == [server, service]:
                break
        assert ends == [server, service] * 2
        other = state.datapath.run(back[0], reply, back[1])
        assert valid(other.packet)[1].src == text(backend, family)

    @FAMILIES
    def test_a_direct_flow_of_the_same_ports_is_not_translated(self, state: State, family: int) -> None:
        """The service and its backend have the same ports, and so has the client."""
        state.service("9.10", 80, UDP_, [("2.20", 80)], family)
        to_service = frame("1.11", "9.10", UDP(sport=1234, dport=80), family)
        to_backend = frame("1.11", "2.20", UDP(sport=1234, dport=80), family)
        for dummy in range(3):
            sent = valid(state.datapath.run("pod_egress", to_service, "pod1", cached=True).packet)
            direct = valid(state.datapath.run("pod_egress", to_backend, "pod1", cached=True).packet)
            assert (sent[1].dst, sent[UDP].sport) == (text("2.20", family), 1234)
            # another source port, or the server could not tell the connections apart
            assert direct[1].dst == text("2.20", family) and direct[UDP].sport != 1234

    @FAMILIES
    def test_a_change_of_the_service_takes_effect_at_once(self, state: State, family: int) -> None:
        state.service("9.10", 80, UDP_, [("2.20", 8080)], family)
        packet = frame("1.11", "9.10", UDP(sport=1234, dport=80), family)
        for dummy in range(3):
            state.datapath.run("pod_egress", packet, "pod1", cached=True)
        state.service("9.10", 80, UDP_, [("2.21", 8080)], family)
        state.datapath.new_generation()
        sent = valid(state.datapath.run("pod_egress", packet, "pod1", cached=True).packet)
        assert sent[1].dst == text("2.21", family)
