# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Build kernel modules in the root of a node's image, with the image's own compiler and headers."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.support.checkout import DRIVER, SUPPORT
from tests.support.lab_node import LabNode, run


@dataclass
class Build:
    """A copy of a module's source inside the image."""

    node: LabNode
    folder: str  # as seen in the image

    @property
    def path(self) -> Path:
        return self.node.root / self.folder.lstrip("/")

    @property
    def kdir(self) -> str:
        return f"/lib/modules/{self.node.release}/build"

    def make(
        self, *arguments: str, kdir: str = "", replace: tuple[Path, Path] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Build by the source's Makefile; ``replace``: a file of the image, and the file mounted over it."""
        return self._run("make", "-C", self.folder, f"KDIR={kdir or self.kdir}", *arguments, replace=replace)

    def kbuild(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Build a source that has only a Kbuild file."""
        return self._run("make", "-C", self.kdir, f"M={self.folder}", "modules", *arguments)

    def _run(
        self, *command: str, replace: tuple[Path, Path] | None = None
    ) -> subprocess.CompletedProcess[str]:
        # The kernel's objtool reads /proc; the mount ends with the mount namespace.
        enter = 'mount -t proc proc "$0/proc" && exec chroot "$0" "$@"'
        if replace:
            enter = f"mount --bind {shlex.quote(str(replace[1]))} {shlex.quote(str(replace[0]))} && {enter}"
        shell = ["unshare", "--mount", "sh", "-c", enter, str(self.node.root)]
        return subprocess.run([*shell, *command], capture_output=True, text=True, check=False)


def copy_source(node: LabNode, source: Path, name: str) -> Build:
    """Copy a module's source into the image."""
    build = Build(node, f"/tmp/podnet-{name}-{os.getpid()}")
    shutil.rmtree(build.path, ignore_errors=True)
    shutil.copytree(source, build.path)
    return build


def build_modules(node: LabNode, folder: Path, sources: dict[str, Path], *arguments: str) -> None:
    """Build modules into a folder; any compiler warning is an error."""
    for name, source in sources.items():
        build = copy_source(node, source, name)
        make = build.make if source == DRIVER else build.kbuild
        done = make("W=1", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "warning:" not in done.stderr, done.stderr
        shutil.copy(build.path / f"{name}.ko", folder)
        shutil.rmtree(build.path)


def make_signing_key(key: str, certificate: str, name: str, serial: int = 0) -> None:
    """Make a key for signing modules and its certificate; ``serial`` 0 leaves the number to openssl."""
    words = ("openssl", "req", "-new", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2")
    number = ("-set_serial", hex(serial)) if serial else ()
    run(*words, "-subj", f"/CN={name}", *number, "-keyout", key, "-out", certificate)


def compile_driver_programs(folder: Path) -> None:
    """Compile driver.bpf.c, the programs of the driver's checks, into a folder."""
    headers = "/usr/include/" + run("gcc", "-print-multiarch").strip()
    target = ("-c", str(SUPPORT / "driver.bpf.c"), "-o", str(folder / "driver.bpf.o"))
    run("clang", "-target", "bpf", "-O2", "-g", "-Wall", "-Werror", f"-I{headers}", *target)
