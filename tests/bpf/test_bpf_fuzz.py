# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Mutated packets of Pods under policy: none passes that a model of the policy denies.

PODNET_FUZZ is the number of packets for each program (make fuzz-bpf COUNT=1000000).
"""

from __future__ import annotations

import itertools
import os
import random
from dataclasses import dataclass
from typing import Any

import pytest
from scapy.layers.inet import ICMP, TCP, UDP, IPerror, TCPerror
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6ND_NS,
    IPerror6,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    Jumbo,
    PadN,
)
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from tests.bpf.programs import GONE
from tests.bpf.state import (
    ALLOW,
    BOTH,
    DENY_EGRESS,
    DENY_INGRESS,
    EGRESS,
    ENFORCE_EGRESS,
    ENFORCE_INGRESS,
    INGRESS,
    MAC,
    PASS,
    POD1,
    POD2,
    REDIRECT,
    REMOTE,
    SENDER,
    TCP_,
    UDP_,
    State,
    echo,
    frame,
    packed,
    text,
)

COUNT = int(os.environ.get("PODNET_FUZZ", "2000"))
# What each program allows: the peer's address, protocol, first and last port.
ALLOWED = {
    "pod_egress": {("1.12", TCP_, 80, 85), ("1.12", UDP_, 53, 53), ("2.11", TCP_, 443, 443)},
    "host_ingress": {("2.11", TCP_, 8080, 8080)},
    # on netkit packets from Pods of this node pass here too
    "pod_ingress": {("2.11", TCP_, 8080, 8080), ("1.11", TCP_, 80, 85), ("1.11", UDP_, 53, 53)},
}
TAGS = (b"\x81\x00", b"\x88\xa8")  # Ethernet types of 802.1Q and 802.1ad
ICMP_ERRORS = {4: {3, 4, 11, 12}, 6: {1, 2, 3, 4}}


class Model:
    """Model of the policy: decides from a packet's bytes alone."""

    def __init__(self, program: str) -> None:
        self.outbound, self.from_wire = program == "pod_egress", program == "host_ingress"
        self.own = {family: packed("1.11", family)[: 4 if family == 4 else 16] for family in (4, 6)}
        self.pod2 = {family: packed("1.12", family)[: 4 if family == 4 else 16] for family in (4, 6)}
        self.allowed = {
            (packed(where, family)[: 4 if family == 4 else 16], proto, port)
            for where, proto, first, last in ALLOWED[program]
            for port in range(first, last + 1)
            for family in (4, 6)
        }
        self.fragments: set[tuple[bytes, bytes, int, bytes]] = set()
        self.opened: set[tuple[bytes, bytes, int, bytes]] = set()
        self.gso = False

    def allows(self, packet: bytes, gso: bool) -> bool:
        self.gso = gso
        for dummy in range(2):
            if packet[12:14] in TAGS and len(packet) >= 18:
                if not self.from_wire:
                    return False
                if int.from_bytes(packet[14:16], "big") & 0xFFF:
                    return True  # for a VLAN device
                packet = packet[:12] + packet[16:]
        kind, body = packet[12:14], packet[14:]
        if kind == b"\x08\x06":
            return True
        if kind == b"\x08\x00":
            return self.allows_v4(body)
        if kind == b"\x86\xdd":
            return self.allows_v6(body)
        # other protocols: from the wire to the node itself, or from the node
        return not self.outbound and kind not in TAGS

    def is_allowed(self, src: bytes, dst: bytes, proto: int, ports: bytes) -> bool:
        """Return whether the packet may open a connection."""
        other = dst if self.outbound else src
        return len(ports) >= 4 and (other, proto, int.from_bytes(ports[2:4], "big")) in self.allowed

    def is_opened(self, src: bytes, dst: bytes, proto: int, ports: bytes) -> bool:
        """Return whether a packet of a connection, in either direction, passed before."""
        back = ports[2:4] + ports[:2]
        return (src, dst, proto, ports[:4]) in self.opened or (dst, src, proto, back) in self.opened

    def has_valid_source(self, src: bytes, family: int) -> bool:
        """Return whether the source address is valid."""
        return src == self.own[family] if self.outbound else True

    def decide(
        self, family: int, src: bytes, dst: bytes, proto: int, data: bytes, fragment: tuple[int, bool, bytes]
    ) -> bool:
        if not self.outbound and dst != self.pod2[family]:
            return True
        if not self.has_valid_source(src, family):
            return False
        offset, more, number = fragment
        key = (src, dst, proto if family == 4 else 0, number)
        if offset:
            return key in self.fragments
        if proto == (1 if family == 4 else 58) and data and data[0] in ICMP_ERRORS[family] and not more:
            return self.is_related(family, src, dst, data[8:])
        is_allowed = self.is_allowed(src, dst, proto, data)
        if is_allowed:
            self.opened.add((src, dst, proto, data[:4]))
        if is_allowed and more:
            self.fragments.add(key)
        return is_allowed

    def is_related(self, family: int, src: bytes, dst: bytes, inner: bytes) -> bool:
        """Return whether an ICMP error goes to the sender of a packet of an open connection.

        Only routers send errors about packets to others; Pods are none.
        """
        if len(inner) < (20 if family == 4 else 40):
            return False
        if family == 4:
            sender, receiver = inner[12:16], inner[16:20]
            found = (
                inner[9],
                inner[(inner[0] & 15) * 4 :],
                (int.from_bytes(inner[6:8], "big") & 0x1FFF, False, b""),
            )
        else:
            sender, receiver = inner[8:24], inner[24:40]
            skipped = self.skip_headers(inner[6], inner[40:])
            if skipped is None:
                return False
            found = skipped
        if dst != sender or (src == self.own[family] and src != receiver):
            return False
        return not found[2][0] and self.is_opened(sender, receiver, *found[:2])

    @staticmethod
    def skip_headers(proto: int, data: bytes) -> tuple[int, bytes, tuple[int, bool, bytes]] | None:
        """Return protocol and payload after IPv6 extension headers, and the fragment's place."""
        fragment = (0, False, b"")
        while proto in (0, 43, 44, 60):
            if len(data) < 8:
                return None
            if proto == 44:
                bits = int.from_bytes(data[2:4], "big")
                fragment = (bits >> 3, bool(bits & 1), data[4:8])
                proto, data = data[0], data[8:]
                if fragment[0]:
                    break
            else:
                proto, data = data[0], data[(data[1] + 1) * 8 :]
        return proto, data, fragment

    def allows_v4(self, ip: bytes) -> bool:
        # BIG TCP: a GSO packet of length 0 or payload length 0 ends with the frame
        length = int.from_bytes(ip[2:4], "big") or (len(ip) if self.gso else 0)
        if ip[0] != 0x45 or not 20 <= length <= len(ip):
            return not self.outbound and ip[16:20] != self.pod2[4]
        flags = int.from_bytes(ip[6:8], "big")
        fragment = (flags & 0x1FFF, bool(flags & 0x2000), ip[4:6])
        return self.decide(4, ip[12:16], ip[16:20], ip[9], ip[20:length], fragment)

    def allows_v6(self, ip: bytes) -> bool:
        if not self.outbound and ip[24:40] != self.pod2[6]:
            return True
        length = 40 + int.from_bytes(ip[4:6], "big")
        if length == 40 and self.gso:
            length = len(ip)
        if length > len(ip):
            return False
        proto, data = ip[6], ip[40:length]
        # The stack does not forward packets with a link-scope source (RFC 4291, 2.5.6 and 2.7).
        link = ip[8] == 0xFF or (ip[8] == 0xFE and ip[9] & 0xC0 == 0x80) or ip[8:12] == bytes(4)
        if not self.outbound and not self.from_wire and link:
            return True
        # Neighbour discovery is link-local; forwarded packets have a lower hop limit.
        if proto == 58 and ip[7] == 255 and data[:1]:
            if not self.outbound and not self.from_wire and 133 <= data[0] <= 137:
                return True
            if self.outbound and data[0] in (133, 135, 136) and ip[24:26] in (b"\xff\x02", b"\xfe\x80"):
                return True
        found = self.skip_headers(proto, data)
        return found is not None and self.decide(6, ip[8:24], ip[24:40], *found)


