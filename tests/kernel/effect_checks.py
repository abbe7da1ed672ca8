# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What tuning does to packets, on a node: ``effect_checks.py``, with tcp_mmap beside it.

Prints a JSON object for each check: its name, what went wrong ("" for nothing) and what was measured. The
node's igb sends to its e1000e, each in a namespace: QEMU's e1000e splits headers from data, as the hardware
does, and its driver puts the data into whole pages.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ansible_collections.podnet.datapath.plugins.module_utils import (
    _netns,
    _nic_tuning,
    _sysctl_zc,
)

CHECKS: dict[str, Callable[[], dict[str, Any]]] = {}

SENDER, RECEIVER = "ef-send", "ef-receive"
WIRE = {SENDER: ("10.78.0.1", "fd78::1"), RECEIVER: ("10.78.0.2", "fd78::2")}


def check(function: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    CHECKS[function.__name__] = function
    return function


def run(*words: str, netns: str = "") -> str:
    inside = ["nsenter", f"--net=/run/netns/{netns}"] if netns else []
    done = subprocess.run([*inside, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stdout}{done.stderr}"
    return done.stdout


def tune_namespaces(*names: str) -> None:
    """Give namespaces what TCP zero-copy needs."""
    # Up to 6.1 optmem_max is the node's, and a namespace does not show it.
    own = Path("/proc/sys/net/core/optmem_max")
    with _netns.entered(f"/run/netns/{names[0]}"):
        each = own.exists()
    optmem = {"net.core.optmem_max": 1048576}
    # As in the profile talk.
    buffers = {f"net.ipv4.tcp_{way}mem": "4096 67108864 134217728" for way in "rw"}
    node, pods = ({}, {**buffers, **optmem}) if each else (optmem, buffers)
    meant = {"select": "named", "names": list(names), "except": [], "sysctls": pods}
    options = {"sysctls": node, "window_scale": 12, "file": "", "state": "present", "pods": meant}
    _sysctl_zc.run(options, False)


def nic_of(driver: str) -> str:
    (folder,) = Path(f"/sys/bus/pci/drivers/{driver}").glob("*/net/*")
    return folder.name


@contextlib.contextmanager
def wire() -> Iterator[None]:
    """Have the two NICs in namespaces of their own, with addresses."""
    nics = {SENDER: nic_of("igb"), RECEIVER: nic_of("e1000e")}
    try:
        for netns, nic in nics.items():
            run("ip", "netns", "add", netns)
            run("ip", "link", "set", nic, "netns", netns, "name", "wire")
            run("ip", "link", "set", "lo", "up", netns=netns)
            run("ip", "link", "set", "wire", "up", netns=netns)
            run("ip", "addr", "add", f"{WIRE[netns][0]}/24", "dev", "wire", netns=netns)
            run("ip", "addr", "add", f"{WIRE[netns][1]}/64", "dev", "wire", "nodad", netns=netns)
        tune_namespaces(SENDER, RECEIVER)
        yield
    finally:
        for netns, nic in nics.items():
            with contextlib.suppress(AssertionError):
                run("ip", "link", "set", "wire", "netns", "1", "name", nic, netns=netns)
            _netns.remove(f"/run/netns/{netns}")


def set_mtu(mtu: int) -> None:
    for netns in WIRE:
        with _netns.entered(f"/run/netns/{netns}"):
            _nic_tuning.run([{"name": "wire", "mtu": mtu}], False, False, lambda words: (0, "", ""))
    end = time.monotonic() + 30  # a new MTU takes the link down for a while
    while time.monotonic() < end:
        words = ["nsenter", f"--net=/run/netns/{SENDER}", "ping", "-c1", "-W1", WIRE[RECEIVER][1]]
        if subprocess.run(words, capture_output=True, check=False).returncode == 0:
            return
    raise AssertionError(f"nothing passes at MTU {mtu}")


def mapped(family: int, address: str, sender: str, receiver: str) -> float:
    """Return how many percent of a stream the receiver had mapped, by tcp_mmap, which checks what it got."""
    program = str(Path("tcp_mmap").resolve())
    output, terminal = pty.openpty()  # to a pipe it would tell nothing before it ends, which it does not
    words = ["nsenter", f"--net=/run/netns/{receiver}", program, f"-{family}", "-s", "-z", "-i"]
    with subprocess.Popen(words, stdout=terminal, stderr=subprocess.DEVNULL) as server:
        try:
            os.close(terminal)
            time.sleep(1)
            run(program, f"-{family}", "-z", "-i", "-H", address, netns=sender)
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


@check
def data_of_whole_pages_is_mapped() -> dict[str, Any]:
    measured = {}
    with wire():
        for family, mtus in ((6, (8264, 4168)), (4, (8244, 4148))):
            for mtu in mtus:
                set_mtu(mtu)
                address = WIRE[RECEIVER][family == 6]
                measured[f"IPv{family}, MTU {mtu}"] = mapped(family, address, SENDER, RECEIVER)
    assert min(measured.values()) >= 99, measured
    return measured


@check
def ipv4_at_the_mtu_of_ipv6_needs_the_mss() -> dict[str, Any]:
    with wire():
        set_mtu(8264)
        address = WIRE[RECEIVER][0]
        without = mapped(4, address, SENDER, RECEIVER)
        for netns in WIRE:
            run("ip", "route", "change", "10.78.0.0/24", "dev", "wire", "advmss", "8204", netns=netns)
        measured = {"without": without, "advmss 8204": mapped(4, address, SENDER, RECEIVER)}
    assert measured["without"] < 90 and measured["advmss 8204"] >= 99, measured
    return measured


def main() -> None:
    for name, function in CHECKS.items():
        failure, measured = "", {}
        try:
            measured = function()
        except Exception:
            failure = traceback.format_exc()
        print(json.dumps({"check": name, "failure": failure, "measured": measured}), flush=True)


if __name__ == "__main__":
    main()
