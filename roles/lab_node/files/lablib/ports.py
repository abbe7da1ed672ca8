# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Selection of the ports on 127.0.0.1 that lead to the nodes' SSH servers."""

from __future__ import annotations

import contextlib
import hashlib
import socket
from collections.abc import Collection
from pathlib import Path

from lablib.common import LabError
from lablib.state import State

# Below the kernel's default ip_local_port_range, so that no outgoing connection occupies a node's port.
PORTS = range(20000, 30000)


def choose_port(seed: str, reserved: Collection[int]) -> int:
    """Return a free port of PORTS outside ``reserved``: the same one for the same seed, if it is free.

    Raise LabError if no port is free.
    """
    first = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:4], "big")
    for step in range(len(PORTS)):
        port = PORTS[(first + step) % len(PORTS)]
        if port in reserved:
            continue
        with contextlib.closing(socket.socket()) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port
    raise LabError(
        f"no port between {PORTS.start} and {PORTS.stop - 1} is free on 127.0.0.1; "
        "remove a lab: lab.py down --name LAB"
    )


def reserved_ports(labs: Path) -> set[int]:
    """Return the ports of all labs in the folder ``labs``, running or not."""
    ports: set[int] = set()
    for path in labs.glob("*/state.json"):
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            ports.update(node.port for node in State.from_json(path.read_text()).nodes)
    return ports
