# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The QEMU processes of a lab's nodes: start, identify, stop."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from lablib import machine, wire
from lablib.common import LabError, tail
from lablib.files import LabFiles
from lablib.qemu import Emulator
from lablib.state import Node, State

START_TIMEOUT = 60.0  # seconds
STOP_TIMEOUT = 5.0  # seconds for each signal


def start_time(pid: int) -> int:
    """Return the start time of a process in clock ticks since boot (proc(5)), 0 if it does not run."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    state, start = after_name[0], after_name[19]
    return 0 if state in "ZX" else int(start)


def is_running(node: Node) -> bool:
    """Return whether the node's QEMU runs; the start time rules out a reused process ID."""
    return node.pid > 0 and start_time(node.pid) == node.started


def start(files: LabFiles, emulator: Emulator, state: State, node: Node, *, incoming: bool = False) -> None:
    """Start the node's QEMU, save its process ID, and wait until QMP accepts connections.

    ``incoming``: the machine waits for a migration stream instead of booting. Raise LabError if QEMU ends or
    does not offer QMP within START_TIMEOUT.
    """
    folder = files.node_folder(node)
    (folder / "qmp.sock").unlink(missing_ok=True)
    if not incoming:
        # The console of the previous boot may show why it ended.
        with contextlib.suppress(FileNotFoundError):
            (folder / "console.log").replace(folder / "console.old.log")
    tap = wire.open_tap(files.namespace, node.name)
    argv = machine.node_argv(emulator, files.name, state, node, tap)
    if incoming:
        argv += machine.INCOMING
    log = folder / "qemu.log"
    try:
        with log.open("a") as output:
            process = subprocess.Popen(
                argv,
                cwd=folder,
                env={**os.environ, **dict(emulator.env)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[tap],
                start_new_session=True,
            )
    finally:
        os.close(tap)
    node.pid, node.started = process.pid, start_time(process.pid)
    files.save_state(state)
    end = time.monotonic() + START_TIMEOUT
    while not (folder / "qmp.sock").exists():
        if process.poll() is not None or time.monotonic() > end:
            raise LabError(f"QEMU of {node.name} did not start; last lines of {log}:\n{tail(log)}")
        time.sleep(0.02)


def wait_for_end(nodes: Sequence[Node]) -> None:
    """Wait until processes that have ended are gone with all threads, which keep the tap devices open."""
    for node in nodes:
        if node.pid > 0 and not is_running(node):
            with contextlib.suppress(ChildProcessError):  # An earlier process has started it.
                os.waitpid(node.pid, 0)


def stop(nodes: Sequence[Node]) -> None:
    """Stop the nodes' QEMU processes without shutting the guests down; raise LabError if one does not end."""
    running = [node for node in nodes if is_running(node)]
    for node in running:
        os.kill(node.pid, signal.SIGTERM)
    for next_signal in (signal.SIGKILL, None):
        end = time.monotonic() + STOP_TIMEOUT
        while time.monotonic() < end and any(map(is_running, running)):
            time.sleep(0.02)
        for node in filter(is_running, running):
            if next_signal is None:
                raise LabError(f"QEMU of {node.name} (process {node.pid}) ignores SIGKILL")
            os.kill(node.pid, next_signal)
