# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks of departure times and of packets that pass to the stack; adds them to ``CHECKS``."""

from __future__ import annotations

import json
import re
import socket
import struct
import time

from tests.support.connection_checks import is_silent, open_in
from tests.support.isolation_checks import CHECKS
from tests.support.policy_checks import check, check_versions
from tests.support.policy_lab import UDP, Lab, address_of

__all__ = ["CHECKS", "NEEDS_FQ"]

SO_MAX_PACING_RATE, SO_TXTIME = 47, 61  # asm-generic/socket.h
IPV6_HOPOPTS = 54  # linux/in6.h
NEEDS_FQ = " (fq)"  # in the name of checks that need this qdisc in the kernel
SOCKETS, DATAGRAMS = 30, 40  # fq queues at most 100 packets of a socket


def _queued_packets(lab: Lab) -> int:
    """Return the packets that fq on the uplink of node1 holds."""
    text = lab.ns.run(lab.names["node1"], "tc", "-s", "qdisc", "show", "dev", "wire0", "root")
    found = re.search(r"backlog \S+ (\d+)p", text)
    assert found, json.dumps(text)
    return int(found[1])


def _require_free_queue(lab: Lab, options: dict[int, bytes], at: int | None) -> None:
    """Send datagrams from a Pod's sockets with these options; fq must not hold them."""
    lab.declare()
    node = lab.names["node1"]
    lab.ns.run(node, "tc", "qdisc", "replace", "dev", "wire0", "root", "fq")
    target = (address_of("world", 4), 5353)
    control = [(socket.SOL_SOCKET, SO_TXTIME, struct.pack("=Q", at))] if at else []
    try:
        clients = [open_in(lab, "other", UDP) for dummy in range(SOCKETS)]
        for client in clients:
            for option, value in options.items():
                client.setsockopt(socket.SOL_SOCKET, option, value)
            for dummy in range(DATAGRAMS):
                client.sendmsg([b"?"], control, 0, target)
        held = _queued_packets(lab)
        for client in clients:
            client.close()
    finally:
        lab.ns.run(node, "tc", "qdisc", "delete", "dev", "wire0", "root")
    assert held < SOCKETS * DATAGRAMS / 4, f"fq holds {held} of {SOCKETS * DATAGRAMS} packets"


def _txtime(clock: int) -> None:
    def run(lab: Lab) -> None:
        at = time.clock_gettime_ns(clock) + 8 * 10**9
        _require_free_queue(lab, {SO_TXTIME: struct.pack("=iI", clock, 0)}, at)

    CHECKS[f"departure_times_of_sockets_do_not_fill_fq clock {clock}{NEEDS_FQ}"] = run


for one in (time.CLOCK_MONOTONIC, time.CLOCK_TAI):
    _txtime(one)


def pacing_rates_of_sockets_do_not_fill_fq(lab: Lab) -> None:
    """Without a departure time, fq applies SO_MAX_PACING_RATE of the Pod's socket."""
    _require_free_queue(lab, {SO_MAX_PACING_RATE: struct.pack("=I", 1000)}, None)


CHECKS[pacing_rates_of_sockets_do_not_fill_fq.__name__ + NEEDS_FQ] = pacing_rates_of_sockets_do_not_fill_fq


@check_versions
def options_do_not_bypass_masquerading(lab: Lab, version: int) -> None:
    """The stack, which handles IP options, would forward the packet with the Pod's address."""
    options = (
        (socket.IPPROTO_IP, socket.IP_OPTIONS, b"\x01\x01\x01\x01")
        if version == 4
        else (socket.IPPROTO_IPV6, IPV6_HOPOPTS, b"\0\0\x01\x04\0\0\0\0")
    )
    for masqueraded in ([], ["front"]):
        lab.declare(masqueraded=masqueraded)
        with (
            open_in(lab, "world", UDP, version, 7021) as world,
            open_in(lab, "node1", UDP, version, 7021) as node,
            open_in(lab, "front", UDP, version) as client,
        ):
            client.setsockopt(*options)
            client.sendto(b"?", (address_of("node1", version), 7021))
            assert node.recv(9) == b"?"
            client.sendto(b"?", (address_of("world", version), 7021))
            if masqueraded:
                assert is_silent(world)
            else:
                assert world.recv(9) == b"?"


@check
def fragmentation_by_the_stack_does_not_bypass_masquerading(lab: Lab) -> None:
    """The stack would fragment a packet that exceeds the uplink's MTU, with the Pod's address."""
    node = lab.names["node1"]
    for masqueraded in ([], ["front"]):
        lab.declare(masqueraded=masqueraded)
        lab.ns.run(node, "ip", "link", "set", "wire0", "mtu", "1280")
        try:
            with open_in(lab, "world", UDP, 4, 7022) as world, open_in(lab, "front", UDP) as client:
                client.setsockopt(socket.IPPROTO_IP, 10, 0)  # IP_MTU_DISCOVER, IP_PMTUDISC_DONT
                client.sendto(bytes(1400), (address_of("world", 4), 7022))
                if masqueraded:
                    assert is_silent(world)
                else:
                    assert len(world.recv(1500)) == 1400
        finally:
            lab.ns.run(node, "ip", "link", "set", "wire0", "mtu", "1500")
