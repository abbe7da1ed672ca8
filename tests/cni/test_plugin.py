# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The CNI plugin against servers that answer correctly, wrongly, late or not at all."""

from __future__ import annotations

import errno
import json
import os
import resource
import select
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cni.plugin import (
    CONFIGURATION,
    ERROR,
    LIMIT,
    RESULT,
    SOURCE,
    Agent,
    Build,
    Respond,
    read_request,
    response,
    run,
    serve,
    started,
)

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


def wait_for_close(connection: socket.socket) -> None:
    """Wait until the plugin has closed the connection, not only shut down its writing side."""
    poll = select.poll()
    poll.register(connection, select.POLLHUP)
    poll.poll()


def silent(connection: socket.socket) -> None:
    read_request(connection)
    wait_for_close(connection)


def wait_until_it_connects(process: subprocess.Popen[bytes]) -> None:
    """Wait until the process has a socket and sleeps, because the backlog of the server is full."""
    folder = Path(f"/proc/{process.pid}")
    while True:
        sockets = [link for link in folder.glob("fd/*") if os.readlink(link).startswith("socket:")]
        if sockets and "State:\tS" in (folder / "status").read_text():
            return
        select.select([], [], [], 0.001)


# Requests


def recorded(requests: list[bytes], data: bytes) -> Respond:
    def respond(connection: socket.socket) -> None:
        requests.append(read_request(connection))
        connection.sendall(data)

    return respond


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


# Responses


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


# Servers that fail


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


# The agent's socket


def test_default_socket(plugin: Build) -> None:
    """In a mount namespace without /run/podnet."""
    unshare = ["unshare", "--mount", "sh", "-c", "mount -t tmpfs none /run && exec $0", plugin.path]
    for env in ({}, {"PODNET_AGENT_SOCKET": ""}):
        environment = {**plugin.environment, "PATH": os.environ["PATH"], "CNI_COMMAND": "ADD", **env}
        result = subprocess.run(unshare, env=environment, input=b"", stdout=subprocess.PIPE, check=False)
        assert result.returncode == 1
        assert "agent socket /run/podnet/agent.sock: " in json.loads(result.stdout)["msg"]


def unlistened(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))


def datagram(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(str(path))


SOCKETS: dict[str, tuple[Callable[[Path], object], int]] = {
    "missing": (lambda path: None, errno.ENOENT),
    "no listener": (unlistened, errno.ECONNREFUSED),
    "datagram without listener": (datagram, errno.ECONNREFUSED),
    "file": (Path.touch, errno.ECONNREFUSED),
    "directory": (Path.mkdir, errno.ECONNREFUSED),
    "FIFO": (os.mkfifo, errno.ECONNREFUSED),
    "dangling link": (lambda path: path.symlink_to("missing"), errno.ENOENT),
    "loop of links": (lambda path: path.symlink_to(path), errno.ELOOP),
    "device": (lambda path: path.symlink_to("/dev/null"), errno.ECONNREFUSED),
}


@pytest.mark.parametrize(("create", "error"), SOCKETS.values(), ids=SOCKETS)
def test_unusable_socket(plugin: Build, path: Path, create: Callable[[Path], object], error: int) -> None:
    create(path)
    assert f"cannot connect: {os.strerror(error)};" in run(plugin, path).unavailable(path)


def test_datagram_socket(plugin: Build, path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(str(path))
        assert os.strerror(errno.EPROTOTYPE) in run(plugin, path).unavailable(path)


def test_path_below_a_file(plugin: Build, path: Path) -> None:
    path.touch()
    assert os.strerror(errno.ENOTDIR) in run(plugin, path / "socket").unavailable(path / "socket")


@pytest.mark.parametrize("name", [b'"', b"\\", b"\n\t\x1b[0m\x7f", b"\\u0000", b"%s%n", b"</script>"])
def test_path_is_escaped(plugin: Build, tmp_path: Path, name: bytes) -> None:
    message = run(plugin, os.fsencode(tmp_path) + b"/x" + name).error()["msg"]
    assert message.startswith(f"agent socket {tmp_path}/x{name.decode()}: cannot connect: No such file")


def test_path_that_is_not_utf8(plugin: Build) -> None:
    """The JSON is valid all the same. Each byte is shown as one character."""
    assert "/\xc3\xa9\xff\x80: " in run(plugin, b"/\xc3\xa9\xff\x80").error()["msg"]


def test_longest_path(plugin: Build, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    relative = "x" * 107
    listener = folder / "listener"
    with serve(listener, response(RESULT)):
        os.symlink(listener, folder / relative)
        assert run(plugin, relative, cwd=folder).out == RESULT
        os.symlink(listener, folder / (relative + "x"))
        error = run(plugin, relative + "x", cwd=folder).error()
    assert error["code"] == 4
    assert error["msg"] == "PODNET_AGENT_SOCKET: 108 bytes exceed the maximum of 107"


def test_server_of_another_user(plugin: Build, path: Path, tmp_path: Path) -> None:
    """It gets no request."""
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(0o755)
    tmp_path.chmod(0o777)
    ready, wake = os.pipe()
    child = os.fork()
    if not child:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen()
        os.write(wake, b"x")
        connection, _address = listener.accept()
        try:
            received = read_request(connection)
            connection.sendall(response(RESULT))
        except OSError:
            received = b""
        os._exit(1 if received else 0)
    os.read(ready, 1)
    message = run(plugin, path).unavailable(path)
    assert "user 65534 listens there instead of root" in message
    assert os.waitpid(child, 0)[1] == 0
    os.close(ready)
    os.close(wake)


def test_user_without_access(release: Build, path: Path, tmp_path: Path) -> None:
    """Only root can connect to the agent's socket; its mode is 0600."""
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(0o755)
    copy = shutil.copy(release.path, tmp_path / "podnet")
    with serve(path, response(RESULT)):
        path.chmod(0o600)
        message = run(Build(Path(copy)), path, user=65534, group=65534, extra_groups=[]).unavailable(path)
    assert os.strerror(errno.EACCES) in message


# Commands and variables


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


# Standard input and output


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


# Processes


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


# Builds


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
