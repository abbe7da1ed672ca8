# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Each program with IPv4 and IPv6: verdict, counter and changed bytes."""

from __future__ import annotations

import random
import subprocess
import time
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP, IPOption_Router_Alert
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_Redirect,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    Jumbo,
    PadN,
    RouterAlert,
)
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

from ansible_collections.podnet.datapath.plugins.module_utils._datapath import layout
from ansible_collections.podnet.datapath.plugins.module_utils._kernel import bpf

MAC = "02:00:00:00:00:01"
# MAC addresses of frames to the first hop: destination and source.
MACS = bytes.fromhex("020000000099020000000001")
PASS, DROP, REDIRECT = -1, 2, 7
TAGS = (b"\x81\x00", b"\x88\xa8")  # Ethernet types of 802.1Q and 802.1ad
OWN4, OWN6 = bytes([10, 31, 1, 11]), bytes.fromhex("fd3100010000000000000000000000" + "11")


def frame(packet: Packet, dst: str = MAC) -> bytes:
    return bytes(Ether(dst=dst, src="02:00:00:00:00:02") / packet)


def ip(family: int, dst: str = "2.11", ttl: int = 64, src: str = "1.11", **fields: Any) -> Packet:
    """Return an IP header; addresses are written as ``<node>.<host>`` for both families."""
    if family == 4:
        return IP(src=f"10.31.{src}", dst=f"10.31.{dst}", ttl=ttl, **fields)
    s, d = (a.replace(".", "::") for a in (src, dst))
    return IPv6(src=f"fd31:{s}", dst=f"fd31:{d}", hlim=ttl, **fields)


def routed(packet: bytes) -> bytes:
    """Return the packet after one router: TTL decremented, checksum by scapy."""
    parsed = Ether(packet)
    if IP in parsed:
        parsed[IP].ttl -= 1
        del parsed[IP].chksum
    else:
        parsed[IPv6].hlim -= 1
    return bytes(parsed)


FAMILIES = pytest.mark.parametrize("family", [4, 6])
TRANSPORTS = pytest.mark.parametrize(
    "transport",
    [
        TCP(sport=1234, dport=80) / Raw(b"x" * 100),
        UDP(sport=1234, dport=53) / Raw(b"y" * 33),
        Raw(b""),
        Raw(b"z" * 7),
    ],
    ids=["tcp", "udp", "empty", "short"],
)


