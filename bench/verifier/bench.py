# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Count the instructions that each kernel's verifier processes for each program; a kernel accepts a million.

Boots a guest per kernel, and counts on the running kernel as well. Prints a Markdown table. Fails if a kernel
rejects the programs.

usage: python3 -m bench.verifier.bench [--kernels 6.1,6.12,7.3]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path

from lablib import image

from bench.verifier.guest import MARK, verified
from tests.support import guest_tree, one_boot
from tests.support.checkout import PROGRAMS

TIMEOUT = 1200.0  # seconds of a guest


def on_guest(kernel: str, compiled: Path, work: Path) -> tuple[str, dict[str, int]]:
    """Boot a guest of the kernel; return its release and its instructions by program."""
    base, _built = image.ensure_image(kernel)
    guest_tree.write(work / kernel, "bench/verifier", files=[compiled])
    disk = one_boot.make_disk(work / kernel, work / f"{kernel}.tar")
    command = f"python3 -m bench.verifier.guest {compiled.name}; poweroff -f"
    # The guest's clock follows its instructions, so a busy machine does not look like a hang.
    machine = [
        *("-machine", "q35", "-accel", "tcg,thread=single", "-smp", "1"),
        *("-icount", "shift=0,sleep=off", "-rtc", "base=2024-01-01,clock=vm"),
    ]
    text = one_boot.boot(base, disk, command, machine, TIMEOUT)
    results = [line.partition(MARK)[2] for line in text.splitlines() if MARK in line]
    if not results:
        raise SystemExit(f"the guest of {kernel} printed no result; its console:\n{text[-3000:]}")
    release, found = json.loads(results[0])
    return release, found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kernels", default="6.1,6.12,7.3")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="podnet-verified-") as temporary:
        work = Path(temporary)
        subprocess.run(["make", "-s", "-C", str(PROGRAMS), f"OUT={work}"], check=True)
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
