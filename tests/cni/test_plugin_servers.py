# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Servers that fail, are killed, or do not answer in time."""

from __future__ import annotations

import json
import select
import socket
import subprocess
from pathlib import Path

import pytest

from tests.cni.plugin import (
    LIMIT,
    RESULT,
    Agent,
    Build,
    Respond,
    read_request,
    response,
    run,
    serve,
    started,
    wait_for_close,
)


def silent(connection: socket.socket) -> None:
    read_request(connection)
    wait_for_close(connection)


def close_at_once(connection: socket.socket) -> None:
    """Close with the request unread: the plugin gets EPIPE or ECONNRESET."""


def read_half(connection: socket.socket) -> None:
    connection.recv(20)


def reset_response(connection: socket.socket) -> None:
    """Respond completely, but leave a part of the request unread."""
    connection.recv(20)
    connection.sendall(response(RESULT))


def stop_reading(connection: socket.socket) -> None:
    connection.shutdown(socket.SHUT_RD)
    connection.sendall(response(b'{"unfinished":'))


def stop_writing(connection: socket.socket) -> None:
    connection.shutdown(socket.SHUT_WR)
    silent(connection)


def stop_both(connection: socket.socket) -> None:
    connection.shutdown(socket.SHUT_RDWR)


def flood(connection: socket.socket) -> None:
    read_request(connection)
    while True:
        connection.sendall(b"0" * (1 << 16))


FAILING: list[Respond] = [
    close_at_once,
    read_half,
    reset_response,
    stop_reading,
    stop_writing,
    stop_both,
    flood,
]


@pytest.mark.parametrize("length", [10, LIMIT - 100], ids=["short request", "long request"])
@pytest.mark.parametrize("respond", FAILING)
def test_failing_server(plugin: Build, path: Path, respond: Respond, length: int) -> None:
    with Agent(path, respond):
        run(plugin, path, given=b"x" * length).unavailable(path)


def test_agent_that_is_killed(plugin: Build, path: Path) -> None:
    """It is killed after a part of the response. Its successor answers the next request."""
    script = f"""
import socket, time
listener = socket.socket(socket.AF_UNIX)
listener.bind({str(path)!r})
listener.listen()
print(flush=True)
connection, _ = listener.accept()
while connection.recv(1 << 16):
    pass
connection.sendall(b'0\\n{{"ips":[{{}}')
print(flush=True)
time.sleep(1000)
"""
    agent = subprocess.Popen(["python3", "-c", script], stdout=subprocess.PIPE)
    assert agent.stdout
    agent.stdout.readline()
    with started(plugin, path) as process:
        process.stdin.close()
        agent.stdout.readline()
        agent.kill()
        agent.communicate()
        out = process.stdout.read()
        assert process.wait() == 1
    assert json.loads(out)["code"] == 11
    assert "Connection refused" in run(plugin, path).unavailable(path)
    path.unlink()
    with serve(path, response(RESULT)):
        assert run(plugin, path).out == RESULT


def drip_response(connection: socket.socket) -> None:
    """Send without an end, so that no single wait is long."""
    read_request(connection)
    poll = select.poll()
    poll.register(connection, select.POLLHUP)
    connection.sendall(b'0\n{"a":"')
    while not poll.poll(10):
        connection.sendall(b"x")


def drip_read(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    poll = select.poll()
    poll.register(connection, select.POLLHUP)
    while not poll.poll(50):
        connection.recv(1)


def read_nothing(connection: socket.socket) -> None:
    wait_for_close(connection)


@pytest.mark.parametrize("respond", [silent, drip_response, drip_read, read_nothing])
def test_slow_server(impatient: Build, path: Path, respond: Respond) -> None:
    with Agent(path, respond):
        message = run(impatient, path, given=b"x" * (LIMIT - 100)).unavailable(path)
    assert "timed out" in message


def test_full_backlog(impatient: Build, path: Path) -> None:
    """The server never accepts, so connect() blocks."""
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(str(path))
        listener.listen(0)
        first.connect(str(path))
        assert "cannot connect: Connection timed out" in run(impatient, path).unavailable(path)


def test_server_that_never_accepts(impatient: Build, path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(5)
        assert "no complete response: Connection timed out" in run(impatient, path).unavailable(path)