class TestPodEgress:
    @FAMILIES
    @TRANSPORTS
    def test_local(self, datapath: Any, family: int, transport: Packet) -> None:
        packet = frame(ip(family, "1.12") / transport)
        result = datapath.run("pod_egress", packet)
        assert result.verdict == REDIRECT
        assert result.counted == {"LOCAL": 1}
        assert result.packet == routed(packet)

    @FAMILIES
    def test_local_on_netkit(self, netkit_datapath: Any, family: int) -> None:
        packet = frame(ip(family, "1.12") / UDP())
        result = netkit_datapath.run("pod_egress", packet)
        assert (result.verdict, result.counted) == (REDIRECT, {"LOCAL": 1})
        assert result.packet == routed(packet)

    @FAMILIES
    @TRANSPORTS
    def test_remote(self, datapath: Any, family: int, transport: Packet) -> None:
        packet = frame(ip(family) / transport)
        result = datapath.run("pod_egress", packet)
        assert result.verdict == REDIRECT
        assert result.counted == {"REMOTE": 1}
        assert result.packet == routed(packet)

    @FAMILIES
    def test_unresolved_next_hop(self, datapath: Any, family: int) -> None:
        """The stack resolves it, and sends ICMP host unreachable if it does not answer."""
        packet = frame(ip(family, "3.11") / UDP())
        result = datapath.run("pod_egress", packet)
        assert (result.verdict, result.counted, result.packet) == (PASS, {"STACK_NO_NEIGH": 1}, packet)

    def test_ipv6_next_hop_of_an_ipv4_route(self, datapath: Any) -> None:
        result = datapath.run("pod_egress", frame(ip(4, "4.11") / UDP()))
        assert (result.verdict, result.counted) == (REDIRECT, {"REMOTE": 1})

    @pytest.mark.parametrize("checksum", [0x0000, 0x0001, 0xFEFE, 0xFEFF, 0xFF00, 0xFFFE])
    def test_checksum_carries(self, datapath: Any, checksum: int) -> None:
        """Checksums around the end-around carry."""
        base = IP(bytes(ip(4, "1.12", id=0) / UDP(chksum=0)))
        # ones' complement arithmetic: with this id the header has the given checksum
        number = (base.chksum - checksum) % 0xFFFF
        packet = frame(ip(4, "1.12", id=number) / UDP(chksum=0))
        assert datapath.run("pod_egress", packet).packet == routed(packet)

    @FAMILIES
    @pytest.mark.parametrize("dst", ["1.12", "2.11"])
    @pytest.mark.parametrize("ttl", [0, 1])
    def test_ttl(self, datapath: Any, family: int, dst: str, ttl: int) -> None:
        packet = frame(ip(family, dst, ttl) / UDP())
        result = datapath.run("pod_egress", packet)
        assert (result.verdict, result.counted, result.packet) == (PASS, {"STACK_TTL": 1}, packet)

    @FAMILIES
    @pytest.mark.parametrize("dst", ["1.13", "8.11", "10.11"], ids=["pod", "device", "route"])
    @pytest.mark.parametrize(("size", "fits"), [(1300, True), (1301, False)])
    def test_mtu(self, datapath: Any, family: int, dst: str, size: int, fits: bool) -> None:
        header = 20 if family == 4 else 40
        packet = frame(ip(family, dst) / UDP() / Raw(bytes(size - header - 8)))
        result = datapath.run("pod_egress", packet)
        if fits:
            assert result.counted in ({"LOCAL": 1}, {"REMOTE": 1})
            assert result.packet == routed(packet)
        else:
            assert (result.verdict, result.counted, result.packet) == (PASS, {"STACK_MTU": 1}, packet)

    @FAMILIES
    @pytest.mark.parametrize("dst", ["8.11", "10.11"], ids=["device", "route"])
    @pytest.mark.parametrize(("segment", "fits"), [(1300, True), (1301, False)])
    def test_mtu_of_tcp_segments(
        self, datapath: Any, family: int, dst: str, segment: int, fits: bool
    ) -> None:
        """A GSO packet may exceed the MTU, its segments may not. Each segment repeats the TCP options."""
        options = [("Timestamp", (1, 2)), ("NOP", None), ("NOP", None)]
        headers = (20 if family == 4 else 40) + 32
        packet = frame(ip(family, dst) / TCP(options=options) / Raw(bytes(3000)))
        result = datapath.run("pod_egress", packet, gso_size=segment - headers)
        assert result.counted == ({"REMOTE": 1} if fits else {"STACK_MTU": 1})

    @FAMILIES
    @pytest.mark.parametrize("cached", [False, True], ids=["first", "cached"])
    @pytest.mark.parametrize("dst", ["2.11", "1.12"], ids=["wire", "pod"])
    @pytest.mark.parametrize("gso_size", [65456, 65476, 65490, 65535])
    def test_segment_size_beyond_16_bits(
        self, datapath: Any, family: int, gso_size: int, dst: str, cached: bool
    ) -> None:
        """With headers, the segment size that a raw socket requests may exceed 16 bits."""
        packet = frame(ip(family, dst) / TCP(flags="A") / Raw(bytes(3000)))
        first = frame(ip(family, dst) / TCP(flags="A")) if cached else None
        datapath.new_generation()
        result = datapath.run_after(first, "pod_egress", packet, gso_size=gso_size)
        assert (result.verdict, result.counted, result.packet) == (PASS, {"STACK_MTU": 1}, packet)

    @FAMILIES
    def test_device_deleted(self, datapath: Any, family: int) -> None:
        packet = frame(ip(family, "1.14") / UDP() / Raw(bytes(1400)))
        result = datapath.run("pod_egress", packet)
        assert (result.verdict, result.counted, result.packet) == (PASS, {"STACK_NO_DEVICE": 1}, packet)

    @pytest.mark.parametrize(
        ("packet", "reason"),
        [
            (IP(src="10.31.1.11", dst="172.31.0.1") / ICMP(), "STACK_NOT_FORWARDED"),
            (IPv6(src="fd31:1::11", dst="fd31::1") / ICMPv6EchoRequest(), "STACK_NOT_FORWARDED"),
            (IP(src="10.31.1.11", dst="192.0.2.1") / ICMP(), "STACK_NOT_FORWARDED"),
            (IPv6(src="fd31:1::11", dst="2001:db8::1") / ICMPv6EchoRequest(), "STACK_NOT_FORWARDED"),
            (IP(src="10.31.1.11", dst="172.31.0.7") / UDP(), "STACK_NOT_FORWARDED"),
            (ip(4, "5.1") / UDP(), "STACK_NO_ROUTE"),
            (ip(6, "5.1") / UDP(), "STACK_NO_ROUTE"),
            (ip(4, "6.1") / UDP(), "STACK_NO_ROUTE"),
            (ip(6, "6.1") / UDP(), "STACK_NO_ROUTE"),
            (ip(4, "7.1") / UDP(), "STACK_NO_ROUTE"),
            (ip(6, "7.1") / UDP(), "STACK_NO_ROUTE"),
            (ip(4, "9.1") / UDP(), "STACK_FIB_UNSUPPORTED"),
            (ip(6, "9.1") / UDP(), "STACK_FIB_UNSUPPORTED"),
        ],
        ids=lambda value: value if isinstance(value, str) else value.summary(),
    )
    def test_routes_of_the_stack(self, datapath: Any, packet: Packet, reason: str) -> None:
        sent = frame(packet)
        result = datapath.run("pod_egress", sent)
        assert (result.verdict, result.counted, result.packet) == (PASS, {reason: 1}, sent)

    @FAMILIES
    def test_forwarding_disabled(self, datapath: Any, family: int) -> None:
        packet = frame(ip(family, src="1.15") / UDP())
        result = datapath.run("pod_egress", packet, "closed")
        assert (result.verdict, result.counted) == (PASS, {"STACK_FWD_DISABLED": 1})


