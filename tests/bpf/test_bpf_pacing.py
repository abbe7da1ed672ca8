# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Departure times, rates, and packets of paced or masqueraded Pods that pass to the stack."""

from __future__ import annotations

import time
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP, UDP, IPOption_Router_Alert
from scapy.layers.inet6 import ICMPv6ND_NS, IPv6, IPv6ExtHdrHopByHop, RouterAlert
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

from ansible_collections.podnet.datapath.plugins.module_utils._datapath import layout
from tests.bpf.state import (
    DROP,
    FAMILIES,
    MAC,
    PASS,
    POD_ANY_SOURCE,
    POD_MASQUERADE,
    REDIRECT,
    SENDER,
    State,
    echo,
    frame,
    from_pod,
    from_wire,
    syn,
    text,
    valid,
)

SECOND = 10**9
PRIO_CONTROL = 7  # TC_PRIO_CONTROL
NODE = {4: "172.31.0.1", 6: "fd31::1"}

pytestmark = pytest.mark.usefixtures("one_cpu")


def with_options(src: str, dst: str, family: int, payload: Packet | None = None, **fields: Any) -> bytes:
    """Return a packet with an IP option, which passes to the stack."""
    payload = payload or UDP() / Raw(bytes(100))
    if family == 4:
        return frame(src, dst, payload, 4, options=[IPOption_Router_Alert()], **fields)
    return frame(src, dst, IPv6ExtHdrHopByHop(options=[RouterAlert()]) / payload, 6, **fields)


def to_node(packet: bytes, family: int) -> bytes:
    """Replace the destination by the node's address."""
    found = Ether(packet)
    found[1].dst = NODE[family]
    if family == 4:
        del found[1].chksum
    return bytes(found)


class TestDepartureTime:
    """A departure time that did not come from TCP is replaced by the current time."""

    @FAMILIES
    @pytest.mark.parametrize("cached", [False, True], ids=["first", "cached"])
    @pytest.mark.parametrize("payload", [TCP(flags="A"), UDP(), echo(4)], ids=["tcp", "udp", "icmp"])
    @pytest.mark.parametrize("clock", [time.CLOCK_MONOTONIC, time.CLOCK_REALTIME, time.CLOCK_TAI])
    @pytest.mark.parametrize("ahead", [0.05, 8, 1000])
    def test_to_the_wire(
        self, state: State, family: int, cached: bool, payload: Packet, clock: int, ahead: float
    ) -> None:
        packet = frame("1.11", "2.11", payload, family)
        state.datapath.run("pod_egress", packet)
        tstamp = time.clock_gettime_ns(clock) + int(ahead * SECOND)
        earliest = time.monotonic_ns()
        result = state.datapath.run("pod_egress", packet, cached=cached, tstamp=tstamp)
        assert result.counted == {"REMOTE": 1}
        assert earliest <= result.tstamp <= time.monotonic_ns()

    @FAMILIES
    @pytest.mark.parametrize("cached", [False, True], ids=["first", "cached"])
    def test_packets_without_one(self, state: State, family: int, cached: bool) -> None:
        """Otherwise fq applies the pacing rate of the sender's socket."""
        packet = frame("1.11", "2.11", UDP(), family)
        state.datapath.run("pod_egress", packet)
        result = state.datapath.run("pod_egress", packet, cached=cached)
        assert result.counted == {"REMOTE": 1}
        assert 0 < result.tstamp <= time.monotonic_ns()

    @FAMILIES
    @pytest.mark.parametrize(
        ("payload", "kept"), [(TCP(flags="A"), True), (UDP(), False)], ids=["tcp", "udp"]
    )
    def test_one_that_has_passed(self, state: State, family: int, payload: Packet, kept: bool) -> None:
        """Cached flows of TCP do not look at the socket for it."""
        packet = frame("1.11", "2.11", payload, family)
        cached = False
        for dummy in range(100):
            state.datapath.run("pod_egress", packet)
            result = state.datapath.run("pod_egress", packet, cached=True, tstamp=7)
            cached = result.packet[:6] != packet[:6]
            if cached:
                break
        assert cached
        assert (result.tstamp == 7) == kept

    @FAMILIES
    @pytest.mark.parametrize("dst", ["2.11", "9.11", "5.11"], ids=["wire", "lwtunnel", "unreachable"])
    def test_through_the_stack(self, state: State, family: int, dst: str) -> None:
        packet = with_options("1.11", dst, family)
        result = state.datapath.run("pod_egress", packet, tstamp=time.monotonic_ns() + 8 * SECOND)
        assert (result.verdict, result.counted) == (PASS, {"STACK_IP_OPTIONS": 1})
        assert result.tstamp <= time.monotonic_ns()

    def test_other_protocols(self, state: State) -> None:
        packet = bytes(Ether(dst=MAC, src=SENDER, type=0x8847) / Raw(bytes(60)))
        result = state.datapath.run("pod_egress", packet, tstamp=time.monotonic_ns() + 8 * SECOND)
        assert (result.verdict, result.tstamp) == (PASS, 0)


