# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The running agent on a node that is a network namespace, and requests as the CNI plugin sends them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.podnet.datapath.plugins.module_utils._agent.attachments import name_of

MAIN = "from ansible_collections.podnet.datapath.plugins.module_utils._agent.main import main; main()"
PLUGINS = "/usr/lib/cni"  # Debian's containernetworking-plugins
_START_WITHIN = 120  # seconds, for an emulated node on a busy machine


@dataclass(frozen=True)
class Reply:
    """The plugin's exit status and output."""

    status: int
    body: dict[str, Any]


class Agent:
    """An agent process with its socket, records and configuration below ``folder``.

    ``environment`` has additional variables of the process.
    """

    def __init__(
        self,
        netns: str,
        folder: Path,
        config: Mapping[str, Any],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._netns, self._folder = netns, folder
        self._environment = {**os.environ, **(environment or {})}
        self.socket = folder / "agent.sock"
        (folder / "agent.json").write_text(json.dumps(config))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the agent and wait for its socket."""
        words = [
            *("nsenter", f"--net=/run/netns/{self._netns}", sys.executable, "-c", MAIN),
            *("--config", str(self._folder / "agent.json"), "--socket", str(self.socket)),
            *("--state", str(self._folder / "attachments")),
        ]
        with (self._folder / "log").open("ab") as log:
            self.process = subprocess.Popen(words, stdout=log, stderr=log, env=self._environment)
        deadline = time.monotonic() + _START_WITHIN
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as client:
                client.connect(str(self.socket))
                return
            time.sleep(0.02)
        self.stop(signal.SIGKILL)
        raise AssertionError(f"the agent did not start: {self.log()}")

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End the agent by a signal and wait for it."""
        if self.process:
            self.process.send_signal(number)
            self.process.wait(30)
            self.process = None

    def log(self) -> str:
        return (self._folder / "log").read_text()

    def records(self) -> list[str]:
        return sorted(path.name for path in (self._folder / "attachments").glob("*.json"))

    def has_record(self, container: str) -> bool:
        """Return whether a container is attached completely, according to its record."""
        path = self._folder / "attachments" / f"{name_of(container, 'eth0')}.json"
        return path.exists() and bool(json.loads(path.read_text())["result"])

    def send(self, raw: bytes) -> bytes:
        """Send a request as bytes and return the response."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(60)
            client.connect(str(self.socket))
            client.sendall(raw)
            client.shutdown(socket.SHUT_WR)
            received = b""
            while part := client.recv(1 << 16):
                received += part
        return received

    def call(self, command: str, config: Any, **variables: str) -> Reply:
        """Send a request; ``variables`` are those of the plugin without their prefix ``CNI_``."""
        given = {"COMMAND": command, "PATH": PLUGINS, **variables}
        head = b"".join(f"CNI_{name}={value}".encode() + b"\0" for name, value in given.items())
        body = config if isinstance(config, bytes) else json.dumps(config).encode()
        status, _newline, output = self.send(head + b"\0" + body).partition(b"\n")
        return Reply(int(status), json.loads(output) if output else {})
