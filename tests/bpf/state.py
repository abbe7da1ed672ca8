# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Test state: map entries for Pods, policies and services, and packets."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, IPv6, IPv6ExtHdrDestOpt, PadN
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from ansible_collections.podnet.datapath.plugins.module_utils._datapath import layout, masquerade
from ansible_collections.podnet.datapath.plugins.module_utils._kernel import bpf

MAC = "02:00:00:00:00:01"
SENDER = "02:00:00:00:00:02"
PASS, DROP, REDIRECT = -1, 2, 7
FAMILIES = pytest.mark.parametrize("family", [4, 6])

ENFORCE_INGRESS, ENFORCE_EGRESS = layout.ENFORCE
DENY_INGRESS, DENY_EGRESS = layout.DENY
POD_L2, POD_MASQUERADE, POD_ANY_SOURCE = layout.POD_L2, layout.POD_MASQUERADE, layout.POD_ANY_SOURCE
INGRESS, EGRESS = layout.ENUMS["policy_direction"].values()
DEFAULT, ALLOW, DENY = 0, 1, 2  # enum verdict

HOST, POD1, POD2, REMOTE = 1, 11, 12, 13  # identities
TCP_, UDP_, ICMP_, SCTP_ = 6, 17, 1, 132

BOTH = ENFORCE_EGRESS | ENFORCE_INGRESS | DENY_EGRESS | DENY_INGRESS
LAST_SEEN = 84  # ct.h: offset in struct connection
NEIGHBOUR = struct.Struct("=16sI")  # struct neighbour
NEIGHBOUR_KEYS = [layout.INDEX.pack(index) for index in range(128, 256)]  # of slot 1
DENY_ALL_EGRESS = ENFORCE_EGRESS | DENY_EGRESS


def text(where: str, family: int) -> str:
    return f"10.31.{where}" if family == 4 else f"fd31:{where.replace('.', '::')}"


def packed(where: str, family: int) -> bytes:
    """Return an address in the common format of both families."""
    return ipaddress.ip_address(text(where, family)).packed.ljust(16, b"\0")


def frame(src: str, dst: str, payload: Packet, family: int, **fields: Any) -> bytes:
    kind = IP if family == 4 else IPv6
    header = kind(src=text(src, family), dst=text(dst, family), **fields)
    return bytes(Ether(dst=MAC, src=SENDER) / header / payload)


def valid(packet: bytes) -> Packet:
    """Parse a packet; assert that all its checksums are valid."""
    again = Ether(packet)
    for layer in again.layers():
        if layer in (IP, TCP, UDP, ICMP):
            del again[layer].chksum
        elif "cksum" in {f.name for f in layer.fields_desc}:
            del again[layer].cksum
    assert bytes(again) == packet
    return Ether(packet)


PACING = struct.Struct("=QQIIxxxxxxxx")  # struct pacing