class TestRate:
    RATE = 10**6  # bytes a second

    def consumed(self, state: State, packet: bytes, verdict: str = "REMOTE", **fields: int) -> int:
        """Return the bytes that a packet consumes of the Pod's rate."""
        state.device(rate=self.RATE)
        soon = time.monotonic_ns() + SECOND // 2
        state.queue(soon)
        assert state.datapath.run("pod_egress", packet, **fields).counted == {verdict: 1}
        return int(state.next_departure() - soon) * self.RATE // SECOND

    @FAMILIES
    @pytest.mark.parametrize("cached", [False, True], ids=["first", "cached"])
    def test_departure_time(self, state: State, family: int, cached: bool) -> None:
        state.device(rate=self.RATE)
        packet = frame("1.11", "2.11", UDP(), family)
        state.datapath.run("pod_egress", packet)
        soon = time.monotonic_ns() + SECOND // 2
        state.queue(soon)
        result = state.datapath.run("pod_egress", packet, cached=cached, tstamp=soon + 8 * SECOND)
        assert (result.counted, result.tstamp) == ({"REMOTE": 1}, soon)

    @FAMILIES
    def test_beyond_the_horizon(self, state: State, family: int) -> None:
        """At 1000 bytes per second the second packet would wait for more than a second."""
        state.device(rate=1000)
        packet = frame("1.11", "2.11", UDP() / Raw(bytes(1400)), family)
        found = [state.datapath.run("pod_egress", packet, cached=i > 0).counted for i in range(4)]
        assert found[0] == {"REMOTE": 1}
        assert found[1:] == [{"DROP_EDT_HORIZON": 1}] * 3

    @FAMILIES
    def test_the_first_packet_of_a_flow_beyond_the_horizon(self, state: State, family: int) -> None:
        state.device(rate=self.RATE)
        state.queue(time.monotonic_ns() + 60 * SECOND)
        assert from_pod(state, "1.11", "2.11", UDP(), family).counted == {"DROP_EDT_HORIZON": 1}

    @FAMILIES
    @pytest.mark.parametrize("flows", [1, 250])
    def test_queued_packets_are_bounded(self, state: State, family: int, flows: int) -> None:
        """However small the packets are, and however many flows they belong to."""
        state.device(rate=10**11)
        packets = [frame("1.11", "2.11", UDP(sport=1000 + flow), family) for flow in range(flows)]
        for _attempt in range(20):
            queued = time.monotonic_ns() + SECOND * 95 // 100
            state.queue(queued, queued)
            verdicts = [
                state.datapath.test_run("pod_egress", packets[i % flows], "pod1")[0]
                for i in range(layout.PACING_PACKETS + 50)
            ]
            if time.monotonic_ns() < queued:
                break
        else:
            pytest.fail("the machine is too slow: packets departed meanwhile")
        assert verdicts == [REDIRECT] * layout.PACING_PACKETS + [DROP] * 50

    @pytest.mark.parametrize(
        ("next_departure", "mark", "before", "after", "counted"),
        [
            (0.5, 0.4, 400, 99, "REMOTE"),
            (0.5, 0.4, 400, 100, "DROP_EDT_HORIZON"),
            (0.5, -0.1, 400, 100, "REMOTE"),
            (0.5, -0.1, 0, 500, "DROP_EDT_HORIZON"),
            (-0.1, -0.2, 400, 500, "REMOTE"),
        ],
        ids=["last slot", "full", "departed", "all after the mark", "empty"],
    )
    def test_departed_packets_free_their_slots(
        self, state: State, next_departure: float, mark: float, before: int, after: int, counted: str
    ) -> None:
        state.device(rate=self.RATE)
        now = time.monotonic_ns()
        state.queue(now + int(next_departure * SECOND), now + int(mark * SECOND), before, after)
        assert from_pod(state, "1.11", "2.11", UDP(), 4).counted == {counted: 1}

    @FAMILIES
    def test_local_traffic_is_not_paced(self, state: State, family: int) -> None:
        state.device(rate=1)
        packet = frame("1.11", "1.12", UDP() / Raw(bytes(1400)), family)
        for dummy in range(3):
            assert state.datapath.run("pod_egress", packet).counted == {"LOCAL": 1}

    @FAMILIES
    def test_each_segment_has_headers(self, state: State, family: int) -> None:
        """The kernel does not count the segments of packets from raw sockets."""
        packet = frame("1.11", "2.11", TCP(flags="A") / Raw(bytes(3000)), family)
        headers = len(packet) - 3000
        assert self.consumed(state, packet, gso_size=1000, gso_segs=3) == 3000 + 3 * headers
        assert self.consumed(state, packet, gso_size=1000) == 3000 + 3 * headers
        assert self.consumed(state, packet, gso_size=1) == 3000 + 3000 * headers
        assert self.consumed(state, packet, gso_size=1000, gso_segs=1) == len(packet)

    @FAMILIES
    def test_segments_of_udp(self, state: State, family: int) -> None:
        packet = frame("1.11", "9.11", UDP() / Raw(bytes(3000)), family)
        headers = len(packet) - 3000
        passed = "STACK_FIB_UNSUPPORTED"
        assert self.consumed(state, packet, passed, gso_size=1000) == 3000 + 3 * headers
        without_data = frame("1.11", "9.11", UDP() / Raw(bytes(20)), family)
        assert self.consumed(state, without_data, passed, gso_size=1000) == headers + 20

    @FAMILIES
    def test_segments_through_the_stack(self, state: State, family: int) -> None:
        """Their headers are unknown: the longest without options."""
        packet = with_options("1.11", "9.11", family, TCP() / Raw(bytes(3000)))
        used = self.consumed(state, packet, "STACK_IP_OPTIONS", gso_size=1000, gso_segs=3)
        assert used == len(packet) + 2 * (14 + 40 + 20)
        small = with_options("1.11", "9.11", family, UDP())
        used = self.consumed(state, small, "STACK_IP_OPTIONS", gso_size=1000)
        assert used == len(small)

    @FAMILIES
    def test_frames_have_a_minimum_size(self, state: State, family: int) -> None:
        small = frame("1.11", "2.11", UDP() / Raw(bytes(100)), family)
        assert self.consumed(state, small) == len(small)
        tiny = frame("1.11", "2.11", UDP() / Raw(b"x"), family)
        assert self.consumed(state, tiny) == max(60, len(tiny))

    @FAMILIES
    @pytest.mark.parametrize("priority", [PRIO_CONTROL, 6, 0x10001])
    @pytest.mark.parametrize("rate", [0, RATE])
    def test_a_pod_selects_no_class_of_a_qdisc(
        self, state: State, one_cpu: None, family: int, priority: int, rate: int
    ) -> None:
        """SO_PRIORITY of a socket on veth: htb uses it as the class, fq sends some at once."""
        state.device(rate=rate)
        for dst, reason in (("2.11", "REMOTE"), ("3.11", "STACK_NO_NEIGH"), ("1.12", "LOCAL")):
            packet = frame("1.11", dst, UDP(), family)
            for cached in (False, True):
                found = state.datapath.run("pod_egress", packet, cached=cached, priority=priority)
                assert (found.counted, found.priority) == ({reason: 1}, 0)


