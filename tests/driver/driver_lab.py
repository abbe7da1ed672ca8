# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's side of the driver's tests: the lab's node, and builds in the image it was made from."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO

HERE = Path(__file__).parent
DRIVER = HERE.parents[1] / "roles/meta_driver/files"
SHARED = HERE.parent / "datapath"
LAB = HERE.parents[1] / "roles/lab_node/files/lab.py"


def run(*argv: str, stdin: IO[bytes] | None = None, timeout: float | None = None) -> str:
    """Run a program and return its output; where it fails, its last words are in the error."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False, stdin=stdin, timeout=timeout)
    if done.returncode:
        words = "\n".join((done.stdout + done.stderr).splitlines()[-30:])
        raise RuntimeError(f"{' '.join(argv)}: exit status {done.returncode}\n{words}")
    return str(done.stdout)


def lab(*arguments: str, stdin: IO[bytes] | None = None, timeout: float | None = None) -> str:
    return run(sys.executable, str(LAB), *arguments, stdin=stdin, timeout=timeout)


@dataclass
class Node:
    """A node that runs, and the root of the image that it was made from."""

    lab: str
    root: Path
    release: str

    def ssh(self, command: str, stdin: IO[bytes] | None = None, timeout: float | None = None) -> str:
        return lab("ssh", "--name", self.lab, "node1", "--", command, stdin=stdin, timeout=timeout)


@dataclass
class Build:
    """A copy of the driver's source inside the image, to be built there with the image's own tools."""

    node: Node
    folder: str  # as seen in the image

    @property
    def path(self) -> Path:
        return self.node.root / self.folder.lstrip("/")

    @property
    def kdir(self) -> str:
        return f"/lib/modules/{self.node.release}/build"

    def make(
        self, *arguments: str, kdir: str = "", instead: tuple[Path, Path] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Build by the source's own Makefile; ``instead``: a file of the image, and one to take its place."""
        return self._run("make", "-C", self.folder, f"KDIR={kdir or self.kdir}", *arguments, instead=instead)

    def kbuild(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Build a source that has nothing but a Kbuild."""
        return self._run("make", "-C", self.kdir, f"M={self.folder}", "modules", *arguments)

    def _run(
        self, *command: str, instead: tuple[Path, Path] | None = None
    ) -> subprocess.CompletedProcess[str]:
        # The kernel's objtool wants /proc; what is mounted here goes with the mount namespace.
        enter = 'mount -t proc proc "$0/proc" && exec chroot "$0" "$@"'
        if instead:
            enter = f"mount --bind {shlex.quote(str(instead[1]))} {shlex.quote(str(instead[0]))} && {enter}"
        shell = ["unshare", "--mount", "sh", "-c", enter, str(self.node.root)]
        return subprocess.run([*shell, *command], capture_output=True, text=True, check=False)


def copied(node: Node, source: Path, name: str) -> Build:
    """Return a fresh copy of a module's source."""
    made = Build(node, f"/tmp/podnet-{name}-{os.getpid()}")
    shutil.rmtree(made.path, ignore_errors=True)
    shutil.copytree(source, made.path)
    return made


def build_modules(node: Node, folder: Path, sources: dict[str, Path], *arguments: str) -> None:
    """Build modules without a warning and put them into a folder."""
    for name, source in sources.items():
        made = copied(node, source, name)
        build = made.make if source == DRIVER else made.kbuild
        done = build("W=1", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "warning:" not in done.stderr, done.stderr
        shutil.copy(made.path / f"{name}.ko", folder)
        shutil.rmtree(made.path)


def compile_programs(folder: Path) -> None:
    headers = "/usr/include/" + run("gcc", "-print-multiarch").strip()
    target = ("-c", str(HERE / "driver.bpf.c"), "-o", str(folder / "driver.bpf.o"))
    run("clang", "-target", "bpf", "-O2", "-g", "-Wall", "-Werror", f"-I{headers}", *target)


def find_node(kernel: str) -> Node:
    """Return the lab's node, as it was when it had booted for the first time."""
    if os.geteuid():
        raise RuntimeError("tests/driver need root: run them by make test-driver")
    name = "driver-" + kernel.replace(".", "-")
    root = Path(lab("root", "--kernel", kernel).strip())
    release = ""
    for image_is_newer in (False, True):
        if image_is_newer:
            lab("down", "--name", name)
        nics = ("--nic", "e1000e", "--nic", "igb")
        lab("up", "--name", name, "--nodes", "1", "--kernel", kernel, "--snapshot", "booted", *nics)
        node = Node(name, root, "")
        release = node.release = node.ssh("uname -r").strip()
        # A link into the image's /usr/src, which means nothing outside of it.
        if (root / "lib/modules" / release / "build").is_symlink():
            return node
    raise RuntimeError(f"the image {root} has no headers for the node's kernel {release}")


def bring(node: Node, folder: Path, script: str, *files: Path) -> str:
    """Bring a script and files to the node, the collection beside them; return the folder there.

    ``folder`` is one for a temporary file here.
    """
    utils, place = "plugins/module_utils", "ansible_collections/podnet/datapath"
    archive, there = folder / "checks.tar", script.removesuffix(".py")
    run(
        *("tar", "-cf", str(archive), "--exclude=__pycache__"),
        *(f"--transform=s,^{utils},{place}/{utils},", "-C", str(HERE.parents[1]), utils),
        *("-C", str(HERE), script),
        *(word for file in files for word in ("-C", str(file.parent), file.name)),
    )
    with archive.open("rb") as data:
        node.ssh(f"mkdir -p {there} && cd {there} && tar -x", stdin=data, timeout=120)
    return there
