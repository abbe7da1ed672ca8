# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""clang for the agents of emulated nodes, which would need half an hour to compile their programs.

In their image, clang is a script that sends its arguments and all headers to a machine on this computer.
"""

from __future__ import annotations

from pathlib import Path

from lablib import common, debian

from tests.kubernetes.cluster import cache, cgroups
from tests.kubernetes.cluster.machine import Machine

SUITE = "trixie"
PACKAGES = ("clang-19", "mount", "python3", "tini")
PORT = 8019
SERVER = Path(__file__).with_name("clang_server.py")
CLIENT = Path(__file__).with_name("clang_client.sh")


def client(address: str) -> str:
    """Return the script that compiles in a machine with an address."""
    return CLIENT.read_text().replace("SERVER", f"{address}:{PORT}")


def layer() -> Path:
    """Return the layer of the machine's root."""
    return cache.layer("clang", f"{SUITE} {PACKAGES}", _build)


def _build(target: Path) -> None:
    with common.step("Debian root with clang", 60):
        debian.make_root(target, SUITE, PACKAGES, variant="minbase")


def start(machine: Machine, address: str) -> None:
    """Boot a machine and start the server."""
    cgroups.create(machine.group)
    machine.boot([layer()])
    path = "/usr/local/bin/clang-server"
    machine.write(path, SERVER.read_text())
    machine.start("clang-server", "python3", path, address, str(PORT))