# Packets that the stack forwards to the wire, by name: a function of the family
FORWARDED = {
    "options": lambda family: with_options("1.11", "2.99", family),
    "lwtunnel": lambda family: frame("1.11", "9.11", UDP(), family),
    "options, lwtunnel": lambda family: with_options("1.11", "9.11", family),
    "options, neighbour": lambda family: with_options("1.11", "3.11", family),
    "options, MTU": lambda family: with_options("1.11", "8.11", family, UDP() / Raw(bytes(1400))),
}
# Packets that the stack delivers, answers or drops
CONSUMED = {
    "options, node": lambda family: to_node(with_options("1.11", "2.11", family), family),
    "options, Pod": lambda family: with_options("1.11", "1.12", family),
    "options, route to a Pod": lambda family: with_options("1.11", "20.1", family),
    "node": lambda family: to_node(frame("1.11", "2.11", UDP(), family), family),
    "TTL": lambda family: frame("1.11", "2.99", UDP(), family, **{"ttl" if family == 4 else "hlim": 1}),
    "unreachable": lambda family: frame("1.11", "5.11", UDP(), family),
    "MTU": lambda family: frame(
        *("1.11", "8.11", UDP() / Raw(bytes(1400)), family), **({"flags": "DF"} if family == 4 else {})
    ),
    "MTU of a Pod": lambda family: frame("1.11", "1.13", UDP() / Raw(bytes(1400)), family),
}


