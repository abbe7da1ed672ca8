# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The driver in a debug kernel. PODNET_KERNEL (6.1, 6.12 or 7.3) selects its source.

The first boot reports planted bugs and the kernel's complaints without the driver; the second one tests the
driver.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from lablib import common

from tests.debug_kernel.debug_kernel import DebugKernel, debug_kernel
from tests.debug_kernel.debug_run import EXCLUDED, KERNEL, MINUTES, SEED, Run
from tests.driver import driver_checks
from tests.support import guest_tree, node_checks
from tests.support.checkout import DRIVER, SUPPORT
from tests.support.kernel_log import Log, parse
from tests.support.lab_node import LabNode
from tests.support.module_build import build_modules, compile_driver_programs

PLANT = Path(__file__).resolve().parent / "plant"


@pytest.fixture(scope="session")
def kernel() -> DebugKernel:
    return debug_kernel(KERNEL)


@pytest.fixture(scope="session")
def folder(kernel: DebugKernel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that the kernel has at /mnt."""
    made: Path = tmp_path_factory.mktemp("mnt")
    node = LabNode("", kernel.root, kernel.release)
    sources = {"meta": DRIVER, "inject": SUPPORT / "inject", "plant": PLANT}
    # W=1 on a complete source runs scripts/kernel-doc, which needs Perl; this root has none.
    build_modules(node, made, sources, "ARCH=um", "W=")
    compile_driver_programs(made)
    guest_tree.write(made, "tests/driver", "tests/debug_kernel", collection=False)
    return made


def booted(kernel: DebugKernel, folder: Path, title: str, seconds: float, *arguments: str) -> Log:
    """Boot, write the kernel's log to a file beside its input, and return it parsed."""
    file = folder / f"{arguments[0]}.log"
    with common.step(f"debug kernel {kernel.release}: {title}", seconds):
        with file.open("w", buffering=1) as copy:
            for line in kernel.boot(folder, *arguments, seconds=4 * seconds + 600):
                copy.write(line)
        log = parse(file.read_text().splitlines())
    ends = [entry["end"] for entry in log.messages if "end" in entry]
    assert ends == ["complete"], "\n".join([*ends, f"the kernel's log: {file}"])
    return log


@pytest.fixture(scope="session")
def baseline(kernel: DebugKernel, folder: Path) -> Log:
    return booted(kernel, folder, "traffic without the driver, then planted bugs", 60, "detectors")


@pytest.fixture(scope="session")
def driver_run(kernel: DebugKernel, folder: Path) -> Run:
    checks = [name for name in driver_checks.CHECKS if name not in EXCLUDED]
    title = f"checks, then {MINUTES:g} min of random operations (seed {SEED})"
    log = booted(kernel, folder, title, 300 + 60 * MINUTES, "driver", str(SEED), str(MINUTES), *checks)
    outcomes = node_checks.parse((folder / "checks").read_text())
    failures = {check: outcome.failure for check, outcome in outcomes.items()}
    return Run(log, failures, json.loads((folder / "random").read_text()))
