# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A client for QMP, QEMU's control protocol (QEMU: docs/interop/qmp-spec.rst)."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from lablib.common import LabError


class Qmp:
    """A connection to one QEMU, as a context manager. Raise LabError if QEMU does not answer."""

    def __init__(self, path: Path, timeout: float = 60.0) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout)
        # A socket's path is limited to 107 bytes (unix(7)); the path through /proc is always short enough.
        folder = os.open(path.parent, os.O_PATH)
        try:
            self._socket.connect(f"/proc/self/fd/{folder}/{path.name}")
        except OSError as error:
            self._socket.close()
            raise LabError(f"QEMU does not answer at {path}: {error}") from error
        finally:
            os.close(folder)
        self._stream = self._socket.makefile("rw")
        self._receive()  # the greeting
        self("qmp_capabilities")

    def __enter__(self) -> Qmp:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()
        self._socket.close()

    def _receive(self) -> dict[str, Any]:
        try:
            line = self._stream.readline()
        except OSError as error:
            raise LabError(f"QEMU does not answer at {self.path}: {error}") from error
        if not line:
            raise LabError(f"QEMU closed {self.path}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __call__(self, command: str, **arguments: Any) -> Any:
        """Execute a command and return its result; raise LabError if QEMU returns an error."""
        names = {name.replace("_", "-"): value for name, value in arguments.items()}
        self._stream.write(json.dumps({"execute": command, "arguments": names}) + "\n")
        self._stream.flush()
        while True:
            answer = self._receive()
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise LabError(f"QEMU rejected the QMP command {command}: {answer['error'].get('desc')}")

    def wait_for_migration(self, timeout: float = 120.0) -> None:
        """Wait until the migration that saves or loads a snapshot is complete; raise LabError on failure."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            answer = self("query-migrate")
            status = answer.get("status")
            if status == "completed":
                return
            if status in ("failed", "cancelled"):
                raise LabError(
                    f"QEMU's migration has the status {status}: {answer.get('error-desc', 'no reason given')}"
                )
            time.sleep(0.02)
        raise LabError(f"QEMU's migration is not complete after {timeout:.0f} s")
