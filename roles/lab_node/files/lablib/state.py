# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a lab is made of, as kept in its state.json: nodes, their processes and ports."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from lablib.common import LabError

# Below the ports that kernels give to outgoing connections, so that a node keeps its own over restores.
PORTS = range(20000, 30000)


@dataclass
class Node:
    """One node; ``pid`` with ``started`` (its start time in ticks since boot) names its QEMU for sure."""

    index: int
    port: int
    layer: str = ""
    pid: int = 0
    started: int = 0

    @property
    def name(self) -> str:
        return f"node{self.index}"


@dataclass
class State:
    """What a lab is made of, kept in its state.json."""

    kernel: str
    image: str
    cpus: int
    memory: int
    accelerator: str
    reason: str
    emulator: str
    machine: list[str] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    nics: list[str] = field(default_factory=list)  # models of those that only a hub joins
    durable: bool = False  # what a node has flushed outlives its QEMU

    @classmethod
    def from_json(cls, text: str) -> State:
        values = json.loads(text)
        return cls(**{**values, "nodes": [Node(**node) for node in values["nodes"]]})


def process_start(pid: int) -> int:
    """Return the start time of a live process in ticks since boot, 0 where there is none (proc(5))."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    state, start = after_name[0], after_name[19]
    return 0 if state in "ZX" else int(start)


def alive(node: Node) -> bool:
    """Tell whether the very QEMU that was started for this node still runs."""
    return node.pid > 0 and process_start(node.pid) == node.started


def choose_port(seed: str, taken: Iterable[int]) -> int:
    """Return a free port of PORTS, the same for the same seed while nothing is in its way."""
    first = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:4], "big")
    for step in range(len(PORTS)):
        port = PORTS[(first + step) % len(PORTS)]
        if port in taken:
            continue
        with contextlib.closing(socket.socket()) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port
    raise LabError(f"no free port between {PORTS.start} and {PORTS.stop - 1} on 127.0.0.1")


def ports_of_labs(labs: Path) -> set[int]:
    """Return the ports of all labs of this cache, running or not."""
    ports: set[int] = set()
    for path in labs.glob("*/state.json"):
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            ports.update(node.port for node in State.from_json(path.read_text()).nodes)
    return ports