def seeds(program: str) -> list[bytes]:
    """Return packets close to the allowed ones, with all header types."""
    found = []
    options = IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 4)])
    paths = [("1.11", "1.12"), ("1.11", "2.11")] if program == "pod_egress" else [("2.11", "1.12")]
    if program == "pod_ingress":
        paths.append(("1.11", "1.12"))
    for src, dst in paths:
        for family in (4, 6):
            for payload in (
                *(TCP(sport=9, dport=port, flags="S") for port in (80, 85, 86, 443, 8080)),
                UDP(sport=9, dport=53),
                echo(family),
                echo(family, reply=True),
                *(echo(family, reply, number) for reply in (False, True) for number in (0, 2048)),
            ):
                found.append(frame(src, dst, payload / Raw(bytes(24)), family))
        for port in (53, 54):
            first = UDP(dport=port, len=100) / Raw(bytes(64))
            found.append(frame(src, dst, first, 4, flags="MF", id=port))
            found.append(frame(src, dst, Raw(bytes(64)), 4, frag=9, proto=UDP_, id=port))
            found.append(frame(src, dst, IPv6ExtHdrFragment(nh=UDP_, id=port, m=1) / first, 6))
            later = IPv6ExtHdrFragment(nh=UDP_, id=port, offset=9) / Raw(bytes(64))
            found.append(frame(src, dst, later, 6))
            for offset, more in ((0, 0), (1, 1), (2, 0)):  # atomic; overlapping the transport header
                overlap = IPv6ExtHdrFragment(id=port, offset=offset, m=more)
                found.append(frame(src, dst, overlap / options / UDP(dport=port) / Raw(bytes(24)), 6))
                found.append(frame(src, dst, UDP(dport=port) / Raw(bytes(24)), 4, frag=offset, id=port))
        for sender, receiver in ((dst, src), (src, dst), (dst, "2.12")):
            for inner in (
                TCPerror(sport=9, dport=80),
                TCPerror(sport=80, dport=9),
                TCPerror(sport=9, dport=8080),
            ):
                v4 = IPerror(src=text(sender, 4), dst=text(receiver, 4)) / inner
                v6 = IPerror6(src=text(sender, 6), dst=text(receiver, 6))
                found.append(frame(src, dst, ICMP(type=3, code=4) / v4, 4))
                found.append(frame(src, dst, ICMPv6DestUnreach() / v6 / inner, 6))
                for extension in (options, IPv6ExtHdrFragment(m=1), IPv6ExtHdrFragment(offset=1)):
                    found.append(frame(src, dst, ICMPv6DestUnreach() / v6 / extension / inner, 6))
        for port in (80, 86):
            segment = TCP(sport=9, dport=port) / Raw(bytes(24))
            jumbo = IPv6ExtHdrHopByHop(options=[Jumbo(jumboplen=52)])
            found.append(frame(src, dst, segment, 4, len=0))
            found.append(frame(src, dst, segment, 6, plen=0))
            found.append(frame(src, dst, jumbo / segment, 6, plen=0))
        for headers in (options, options / options, IPv6ExtHdrHopByHop(), IPv6ExtHdrRouting()):
            found.append(frame(src, dst, headers / TCP(dport=80, flags="S"), 6))
        for length in (0, 3, 8, 13, 20):
            # the remaining bytes are padding
            allowed = TCP(sport=9, dport=80, flags="S") / Raw(bytes(24))
            found.append(frame(src, dst, allowed, 4, len=20 + length))
            found.append(frame(src, dst, allowed, 6, plen=length))
            found.append(frame(src, dst, options / allowed, 6, plen=length))
        for hops, target in ((255, "fe80::1"), (64, "ff02::1"), (255, text(dst, 6))):
            header = IPv6(src=text(src, 6), dst=target, hlim=hops)
            found.append(bytes(Ether(dst=MAC, src=SENDER) / header / ICMPv6ND_NS(tgt=target)))
    return found + [
        one[:12] + b"".join(tags) + one[12:]
        for one in found[::3]
        for tags in ([b"\x81\0\0\0"], [b"\x88\xa8\0\0", b"\x81\0\0\0"], [b"\x81\0\0\5"])
    ]