def ipv4(dst: str) -> bytes:
    return bytes(Ether(dst=MAC, src=SENDER) / IP(src=text("1.11", 4), dst=dst) / UDP() / Raw(bytes(100)))


FORWARDED_OTHER = {
    "fragmented": frame("1.11", "8.11", UDP() / Raw(bytes(1400)), 4),
    "0/8": ipv4("0.1.2.3"),
    "240/4": ipv4("240.0.0.1"),
    "MPLS": bytes(Ether(dst=MAC, src=SENDER, type=0x8847) / Raw(bytes(60))),
}
# Packets that exceed the MTU of a route, which may be one that the node learned, and not that of the device
PATH_MTU = {
    "IPv4": frame("1.11", "10.11", UDP() / Raw(bytes(1400)), 4),
    "IPv4, DF": frame("1.11", "10.11", UDP() / Raw(bytes(1400)), 4, flags="DF"),
    "IPv6": frame("1.11", "10.11", UDP() / Raw(bytes(1400)), 6),
}
LINK_SCOPE = {
    **{dst: ipv4(dst) for dst in ("0.0.0.0", "224.0.0.251", "255.255.255.255")},
    "IPv6 link-local": bytes(
        Ether(dst=MAC, src=SENDER) / IPv6(src="fe80::11", dst=text("2.99", 6)) / UDP() / Raw(bytes(100))
    ),
    "ARP": bytes(Ether(dst="ff:ff:ff:ff:ff:ff", src=SENDER) / ARP(psrc=text("1.11", 4), pdst="10.31.1.1")),
    "NDP": bytes(
        Ether(dst=MAC, src=SENDER)
        / IPv6(src=text("1.11", 6), dst="ff02::1:ff00:1", hlim=255)
        / ICMPv6ND_NS(tgt="fd31::1")
    ),
}


