# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How many instructions each kernel's verifier looks at for each program; it takes a million at most.

Prints a table in Markdown, of this machine's kernel and of guests that boot for it. Fails where a kernel does
not take the programs.

usage: bench.py [--kernels 6.1,6.12,7.3]
       bench.py --object datapath.o      of the running kernel, as JSON
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent / "../.."  # of the checkout; a guest has this file alone
SOURCES = ROOT / "roles/bpf_datapath/files"
UTILS = "plugins/module_utils"
PLACE = "ansible_collections/podnet/datapath"
MARK = "VERIFIED "
SECONDS = 1200.0  # for a guest

# struct bpf_prog_info (include/uapi/linux/bpf.h)
BPF_OBJ_GET_INFO_BY_FD = 15
INFO_SIZE, VERIFIED_INSNS = 224, 216


def verified(path: str) -> dict[str, int]:
    """Load the object; return the instructions by program."""
    from ansible_collections.podnet.datapath.plugins.module_utils._kernel import bpf, libbpf

    found = {}
    with libbpf.BpfObject(path) as programs:
        programs.load()
        for name, fd in programs.programs.items():
            info = ctypes.create_string_buffer(INFO_SIZE)
            attributes = struct.pack("=IIQ", fd, INFO_SIZE, ctypes.addressof(info))
            bpf.bpf(BPF_OBJ_GET_INFO_BY_FD, attributes)
            found[name] = struct.unpack_from("=I", info, VERIFIED_INSNS)[0]
    return found


def on_guest(kernel: str, compiled: Path, work: Path) -> tuple[str, dict[str, int]]:
    """Boot a guest of the kernel; return its release and what it said."""
    sys.path[:0] = [str(ROOT / "tests/driver"), str(ROOT / "roles/lab_node/files")]
    import one_boot
    from lablib import image

    base, _built = image.ensure_image(kernel)
    folder = work / kernel
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / UTILS, folder / PLACE / UTILS, ignore=ignore)
    shutil.copy(compiled, folder)
    shutil.copy(__file__, folder)
    disk = one_boot.make_disk(folder, work / f"{kernel}.tar")
    command = f"PYTHONPATH=/run python3 {Path(__file__).name} --object {compiled.name}; poweroff -f"
    # A clock that follows the guest's own work: on a busy machine it takes no pause for a hang.
    machine = [
        *("-machine", "q35", "-accel", "tcg,thread=single", "-smp", "1"),
        *("-icount", "shift=0,sleep=off", "-rtc", "base=2024-01-01,clock=vm"),
    ]
    text = one_boot.boot(base, disk, command, machine, SECONDS)
    said = [line.partition(MARK)[2] for line in text.splitlines() if MARK in line]
    if not said:
        raise SystemExit(f"the guest of {kernel} did not say anything; its console:\n{text[-3000:]}")
    release, found = json.loads(said[0])
    return release, found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--object")
    parser.add_argument("--kernels", default="6.1,6.12,7.3")
    options = parser.parse_args()
    if options.object:
        print(MARK + json.dumps([os.uname().release, verified(options.object)]), flush=True)
        return
    with tempfile.TemporaryDirectory(prefix="podnet-verified-") as temporary:
        work = Path(temporary)
        subprocess.run(["make", "-s", "-C", str(SOURCES), f"OUT={work}"], check=True)
        compiled = work / "datapath.o"
        found = [on_guest(kernel, compiled, work) for kernel in options.kernels.split(",") if kernel]
        found.append((os.uname().release, verified(str(compiled))))
    names = sorted(found[0][1])
    print("| kernel | " + " | ".join(f"`{name}`" for name in names) + " |")
    print("|---|" + "---:|" * len(names))
    for release, counted in found:
        print(f"| {release} | " + " | ".join(f"{counted[name]:,}" for name in names) + " |")


if __name__ == "__main__":
    main()
