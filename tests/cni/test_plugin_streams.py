# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Standard input and output of the CNI plugin: long, slow, full or closed."""

from __future__ import annotations

import errno
import os
import select
import socket
from pathlib import Path

import pytest

from tests.cni.plugin import (
    CONFIGURATION,
    LIMIT,
    RESULT,
    Agent,
    Build,
    read_request,
    recorded,
    response,
    run,
    serve,
    started,
)


@pytest.mark.parametrize("excess", [1, 2, LIMIT])
def test_long_standard_input(plugin: Build, path: Path, excess: int) -> None:
    length = LIMIT - len(b"CNI_COMMAND=ADD\0\0") + excess
    with serve(path, response(RESULT)) as agent:
        error = run(plugin, path, given=b"x" * length).error()
    assert agent.requests == 0
    assert (error["code"], error["msg"]) == (
        6,
        f"standard input: the request exceeds the maximum of {LIMIT} bytes",
    )


@pytest.mark.parametrize("name", ["zero", "random"])
def test_endless_standard_input(plugin: Build, path: Path, name: str) -> None:
    with open(f"/dev/u{name}" if name == "random" else f"/dev/{name}", "rb") as endless:
        assert run(plugin, path, given=None, stdin=endless).error()["code"] == 6


@pytest.mark.parametrize(
    ("source", "flags", "error"), [("/", os.O_RDONLY, errno.EISDIR), ("/dev/null", os.O_WRONLY, errno.EBADF)]
)
def test_unreadable_standard_input(plugin: Build, path: Path, source: str, flags: int, error: int) -> None:
    descriptor = os.open(source, flags)
    with serve(path, response(RESULT)) as agent:
        result = run(plugin, path, given=None, stdin=descriptor).error()
    os.close(descriptor)
    assert agent.requests == 0
    assert (result["code"], result["msg"]) == (5, f"standard input: {os.strerror(error)}")


def test_closed_standard_input(plugin: Build, path: Path) -> None:
    with serve(path, response(RESULT)) as agent:
        result = run(plugin, path, given=None, stdin=None, preexec_fn=lambda: os.close(0)).error()
    assert agent.requests == 0
    assert (result["code"], result["msg"]) == (5, "standard input: Bad file descriptor")


def test_standard_input_without_an_end(impatient: Build, path: Path) -> None:
    reader, writer = os.pipe()
    with serve(path, response(RESULT)) as agent:
        result = run(impatient, path, given=None, stdin=reader).error()
    os.close(reader)
    os.close(writer)
    assert agent.requests == 0
    assert (result["code"], result["msg"]) == (5, "standard input: Connection timed out")


@pytest.mark.parametrize("size", [1, 1000])
def test_standard_input_in_parts(plugin: Build, path: Path, size: int) -> None:
    given = CONFIGURATION * 40
    requests: list[bytes] = []
    with Agent(path, recorded(requests, response(RESULT))), started(plugin, path) as process:
        for start in range(0, len(given), size):
            process.stdin.write(given[start : start + size])
            process.stdin.flush()
        process.stdin.close()
        assert process.stdout.read() == RESULT
    assert requests == [b"CNI_COMMAND=ADD\0\0" + given]


def test_nonblocking_standard_streams(plugin: Build, path: Path) -> None:
    """Both ends are slower than the plugin."""
    result = b'{"a":"' + b"x" * 500_000 + b'"}'
    read_in, write_in = os.pipe2(os.O_NONBLOCK)
    read_out, write_out = os.pipe2(os.O_NONBLOCK)
    with (
        serve(path, response(result)),
        started(plugin, path, stdin=read_in, stdout=write_out) as process,
    ):
        os.close(read_in)
        os.close(write_out)
        select.select([], [], [], 0.05)
        os.write(write_in, CONFIGURATION)
        os.close(write_in)
        received = b""
        while select.select([read_out], [], []) and (part := os.read(read_out, 5000)):
            received += part
        assert process.wait() == 0
        assert process.stderr.read() == b""
    os.close(read_out)
    assert received == result


def test_full_disk(plugin: Build, path: Path) -> None:
    """The runtime must not take a missing result for success."""
    with serve(path, response(RESULT)), open("/dev/full", "wb") as full:
        result = run(plugin, path, stdout=full)
        version = run(plugin, path, "VERSION", stdout=full)
    assert result.status == version.status == 1
    assert result.err == version.err == b"podnet: standard output: No space left on device\n"


def test_closed_standard_output(plugin: Build, path: Path) -> None:
    """The response is not written to the agent's connection, which gets the descriptor of standard output."""
    received = []

    def respond(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(response(RESULT))
        received.append(connection.recv(1))

    with Agent(path, respond):
        result = run(plugin, path, stdout=None, preexec_fn=lambda: os.close(1))
    assert (result.status, result.err) == (1, b"podnet: standard output: Bad file descriptor\n")
    assert received == [b""]


def test_broken_pipe(plugin: Build, path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with serve(path, response(RESULT)):
        result = run(plugin, path, stdout=writer)
    os.close(writer)
    assert (result.status, result.err) == (1, b"podnet: standard output: Broken pipe\n")


def test_closed_streams(plugin: Build, path: Path) -> None:
    """Nothing is left to report to, except the exit status."""
    closed = {"stdout": None, "stderr": None, "preexec_fn": lambda: os.closerange(1, 3)}
    with serve(path, response(RESULT)):
        assert run(plugin, path, **closed).status == 1
    assert run(plugin, path, None, **closed).status == 1
