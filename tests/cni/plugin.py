# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The CNI plugin and a unix socket server in the agent's place."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.checkout import CHECKOUT

SOURCE = CHECKOUT / "roles/cni/files/plugin"
WARNINGS = ["-std=gnu11", "-Wall", "-Wextra", "-Werror"]
SANITIZERS = ["-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
# An exit status that the plugin never has: the agent's responses end at 255, and the tests use other ones.
SANITIZER_STATUS = 99

LIMIT = 1 << 20
CONFIGURATION = b'{"cniVersion":"1.0.0","name":"podnet","type":"podnet"}'
RESULT = b'{"cniVersion":"1.0.0","ips":[{"address":"10.1.0.2/24"}],"dns":{"search":["a}b","\\\\\\"{"]}}\n'
ERROR = b'{"cniVersion":"1.0.0","code":7,"msg":"ipam: missing"}'
COMMANDS = ["ADD", "DEL", "CHECK", "GC", "STATUS"]
VARIABLES = {
    "CNI_CONTAINERID": "0f3a",
    "CNI_NETNS": "/var/run/netns/cni-1",
    "CNI_IFNAME": "eth0",
    "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAME=web-0",
    "CNI_PATH": "/opt/cni/bin:/usr/lib/cni",
}
# The longest value of a variable that the plugin accepts
VARIABLE_MAX = 16384

Respond = Callable[[socket.socket], None]


@dataclass(frozen=True)
class Build:
    """A build of the plugin."""

    path: Path
    environment: dict[str, str] = field(default_factory=dict)


def build_release(folder: Path) -> Build:
    subprocess.run(["make", "-s", "-C", SOURCE, f"OUT={folder}"], check=True)
    return Build(folder / "podnet")


def build_sanitized(folder: Path) -> Build:
    path = folder / "podnet-sanitized"
    subprocess.run(["gcc", *WARNINGS, *SANITIZERS, SOURCE / "podnet.c", "-o", path], check=True)
    options = f"exitcode={SANITIZER_STATUS}"
    return Build(path, {"ASAN_OPTIONS": options, "UBSAN_OPTIONS": options})


def build_impatient(folder: Path) -> Build:
    """Return a build with a time-out of 1 s instead of 120 s."""
    path = folder / "podnet-impatient"
    subprocess.run(["gcc", *WARNINGS, "-DTIMEOUT=1", SOURCE / "podnet.c", "-o", path], check=True)
    return Build(path)


@dataclass(frozen=True)
class Outcome:
    """What the plugin returned."""

    status: int
    out: bytes
    err: bytes

    def error(self) -> dict[str, Any]:
        """Return the CNI error that the plugin printed itself."""
        assert self.status == 1, self
        error = json.loads(self.out)
        assert set(error) == {"cniVersion", "code", "msg"} and error["cniVersion"] == "1.0.0", self
        return error

    def unavailable(self, path: str | Path, code: int = 11) -> str:
        """Assert that the plugin reports the agent at ``path`` as unavailable, and return the message."""
        error = self.error()
        assert error["code"] == code, self
        message = error["msg"]
        assert message.startswith(f"agent socket {path}: "), self
        assert message.endswith("; check systemctl status podnet-agent"), self
        assert self.err == b"", self
        return message


@contextlib.contextmanager
def started(
    build: Build,
    path: str | bytes | Path | None,
    command: str | None = "ADD",
    env: dict[str, str | bytes] | None = None,
    **options: Any,
) -> Iterator[Any]:
    """Start the plugin with ``path`` as the agent's socket, and return its Popen; kill it at the end."""
    environment: dict[str, str | bytes] = {**build.environment, **(env or {})}
    if command is not None:
        environment["CNI_COMMAND"] = command
    if path is not None:
        environment["PODNET_AGENT_SOCKET"] = path if isinstance(path, bytes) else str(path)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    with subprocess.Popen([build.path], env=environment, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def run(
    build: Build,
    path: str | bytes | Path | None,
    command: str | None = "ADD",
    given: bytes | None = CONFIGURATION,
    env: dict[str, str | bytes] | None = None,
    **options: Any,
) -> Outcome:
    """Run the plugin until it ends; ``given`` is its standard input, None if ``options`` have one."""
    with started(build, path, command, env, **options) as process:
        out, err = process.communicate(given, timeout=60)
    return Outcome(process.returncode, out or b"", err or b"")


def read_request(connection: socket.socket) -> bytes:
    """Return the complete request."""
    parts = []
    while part := connection.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


def response(data: bytes, status: int = 0) -> bytes:
    return b"%d\n%b" % (status, data)


def recorded(requests: list[bytes], data: bytes) -> Respond:
    """Return a server that reads each request into ``requests`` and sends ``data``."""

    def respond(connection: socket.socket) -> None:
        requests.append(read_request(connection))
        connection.sendall(data)

    return respond


def wait_for_close(connection: socket.socket) -> None:
    """Wait until the plugin has closed the connection, not only shut down its writing side."""
    poll = select.poll()
    poll.register(connection, select.POLLHUP)
    poll.poll()


class Agent:
    """A server that handles each connection with ``respond``, one after the other.

    ``respond`` raising OSError is a connection that the plugin closed. Other errors of it fail the test.
    """

    def __init__(self, path: Path, respond: Respond, backlog: int = 16) -> None:
        self.path = path
        self.requests = 0
        self._respond = respond
        self._failures: list[BaseException] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(str(path))
        self._socket.listen(backlog)
        self._thread = threading.Thread(target=self._serve)

    def _serve(self) -> None:
        while True:
            try:
                connection, _address = self._socket.accept()
            except OSError:
                return
            with connection:
                self.requests += 1
                try:
                    self._respond(connection)
                except OSError:
                    continue
                except BaseException as error:
                    self._failures.append(error)

    def __enter__(self) -> Agent:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        # Ends accept().
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()
        os.unlink(self.path)
        if self._failures:
            raise self._failures[0]


def serve(path: Path, data: bytes) -> Agent:
    """Return a server that answers every request with ``data``."""
    return Agent(path, recorded([], data))
