# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checksum offsets that a Pod requests, by a packet socket: BPF_PROG_TEST_RUN cannot set them."""

from __future__ import annotations

import errno
import os
import random
import socket
import struct
import subprocess
import time
from collections.abc import Iterator

import pytest
from scapy.layers.inet import IP, TCP, UDP, IPOption
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, PadN
from scapy.layers.l2 import ARP, GRE, Ether
from scapy.layers.sctp import SCTP
from scapy.packet import Packet, Raw

from ansible_collections.podnet.datapath.plugins.module_utils._kernel import libbpf
from tests.bpf.programs import Datapath
from tests.bpf.state import MAC, SENDER, State, frame

COUNT = int(os.environ.get("PODNET_FUZZ", "2000"))
SOL_PACKET, PACKET_VNET_HDR = 263, 15
NEEDS_CSUM = 1  # VIRTIO_NET_HDR_F_NEEDS_CSUM
DATA = Raw(bytes(range(48)))
TRANSPORTS: dict[str, tuple[Packet, int]] = {
    "TCP": (TCP(sport=9, dport=80, flags="A"), 16),
    "UDP": (UDP(sport=9, dport=53), 6),
    "SCTP": (SCTP(sport=9, dport=80), 8),
    "GRE": (GRE(chksum_present=1), 4),
}


def frames() -> list[tuple[bytes, int, tuple[int, int] | None]]:
    """Return frames, where the transport header begins, and the only valid request."""
    found: list[tuple[bytes, int, tuple[int, int] | None]] = []
    options = IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 4)])
    for transport, offset in TRANSPORTS.values():
        proto = IP(bytes(IP() / transport)).proto
        payload = transport / DATA
        plain = {"proto": proto} if transport.name == "GRE" else {}
        found.append((frame("1.11", "1.12", payload, 4, **plain), 34, (34, offset)))
        with_options = {"options": [IPOption(b"\x01" * 4)], **plain}
        found.append((frame("1.11", "1.12", payload, 4, **with_options), 38, (38, offset)))
        found.append((frame("1.11", "2.11", payload, 6), 54, (54, offset)))
        found.append((frame("1.11", "1.12", options / payload, 6), 62, (62, offset)))
        atomic = IPv6ExtHdrFragment(id=1)
        found.append((frame("1.11", "1.12", atomic / payload, 6), 62, (62, offset)))
        # a fragment's checksum covers the other fragments too
        found.append((frame("1.11", "1.12", payload, 4, flags="MF", **plain), 34, None))
        later = {"proto": proto, "frag": 3}
        found.append((frame("1.11", "1.12", DATA, 4, **later), 34, None))
        for header in (IPv6ExtHdrFragment(id=2, m=1), IPv6ExtHdrFragment(id=2, nh=proto, offset=3)):
            found.append((frame("1.11", "1.12", header / payload, 6), 62, None))
    for proto in (1, 4, 41, 50):
        found.append((frame("1.11", "1.12", DATA, 4, proto=proto), 34, None))
        found.append((frame("1.11", "1.12", DATA, 6, nh=proto), 54, None))
    unknown = IPv6ExtHdrDestOpt(nh=51) / DATA  # authentication header: not parsed
    found.append((frame("1.11", "1.12", unknown, 6), 62, None))
    found.append((bytes(Ether(dst=MAC, src=SENDER) / ARP() / DATA), 34, None))
    for version in (IP(version=5), IPv6(version=5)):
        found.append((bytes(Ether(dst=MAC, src=SENDER, type=0x1234) / version / DATA), 34, None))
    return found


@pytest.fixture
def sender(datapath: Datapath) -> Iterator[socket.socket]:
    """A Pod's packet socket, whose frames begin with a struct virtio_net_hdr; pod_egress is attached."""
    switch = ["nsenter", f"--net=/run/netns/{datapath.netns}", "sysctl", "-qw"]
    subprocess.run([*switch, "net.ipv6.conf.pod1p.disable_ipv6=1"], check=True)
    with datapath.inside():
        pod1 = datapath.ifindex("pod1")
        libbpf.clsact_create(pod1)
        libbpf.clsact_attach(pod1, libbpf.TC_INGRESS, datapath.object.programs["pod_egress"], 1, 1)
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        made.bind(("pod1p", 0))
    made.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    yield made
    made.close()
    with datapath.inside():
        libbpf.clsact_destroy(pod1)
    subprocess.run([*switch, "net.ipv6.conf.pod1p.disable_ipv6=0"], check=True)


def send(datapath: Datapath, sender: socket.socket, packet: bytes, start: int, offset: int) -> bool | None:
    """Return whether the program accepts the request, None if the kernel rejects it before."""
    before = datapath.all_counters()
    try:
        sender.send(struct.pack("=BBHHHH", NEEDS_CSUM, 0, 0, 0, start, offset) + packet)
    except OSError as error:
        assert error.errno == errno.EINVAL
        return None
    deadline = time.monotonic() + 5
    while not (counted := datapath.all_counters() - before):
        assert time.monotonic() < deadline, packet.hex()
    datapath.covered.update(counted)
    assert sum(counted.values()) == 1
    return "DROP_CHECKSUM" not in counted


@pytest.mark.usefixtures("state")
def test_only_the_checksum_of_the_transport_header(datapath: Datapath, sender: socket.socket) -> None:
    """Any other request would change bytes that policy has read."""
    generator, originals = random.Random("checksum"), frames()
    datapath.new_generation()
    for number, (packet, dummy, valid) in enumerate(originals):
        if valid:
            # twice: the flow cache forwards the second
            assert send(datapath, sender, packet, *valid) and send(datapath, sender, packet, *valid), number
    for number in range(min(COUNT, 20000)):
        packet, l4, valid = generator.choice(originals)
        start, offset = generator.choice((l4, l4, l4 - 4, l4 + 8, 34, generator.randrange(14, 70))), 0
        offset = generator.choice((0, 2, 4, 6, 8, 16, generator.randrange(40)))
        accepted = send(datapath, sender, packet, start, offset)
        assert accepted is None or accepted == ((start, offset) == valid), (
            number,
            packet.hex(),
            start,
            offset,
        )
    datapath.drops()  # keeps room in the ring buffer


def test_of_a_device_without_pod(state: State, sender: socket.socket) -> None:
    packet = frame("1.11", "1.12", UDP(sport=9, dport=53) / DATA, 4)
    for rate in (0, 1000):
        if rate:
            state.device(rate=rate)
        assert send(state.datapath, sender, packet, 34, 2) is False
