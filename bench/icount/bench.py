# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measure the instructions per packet of each rung: two nodes and their Pods in one emulated guest.

QEMU counts the instructions of one processor (-icount), and the guest's clock follows that count. Throughput
per second of that clock is work per 10^9 instructions and is the same on every machine. Caches, waiting and
multiple processors are not modelled. Prints a table and writes reports/icount/<kernel>.json.

usage: python3 -m bench.icount.bench [--kernel 6.12] [--rungs host,veth,veth_bpf,netkit,meta,meta_agent]
                                     [--tests rr,stream]
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lablib import image, recipe

from bench.icount.guest import results
from tests.support import guest_tree, one_boot
from tests.support.checkout import CHECKOUT, DRIVER, PROGRAMS
from tests.support.lab_node import LabNode
from tests.support.module_build import copy_source

# The last one has the Pods of meta, made by the agent instead of the modules.
RUNGS = ("host", "veth", "veth_bpf", "netkit", "meta", "meta_agent")
TESTS = ("rr", "stream")
TIMEOUT = 3600.0  # seconds


def build_module(root: Path, release: str, target: Path) -> None:
    """Build meta.ko in the image's root, with the compiler of its kernel."""
    build = copy_source(LabNode("", root, release), DRIVER, "icount")
    try:
        done = build.make()
        if done.returncode:
            raise SystemExit(done.stdout + done.stderr)
        shutil.copy(build.path / "meta.ko", target)
    finally:
        shutil.rmtree(build.path)


def write_disk(root: Path, release: str, work: Path, plan: dict[str, Any]) -> Path:
    """Write the guest's disk, a tar archive of its programs, its driver and the plan; return it."""
    folder = work / "guest"
    guest_tree.write(folder, "bench/icount")
    build_module(root, release, folder / "meta.ko")
    subprocess.run(["make", "-s", "-C", str(PROGRAMS), f"OUT={folder}"], check=True)
    ipam = CHECKOUT / "bench/cni/fixed.c"
    subprocess.run(["gcc", "-O2", "-static", "-o", folder / "fixed", ipam], check=True)
    (folder / "plan.json").write_text(json.dumps(plan))
    return one_boot.make_disk(folder, work / "disk.tar")


def boot(base: image.Image, disk: Path, module: str, more: Sequence[str]) -> list[dict[str, Any]]:
    """Run a module of the guest to its end and return its results."""
    command = f"mount -t bpf bpf /sys/fs/bpf && exec python3 -m {module}"
    counting = [
        *("-machine", "q35", "-accel", "tcg,thread=single", "-smp", "1"),
        *("-icount", "shift=0,sleep=off", "-rtc", "base=2024-01-01,clock=vm"),
    ]
    text = one_boot.boot(base, disk, command, [*counting, *more], TIMEOUT)
    found = results(text)
    if not found or found[-1]["kind"] != "end":
        raise SystemExit("the guest ended early; its console:\n" + text[-3000:])
    return found


def measure(
    kernel: str, module: str, plan: dict[str, Any], file: str, more: Sequence[str] = ()
) -> tuple[str, list[dict[str, Any]]]:
    """Run a module in a new guest; return the kernel's release and the results.

    Writes the results to reports/icount/<file>.json. ``more`` are arguments of QEMU.
    """
    base, _built = image.ensure_image(kernel)
    release = sorted(path.name for path in (base.root / "lib/modules").iterdir())[-1]
    with tempfile.TemporaryDirectory(prefix="podnet-icount-") as folder:
        disk = write_disk(base.root, release, Path(folder), plan)
        found = boot(base, disk, module, more)
    reports = CHECKOUT / "reports/icount"
    reports.mkdir(parents=True, exist_ok=True)
    (reports / f"{file}.json").write_text(json.dumps(found, indent=1) + "\n")
    return release, found


def table(found: list[dict[str, Any]], rungs: list[str], tests: list[str]) -> str:
    """Return the results as a Markdown table, with ratios to the rung host, on one node to veth."""
    columns = [(path, test) for path in ("cross", "local") for test in tests]
    value = {(r["rung"], r["path"], r["test"]): r["median"] for r in found if r["kind"] == "result"}
    lines = [
        "| rung | " + " | ".join(f"{path} {test}" for path, test in columns) + " |",
        "|---|" + "---:|" * len(columns),
    ]
    for rung in rungs:
        cells = []
        for path, test in columns:
            result = value.get((rung, path, test))
            base = value.get(("host" if path == "cross" else "veth", path, test))
            share = f" ({result / base:.3f})" if result and base else ""
            cells.append(f"{result:,.0f}{share}" if result else "")
        lines.append(f"| {rung} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def agent_ratio(found: list[dict[str, Any]]) -> str:
    """Return the results of Pods that the agent made, as a share of those that the modules made."""
    value = {(r["path"], r["test"], r["rung"]): r["median"] for r in found if r["kind"] == "result"}
    shares = [
        f"{path} {test} {median / value[path, test, 'meta']:.4f}"
        for (path, test, rung), median in value.items()
        if rung == "meta_agent" and (path, test, "meta") in value
    ]
    return f"meta_agent, share of meta: {', '.join(shares)}" if shares else ""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kernel", default="6.12", choices=recipe.KERNELS)
    parser.add_argument("--rungs", default="", help="default: all that the kernel has")
    parser.add_argument("--tests", default=",".join(TESTS))
    parser.add_argument("--qemu", default=[], action="append", help="an additional QEMU argument")
    options = parser.parse_args()
    rungs = options.rungs.split(",") if options.rungs else list(RUNGS)
    if not options.rungs and options.kernel == "6.1":
        rungs.remove("netkit")  # added in 6.7
    tests = options.tests.split(",")

    plan = {"rungs": rungs, "tests": tests}
    release, found = measure(options.kernel, "bench.icount.node", plan, options.kernel, options.qemu)
    for failure in (f for f in found if f["kind"] == "failed"):
        print(f"{failure['rung']}: {failure['error']}\n{failure['trace']}", file=sys.stderr)
    print(f"Kernel {release}: transactions and Mbit per 10^9 instructions (share of host or veth)\n")
    print(table(found, rungs, tests))
    print(f"\n{agent_ratio(found)}")
    if any(f["kind"] == "failed" for f in found):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
