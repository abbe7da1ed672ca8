# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The desired configuration of a lab, as given on the command line."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from lablib.common import LabError
from lablib.state import State

MAX_NODES = 2
NIC_MODEL = re.compile(r"[a-z0-9][a-z0-9-]*")


@dataclass(frozen=True)
class LabSpec:
    """The configuration of a lab; it cannot change after the lab is created.

    ``memory`` is in MiB. ``nics`` are QEMU's models of additional NICs, which a hub inside QEMU connects with
    each other only. ``durable``: data that a node has flushed survives the end of its QEMU. ``disk`` is the
    absolute path of a raw image, which the nodes share as a second, read-only disk; empty for none.
    """

    kernel: str
    nodes: int
    memory: int
    cpus: int
    nics: tuple[str, ...] = ()
    durable: bool = False
    disk: str = ""

    def validate(self) -> None:
        """Raise LabError if a value is invalid."""
        if not 1 <= self.nodes <= MAX_NODES:
            raise LabError(f"--nodes {self.nodes}: a lab has one or two nodes")
        for model in self.nics:
            if not NIC_MODEL.fullmatch(model):
                raise LabError(f"--nic {model!r} is not a NIC model of QEMU; use a name such as e1000e")
        if self.disk and not Path(self.disk).is_file():
            raise LabError(f"--disk {self.disk}: there is no such file")
        if "," in self.disk:
            raise LabError(f"--disk {self.disk}: the path must not contain a comma")

    def require_match(self, name: str, state: State) -> None:
        """Raise LabError if the existing lab ``name`` has another configuration."""
        options: list[tuple[str, object, object]] = [
            ("kernel", self.kernel, state.kernel),
            ("nodes", self.nodes, len(state.nodes)),
            ("memory", self.memory, state.memory),
            ("cpus", self.cpus, state.cpus),
            ("nic", " ".join(self.nics) or "none", " ".join(state.nics) or "none"),
            ("durable", _yes_or_no(self.durable), _yes_or_no(state.durable)),
            ("disk", self.disk or "none", state.disk or "none"),
        ]
        for option, desired, current in options:
            if desired != current:
                raise LabError(
                    f"--{option} {desired}: lab {name!r} exists with {current}; "
                    f"remove it first (lab.py down --name {name}) or choose another --name"
                )


def _yes_or_no(value: bool) -> str:
    return "yes" if value else "no"