# Packets that pod_egress and host_ingress pass to the stack, for any destination.
STACK: list[tuple[str, Packet, str]] = [
    ("arp", ARP(pdst="10.31.1.12"), "STACK_PROTOCOL"),
    ("v4 version", ip(4, "1.12", version=5) / UDP(), "STACK_MALFORMED"),
    ("v4 ihl", ip(4, "1.12", ihl=4) / UDP(), "STACK_MALFORMED"),
    ("v4 longer than the frame", ip(4, "1.12", len=500) / UDP(), "STACK_MALFORMED"),
    ("v4 shorter than its header", ip(4, "1.12", len=19) / UDP(), "STACK_MALFORMED"),
    ("v4 length 0", ip(4, "1.12", len=0) / UDP(), "STACK_MALFORMED"),
    ("v4 router alert", ip(4, "1.12", options=[IPOption_Router_Alert()]) / UDP(), "STACK_IP_OPTIONS"),
    ("v4 no-ops", ip(4, "1.12", options=[IPOption_NOP()] * 4) / UDP(), "STACK_IP_OPTIONS"),
    ("v6 version", ip(6, "1.12", version=4) / UDP(), "STACK_MALFORMED"),
    ("v6 longer than the frame", ip(6, "1.12", plen=500) / UDP(), "STACK_MALFORMED"),
    ("v6 multicast", IPv6(src="fd31:1::11", dst="ff02::fb") / UDP(), "STACK_LINK_SCOPE"),
    ("v6 to link-local", IPv6(src="fd31:1::11", dst="fe80::1") / UDP(), "STACK_LINK_SCOPE"),
    ("v6 from link-local", IPv6(src="fe80::2", dst="fd31:1::12") / UDP(), "STACK_LINK_SCOPE"),
    ("v6 solicitation", ip(6, "1.12", ttl=255) / ICMPv6ND_NS(tgt="fd31:1::12"), "STACK_LINK_SCOPE"),
    ("v6 advertisement", ip(6, "1.12", ttl=255) / ICMPv6ND_NA(tgt="fd31:1::12"), "STACK_LINK_SCOPE"),
    ("v6 icmp truncated", ip(6, "1.12", nh=58), "STACK_MALFORMED"),
    (
        "v6 router alert",
        ip(6, "1.12") / IPv6ExtHdrHopByHop(options=[RouterAlert()]) / UDP(),
        "STACK_IP_OPTIONS",
    ),
    (
        "v6 padding",
        ip(6, "1.12") / IPv6ExtHdrHopByHop(options=[PadN(optdata=b"\0" * 4)]) / UDP(),
        "STACK_IP_OPTIONS",
    ),
    (
        "v6 jumbogram without GSO",
        ip(6, "1.12", plen=0) / IPv6ExtHdrHopByHop(options=[Jumbo(jumboplen=70000)]) / TCP(),
        "STACK_IP_OPTIONS",
    ),
    ("v6 hop-by-hop truncated", ip(6, "1.12", nh=0) / Raw(b"\x06\0\xc2"), "STACK_MALFORMED"),
]