@pytest.fixture
def policy_state(datapath: Any) -> Any:
    state = State(datapath)
    state.pods(ENFORCE_EGRESS | DENY_EGRESS, ENFORCE_INGRESS | DENY_INGRESS)
    state.device(enforce=ENFORCE_EGRESS | DENY_EGRESS)
    datapath.endpoint(16, GONE)  # pod1's second address has no policy
    state.rule(POD1, POD2, EGRESS, (TCP_, ALLOW, 80, 90), (UDP_, ALLOW, 53, 53))
    state.rule(POD1, REMOTE, EGRESS, (TCP_, ALLOW, 443, 443))
    state.rule(POD2, POD1, INGRESS, (TCP_, ALLOW, 70, 85), (UDP_, ALLOW, 53, 53))
    state.rule(POD2, REMOTE, INGRESS, (TCP_, ALLOW, 8080, 8080))
    yield state
    state.clear()
    datapath.endpoint(16, state.pod1)


@pytest.mark.parametrize("program", list(ALLOWED))
def test_no_denied_packet_passes(datapath: Any, policy_state: State, program: str) -> None:
    generator = random.Random(program)
    model, originals = Model(program), seeds(program)
    datapath.new_generation()
    device = "wire0" if program == "host_ingress" else "pod1"
    allowed = 0
    for number in range(COUNT):
        packet = bytearray(generator.choice(originals))
        for dummy in range(generator.randrange(4)):
            place = generator.randrange(12, min(len(packet), 90))
            packet[place] = generator.choice((0, 1, 6, 17, 43, 44, 58, 60, 80, generator.randrange(256)))
        if not generator.randrange(8):
            # BPF_PROG_TEST_RUN rejects frames shorter than the header of their protocol
            del packet[generator.randrange(54, 120) :]
        gso_size = 0 if generator.randrange(4) else generator.choice((1, 8, 1400, 65535))
        gso_segs = 2 if gso_size else 0
        verdict, dummy = datapath.test_run(program, bytes(packet), device, gso_size, gso_segs)
        is_allowed = model.allows(bytes(packet), gso_size > 0)
        if verdict in (PASS, REDIRECT):
            assert is_allowed, (number, packet.hex())
            allowed += 1
    # many mutated packets are still allowed
    assert COUNT / 60 < allowed < COUNT


