# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Change the wall clock of one process, and kill it at a step; see ``process_faults.c``."""

from __future__ import annotations

import mmap
import struct
import subprocess
from pathlib import Path

_FAULTS = struct.Struct("=qq")


class ProcessFaults:
    """Faults of a process that is started with ``environment``."""

    def __init__(self, folder: Path) -> None:
        library, file = folder / "process_faults.so", folder / "faults"
        source = Path(__file__).with_suffix(".c")
        subprocess.run(["gcc", "-O2", "-Wall", "-shared", "-fPIC", "-o", library, source], check=True)
        file.write_bytes(bytes(_FAULTS.size))
        self._file = file.open("r+b")
        self._map = mmap.mmap(self._file.fileno(), _FAULTS.size)
        self.environment = {"LD_PRELOAD": str(library), "PODNET_FAULTS": str(file)}

    def set_clock(self, seconds: int) -> None:
        """Set the seconds that the process's wall clock is ahead."""
        _FAULTS.pack_into(self._map, 0, seconds, self.steps)

    def kill_at(self, step: int) -> None:
        """Kill the process before its next ``step``-th write; 0: never."""
        _FAULTS.pack_into(self._map, 0, _FAULTS.unpack_from(self._map)[0], step)

    @property
    def steps(self) -> int:
        """Return the remaining steps."""
        return int(_FAULTS.unpack_from(self._map)[1])

    def close(self) -> None:
        self._map.close()
        self._file.close()