@pytest.mark.parametrize("program", ["pod_egress", "host_ingress"])
@pytest.mark.parametrize(("packet", "reason"), [s[1:] for s in STACK], ids=[s[0] for s in STACK])
def test_passed_to_the_stack(datapath: Any, program: str, packet: Packet, reason: str) -> None:
    sent = frame(packet)
    result = datapath.run(program, sent)
    assert (result.verdict, result.counted, result.packet) == (PASS, {reason: 1}, sent)


def test_ndp_requires_hop_limit_255(datapath: Any) -> None:
    """Packets that a router forwarded are invalid (RFC 4861, 7.1) and subject to policy."""
    result = datapath.run("host_ingress", frame(ip(6, "1.12", ttl=254) / ICMPv6ND_Redirect()))
    assert (result.verdict, result.counted) == (REDIRECT, {"INBOUND": 1})


ROUTED: list[tuple[str, Packet, int]] = [
    ("v4 first fragment", ip(4, "1.12", flags="MF") / UDP() / Raw(bytes(64)), 0),
    ("v4 later fragment", ip(4, "1.12", frag=100, proto=17) / Raw(bytes(64)), 0),
    ("v4 padded frame", ip(4, "1.12", len=28) / UDP(len=8) / Raw(bytes(18)), 0),
    ("v4 BIG TCP", ip(4, "1.12", len=0) / TCP() / Raw(bytes(3000)), 1200),
    ("v6 fragment", ip(6, "1.12") / IPv6ExtHdrFragment(offset=10, nh=17) / Raw(bytes(64)), 0),
    (
        "v6 destination options",
        ip(6, "1.12") / IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 4)]) / UDP(),
        0,
    ),
    ("v6 routing header", ip(6, "1.12") / IPv6ExtHdrRouting(addresses=["fd31:2::1"]) / UDP(), 0),
    (
        "v6 BIG TCP with a jumbo option",
        ip(6, "1.12", plen=0)
        / IPv6ExtHdrHopByHop(options=[Jumbo(jumboplen=70000)])
        / TCP()
        / Raw(bytes(3000)),
        1200,
    ),
    ("v6 authentication header", ip(6, "1.12", nh=51) / Raw(bytes(64)), 0),
    ("v6 mobility header", ip(6, "1.12", nh=135) / Raw(bytes(64)), 0),
    ("v6 BIG TCP without jumbo option", ip(6, "1.12", plen=0, nh=6) / TCP() / Raw(bytes(3000)), 1200),
]