@dataclass
class Record:
    """A TCP connection as the model knows it."""

    client: tuple[str, int]
    server: tuple[str, int]
    has_syn: bool
    admitted: bool = False
    is_ending: bool = False  # after a FIN or RST a SYN opens another connection


@pytest.mark.parametrize("family", [4, 6])
def test_sequences_of_tcp(state: State, family: int) -> None:
    """A connection passes as policy allows its opening; without a SYN, both directions are needed."""
    generator, count = random.Random(family), min(COUNT, 10000)
    state.pods(BOTH, BOTH)
    hosts = {"1.11": POD1, "1.12": POD2, "2.11": REMOTE}
    allowed: set[tuple[str, str, int]] = set()
    known: dict[frozenset[tuple[str, int]], Record] = {}
    passed = 0

    def is_allowed(source: tuple[str, int], target: tuple[str, int]) -> bool:
        return (source[0], target[0], target[1]) in allowed

    for number in range(count):
        if number % 40 == 0:
            allowed = set()
            state.rulesets = 0
            for one, other in itertools.permutations(hosts, 2):
                ports = [port for port in (80, 1234) if generator.randrange(2)]
                allowed |= {(one, other, port) for port in ports}
                ranges = [(TCP_, ALLOW, port, port) for port in ports]
                if one != "2.11":
                    state.rule(hosts[one], hosts[other], EGRESS, *ranges)
                if other != "2.11":
                    state.rule(hosts[other], hosts[one], INGRESS, *ranges)
            state.datapath.new_generation()
        names, ports_of_packet = generator.sample(sorted(hosts), 2), generator.sample((80, 1234), 2)
        source, target = (names[0], ports_of_packet[0]), (names[1], ports_of_packet[1])
        flags = generator.choice(("S", "SA", "A", "A", "FA", "R", "RA"))
        packet = frame(source[0], target[0], TCP(sport=source[1], dport=target[1], flags=flags), family)
        program = "host_ingress" if source[0] == "2.11" else "pod_egress"
        device = {"1.11": "pod1", "1.12": "pod2", "2.11": "wire0"}[source[0]]
        counted = state.datapath.run(program, packet, device, cached=True).counted
        pair = frozenset((source, target))
        record = known.get(pair)
        if record and flags == "S" and (not record.admitted or record.is_ending):
            record = None
        is_new = record is None
        record = record or Record(source, target, flags == "S")
        record.admitted = is_allowed(record.client, record.server) and (
            record.has_syn or is_allowed(record.server, record.client)
        )
        does_pass = bool({"LOCAL", "REMOTE", "INBOUND"} & counted.keys())
        assert does_pass == record.admitted, (number, source, target, flags, counted, record)
        if is_new and (not record.admitted or "R" in flags):
            continue
        known[pair] = record
        if record.admitted:
            record.is_ending |= "F" in flags or "R" in flags
        passed += does_pass
    assert passed > count / 10
