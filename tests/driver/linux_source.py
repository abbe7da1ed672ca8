# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Build netdevsim and tcp_mmap from Debian's kernel source, which its packages leave out.

netdevsim is a simulated NIC (rings, channels, coalescing; in newer kernels header split), tcp_mmap is the
kernel's test of TCP zero-copy. Builds are cached by this file's content and the kernel.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lablib import common, debian, recipe

from tests.support.lab_node import LabNode, run
from tests.support.module_build import copy_source

NETDEVSIM, TCP_MMAP = "drivers/net/netdevsim", "tools/testing/selftests/net/tcp_mmap.c"
TCP_MMAP_KERNEL = "6.12"  # the copy in 6.1 cannot verify received data
# The source sends 32 GB, which takes an emulated node hours.
TCP_MMAP_BYTES = 1 << 25


@contextlib.contextmanager
def _source(kernel: str, path: str) -> Iterator[Path]:
    """Yield a file or folder of a lab kernel's source during the block."""
    wanted = recipe.KERNELS[kernel]
    package = "linux-source" + (f"/{wanted.suite}-backports" if wanted.backports else "")
    with tempfile.TemporaryDirectory(dir=common.cache_dir()) as folder:
        root = Path(folder) / "root"
        debian.make_root(root, wanted.suite, [package], variant="extract", backports=wanted.backports)
        (archive,) = root.glob("usr/src/linux-source-*.tar.xz")
        top = archive.name.removesuffix(".tar.xz")
        common.run(["tar", "-C", folder, "-xf", archive, f"{top}/{path}"])
        yield Path(folder) / top / path


@contextlib.contextmanager
def _once(name: str, facts: str) -> Iterator[tuple[Path, Path | None]]:
    """Yield a folder of the cache, and the folder to build in if it does not exist yet."""
    key = hashlib.sha256((Path(__file__).read_text() + facts).encode()).hexdigest()[:16]
    folder = common.cache_dir() / f"kernel-source/{name}-{key}"
    with common.lock(f"kernel-source-{name}"):
        if folder.exists():
            yield folder, None
            return
        with common.step(f"{name} from Debian's kernel source", 40), common.built_dir(folder) as work:
            yield folder, work
        for old in folder.parent.glob(f"{name}-*"):
            if old != folder:
                common.remove_tree(old)


def netdevsim(node: LabNode, kernel: str) -> Path:
    """Return netdevsim.ko for a node."""
    with _once(f"netdevsim-{kernel}", node.release) as (folder, work):
        if work:
            with _source(kernel, NETDEVSIM) as source:
                build = copy_source(node, source, "netdevsim")
            done = build.kbuild("CONFIG_NETDEVSIM=m")
            assert done.returncode == 0, done.stdout + done.stderr
            shutil.copy(build.path / "netdevsim.ko", work)
            shutil.rmtree(build.path)
    return folder / "netdevsim.ko"


def tcp_mmap() -> Path:
    """Return tcp_mmap, statically linked and changed to send less data."""
    with _once("tcp_mmap", TCP_MMAP_KERNEL) as (folder, work):
        if work:
            with _source(TCP_MMAP_KERNEL, TCP_MMAP) as source:
                text = source.read_text()
            text, found = re.subn(
                r"^#define FILE_SZ .*$", f"#define FILE_SZ {TCP_MMAP_BYTES}ULL", text, flags=re.MULTILINE
            )
            assert found == 1, f"{TCP_MMAP} of Linux {TCP_MMAP_KERNEL} has no single #define FILE_SZ"
            (work / "tcp_mmap.c").write_text(text)
            words = ("gcc", "-O2", "-w", "-static", str(work / "tcp_mmap.c"), "-o", str(work / "tcp_mmap"))
            run(*words, "-lpthread", "-lcrypto")
    return folder / "tcp_mmap"