@pytest.mark.parametrize("program", ["pod_egress", "host_ingress"])
@pytest.mark.parametrize(("packet", "gso_size"), [r[1:] for r in ROUTED], ids=[r[0] for r in ROUTED])
def test_unusual_but_forwarded(datapath: Any, program: str, packet: Packet, gso_size: int) -> None:
    sent = frame(packet)
    result = datapath.run(program, sent, gso_size=gso_size)
    assert result.verdict == REDIRECT, result.counted
    assert result.counted == {"LOCAL" if program == "pod_egress" else "INBOUND": 1}
    version = 4 if sent[12:14] == b"\x08\x00" else 6
    changed = {i for i, (a, b) in enumerate(zip(sent, result.packet)) if a != b}
    assert len(result.packet) == len(sent)
    assert changed <= ({22, 24, 25} if version == 4 else {21})
    assert result.packet[22 if version == 4 else 21] == 63


@pytest.mark.parametrize("plen_zero", [False, True])
def test_big_tcp_to_the_wire(datapath: Any, plen_zero: bool) -> None:
    """Both encodings: segment size decides, and segments have no jumbo option."""
    extension = Raw(b"") if plen_zero else IPv6ExtHdrHopByHop(options=[Jumbo(jumboplen=70000)])
    for segment, reason in ((1300, "REMOTE"), (1301, "STACK_MTU")):
        packet = ip(6, "8.11", plen=0, nh=6 if plen_zero else 0) / extension / TCP() / Raw(bytes(3000))
        result = datapath.run("pod_egress", frame(packet), gso_size=segment - 60)
        assert result.counted == {reason: 1}


