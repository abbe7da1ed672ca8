# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The BPF programs of this checkout, for a benchmark on the running kernel."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

from tests.support.checkout import PROGRAMS


def build(work: Path, stack: contextlib.ExitStack) -> tuple[str, str]:
    """Compile the programs in a folder and mount a BPF file system; return the paths of object and mount."""
    subprocess.run(["make", "-s", "-C", PROGRAMS, f"OUT={work}"], check=True)
    bpffs = work / "bpf"
    bpffs.mkdir()
    subprocess.run(["mount", "-t", "bpf", "bpf", bpffs], check=True)
    stack.callback(subprocess.run, ["umount", bpffs], check=True)
    return f"{work}/datapath.o", str(bpffs)