class State:
    """Writes map entries, and removes them after the test."""

    def __init__(self, datapath: Any) -> None:
        self.datapath, self.maps = datapath, datapath.object.maps
        self.written: list[tuple[str, bytes]] = []
        self.rulesets = 0
        with datapath.inside():
            self.pod1, self.pod2 = (datapath.ifindex(name) for name in ("pod1", "pod2"))

    def put(self, name: str, key: bytes, value: bytes) -> None:
        bpf.map_update(self.maps[name], {key: value})
        self.written.append((name, key))

    def remove(self, name: str) -> None:
        """Remove a map's entries that the test has written."""
        bpf.map_delete(self.maps[name], list(dict.fromkeys(key for one, key in self.written if one == name)))
        self.written = [item for item in self.written if item[0] != name]

    def pods(self, enforce1: int = 0, enforce2: int = 0, flags: int = 0) -> None:
        self.datapath.endpoint(11, self.pod1, POD1, enforce1, 1, flags)
        self.datapath.endpoint(12, self.pod2, POD2, enforce2, 2)
        self.datapath.endpoint(11, 0, REMOTE, node=2)

    def device(self, flags: int = 0, enforce: int = 0, rate: int = 0) -> None:
        """Write the entry of pod1's device."""
        mac = bytes.fromhex(MAC.replace(":", ""))
        value = layout.POD.pack(1, 1, flags, POD1, POD1, enforce, enforce, mac, 0, rate)
        self.put("pods", layout.INDEX.pack(self.pod1), value)
        self.queue()

    def queue(self, next_departure: int = 0, mark: int = 0, before: int = 0, after: int = 0) -> None:
        """Write the queue of pod1; times are in ns."""
        value = PACING.pack(next_departure, mark, before, after)
        bpf.map_update(self.maps["pacing"], {layout.INDEX.pack(1): value})

    def next_departure(self) -> int:
        """Return the departure time of pod1's next packet in ns."""
        raw = bpf.map_lookup(self.maps["pacing"], layout.INDEX.pack(1), PACING.size)
        return int(PACING.unpack(raw)[0])

    def rule(
        self,
        subject: int,
        peer: int,
        direction: int,
        *ranges: tuple[int, int, int, int],
        verdict: int = DEFAULT,
    ) -> None:
        """Add a policy; ``ranges``: protocol, verdict, first and last port."""
        self.rulesets += 1
        values = [value for one in ranges for value in one] + [0] * 4 * (layout.MAX_RANGES - len(ranges))
        value = layout.MAPS["rulesets"][1].pack(verdict, len(ranges), *values)
        bpf.map_update(self.maps["rulesets"], {layout.INDEX.pack(self.rulesets): value})
        for buffer in (0, 1):
            key = layout.POLICY_KEY.pack(subject, peer, buffer, direction)
            self.put("policy", key, layout.INDEX.pack(self.rulesets))

    def cidr(self, prefix: str, identity: int, flags: int = 0) -> None:
        network = ipaddress.ip_network(prefix)
        for buffer in (0, 1):
            record = layout.CIDR4_KEY if network.version == 4 else layout.CIDR6_KEY
            key = record.pack(32 + network.prefixlen, buffer, network.network_address.packed)
            self.put(f"cidrs{network.version}", key, layout.CIDR.pack(identity, flags))

    def service(
        self,
        where: str,
        port: int,
        proto: int,
        backends: list[tuple[str, int]],
        family: int,
        sources: list[str] | None = None,
    ) -> None:
        """Add a service; ``sources`` are the networks of its clients."""
        self.datapath.features |= layout.FEATURE_SERVICES
        for index, (address, at) in enumerate(backends, 1):
            value = layout.MAPS["backends"][1].pack(packed(address, family), at.to_bytes(2, "big"))
            bpf.map_update(self.maps["backends"], {layout.INDEX.pack(index): value})
        self.table(list(range(1, len(backends) + 1)) or [0])
        for buffer in (0, 1):
            front = layout.encode_service(ipaddress.ip_address(text(where, family)), port, proto)
            flags = 0 if sources is None else layout.SERVICE_SOURCES
            value = layout.SERVICE.pack(1, 1, 1, 0, flags)
            self.put("services", layout.SERVICE_KEY.pack(*front, buffer), value)
            for source in sources or ():
                length, client = layout.encode_source(ipaddress.ip_network(source))
                key = layout.SOURCE_KEY.pack(layout.SOURCE_PREFIX + length, *front, buffer, client)
                self.put("sources", key, layout.INDEX.pack(0))

    def table(self, backends: list[int], draining: Sequence[int] = ()) -> None:
        """Write the service's table; ``backends`` and ``draining``: indexes."""
        slots = [backends[i % len(backends)] for i in range(layout.MAGLEV_SIZE)] + [*draining]
        slots += [layout.NO_BACKEND] * (layout.TABLE_SIZE - len(slots))
        value = layout.TABLE.pack(*slots, bytes(8))
        bpf.map_update(self.maps["maglev"], {layout.INDEX.pack(1): value})

    def masquerade(self, first: int = 61000, last: int = 65535) -> None:
        self.datapath.features |= layout.FEATURE_MASQUERADE
        ipv4, ipv6 = ipaddress.IPv4Address("172.31.0.1"), ipaddress.IPv6Address("fd31::1")
        for buffer in (0, 1):
            value = masquerade.encode_node(ipv4, ipv6, (first, last))
            bpf.map_update(self.maps["node"], {layout.INDEX.pack(buffer): value})

    def neighbours(self, since: int) -> None:
        """Occupy all entries of pod1 by another next hop; seconds since boot."""
        self._occupy(NEIGHBOUR_KEYS, since)

    def replace_neighbours(self, since: int) -> None:
        """Occupy the used entries of pod1 by other next hops."""
        entries = {
            key: bpf.map_lookup(self.maps["neighbours"], key, NEIGHBOUR.size) for key in NEIGHBOUR_KEYS
        }
        found = [key for key, value in entries.items() if NEIGHBOUR.unpack(value)[1]]
        assert found
        self._occupy(found, since)

    def _occupy(self, keys: Iterable[bytes], since: int) -> None:
        bpf.map_update(self.maps["neighbours"], dict.fromkeys(keys, NEIGHBOUR.pack(b"others", since)))

    def clear(self) -> None:
        self.neighbours(0)
        self.datapath.drops()  # keeps room in the ring buffer
        self.datapath.features = 0
        self.datapath.endpoint(11, self.pod1)
        self.datapath.endpoint(12, self.pod2)
        for family in (4, 6):
            remote = ipaddress.ip_address(text("2.11", family)).packed
            bpf.map_delete(self.maps[f"endpoints{family}"], [remote])
        for name, key in dict.fromkeys(self.written):
            bpf.map_delete(self.maps[name], [key])
        for name in ("connections", "ct4", "ct6", "fragments"):
            keys = list(bpf.map_read(self.maps[name]))
            bpf.map_delete(self.maps[name], keys)


def from_pod(state: State, src: str, dst: str, payload: Packet, family: int, **fields: Any) -> Any:
    """Run pod_egress on a Pod's packet; pod1 has 1.11, pod2 has 1.12."""
    return state.datapath.run(
        "pod_egress", frame(src, dst, payload, family, **fields), "pod1" if src == "1.11" else "pod2"
    )


def from_wire(state: State, src: str, dst: str, payload: Packet, family: int, **fields: Any) -> Any:
    """Run host_ingress on a packet from the wire."""
    return state.datapath.run("host_ingress", frame(src, dst, payload, family, **fields))


def from_host(state: State, src: str, dst: str, payload: Packet, family: int) -> Any:
    return state.datapath.run("pod_ingress", frame(src, dst, payload, family), "pod1")


def syn(dport: int = 80, sport: int = 1234) -> Packet:
    return TCP(sport=sport, dport=dport, flags="S")


def echo(family: int, reply: bool = False, number: int = 7) -> Packet:
    if family == 4:
        return ICMP(type=0 if reply else 8, id=number)
    return ICMPv6EchoReply(id=number) if reply else ICMPv6EchoRequest(id=number)


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


def options(*following: Packet) -> Packet:
    """Return a destination options header, and the headers after it."""
    found: Packet = IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 4)])
    for one in following:
        found = found / one
    return found
