# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The layers of a node's disk: qcow2 files, each with the previous one as its backing file.

A snapshot freezes the current layer; the node continues on a new one.
"""

from __future__ import annotations

from pathlib import Path

from lablib.common import run
from lablib.qemu import Emulator


def create_layer(emulator: Emulator, layer: Path, backing: Path, backing_format: str) -> None:
    """Create the qcow2 file ``layer`` on top of ``backing``, whose format is raw or qcow2."""
    create = ["create", "-q", "-f", "qcow2", "-F", backing_format, "-b", str(backing), str(layer)]
    run([*emulator.img, *create], env=dict(emulator.env))


def next_layer(folder: Path) -> str:
    """Return the name of a new layer in a node's folder, numbered above all existing ones.

    Snapshots refer to layers by name, so a name must not be reused.
    """
    numbers = [int(path.stem[len("disk") :]) for path in folder.glob("disk*.qcow2")]
    return f"disk{max(numbers, default=-1) + 1}.qcow2"
