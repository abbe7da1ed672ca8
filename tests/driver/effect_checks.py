# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measure the effect of tuning on packets, on a node.

usage: effect_checks meta.ko datapath.o

tcp_mmap is in the working directory. The node's igb sends to its e1000e, each in its own network namespace.
QEMU's e1000e splits headers from data, as the hardware does, and its driver puts the data into whole pages.
"""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ansible_collections.podnet.datapath.plugins.module_utils._kernel import netns as _netns
from ansible_collections.podnet.datapath.plugins.module_utils._nic import apply, info
from ansible_collections.podnet.datapath.plugins.module_utils._pods import model
from ansible_collections.podnet.datapath.plugins.module_utils._sysctl import apply as _sysctl_zc
from tests.support import node_checks
from tests.support.namespaces import Namespaces, command
from tests.support.pod_nodes import Devices
from tests.support.policy_lab import Lab, address_of

CHECKS = node_checks.Checks()

LEGACY, BIG = 65536, 185000  # bytes: GSO_LEGACY_MAX_SIZE, and the size of the profile throughput
SIZES = dict.fromkeys(model.SIZES, BIG)
STREAM = 1 << 23
# net.ipv4.tcp_tso_rtt_log: TCP builds packets of 1 ms of data, plus an allowance that halves with each 2^this
# us of RTT. An emulated node sends little in 1 ms, and its RTT is several ms.
PATIENT = 20

SENDER, RECEIVER = "ef-send", "ef-receive"
WIRE = {SENDER: ("10.78.0.1", "fd78::1"), RECEIVER: ("10.78.0.2", "fd78::2")}


def tune_namespaces(*names: str) -> None:
    """Set the sysctls that TCP zero-copy needs in namespaces."""
    # Up to 6.1 optmem_max is one setting of the node, which other namespaces do not show.
    optmem_max = Path("/proc/sys/net/core/optmem_max")
    with _netns.entered(f"/run/netns/{names[0]}"):
        per_namespace = optmem_max.exists()
    optmem = {"net.core.optmem_max": 1048576}
    # The values of the profile talk.
    buffers = {f"net.ipv4.tcp_{way}mem": "4096 67108864 134217728" for way in "rw"}
    node, pods = ({}, {**buffers, **optmem}) if per_namespace else (optmem, buffers)
    pods_options = {"select": "named", "names": list(names), "except": [], "sysctls": pods}
    options = {"sysctls": node, "window_scale": 12, "file": "", "state": "present", "pods": pods_options}
    _sysctl_zc.run(options, False)


def nic_of(driver: str) -> str:
    (folder,) = Path(f"/sys/bus/pci/drivers/{driver}").glob("*/net/*")
    return folder.name


@contextlib.contextmanager
def wire() -> Iterator[None]:
    """Move the two NICs to their own namespaces during the block, with addresses."""
    nics = {SENDER: nic_of("igb"), RECEIVER: nic_of("e1000e")}
    try:
        for netns, nic in nics.items():
            command("ip", "netns", "add", netns)
            command("ip", "link", "set", nic, "netns", netns, "name", "wire")
            command("ip", "link", "set", "lo", "up", netns=netns)
            command("ip", "link", "set", "wire", "up", netns=netns)
            command("ip", "addr", "add", f"{WIRE[netns][0]}/24", "dev", "wire", netns=netns)
            command("ip", "addr", "add", f"{WIRE[netns][1]}/64", "dev", "wire", "nodad", netns=netns)
        tune_namespaces(SENDER, RECEIVER)
        yield
    finally:
        for netns, nic in nics.items():
            with contextlib.suppress(AssertionError):
                command("ip", "link", "set", "wire", "netns", "1", "name", nic, netns=netns)
            _netns.remove(f"/run/netns/{netns}")


def set_nic(netns: str, name: str, **settings: int) -> None:
    with _netns.entered(f"/run/netns/{netns}"):
        apply.run([{"name": name, **settings}], False, False, lambda words: (0, "", ""))


def set_mtu(mtu: int) -> None:
    for netns in WIRE:
        set_nic(netns, "wire", mtu=mtu)
    end = time.monotonic() + 30  # the link is down for some seconds after a new MTU
    while time.monotonic() < end:
        words = ["nsenter", f"--net=/run/netns/{SENDER}", "ping", "-c1", "-W1", WIRE[RECEIVER][1]]
        if subprocess.run(words, capture_output=True, check=False).returncode == 0:
            return
    raise AssertionError(f"no packet arrives at MTU {mtu}")


def mapped(family: int, address: str, sender: str, receiver: str) -> float:
    """Return the percentage of a stream that the receiver maps; tcp_mmap verifies the data."""
    program = str(Path("tcp_mmap").resolve())
    output, terminal = pty.openpty()  # tcp_mmap flushes its output only to a terminal, and does not end
    words = ["nsenter", f"--net=/run/netns/{receiver}", program, f"-{family}", "-s", "-z", "-i"]
    with subprocess.Popen(words, stdout=terminal, stderr=subprocess.DEVNULL) as server:
        try:
            os.close(terminal)
            time.sleep(1)
            command(program, f"-{family}", "-z", "-i", "-H", address, netns=sender)
            text, end = "", time.monotonic() + 60
            while "rcv_mss" not in text and time.monotonic() < end:
                if select.select([output], [], [], 1)[0]:
                    text += os.read(output, 4096).decode()
        finally:
            server.kill()
            os.close(output)
    assert "SHA256 is correct" in text, text
    found = re.search(r"\(([\d.e+-]+) % mmap'ed\)", text)
    assert found, text
    return round(float(found[1]), 2)


@CHECKS
def page_sized_data_is_mapped() -> dict[str, Any]:
    measured = {}
    with wire():
        for family, mtus in ((6, (8264, 4168)), (4, (8244, 4148))):
            for mtu in mtus:
                set_mtu(mtu)
                address = WIRE[RECEIVER][family == 6]
                measured[f"IPv{family}, MTU {mtu}"] = mapped(family, address, SENDER, RECEIVER)
    assert min(measured.values()) >= 99, measured
    return measured


@CHECKS
def ipv4_at_ipv6_mtu_needs_advmss() -> dict[str, Any]:
    with wire():
        set_mtu(8264)
        address = WIRE[RECEIVER][0]
        without = mapped(4, address, SENDER, RECEIVER)
        for netns in WIRE:
            command("ip", "route", "change", "10.78.0.0/24", "dev", "wire", "advmss", "8204", netns=netns)
        measured = {"without": without, "advmss 8204": mapped(4, address, SENDER, RECEIVER)}
    assert measured["without"] < 90 and measured["advmss 8204"] >= 99, measured
    return measured


# BIG TCP


def drain(tap: socket.socket) -> Iterator[int]:
    """Yield the lengths of the packets that a packet socket has seen, without link-layer header."""
    with contextlib.suppress(BlockingIOError):
        while True:
            yield tap.recv_into(bytearray(1), 1, socket.MSG_TRUNC)


def longest(sender: str, receiver: str, device: str, address: str) -> dict[str, int]:
    """Stream between namespaces; return the longest packet that each end's device saw."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    taps = {}
    with contextlib.ExitStack() as open_:
        for name, netns in (("sent", sender), ("received", receiver)):
            with _netns.entered(f"/run/netns/{netns}"):
                tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))  # ETH_P_ALL
                taps[name] = open_.enter_context(tap)
                tap.bind((device, 3))
                tap.setblocking(False)
        with _netns.entered(f"/run/netns/{receiver}"):
            server = open_.enter_context(socket.create_server((address, 0), family=family))
        with _netns.entered(f"/run/netns/{sender}"):
            client = open_.enter_context(socket.socket(family))
        client.connect(server.getsockname()[:2])
        client.setblocking(False)
        peer = open_.enter_context(server.accept()[0])
        peer.setblocking(False)
        data, unsent, missing = bytes(1 << 20), STREAM, STREAM
        found = dict.fromkeys(taps, 0)
        end = time.monotonic() + 60
        while missing:
            assert time.monotonic() < end, f"{missing} of {STREAM} bytes did not arrive at {address}"
            readable, writable, dummy = select.select([peer, *taps.values()], [client] * bool(unsent), [], 1)
            if writable:
                unsent -= client.send(data[:unsent])
            if peer in readable:
                missing -= len(peer.recv(1 << 22))
            for name, tap in taps.items():
                found[name] = max([found[name], *drain(tap)])
    return found


