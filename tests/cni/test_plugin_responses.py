# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Responses of the agent that the CNI plugin prints, and those that it rejects."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.cni.plugin import (
    COMMANDS,
    ERROR,
    LIMIT,
    RESULT,
    Agent,
    Build,
    read_request,
    response,
    run,
    serve,
)


@pytest.mark.parametrize(
    ("data", "status", "out"),
    [
        pytest.param(response(RESULT), 0, RESULT, id="result"),
        pytest.param(response(RESULT.strip()), 0, RESULT.strip(), id="without newline"),
        pytest.param(response(b"{}\n \n"), 0, b"{}\n \n", id="space at the end"),
        pytest.param(response(ERROR, 1), 1, ERROR, id="error"),
        pytest.param(response(ERROR, 255), 255, ERROR, id="status 255"),
        pytest.param(b"007\n{}", 7, b"{}", id="leading zeros"),
        pytest.param(response(b'{"a":"\xc3\xa9\xff\0"}'), 0, b'{"a":"\xc3\xa9\xff\0"}', id="binary"),
        pytest.param(
            response(b'{"a":"' + b"x" * (LIMIT - 10) + b'"}'),
            0,
            b'{"a":"' + b"x" * (LIMIT - 10) + b'"}',
            id="longest response",
        ),
    ],
)
def test_response_is_printed(plugin: Build, path: Path, data: bytes, status: int, out: bytes) -> None:
    assert len(data) <= LIMIT
    with serve(path, data):
        result = run(plugin, path)
    assert (result.status, result.out, result.err) == (status, out, b"")


@pytest.mark.parametrize("command", [command for command in COMMANDS if command != "ADD"])
def test_success_without_output(plugin: Build, path: Path, command: str) -> None:
    with serve(path, b"0\n"):
        result = run(plugin, path, command)
    assert (result.status, result.out, result.err) == (0, b"", b"")


@pytest.mark.parametrize("size", [1, 2, 7])
def test_response_in_parts(plugin: Build, path: Path, size: int) -> None:
    data = response(RESULT)

    def respond(connection: socket.socket) -> None:
        read_request(connection)
        for start in range(0, len(data), size):
            connection.sendall(data[start : start + size])

    with Agent(path, respond):
        result = run(plugin, path)
    assert (result.status, result.out) == (0, RESULT)


INVALID = {
    "nothing": b"",
    "status without newline": b"0",
    "no status": b"\n{}",
    "only JSON": RESULT,
    "status 256": response(RESULT, 256),
    "status 999": response(RESULT, 999),
    "status of four digits": b"0000\n" + RESULT,
    "status that overflows": b"18446744073709551616\n" + RESULT,
    "negative status": b"-1\n" + RESULT,
    "status with plus": b"+0\n" + RESULT,
    "hexadecimal status": b"0x0\n" + RESULT,
    "space before the status": b" 0\n" + RESULT,
    "space after the status": b"0 \n" + RESULT,
    "carriage return": b"0\r\n" + RESULT,
    "NUL after the status": b"0\0\n" + RESULT,
    "word": b"ok\n" + RESULT,
    "HTTP": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "newlines": b"\n" * 1000,
    "NULs": b"\0" * 1000,
    "ADD without result": b"0\n",
    "failure without error": b"1\n",
    "only space": b"0\n \n",
    "text": b"0\nTraceback (most recent call last):\n",
    "array": b"0\n[]",
    "null": b"0\nnull",
    "string": b'0\n"{}"',
    "space before the object": b"0\n {}",
    "unfinished object": b"0\n{",
    "closing brace": b"0\n}",
    "unfinished string": b'0\n{"a":"}',
    "unfinished escape": b'0\n{"a":"\\',
    "escaped quote": b'0\n{"a":"\\"}',
    "inner object": b'0\n{"ips":[{"address":"10.1.0.2/24"}',
    "one brace too many": b"0\n{}}",
    "two objects": b"0\n{}{}",
    "text after the object": b"0\n{} x",
    "NUL after the object": b"0\n{}\0",
    "longer than the limit": response(b'{"a":"' + b"x" * (LIMIT - 9) + b'"}'),
    "far longer than the limit": response(b'{"a":"' + b"x" * (4 * LIMIT) + b'"}'),
    "deeply nested": response(b'{"a":' * 100_000),
}


@pytest.mark.parametrize("data", INVALID.values(), ids=INVALID)
def test_invalid_response(plugin: Build, path: Path, data: bytes) -> None:
    with serve(path, data):
        run(plugin, path).unavailable(path)


@pytest.mark.parametrize("data", [response(RESULT), response(ERROR, 1), response(ERROR, 100)])
def test_every_truncated_response_is_invalid(release: Build, path: Path, data: bytes) -> None:
    length = 0

    def respond(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(data[:length])

    with Agent(path, respond):
        for length in range(len(data.rstrip())):  # noqa: B007 (respond uses it)
            assert "truncated" in run(release, path).unavailable(path)


@pytest.mark.parametrize(("command", "code"), [*((name, 11) for name in COMMANDS[:-1]), ("STATUS", 50)])
def test_code_for_each_command(plugin: Build, path: Path, command: str, code: int) -> None:
    """Both if nothing listens and if the response is invalid."""
    assert "cannot connect" in run(plugin, path, command).unavailable(path, code)
    with serve(path, b"1\n"):
        assert "invalid" in run(plugin, path, command).unavailable(path, code)
