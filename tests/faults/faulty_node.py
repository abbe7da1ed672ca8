# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A node of the lab that loses its link, its power or its controller."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
CHECKOUT = HERE.parents[1]
LAB = CHECKOUT / "roles/lab_node/files/lab.py"
sys.path.insert(0, str(LAB.parent))

from lablib.qmp import Qmp  # noqa: E402

NIC = "mgmt0"  # it carries the controller's connection
THERE = "/root/faults"
# A module outlives the connection that started it, and the way back the timer.
BUSY = (
    "pgrep -f 'node_side.py (nic|program)' >/dev/null"
    " || systemctl is-active podnet-checkpoint.timer podnet-checkpoint.service | grep -qE '^(de)?activ'"
)
PATIENCE = 900  # seconds until a node that does not come back is lost


def lab(*words: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(LAB), *words], capture_output=True, text=True, check=False, timeout=1800
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


class Unreachable(Exception):
    """The connection ended, or none came about."""


def programs() -> bytes:
    """Return drop.bpf.c, compiled."""
    headers = subprocess.run(["gcc", "-print-multiarch"], capture_output=True, text=True, check=True)
    include = f"-I/usr/include/{headers.stdout.strip()}"
    clang = ["clang", "-target", "bpf", "-O2", "-g", "-Wall", "-Werror", include]
    done = subprocess.run([*clang, "-c", HERE / "drop.bpf.c", "-o", "-"], capture_output=True, check=True)
    return done.stdout


class Node:
    """The node, reached as a controller would: each command is a connection of its own."""

    def __init__(self, name: str, *up: str) -> None:
        """Take the lab of this name; ``up`` is how to make it."""
        self._name, self._up = name, up
        self.lab = lab("up", "--name", name, *up)
        built = programs()
        utils, place = "plugins/module_utils", "ansible_collections/podnet/datapath"
        tar = ["tar", "-cf", "-", "--exclude=__pycache__", f"--transform=s,^{utils},{place}/{utils},"]
        archive = subprocess.run(
            [*tar, "-C", str(CHECKOUT), utils, "-C", str(HERE), "node_side.py"],
            capture_output=True,
            check=True,
        ).stdout
        self.ssh(f"rm -rf {THERE} && mkdir -p {THERE} && tar -x -C {THERE}", archive)
        self.ssh(f"cat >{THERE}/drop.bpf.o", built)

    def _argv(self, script: str) -> list[str]:
        alive = ["-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3"]
        return ["ssh", "-F", self.lab["ssh_config"], *alive, "node1", script]

    def ssh(self, script: str, data: bytes = b"") -> str:
        done = subprocess.run(
            self._argv(script), input=data, capture_output=True, check=False, timeout=PATIENCE
        )
        if done.returncode == 255:
            raise Unreachable(done.stderr.decode())
        assert done.returncode == 0, (done.stdout + done.stderr).decode()
        return done.stdout.decode()

    def do(self, *words: str) -> dict[str, Any]:
        """Run node_side.py."""
        found: dict[str, Any] = json.loads(self.ssh(self.command(*words)))
        return found

    @staticmethod
    def command(*words: str) -> str:
        return f"cd {THERE} && exec python3 node_side.py {shlex.join(words)}"

    @contextmanager
    def doing(self, *words: str) -> Iterator[subprocess.Popen[bytes]]:
        """Have node_side.py run meanwhile; its connection is ended after the block."""
        with subprocess.Popen(
            self._argv(self.command(*words)), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as running:
            try:
                yield running
            finally:
                running.kill()

    def link(self, netdev: str, up: bool) -> None:
        """Pull a cable, ``mgmt`` or ``wire``, or put it back."""
        with Qmp(Path(self.lab["folder"]) / "node1/qmp.sock") as qmp:
            qmp("set_link", name=netdev, up=up)

    def cut_power(self) -> None:
        """Kill QEMU, and have the node boot again."""
        os.kill(self.lab["nodes"][0]["pid"], signal.SIGKILL)
        self.lab = lab("up", "--name", self._name, *self._up)

    def state(self) -> dict[str, Any]:
        """Return how the node is once it can be reached and nothing runs or waits for a confirmation."""
        end, why = time.monotonic() + PATIENCE, ""
        while time.monotonic() < end:
            try:
                # Asked in one shell: to start Python again and again would take what the way back needs.
                self.ssh(f"while {BUSY}; do sleep 1; done")
                return self.do("state")
            except Unreachable as unreachable:
                why = str(unreachable)
            time.sleep(1)
        raise AssertionError(f"the node did not come back: {why}")


def same(now: dict[str, Any], former: dict[str, Any]) -> bool:
    """Tell whether nothing is left of a change."""
    return all(now[key] == former[key] for key in ("nics", "programs", "pins", "files"))