class TestPacedPodsAndTheStack:
    """The stack does not pace: what it would forward is subject to the Pod's rate."""

    RATE = 10**6

    def charged(self, state: State, packet: bytes) -> bool:
        """Return whether a packet that passes to the stack consumes of the rate."""
        state.device(rate=self.RATE)
        soon = time.monotonic_ns() + SECOND // 2
        state.queue(soon)
        result = state.datapath.run("pod_egress", packet)
        assert (result.verdict, result.packet) == (PASS, packet), result.counted
        if state.next_departure() == soon:
            assert result.tstamp < soon
            return False
        if packet[12:14] in (b"\x08\x00", b"\x86\xdd"):
            assert result.tstamp == soon
        return True

    def dropped(self, state: State, packet: bytes) -> bool:
        """Return whether a packet is dropped beyond the horizon."""
        state.device(rate=self.RATE)
        state.queue(time.monotonic_ns() + 60 * SECOND)
        result = state.datapath.run("pod_egress", packet)
        assert result.verdict in (PASS, DROP)
        assert (result.verdict == DROP) == (result.counted == {"DROP_EDT_HORIZON": 1})
        return result.verdict == DROP

    @FAMILIES
    @pytest.mark.parametrize("name", FORWARDED)
    def test_forwarded(self, state: State, family: int, name: str) -> None:
        packet = FORWARDED[name](family)
        assert self.charged(state, packet)
        assert self.dropped(state, packet)

    @pytest.mark.parametrize("name", FORWARDED_OTHER)
    def test_forwarded_otherwise(self, state: State, name: str) -> None:
        packet = FORWARDED_OTHER[name]
        assert self.charged(state, packet)
        assert self.dropped(state, packet)

    @pytest.mark.parametrize("packet", PATH_MTU.values(), ids=PATH_MTU)
    def test_mtu_of_the_path(self, state: State, packet: bytes) -> None:
        """The stack forwards a packet that exceeds an MTU which it only learned."""
        assert self.charged(state, packet)
        assert self.dropped(state, packet)

    @FAMILIES
    @pytest.mark.parametrize("name", CONSUMED)
    def test_not_forwarded(self, state: State, family: int, name: str) -> None:
        packet = CONSUMED[name](family)
        assert not self.charged(state, packet)
        assert not self.dropped(state, packet)

    @pytest.mark.parametrize("packet", LINK_SCOPE.values(), ids=LINK_SCOPE)
    def test_link_scope(self, state: State, packet: bytes) -> None:
        assert not self.charged(state, packet)
        assert not self.dropped(state, packet)

    @FAMILIES
    def test_forwarding_disabled(self, state: State, family: int) -> None:
        with state.datapath.inside():
            closed = state.datapath.ifindex("closed")
        mac = bytes.fromhex(MAC.replace(":", ""))
        value = layout.POD.pack(1, 1, 0, 0, 0, 0, 0, mac, 0, self.RATE)
        state.put("pods", layout.INDEX.pack(closed), value)
        soon = time.monotonic_ns() + SECOND // 2
        state.queue(soon)
        result = state.datapath.run("pod_egress", frame("1.15", "2.99", UDP(), family), "closed")
        assert (result.verdict, result.counted) == (PASS, {"STACK_FWD_DISABLED": 1})
        assert state.next_departure() == soon


