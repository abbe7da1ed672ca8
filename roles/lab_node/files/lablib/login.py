# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""SSH logins to the nodes: wait for them, and set the nodes' clocks."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from collections.abc import Sequence

from lablib.common import LabError, tail
from lablib.files import LabFiles
from lablib.process import is_running
from lablib.state import Node

LOGIN_TIMEOUT = 120.0  # seconds
PANIC = "Kernel panic"


class BootFailed(LabError):
    """The QEMU of a node has ended, or the node has no SSH server in time."""


def ssh_argv(files: LabFiles, node: str) -> list[str]:
    """Return the ssh command that logs in to a node."""
    return ["ssh", "-F", str(files.ssh_config), node]


def wait_for_logins(files: LabFiles, nodes: Sequence[Node], timeout: float) -> None:
    """Wait until every node accepts SSH logins, then set its clock.

    Raise BootFailed if a QEMU ends or a node is not ready after ``timeout`` seconds, and LabError if a kernel
    panics.
    """
    start = time.monotonic()
    for node in nodes:
        # A busy host slows the nodes down, and waiting logins add to the load: allow more time with each try.
        while not has_ssh_server(node, timeout=3 + (time.monotonic() - start) / 10):
            _require_working_guest(files, node)
            if time.monotonic() - start > timeout:
                console = files.node_folder(node) / "console.log"
                raise BootFailed(
                    f"{node.name} has no SSH server after {timeout:.0f} s; "
                    f"last lines of {console}:\n{tail(console)}"
                )
            time.sleep(0.2)
    for node in nodes:
        _set_clock(files, node)


def _require_working_guest(files: LabFiles, node: Node) -> None:
    """Raise BootFailed if the node's QEMU has ended, and LabError if its kernel has panicked."""
    log, console = (files.node_folder(node) / name for name in ("qemu.log", "console.log"))
    if not is_running(node):
        raise BootFailed(f"QEMU of {node.name} ended; last lines of {log}:\n{tail(log)}")
    if PANIC in (lines := tail(console)):
        raise LabError(f"the kernel of {node.name} panicked; last lines of {console}:\n{lines}")


def has_ssh_server(node: Node, timeout: float) -> bool:
    """Return whether the node's port sends an SSH banner; QEMU accepts connections before that."""
    try:
        with socket.create_connection(("127.0.0.1", node.port), timeout=timeout) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def _set_clock(files: LabFiles, node: Node) -> None:
    """Set a node's clock, which after a restore shows the time of the snapshot.

    A login takes seconds, so the time is sent only once the shell in the node is ready.
    """
    script = "echo ready; read -r now; date -s @$now"
    with subprocess.Popen(
        [*ssh_argv(files, node.name), script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        guard = threading.Timer(LOGIN_TIMEOUT, process.kill)
        guard.start()
        try:
            ready = process.stdout.readline()
            _out, errors = process.communicate(f"{time.time():.3f}\n" if ready else None)
        finally:
            guard.cancel()
    if process.returncode:
        reason = errors.strip() or f"no answer within {LOGIN_TIMEOUT:.0f} s"
        raise LabError(f"SSH login to {node.name} failed: {reason}")
