# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How many instructions a packet costs on each rung: two nodes and their Pods in one emulated guest.

QEMU counts the instructions of one processor (-icount), and the guest's clock follows that count; so
throughput per second of that clock is work per 10^9 instructions, the same on every machine. What it does not
show: caches, waiting, several processors. Prints a table and writes reports/icount/<kernel>.json.

usage: bench.py [--kernel 6.12] [--rungs host,veth,veth_bpf,netkit,meta] [--tests rr,stream]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT / "tests/driver"), str(ROOT / "roles/lab_node/files")]

import one_boot  # noqa: E402
from driver_lab import DRIVER, Build, Node  # noqa: E402
from lablib import image, recipe  # noqa: E402

RUNGS = ("host", "veth", "veth_bpf", "netkit", "meta")
TESTS = ("rr", "stream")
MARK = "ICOUNT "
TIMEOUT = 3600.0
MODULE_UTILS = "plugins/module_utils"


def build_module(root: Path, release: str, target: Path) -> None:
    """Build meta.ko in the image's root, with the compiler of its kernel."""
    build = Build(Node("", root, release), f"/tmp/podnet-icount-{os.getpid()}")
    shutil.copytree(DRIVER, build.path)
    try:
        done = build.make()
        if done.returncode:
            raise SystemExit(done.stdout + done.stderr)
        shutil.copy(build.path / "meta.ko", target)
    finally:
        shutil.rmtree(build.path)


def write_disk(root: Path, release: str, work: Path, plan: dict[str, Any], *scripts: Path) -> Path:
    """Return a disk that is a tar archive of what the guest runs."""
    folder = work / "guest"
    utils = folder / "ansible_collections/podnet/datapath" / MODULE_UTILS
    shutil.copytree(ROOT / MODULE_UTILS, utils, ignore=shutil.ignore_patterns("__pycache__"))
    for script in scripts:
        shutil.copy(script, folder)
    build_module(root, release, folder / "meta.ko")
    subprocess.run(["make", "-s", "-C", str(ROOT / "roles/bpf_datapath/files"), f"OUT={folder}"], check=True)
    (folder / "plan.json").write_text(json.dumps(plan))
    return one_boot.make_disk(folder, work / "disk.tar")


def boot(base: image.Image, disk: Path, script: str, more: list[str]) -> list[dict[str, Any]]:
    """Run a script in the guest to its end and return what it said."""
    command = f"mount -t bpf bpf /sys/fs/bpf && PYTHONPATH=/run exec python3 {script}"
    counting = [
        *("-machine", "q35", "-accel", "tcg,thread=single", "-smp", "1"),
        *("-icount", "shift=0,sleep=off", "-rtc", "base=2024-01-01,clock=vm"),
    ]
    text = one_boot.boot(base, disk, command, [*counting, *more], TIMEOUT)
    found = [json.loads(line.partition(MARK)[2]) for line in text.splitlines() if MARK in line]
    if not found or found[-1]["kind"] != "end":
        raise SystemExit("the guest did not come to its end; its console:\n" + text[-3000:])
    return found


def table(found: list[dict[str, Any]], rungs: list[str], tests: list[str]) -> str:
    """Return the results as a Markdown table; the share of host is that of the same way and test."""
    columns = [(way, test) for way in ("cross", "local") for test in tests]
    value = {(r["rung"], r["way"], r["test"]): r["median"] for r in found if r["kind"] == "result"}
    lines = [
        "| rung | " + " | ".join(f"{way} {test}" for way, test in columns) + " |",
        "|---|" + "---:|" * len(columns),
    ]
    for rung in rungs:
        cells = []
        for way, test in columns:
            result = value.get((rung, way, test))
            base = value.get(("host" if way == "cross" else "veth", way, test))
            share = f" ({result / base:.3f})" if result and base else ""
            cells.append(f"{result:,.0f}{share}" if result else "")
        lines.append(f"| {rung} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kernel", default="6.12", choices=recipe.KERNELS)
    parser.add_argument("--rungs", default="", help="default: all that the kernel has")
    parser.add_argument("--tests", default=",".join(TESTS))
    parser.add_argument("--qemu", default=[], action="append", help="a further argument of QEMU's")
    options = parser.parse_args()
    rungs = options.rungs.split(",") if options.rungs else list(RUNGS)
    if not options.rungs and options.kernel == "6.1":
        rungs.remove("netkit")  # came with 6.7
    tests = options.tests.split(",")

    base, _built = image.ensure_image(options.kernel)
    releases = sorted(path.name for path in (base.root / "lib/modules").iterdir())
    with tempfile.TemporaryDirectory(prefix="podnet-icount-") as folder:
        work = Path(folder)
        disk = write_disk(base.root, releases[-1], work, {"rungs": rungs, "tests": tests}, HERE / "node.py")
        found = boot(base, disk, "node.py", options.qemu)
    for failure in (f for f in found if f["kind"] == "failed"):
        print(f"{failure['rung']}: {failure['error']}\n{failure['trace']}", file=sys.stderr)
    reports = ROOT / "reports/icount"
    reports.mkdir(parents=True, exist_ok=True)
    (reports / f"{options.kernel}.json").write_text(json.dumps(found, indent=1) + "\n")
    print(f"Kernel {releases[-1]}: transactions and Mbit per 10^9 instructions (share of host; of veth)\n")
    print(table(found, rungs, tests))
    if any(f["kind"] == "failed" for f in found):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
