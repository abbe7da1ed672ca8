# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the programs are told of Pods, policy and services, as entries of their maps; and packets."""

from __future__ import annotations

import ipaddress
import struct
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from ansible_collections.podnet.datapath.plugins.module_utils._kernel import bpf

MAC = "02:00:00:00:00:01"
SENDER = "02:00:00:00:00:02"
PASS, DROP, REDIRECT = -1, 2, 7
FAMILIES = pytest.mark.parametrize("family", [4, 6])

# endpoints.h, policy.h, config.h, ct.h
ENFORCE_INGRESS, ENFORCE_EGRESS, DENY_INGRESS, DENY_EGRESS = 1, 2, 4, 8
POD_L2, POD_MASQUERADE, POD_ANY_SOURCE = 2, 4, 8
INGRESS, EGRESS = 0, 1
DEFAULT, ALLOW, DENY = 0, 1, 2
SERVICES, MASQUERADE = 1, 2
MAGLEV_SIZE, RANGES = 251, 16

HOST, POD1, POD2, REMOTE = 1, 11, 12, 13  # identities
TCP_, UDP_, ICMP_, SCTP_ = 6, 17, 1, 132


def text(where: str, family: int) -> str:
    return f"10.31.{where}" if family == 4 else f"fd31:{where.replace('.', '::')}"


def packed(where: str, family: int) -> bytes:
    """An address as maps of both families have it."""
    return ipaddress.ip_address(text(where, family)).packed.ljust(16, b"\0")


def frame(src: str, dst: str, payload: Packet, family: int, **fields: Any) -> bytes:
    kind = IP if family == 4 else IPv6
    header = kind(src=text(src, family), dst=text(dst, family), **fields)
    return bytes(Ether(dst=MAC, src=SENDER) / header / payload)


def valid(packet: bytes) -> Packet:
    """Parse a packet and assert that every sum in it is right."""
    again = Ether(packet)
    for layer in again.layers():
        if layer in (IP, TCP, UDP, ICMP):
            del again[layer].chksum
        elif "cksum" in {f.name for f in layer.fields_desc}:
            del again[layer].cksum
    assert bytes(again) == packet
    return Ether(packet)


class State:
    """Entries of the maps, and what they are made of."""

    def __init__(self, datapath: Any) -> None:
        self.datapath, self.maps = datapath, datapath.object.maps
        self.written: list[tuple[str, bytes]] = []
        self.rulesets = 0
        with datapath.inside():
            self.pod1, self.pod2 = (datapath.ifindex(name) for name in ("pod1", "pod2"))

    def put(self, name: str, key: bytes, value: bytes) -> None:
        bpf.map_update(self.maps[name], {key: value})
        self.written.append((name, key))

    def pods(self, enforce1: int = 0, enforce2: int = 0, flags: int = 0) -> None:
        self.datapath.endpoint(11, self.pod1, POD1, enforce1, 1, flags)
        self.datapath.endpoint(12, self.pod2, POD2, enforce2, 2)
        self.datapath.endpoint(11, 0, REMOTE, node=2)

    def device(self, flags: int = 0, enforce: int = 0, rate: int = 0) -> None:
        """What the programs know of pod1's device."""
        mac = bytes.fromhex(MAC.replace(":", ""))
        value = struct.pack("=IHHIIHH6s6xQ", 1, 1, flags, POD1, POD1, enforce, enforce, mac, rate)
        self.put("pods", struct.pack("=I", self.pod1), value)

    def rule(
        self,
        subject: int,
        peer: int,
        direction: int,
        *ranges: tuple[int, int, int, int],
        verdict: int = DEFAULT,
    ) -> None:
        """``ranges``: protocol, verdict, first, last."""
        self.rulesets += 1
        body = b"".join(struct.pack("=BBHH", *r) for r in ranges).ljust(6 * RANGES, b"\0")
        value = struct.pack("=BBxx", verdict, len(ranges)) + body
        bpf.map_update(self.maps["rulesets"], {struct.pack("=I", self.rulesets): value})
        for bank in (0, 1):
            key = struct.pack("=IIBBxx", subject, peer, bank, direction)
            self.put("policy", key, struct.pack("=I", self.rulesets))

    def cidr(self, prefix: str, identity: int, flags: int = 0) -> None:
        network = ipaddress.ip_network(prefix)
        for bank in (0, 1):
            key = struct.pack("=II", 32 + network.prefixlen, bank) + network.network_address.packed
            self.put(f"cidrs{network.version}", key, struct.pack("=II", identity, flags))

    def service(
        self, where: str, port: int, proto: int, backends: list[tuple[str, int]], family: int
    ) -> None:
        self.datapath.features |= SERVICES
        for index, (address, at) in enumerate(backends, 1):
            value = packed(address, family) + struct.pack("!Hxx", at)
            bpf.map_update(self.maps["backends"], {struct.pack("=I", index): value})
        slots = [1 + i % len(backends) if backends else 0 for i in range(MAGLEV_SIZE)]
        table = struct.pack(f"={MAGLEV_SIZE}I8x", *slots)
        bpf.map_update(self.maps["tables"], {struct.pack("=I", 1): table})
        for bank in (0, 1):
            number = 2 if family == 4 else 10
            key = packed(where, family) + struct.pack("!HBB", port, proto, number) + struct.pack("=I", bank)
            self.put("services", key, struct.pack("=II", 1, 1))

    def masquerade(self, first: int = 61000, last: int = 65535) -> None:
        self.datapath.features |= MASQUERADE
        v4, v6 = (ipaddress.ip_address(a).packed for a in ("172.31.0.1", "fd31::1"))
        for bank in (0, 1):
            value = v4 + struct.pack("=HH", first, last) + v6
            bpf.map_update(self.maps["node"], {struct.pack("=I", bank): value})

    def clear(self) -> None:
        self.datapath.drops()  # or the ring would be full some day
        self.datapath.features = 0
        self.datapath.endpoint(11, self.pod1)
        self.datapath.endpoint(12, self.pod2)
        for family in (4, 6):
            remote = ipaddress.ip_address(text("2.11", family)).packed
            bpf.map_delete(self.maps[f"endpoints{family}"], [remote])
        for name, key in dict.fromkeys(self.written):
            bpf.map_delete(self.maps[name], [key])
        for name in ("ct", "fragments"):
            keys = list(bpf.map_read(self.maps[name]))
            bpf.map_delete(self.maps[name], keys)


def sent(state: State, src: str, dst: str, payload: Packet, family: int, **fields: Any) -> Any:
    """What a Pod's packet becomes; pod1 is 1.11, pod2 is 1.12."""
    return state.datapath.run(
        "pod_egress", frame(src, dst, payload, family, **fields), "pod1" if src == "1.11" else "pod2"
    )


def came(state: State, src: str, dst: str, payload: Packet, family: int, **fields: Any) -> Any:
    """What a packet from the wire becomes."""
    return state.datapath.run("host_ingress", frame(src, dst, payload, family, **fields))


def made_by_host(state: State, src: str, dst: str, payload: Packet, family: int) -> Any:
    return state.datapath.run("pod_ingress", frame(src, dst, payload, family), "pod1")


def syn(dport: int = 80, sport: int = 1234) -> Packet:
    return TCP(sport=sport, dport=dport, flags="S")


def echo(family: int, reply: bool = False, number: int = 7) -> Packet:
    if family == 4:
        return ICMP(type=0 if reply else 8, id=number)
    return ICMPv6EchoReply(id=number) if reply else ICMPv6EchoRequest(id=number)
