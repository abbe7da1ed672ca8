# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Nodes of the lab, as a controller uses them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tests.support import guest_tree, node_checks
from tests.support.checkout import LAB

REBOOT_SECONDS = 900


def run(*argv: str, stdin: IO[bytes] | None = None, timeout: float | None = None) -> str:
    """Run a program and return its output; raise RuntimeError with its last lines if it fails."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False, stdin=stdin, timeout=timeout)
    if done.returncode:
        words = "\n".join((done.stdout + done.stderr).splitlines()[-30:])
        raise RuntimeError(f"{' '.join(argv)}: exit status {done.returncode}\n{words}")
    return str(done.stdout)


def lab(*arguments: str, stdin: IO[bytes] | None = None, timeout: float | None = None) -> str:
    """Run lab.py and return its output."""
    return run(sys.executable, str(LAB), *arguments, stdin=stdin, timeout=timeout)


@dataclass
class LabNode:
    """A running node, and the root of the image that it was made from."""

    lab: str
    root: Path
    release: str

    def ssh(self, command: str, stdin: IO[bytes] | None = None, timeout: float | None = None) -> str:
        return lab("ssh", "--name", self.lab, "node1", "--", command, stdin=stdin, timeout=timeout)

    def send(self, *packages: str, name: str, files: Iterable[Path] = ()) -> None:
        """Copy packages, the collection and files to the folder ``name`` of the node, see guest_tree."""
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as archive:
            guest_tree.write(Path(folder), *packages, files=files)
            subprocess.run(["tar", "-C", folder, "-c", "."], stdout=archive, check=True)
            archive.seek(0)
            self.ssh(f"rm -rf {name} && mkdir {name} && tar -C {name} -x", stdin=archive, timeout=120)

    def run_checks(
        self, module: str, *arguments: str, files: Iterable[Path] = (), timeout: float = 1200
    ) -> dict[str, node_checks.Outcome]:
        """Run a module of checks (``tests.driver.nic_checks``) on the node; return its outcomes by check."""
        package, dummy, name = module.rpartition(".")
        self.send(package.replace(".", "/"), name=name, files=files)
        command = f"cd {name} && exec python3 -m {module} {' '.join(arguments)}"
        return node_checks.parse(self.ssh(command, timeout=timeout))

    def reboot(self) -> None:
        """Reboot the node and wait until it answers."""
        read = "cat /proc/sys/kernel/random/boot_id"
        before = self.ssh(read)
        with contextlib.suppress(RuntimeError):  # the connection may end first
            self.ssh("systemctl reboot")
        end = time.monotonic() + REBOOT_SECONDS
        while time.monotonic() < end:
            with contextlib.suppress(RuntimeError):
                if self.ssh(read) != before:
                    return
            time.sleep(1)
        raise AssertionError(f"the node is not reachable {REBOOT_SECONDS} s after the reboot")

    def restore(self) -> None:
        """Restore the snapshot of the node's first boot."""
        lab("restore", "--name", self.lab, "booted")


def assert_passed(outcome: node_checks.Outcome) -> None:
    """Fail or skip the running test as its check on the node did."""
    import pytest  # benchmarks use this module without pytest

    if outcome.skipped:
        pytest.skip(outcome.skipped)
    assert not outcome.failure, f"\n{outcome.failure}"


def driver_node(kernel: str) -> LabNode:
    """Return the node of the driver's tests, restored to its first boot."""
    if os.geteuid():
        raise RuntimeError("a node needs root; run `make test-driver`")
    name = "driver-" + kernel.replace(".", "-")
    root = Path(lab("root", "--kernel", kernel).strip())
    release = ""
    for image_is_newer in (False, True):
        if image_is_newer:
            lab("down", "--name", name)
        nics = ("--nic", "e1000e", "--nic", "igb")
        lab("up", "--name", name, "--nodes", "1", "--kernel", kernel, "--snapshot", "booted", *nics)
        node = LabNode(name, root, "")
        release = node.release = node.ssh("uname -r").strip()
        # A link into the image's /usr/src, which is dangling outside of it.
        if (root / "lib/modules" / release / "build").is_symlink():
            return node
    raise RuntimeError(f"the image {root} has no headers for the node's kernel {release}")