@pytest.mark.usefixtures("one_cpu")
class TestFlowCache:
    """Which packets use the flow cache, and which do not."""

    @staticmethod
    def twice(datapath: Any, first: bytes, second: bytes, **options: Any) -> Any:
        assert datapath.run("pod_egress", first).verdict == REDIRECT
        return datapath.run_after(first, "pod_egress", second, **options)

    @classmethod
    def until_cached(cls, datapath: Any, packet: bytes, mac: bytes = MACS) -> Any:
        """Return the result of a flow's second packet; on a busy machine the entry may expire before it."""
        for dummy in range(100):
            result = cls.twice(datapath, packet, packet)
            if result.packet.startswith(mac):
                break
        return result

    @FAMILIES
    def test_cached_mac_addresses(self, datapath: Any, family: int) -> None:
        packet = frame(ip(family) / TCP(sport=1, dport=2) / Raw(b"x" * 9))
        result = self.until_cached(datapath, packet)
        assert (result.verdict, result.counted) == (REDIRECT, {"REMOTE": 1})
        assert result.packet == MACS + routed(packet)[12:]

    @FAMILIES
    @pytest.mark.parametrize("flag", [layout.POD_META, layout.POD_NETKIT], ids=["meta", "netkit"])
    def test_drivers(self, state: Any, family: int, flag: int) -> None:
        """They differ in the checks of cached flows."""
        state.pods(flags=flag)
        packet = frame(ip(family) / UDP(sport=1, dport=2))
        result = self.until_cached(state.datapath, packet)
        assert (result.verdict, result.counted) == (REDIRECT, {"REMOTE": 1})
        assert result.packet == MACS + routed(packet)[12:]

    @FAMILIES
    def test_a_device_beyond_64_kib(self, state: Any, family: int) -> None:
        with state.datapath.inside():
            state.datapath.endpoint(12, state.datapath.ifindex("lo"))
        packet = frame(ip(family, "1.12") / UDP())
        for cached in (False, True):
            result = state.datapath.run("pod_egress", packet, cached=cached)
            assert (result.counted, result.packet) == ({"LOCAL": 1}, routed(packet))

    @FAMILIES
    @pytest.mark.parametrize("program", ["pod_egress", "host_ingress"])
    def test_cached_pod(self, datapath: Any, family: int, program: str) -> None:
        packet = frame(ip(family, "1.12") / TCP(sport=1, dport=2))
        first = datapath.run(program, packet)
        assert datapath.run(program, packet, cached=True) == first
        assert (first.verdict, first.packet) == (REDIRECT, routed(packet))

    @FAMILIES
    @pytest.mark.parametrize(
        "other",
        [
            {"transport": TCP(sport=1, dport=3)},
            {"transport": TCP(sport=3, dport=2)},
            {"transport": UDP(sport=1, dport=2)},
            {"src": "1.16"},
            {"dst": "2.12"},
            {"service": 8},
        ],
        ids=lambda other: next(iter(other)),
    )
    def test_another_flow_misses(self, datapath: Any, family: int, other: dict[str, Any]) -> None:
        fields: dict[str, Any] = {"dst": other.get("dst", "2.11"), "src": other.get("src", "1.11")}
        if "service" in other:
            fields["tos" if family == 4 else "tc"] = other["service"]
        transport = TCP(sport=1, dport=2)
        second = frame(ip(family, **fields) / other.get("transport", transport))
        result = self.twice(datapath, frame(ip(family) / transport), second)
        assert (result.verdict, result.packet) == (REDIRECT, routed(second))

    @FAMILIES
    def test_expiry(self, datapath: Any, family: int) -> None:
        """A neighbour's new MAC address is used once the entry expires: 30 ms with HZ=100."""
        address = "172.31.0.2" if family == 4 else "fd31::2"
        change = ["ip", "-n", datapath.netns, "neigh", "replace", address, "dev", "wire0", "lladdr"]
        packet = frame(ip(family) / TCP(sport=1, dport=2))
        self.twice(datapath, packet, packet)
        subprocess.run([*change, "02:00:00:00:00:98"], check=True)
        try:
            time.sleep(0.05)
            assert datapath.run("pod_egress", packet, cached=True).packet == routed(packet)
            changed = bytes.fromhex("020000000098")
            assert self.until_cached(datapath, packet, changed).packet.startswith(changed)
        finally:
            subprocess.run([*change, "02:00:00:00:00:99"], check=True)

    @FAMILIES
    def test_a_packet_over_the_mtu_misses(self, datapath: Any, family: int) -> None:
        transport = TCP(sport=1, dport=2)
        small, big = (frame(ip(family, "8.11") / transport / Raw(b"x" * n)) for n in (9, 1400))
        result = self.twice(datapath, small, big)
        assert (result.verdict, result.counted, result.packet) == (PASS, {"STACK_MTU": 1}, big)

    @FAMILIES
    def test_the_last_hop_misses(self, datapath: Any, family: int) -> None:
        first, last = (frame(ip(family, ttl=ttl) / TCP(sport=1, dport=2)) for ttl in (64, 1))
        result = self.twice(datapath, first, last)
        assert (result.verdict, result.counted, result.packet) == (PASS, {"STACK_TTL": 1}, last)

    def test_a_new_endpoint_takes_effect_at_once(self, datapath: Any) -> None:
        packet = frame(ip(4, "2.99") / TCP(sport=1, dport=2))
        assert self.twice(datapath, packet, packet).counted == {"REMOTE": 1}
        endpoints = datapath.object.maps["endpoints4"]
        known = bpf.map_lookup(endpoints, bytes([10, 31, 1, 12]), layout.ENDPOINT.size)
        bpf.map_update(endpoints, {bytes([10, 31, 2, 99]): known})
        try:
            datapath.new_generation()
            assert datapath.run("pod_egress", packet, cached=True).counted == {"LOCAL": 1}
        finally:
            bpf.map_delete(endpoints, [bytes([10, 31, 2, 99])])


