# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The contents of a lab's state.json: its configuration and its nodes."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field


@dataclass
class Node:
    """One node of a lab.

    ``port`` on 127.0.0.1 leads to the node's SSH server. ``layer`` names the qcow2 file that the node writes.
    ``pid`` and ``started`` (see ``process.start_time``) identify its QEMU process.
    """

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
    """The state of a lab. The fields are the keys of state.json, so existing labs depend on their names.

    ``image`` is the folder of the image, ``memory`` is in MiB, ``reason`` explains the choice of
    ``accelerator``, and ``emulator`` is QEMU's version. ``machine`` comes from ``machine.fingerprint``;
    ``nics``, ``durable`` and ``disk`` are those of ``spec.LabSpec``.
    """

    kernel: str
    image: str
    cpus: int
    memory: int
    accelerator: str
    reason: str
    emulator: str
    machine: list[str] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    nics: list[str] = field(default_factory=list)
    durable: bool = False
    disk: str = ""

    @classmethod
    def from_json(cls, text: str) -> State:
        """Return the state that ``to_json`` wrote."""
        values = json.loads(text)
        return cls(**{**values, "nodes": [Node(**node) for node in values["nodes"]]})

    def to_json(self) -> str:
        """Return the text of state.json."""
        return json.dumps(dataclasses.asdict(self), indent=1)