class TestMasqueradedPodsAndTheStack:
    """The stack does not masquerade: what it would forward is dropped."""

    def run(self, state: State, packet: bytes, flags: int = 0, gso_size: int = 0) -> Any:
        state.masquerade()
        state.pods(flags=POD_MASQUERADE | flags)
        state.device(POD_MASQUERADE | flags)
        return state.datapath.run("pod_egress", packet, gso_size=gso_size)

    @FAMILIES
    @pytest.mark.parametrize("name", FORWARDED)
    @pytest.mark.parametrize("flags", [0, POD_ANY_SOURCE], ids=["own source", "any source"])
    def test_forwarded(self, state: State, family: int, name: str, flags: int) -> None:
        result = self.run(state, FORWARDED[name](family), flags)
        assert (result.verdict, result.counted) == (DROP, {"DROP_NAT_FAILED": 1})

    @pytest.mark.parametrize("name", FORWARDED_OTHER)
    def test_forwarded_otherwise(self, state: State, name: str) -> None:
        result = self.run(state, FORWARDED_OTHER[name])
        assert (result.verdict, result.counted) == (DROP, {"DROP_NAT_FAILED": 1})

    @FAMILIES
    @pytest.mark.parametrize("name", CONSUMED)
    def test_not_forwarded(self, state: State, family: int, name: str) -> None:
        packet = CONSUMED[name](family)
        result = self.run(state, packet)
        assert (result.verdict, result.packet) == (PASS, packet), result.counted

    @pytest.mark.parametrize("packet", LINK_SCOPE.values(), ids=LINK_SCOPE)
    def test_link_scope(self, state: State, packet: bytes) -> None:
        assert self.run(state, packet).verdict == PASS

    @FAMILIES
    @pytest.mark.parametrize("name", FORWARDED)
    def test_destinations_that_are_not_masqueraded(self, state: State, family: int, name: str) -> None:
        state.cidr("10.31.0.0/16" if family == 4 else "fd31::/16", 0, layout.CIDR_NO_MASQUERADE)
        packet = FORWARDED[name](family)
        result = self.run(state, packet)
        assert (result.verdict, result.packet) == (PASS, packet), result.counted

    @FAMILIES
    @pytest.mark.parametrize("size", [1400, 65535])
    def test_segments_that_exceed_the_mtu(self, state: State, family: int, size: int) -> None:
        flags = {"flags": "DF"} if family == 4 else {}
        packet = frame("1.11", "8.11", TCP(flags="S") / Raw(bytes(3000)), family, **flags)
        result = self.run(state, packet, gso_size=size)
        assert (result.verdict, result.counted) == (PASS, {"STACK_MTU": 1})

    @pytest.mark.parametrize("packet", PATH_MTU.values(), ids=PATH_MTU)
    def test_mtu_of_the_path(self, state: State, packet: bytes) -> None:
        """The stack would forward it with the Pod's address."""
        result = self.run(state, packet)
        assert result.counted == {"REMOTE": 1}
        assert valid(result.packet)[1].src in ("172.31.0.1", "fd31::1")

    @pytest.mark.parametrize("packet", PATH_MTU.values(), ids=PATH_MTU)
    def test_mtu_of_the_path_of_other_pods(self, state: State, packet: bytes) -> None:
        state.pods()
        result = state.datapath.run("pod_egress", packet)
        assert (result.verdict, result.counted, result.packet) == (PASS, {"STACK_MTU": 1}, packet)

    @pytest.mark.parametrize("name", FORWARDED_OTHER)
    def test_other_pods(self, state: State, name: str) -> None:
        state.masquerade()
        state.device()
        packet = FORWARDED_OTHER[name]
        result = state.datapath.run("pod_egress", packet)
        assert (result.verdict, result.packet) == (PASS, packet)

    @FAMILIES
    def test_pods_of_other_nodes(self, state: State, family: int) -> None:
        result = self.run(state, with_options("1.11", "2.11", family))
        assert (result.verdict, result.counted) == (PASS, {"STACK_IP_OPTIONS": 1})

    @FAMILIES
    def test_replies_to_the_own_address(self, state: State, family: int) -> None:
        """Connections from the wire to the Pod's own address are not masqueraded."""
        state.masquerade()
        state.pods(flags=POD_MASQUERADE)
        state.device(POD_MASQUERADE)
        assert from_wire(state, "9.11", "1.11", syn(80, 1234), family).counted == {"INBOUND": 1}
        result = from_pod(state, "1.11", "9.11", TCP(sport=80, dport=1234, flags="SA"), family)
        assert (result.verdict, result.counted) == (PASS, {"STACK_FIB_UNSUPPORTED": 1})