class TestHostIngress:
    @FAMILIES
    @TRANSPORTS
    def test_to_a_pod(self, datapath: Any, family: int, transport: Packet) -> None:
        packet = frame(ip(family, "1.12", src="2.11") / transport)
        result = datapath.run("host_ingress", packet)
        assert (result.verdict, result.counted) == (REDIRECT, {"INBOUND": 1})
        assert result.packet == routed(packet)

    @FAMILIES
    def test_netkit_uses_redirect_peer(self, netkit_datapath: Any, family: int) -> None:
        packet = frame(ip(family, "1.12", src="2.11") / UDP())
        result = netkit_datapath.run("host_ingress", packet)
        assert (result.verdict, result.counted) == (REDIRECT, {"INBOUND": 1})

    @FAMILIES
    def test_to_the_host(self, datapath: Any, family: int) -> None:
        packet = frame(ip(family, "2.99") / UDP())
        result = datapath.run("host_ingress", packet)
        assert (result.verdict, result.counted, result.packet) == (PASS, {"STACK_NO_ENDPOINT": 1}, packet)

    @FAMILIES
    def test_ttl(self, datapath: Any, family: int) -> None:
        packet = frame(ip(family, "1.12", ttl=1) / UDP())
        result = datapath.run("host_ingress", packet)
        assert (result.verdict, result.counted, result.packet) == (PASS, {"STACK_TTL": 1}, packet)

    @FAMILIES
    def test_mtu(self, datapath: Any, family: int) -> None:
        packet = frame(ip(family, "1.13") / UDP() / Raw(bytes(1400)))
        result = datapath.run("host_ingress", packet)
        assert (result.verdict, result.counted, result.packet) == (PASS, {"STACK_MTU": 1}, packet)

    @pytest.mark.parametrize("mac", ["02:00:00:00:00:77", "ff:ff:ff:ff:ff:ff", "33:33:00:00:00:01"])
    def test_frames_to_other_hosts(self, datapath: Any, mac: str) -> None:
        packet = frame(ip(4, "1.12") / UDP(), dst=mac)
        result = datapath.run("host_ingress", packet)
        assert (result.verdict, result.counted, result.packet) == (PASS, {"STACK_OTHERHOST": 1}, packet)


@FAMILIES
def test_pod_ingress_passes(datapath: Any, family: int) -> None:
    packet = frame(ip(family, "1.12") / UDP())
    result = datapath.run("pod_ingress", packet)
    assert (result.verdict, result.counted, result.packet) == (PASS, {"HOST": 1}, packet)


@pytest.mark.parametrize("program", ["pod_egress", "host_ingress"])
def test_any_bytes(datapath: Any, program: str) -> None:
    """Mutated packets: forwarded with decremented TTL, or passed unmodified; one count each."""
    generator = random.Random(program)
    seeds = [frame(s[1]) for s in STACK] + [frame(r[1]) for r in ROUTED]
    seeds += [frame(ip(family, dst) / TCP()) for family in (4, 6) for dst in ("1.12", "2.11")]
    runs = 3000
    before = datapath.counters()
    for dummy in range(runs):
        packet = bytearray(generator.choice(seeds))
        for dummy in range(generator.randrange(4)):
            packet[generator.randrange(12, len(packet))] = generator.choice(
                (0, 1, 0x45, 0x60, 0xFF, generator.randrange(256))
            )
        # BPF_PROG_TEST_RUN rejects frames shorter than the header of their protocol
        del packet[generator.randrange(54, 400) :]
        gso_size = generator.choice((0, 0, 0, 500))
        verdict, out = datapath.test_run(
            program, bytes(packet), "wire0" if program == "host_ingress" else "pod1", gso_size
        )
        changed = {i for i, (a, b) in enumerate(zip(packet, out)) if a != b}
        if packet[12:14] in TAGS:
            assert program == "host_ingress" or verdict == DROP, packet.hex()
            continue
        assert len(out) == len(packet)
        if verdict in (PASS, DROP):
            assert not changed, packet.hex()
            spoofed = packet[26:30] != OWN4 if packet[12:14] == b"\x08\x00" else packet[22:38] != OWN6
            ndp = packet[12:14] == b"\x86\xdd" and (packet[20] == 58 or packet[38] in (0xFE, 0xFF))
            assert verdict == PASS or ((spoofed or ndp) and program == "pod_egress"), packet.hex()
        else:
            assert verdict == REDIRECT, packet.hex()
            ttl = 22 if packet[12:14] == b"\x08\x00" else 21
            assert out[ttl] == packet[ttl] - 1 > 0, packet.hex()
            if out[:12] in (bytes(packet[:12]), MACS):
                changed -= set(range(12))
            assert changed <= ({ttl} if ttl == 21 else {ttl, 24, 25}), packet.hex()
    assert sum(datapath.counters()) - sum(before) == runs
