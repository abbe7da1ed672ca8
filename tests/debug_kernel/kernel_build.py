# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Build the debug kernel: Debian's source as User-Mode Linux, with all bug detectors.

A change of this file or of ``config`` triggers a new build.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path

from lablib import common, debian, recipe

CONFIG = Path(__file__).resolve().parent / "config"
OPTIONAL = "# Optional"  # a kernel may lack the options after this line of the config
# To build the kernel and modules, and to run the checks.
PACKAGES = (
    *("bc", "bison", "flex", "gcc", "libc6-dev", "libelf-dev", "make", "xz-utils"),
    *("ethtool", "iproute2", "iputils-ping", "kmod", "libbpf1", "python3"),
)
# local_softirq_pending() in modules needs this symbol, which only this architecture does not export.
NOT_EXPORTED = "DEFINE_PER_CPU_SHARED_ALIGNED(irq_cpustat_t, irq_stat);\n"
EXPORTED = "#include <linux/export.h>\nEXPORT_PER_CPU_SYMBOL(irq_stat);\n"
# A module build needs headers, scripts and symbols only; these folders take most of a gigabyte.
UNUSED_SOURCE = ("Documentation", "drivers", "fs", "net", "samples", "sound", "tools")


def built_root(kernel: str) -> Path:
    """Return the root with the debug kernel of a lab kernel; build it unless it is cached."""
    common.require_root_and_commands()
    recipes = "".join(path.read_text() for path in (CONFIG, Path(__file__)))
    facts = json.dumps([kernel, recipes, recipe.KERNELS[kernel].suite])
    key = hashlib.sha256(facts.encode()).hexdigest()[:12]
    folder = common.cache_dir() / "debug-kernels" / f"{kernel}-{key}"
    with common.lock(f"debug-kernel-{kernel}"):
        if not folder.exists():
            with (
                common.step(f"debug kernel {kernel} (packages, build)", 600),
                common.built_dir(folder) as work,
            ):
                _build(kernel, work)
            for old in folder.parent.glob(f"{kernel}-*"):
                if old != folder:
                    common.remove_tree(old)
    return folder


def _build(kernel: str, root: Path) -> None:
    wanted = recipe.KERNELS[kernel]
    suffix = f"/{wanted.suite}-backports" if wanted.backports else ""
    packages = [f"linux-source{suffix}", *PACKAGES]
    debian.make_root(root, wanted.suite, packages, variant="minbase", backports=wanted.backports)
    sources = root / "usr/src"
    (archive,) = sources.glob("linux-source-*.tar.xz")
    common.run(["tar", "-C", sources, "-xf", archive])
    archive.unlink()
    (sources / archive.name.removesuffix(".tar.xz")).rename(sources / "linux")
    (sources / "config").write_text(CONFIG.read_text())
    interrupts = sources / "linux/arch/um/kernel/irq.c"
    interrupts.write_text(interrupts.read_text().replace(NOT_EXPORTED, NOT_EXPORTED + EXPORTED))

    def make(*arguments: str) -> None:
        common.run(["nice", "chroot", root, "make", "-s", "ARCH=um", *arguments])

    make("-C", "/usr/src/linux", "O=/usr/src/build", "KCONFIG_ALLCONFIG=/usr/src/config", "allnoconfig")
    _check_config((sources / "build/.config").read_text())
    make("-C", "/usr/src/build", f"-j{os.cpu_count() or 1}")
    for name in UNUSED_SOURCE:
        common.remove_tree(sources / "linux" / name)
    for path in (*(sources / "build").rglob("*.o"), *(sources / "build").rglob("*.a")):
        if path.relative_to(sources / "build").parts[0] != "scripts":
            path.unlink()
    release = (sources / "build/include/config/kernel.release").read_text().strip()
    modules = root / "usr/lib/modules" / release
    modules.mkdir(parents=True)
    (modules / "build").symlink_to("/usr/src/build")
    (root / "mnt").mkdir(exist_ok=True)


def _check_config(made: str) -> None:
    """Raise LabError if the kernel did not accept a required option."""
    required = re.findall(r"^CONFIG_.*$", CONFIG.read_text().partition(OPTIONAL)[0], re.MULTILINE)
    missing = set(required).difference(made.splitlines())
    if missing:
        raise common.LabError(f"{CONFIG}: this kernel does not accept {', '.join(sorted(missing))}")