@contextlib.contextmanager
def pods() -> Iterator[Lab]:
    """Yield two nodes with programs and Pods on meta, connected by a veth, all with BIG TCP."""
    namespaces = Namespaces()
    try:
        lab = Lab(namespaces, "/sys/fs/bpf", sys.argv[2], Devices("meta", sizes=SIZES))
        try:
            lab.declare()
            for node in ("node1", "node2"):
                set_nic(lab.names[node], "wire0", **SIZES)
            yield lab
        finally:
            lab.close()
    finally:
        namespaces.delete()


@CHECKS
def pods_exchange_big_tcp_packets() -> dict[str, Any]:
    """Pods on one node, and on two nodes over a veth."""
    measured = {}
    with pods() as lab:
        lab.ns.sysctl(lab.names["front"], ipv4__tcp_tso_rtt_log=PATIENT)
        for target in ("web", "remote"):
            for family in (6, 4):
                address = address_of(target, family)
                seen = longest(lab.names["front"], lab.names[target], "eth0", address)
                measured[f"to {target}, IPv{family}"] = seen
    assert min(min(seen.values()) for seen in measured.values()) > LEGACY, measured
    return measured


@CHECKS
def gro_builds_big_tcp_packets_at_receiving_nic() -> dict[str, Any]:
    """igb accepts at most 64 KiB from TCP; GRO builds larger packets from those that e1000e receives."""
    measured = {}
    with wire():
        set_mtu(8264)
        set_nic(RECEIVER, "wire", gro_max_size=BIG, gro_ipv4_max_size=BIG)
        for family in (6, 4):
            measured[f"IPv{family}"] = longest(SENDER, RECEIVER, "wire", WIRE[RECEIVER][family == 6])
        with _netns.entered(f"/run/netns/{SENDER}"):
            (nic,) = info.nics([{"name": "wire"}])
    assert nic["maximum"]["gso_max_size"] == LEGACY, nic["maximum"]
    assert all(seen["sent"] <= LEGACY < seen["received"] for seen in measured.values()), measured
    return measured


def main() -> None:
    command("insmod", sys.argv[1])
    for name, function in CHECKS.items():
        node_checks.report(name, node_checks.run(function))
    command("rmmod", "meta")


if __name__ == "__main__":
    main()
