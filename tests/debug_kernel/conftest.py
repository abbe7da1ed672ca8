# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The driver in a debug kernel. PODNET_KERNEL (6.1, 6.12 or 7.3) chooses its source.

One boot finds planted bugs, and tells what the kernel complains of by itself; another one has the driver.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
DRIVER_TESTS = HERE.parent / "driver"
sys.path[:0] = [str(HERE), str(DRIVER_TESTS)]

import driver_checks  # noqa: E402
from debug_kernel import DebugKernel, debug_kernel  # noqa: E402
from debug_run import KERNEL, MINUTES, SEED, UNFIT, Run  # noqa: E402
from driver_lab import DRIVER, Node, build_modules, compile_programs  # noqa: E402
from kernel_log import Log, parse  # noqa: E402
from lablib import common  # noqa: E402


@pytest.fixture(scope="session")
def kernel() -> DebugKernel:
    return debug_kernel(KERNEL)


@pytest.fixture(scope="session")
def folder(kernel: DebugKernel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the kernel finds at /mnt."""
    made: Path = tmp_path_factory.mktemp("mnt")
    node = Node("", kernel.root, kernel.release)
    sources = {"meta": DRIVER, "inject": DRIVER_TESTS / "inject", "plant": HERE / "plant"}
    # With W=1 and the whole source, comments are checked by a Perl that this root has not.
    build_modules(node, made, sources, "ARCH=um", "W=")
    compile_programs(made)
    for file in (*DRIVER_TESTS.glob("driver_*.py"), HERE / "inside.py", HERE / "random_operations.py"):
        shutil.copy(file, made)
    return made


def booted(kernel: DebugKernel, folder: Path, title: str, seconds: float, *arguments: str) -> Log:
    """Boot, and keep the log beside what the kernel had: a failure's last words are there."""
    file = folder / f"{arguments[0]}.log"
    with common.step(f"debug kernel {kernel.release}: {title}", seconds):
        with file.open("w", buffering=1) as copy:
            for line in kernel.boot(folder, *arguments, seconds=4 * seconds + 600):
                copy.write(line)
        log = parse(file.read_text().splitlines())
    said = [entry["end"] for entry in log.said if "end" in entry]
    assert said == ["complete"], "\n".join([*said, f"the kernel's log: {file}"])
    return log


@pytest.fixture(scope="session")
def baseline(kernel: DebugKernel, folder: Path) -> Log:
    return booted(kernel, folder, "traffic without the driver, then planted bugs", 60, "detectors")


@pytest.fixture(scope="session")
def driver_run(kernel: DebugKernel, folder: Path) -> Run:
    checks = [name for name in driver_checks.CHECKS if name not in UNFIT]
    title = f"checks, then {MINUTES:g} min of random operations (seed {SEED})"
    log = booted(kernel, folder, title, 300 + 60 * MINUTES, "driver", str(SEED), str(MINUTES), *checks)
    results = [json.loads(line) for line in (folder / "checks").read_text().splitlines()]
    failures = {result["check"]: result["failure"] for result in results}
    return Run(log, failures, json.loads((folder / "random").read_text()))
