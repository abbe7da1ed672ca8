# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A lab node whose link, power and controller a test can cut."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lablib.qmp import Qmp

from tests.support import guest_tree
from tests.support.checkout import LAB, SUPPORT

NIC = "mgmt0"  # it carries the controller's connection
REMOTE = "/root/faults"  # on the node
COMMANDS = "tests.support.faulty_node_commands"
# A module outlives the connection that started it; the rollback outlives its timer.
BUSY = (
    f"pgrep -f '{COMMANDS} (nic|program)' >/dev/null"
    " || systemctl is-active podnet-checkpoint.timer podnet-checkpoint.service | grep -qE '^(de)?activ'"
)
PATIENCE = 900  # seconds until an emulated node must be reachable again


def lab(*words: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(LAB), *words], capture_output=True, text=True, check=False, timeout=1800
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


class Unreachable(Exception):
    """The node closed the connection or did not accept one."""


def programs() -> bytes:
    """Return drop.bpf.c, compiled."""
    headers = subprocess.run(["gcc", "-print-multiarch"], capture_output=True, text=True, check=True)
    include = f"-I/usr/include/{headers.stdout.strip()}"
    clang = ["clang", "-target", "bpf", "-O2", "-g", "-Wall", "-Werror", include]
    done = subprocess.run([*clang, "-c", SUPPORT / "drop.bpf.c", "-o", "-"], capture_output=True, check=True)
    return done.stdout


class FaultyNode:
    """The node, as a controller reaches it: each command opens a new connection."""

    def __init__(self, name: str, *up: str) -> None:
        """Start the lab of this name; ``up`` are the options of ``lab.py up``."""
        self._name, self._up = name, up
        self.lab = lab("up", "--name", name, *up)
        with tempfile.TemporaryDirectory() as folder:
            guest_tree.write(Path(folder))
            (Path(folder) / "drop.bpf.o").write_bytes(programs())
            archive = subprocess.run(["tar", "-C", folder, "-c", "."], capture_output=True, check=True).stdout
        self.ssh(f"rm -rf {REMOTE} && mkdir -p {REMOTE} && tar -x -C {REMOTE}", archive)

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
        """Run a command of faulty_node_commands.py; return its result."""
        found: dict[str, Any] = json.loads(self.ssh(self.command(*words)))
        return found

    @staticmethod
    def command(*words: str) -> str:
        return f"cd {REMOTE} && exec python3 -m {COMMANDS} {shlex.join(words)}"

    @contextmanager
    def doing(self, *words: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run a command of faulty_node_commands.py during the block, then close its connection."""
        with subprocess.Popen(
            self._argv(self.command(*words)), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as running:
            try:
                yield running
            finally:
                running.kill()

    def link(self, netdev: str, up: bool) -> None:
        """Set the carrier of a NIC, ``mgmt`` or ``wire``."""
        with Qmp(Path(self.lab["folder"]) / "node1/qmp.sock") as qmp:
            qmp("set_link", name=netdev, up=up)

    def cut_power(self) -> None:
        """Kill QEMU, then boot the node again."""
        os.kill(self.lab["nodes"][0]["pid"], signal.SIGKILL)
        self.lab = lab("up", "--name", self._name, *self._up)

    def state(self) -> dict[str, Any]:
        """Wait until no change runs or is pending confirmation, then return the node's state."""
        end, reason = time.monotonic() + PATIENCE, ""
        while time.monotonic() < end:
            try:
                # One shell polls: starting Python repeatedly would slow down the rollback.
                self.ssh(f"while {BUSY}; do sleep 1; done")
                return self.do("state")
            except Unreachable as unreachable:
                reason = str(unreachable)
            time.sleep(1)
        raise AssertionError(f"the node did not become reachable again: {reason}")


def same(now: dict[str, Any], former: dict[str, Any]) -> bool:
    """Return whether two states have the same settings, programs, pins and files."""
    return all(now[key] == former[key] for key in ("nics", "programs", "pins", "files"))
