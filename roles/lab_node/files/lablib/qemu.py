# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The QEMU binaries: the host's own or a private copy in the cache."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from lablib import common, debian
from lablib.common import run

# TCG of QEMU 7.2 (Debian 12) corrupts the flags around cmpxchg16b, which crashes kernels from 6.12 on.
MIN_MAJOR_VERSION = 8
QEMU_SUITE = "trixie"
QEMU_PACKAGES = ("qemu-system-x86", "qemu-utils")
LIBRARIES = "usr/lib/x86_64-linux-gnu"


@dataclass(frozen=True)
class Emulator:
    """The command prefixes for qemu-system-x86_64 and qemu-img, and the environment that they need."""

    system: tuple[str, ...]
    img: tuple[str, ...]
    version: str
    env: tuple[tuple[str, str], ...] = ()


def major_version(version_text: str) -> int:
    """Return the major version from the output of ``qemu-system-x86_64 --version``, 0 if it has none."""
    found = re.search(r"version (\d+)\.", version_text)
    return int(found[1]) if found else 0


def _version(text: str) -> str:
    found = re.search(r"version (\S+)", text)
    return found[1] if found else "unknown"


def ensure_emulator() -> Emulator:
    """Return the host's QEMU if it is recent enough, otherwise a private copy in the cache."""
    system, img = shutil.which("qemu-system-x86_64"), shutil.which("qemu-img")
    if system and img:
        text = run([system, "--version"])
        if major_version(text) >= MIN_MAJOR_VERSION:
            return Emulator((system,), (img,), _version(text))
    recipe = json.dumps([QEMU_SUITE, QEMU_PACKAGES, Path(debian.__file__).read_text()])
    root = common.cache_dir() / f"qemu/{QEMU_SUITE}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    with common.lock("qemu"):
        if not root.exists():
            with (
                common.step("private QEMU (the system's is missing or old)", 40),
                common.built_dir(root) as work,
            ):
                debian.make_root(work, QEMU_SUITE, QEMU_PACKAGES, variant="extract")
    return _private_emulator(root)


def _private_emulator(root: Path) -> Emulator:
    """Return the QEMU in the root of another Debian release, started by that root's dynamic loader."""
    loader = [f"{root}/{LIBRARIES}/ld-linux-x86-64.so.2", "--library-path", f"{root}/{LIBRARIES}"]
    env = (("QEMU_MODULE_DIR", f"{root}/{LIBRARIES}/qemu"),)
    system = (*loader, f"{root}/usr/bin/qemu-system-x86_64")
    text = run([*system, "--version"], env=dict(env))
    data = ("-L", f"{root}/usr/share/qemu", "-L", f"{root}/usr/share/seabios")
    return Emulator((*system, *data), (*loader, f"{root}/usr/bin/qemu-img"), _version(text), env)
