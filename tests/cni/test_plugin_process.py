# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The CNI plugin as a process: signals, limits, descriptors; its build."""

from __future__ import annotations

import os
import resource
import select
import shutil
import signal
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from tests.cni.plugin import (
    RESULT,
    SOURCE,
    Agent,
    Build,
    read_request,
    response,
    run,
    serve,
    started,
    wait_for_close,
)


def wait_until_it_connects(process: subprocess.Popen[bytes]) -> None:
    """Wait until the process has a socket and sleeps, because the backlog of the server is full."""
    folder = Path(f"/proc/{process.pid}")
    while True:
        sockets = [link for link in folder.glob("fd/*") if os.readlink(link).startswith("socket:")]
        if sockets and "State:\tS" in (folder / "status").read_text():
            return
        select.select([], [], [], 0.001)


def test_stopped_and_continued(plugin: Build, path: Path) -> None:
    """It continues to wait for the response."""
    reached, release = threading.Event(), threading.Event()

    def respond(connection: socket.socket) -> None:
        read_request(connection)
        reached.set()
        release.wait()
        connection.sendall(response(RESULT))

    with Agent(path, respond), started(plugin, path) as process:
        process.stdin.close()
        reached.wait()
        for _time in range(20):
            process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
            process.send_signal(signal.SIGCONT)
        release.set()
        assert process.stdout.read() == RESULT
        assert process.wait() == 0


def test_stopped_while_it_connects(release: Build, path: Path) -> None:
    """connect() with a time-out returns EINTR after SIGCONT."""
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(str(path))
        listener.listen(0)
        first.connect(str(path))
        with started(release, path) as process:
            process.stdin.close()
            wait_until_it_connects(process)
            for _time in range(20):
                process.send_signal(signal.SIGSTOP)
                os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
                process.send_signal(signal.SIGCONT)
            listener.accept()[0].close()
            connection, _address = listener.accept()
            with connection:
                read_request(connection)
                connection.sendall(response(RESULT))
            assert process.stdout.read() == RESULT
            assert process.wait() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_killed_while_it_waits(plugin: Build, path: Path, number: int) -> None:
    """It prints nothing, and the agent can notice it."""
    closed = threading.Event()
    reached = threading.Event()

    def respond(connection: socket.socket) -> None:
        read_request(connection)
        reached.set()
        wait_for_close(connection)
        closed.set()

    def prepare() -> None:
        """Undo what nohup(1), or a shell that runs this in the background, ignores."""
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)

    with Agent(path, respond), started(plugin, path, preexec_fn=prepare) as process:
        process.stdin.close()
        reached.wait()
        process.send_signal(number)
        assert process.wait() == -number
        assert process.stdout.read() == b""
    assert closed.is_set()


def test_ignored_and_blocked_signals(plugin: Build, path: Path) -> None:
    def prepare() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)

    with serve(path, response(RESULT)):
        assert run(plugin, path, preexec_fn=prepare).out == RESULT


def test_without_file_descriptors(release: Build, path: Path) -> None:
    """The limit leaves none for the socket."""

    def prepare() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))

    message = run(release, path, preexec_fn=prepare).unavailable(path)
    assert "cannot create a socket: Too many open files" in message


def test_inherited_descriptors_stay_open(release: Build, path: Path) -> None:
    """The plugin closes only what it opened, and passes none of its own on."""
    reader, writer = os.pipe()
    with serve(path, response(RESULT)):
        assert run(release, path, pass_fds=[writer]).out == RESULT
    os.close(writer)
    assert os.read(reader, 1) == b""
    os.close(reader)


def test_build_is_static_and_reproducible(release: Build, tmp_path: Path) -> None:
    """The result is the same from another directory, for another user's umask and locale."""
    copy = tmp_path / "elsewhere"
    shutil.copytree(SOURCE, copy)
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "CFLAGS": "-g"}
    subprocess.run(["make", "-s", "-C", copy, f"OUT={tmp_path}"], env=environment, umask=0o077, check=True)
    assert (tmp_path / "podnet").read_bytes() == release.path.read_bytes()
    headers = subprocess.run(["readelf", "-lW", release.path], stdout=subprocess.PIPE, check=True).stdout
    assert b"INTERP" not in headers
    stack = next(line for line in headers.splitlines() if b"GNU_STACK" in line)
    assert b"RWE" not in stack
    assert b"DYN (Position-Independent Executable file)" in headers or b"Elf file type is DYN" in headers
