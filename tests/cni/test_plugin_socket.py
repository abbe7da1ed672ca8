# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The path of the agent's socket, and who listens there."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cni.plugin import (
    RESULT,
    Build,
    read_request,
    response,
    run,
    serve,
)


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
