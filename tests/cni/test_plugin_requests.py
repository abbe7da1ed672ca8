# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the CNI plugin sends: its command, variables and standard input."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from tests.cni.plugin import (
    COMMANDS,
    CONFIGURATION,
    LIMIT,
    RESULT,
    VARIABLE_MAX,
    VARIABLES,
    Agent,
    Build,
    read_request,
    recorded,
    response,
    run,
    serve,
)


def test_version(plugin: Build, path: Path) -> None:
    """It needs neither agent nor standard input."""
    for options in ({}, {"stdin": subprocess.DEVNULL}, {"preexec_fn": lambda: os.close(0)}):
        result = run(plugin, path, "VERSION", given=None, **options)
        assert (result.status, result.err) == (0, b"")
        supported = ["0.4.0", "1.0.0", "1.1.0"]
        assert json.loads(result.out) == {"cniVersion": "1.1.0", "supportedVersions": supported}


@pytest.mark.parametrize("command", [None, ""])
def test_without_command(plugin: Build, path: Path, command: str | None) -> None:
    result = run(plugin, path, command)
    assert result.error() == {"cniVersion": "1.0.0", "code": 4, "msg": "CNI_COMMAND is not set"}
    assert result.err.startswith(b"podnet: a CNI plugin")


@pytest.mark.parametrize(
    "command",
    ["add", "ADD ", " ADD", "ADDX", "AD", "UPDATE", "ADD\n", '"}', "\\", "%s%n", "\x7f\x01", "ADD,DEL", "é"],
)
def test_unknown_command(plugin: Build, path: Path, command: str) -> None:
    with serve(path, response(RESULT)) as agent:
        error = run(plugin, path, command).error()
    assert agent.requests == 0
    assert error["code"] == 4
    shown = command.encode().decode("latin-1")
    expected = f"CNI_COMMAND: unknown command {shown}; use ADD, DEL, CHECK, GC, STATUS or VERSION"
    assert error["msg"] == expected


def test_long_unknown_command(plugin: Build, path: Path) -> None:
    error = run(plugin, path, "x" * 100_000).error()
    assert error["code"] == 4
    assert f"unknown command {'x' * 64};" in error["msg"]


@pytest.mark.parametrize("name", VARIABLES)
def test_long_variable(plugin: Build, path: Path, name: str) -> None:
    with serve(path, response(RESULT)) as agent:
        error = run(plugin, path, env={name: "x" * (VARIABLE_MAX + 1)}).error()
    assert agent.requests == 0
    assert error["code"] == 4
    assert error["msg"] == f"{name}: {VARIABLE_MAX + 1} bytes exceed the maximum of {VARIABLE_MAX}"


def test_all_variables_of_the_longest_length(plugin: Build, path: Path) -> None:
    requests: list[bytes] = []
    with Agent(path, recorded(requests, response(RESULT))):
        assert run(plugin, path, env=dict.fromkeys(VARIABLES, "x" * VARIABLE_MAX)).out == RESULT
    assert len(requests[0]) > len(VARIABLES) * VARIABLE_MAX


@pytest.mark.parametrize("command", COMMANDS)
def test_request_has_variables_and_standard_input(plugin: Build, path: Path, command: str) -> None:
    requests: list[bytes] = []
    other = {"CNI_COMMAND_": "x", "CNI_": "x", "PATH": "/bin", "cni_ifname": "x"}
    with Agent(path, recorded(requests, response(RESULT))):
        result = run(plugin, path, command, env={**VARIABLES, **other})
    assert (result.status, result.out, result.err) == (0, RESULT, b"")
    variables = {"CNI_COMMAND": command, **VARIABLES}
    expected = b"".join(f"{name}={value}\0".encode() for name, value in variables.items())
    assert requests == [expected + b"\0" + CONFIGURATION]


@pytest.mark.parametrize(
    ("env", "given", "expected"),
    [
        pytest.param({}, b"", b"CNI_COMMAND=DEL\0\0", id="nothing set"),
        pytest.param({"CNI_NETNS": ""}, b"{}", b"CNI_COMMAND=DEL\0CNI_NETNS=\0\0{}", id="empty variable"),
        pytest.param(
            {"CNI_ARGS": "A=1;\nB=2"}, b"{}", b"CNI_COMMAND=DEL\0CNI_ARGS=A=1;\nB=2\0\0{}", id="newline"
        ),
        pytest.param(
            {"CNI_NETNS": b"/\xff\xc3"}, b"{}", b"CNI_COMMAND=DEL\0CNI_NETNS=/\xff\xc3\0\0{}", id="not UTF-8"
        ),
        pytest.param({}, b"\0\0a\0\xff", b"CNI_COMMAND=DEL\0\0\0\0a\0\xff", id="binary standard input"),
        pytest.param(
            {"CNI_ARGS": "a" * VARIABLE_MAX},
            b"{}",
            b"CNI_COMMAND=DEL\0CNI_ARGS=" + b"a" * VARIABLE_MAX + b"\0\0{}",
            id="longest variable",
        ),
        pytest.param(
            {},
            b"x" * (LIMIT - len(b"CNI_COMMAND=DEL\0\0")),
            b"CNI_COMMAND=DEL\0\0" + b"x" * (LIMIT - len(b"CNI_COMMAND=DEL\0\0")),
            id="longest request",
        ),
    ],
)
def test_request_is_verbatim(
    plugin: Build, path: Path, env: dict[str, str | bytes], given: bytes, expected: bytes
) -> None:
    requests: list[bytes] = []
    with Agent(path, recorded(requests, response(b""))):
        result = run(plugin, path, "DEL", given, env)
    assert (result.status, result.out, result.err) == (0, b"", b"")
    assert requests == [expected]


def test_concurrent_requests_are_independent(release: Build, path: Path) -> None:
    """The server accepts one connection at a time, so the others wait for room in its backlog."""

    def respond(connection: socket.socket) -> None:
        request = read_request(connection)
        connection.sendall(response(b'{"request":"%b"}' % request.rpartition(b"\0")[2]))

    outcomes: dict[int, bytes] = {}
    with Agent(path, respond, backlog=2):

        def add(number: int) -> None:
            outcomes[number] = run(release, path, given=b"%d" % number).out

        threads = [threading.Thread(target=add, args=(number,)) for number in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert outcomes == {number: b'{"request":"%d"}' % number for number in range(40)}
