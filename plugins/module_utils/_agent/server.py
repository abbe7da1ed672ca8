# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The unix socket that the CNI plugin connects to; only root can open it."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from .protocol import (
    FAILED,
    IO_FAILURE,
    MAX_REQUEST,
    VERSIONS,
    CniError,
    Request,
    error_response,
    parse_request,
    success_response,
)

PATH = "/run/podnet/agent.sock"
REQUEST_TIMEOUT = 10.0  # seconds for a client to send its request
RETRY = 0.1  # seconds between attempts to accept a client
MAX_CLIENTS = 256  # runtimes start many Pods at once; each waits for its IPAM plugin

log = logging.getLogger("podnet-agent")

Handle = Callable[[Request], "object"]
Observe = Callable[[str, float, "CniError | None"], None]


class Server:
    """Accepts requests and executes each in a thread."""

    def __init__(self, path: str, handle: Handle, observe: Observe) -> None:
        self._path, self._handle, self._observe = path, handle, observe
        self._clients = threading.BoundedSemaphore(MAX_CLIENTS)
        self._closed = False
        self._socket = _listen(path)

    def close(self) -> None:
        """Close the socket and remove its path, so that the plugin reports that the agent is away."""
        self._closed = True
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # Ends accept(), which close() does not.
        self._socket.close()

    def serve(self) -> None:
        """Accept requests until the socket is closed."""
        while not self._closed:
            self._clients.acquire()
            try:
                client, _address = self._socket.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()
            except (OSError, RuntimeError) as error:  # for example no file descriptor, or no thread
                self._clients.release()
                if not self._closed:
                    log.error("cannot accept a request: %s", error)
                    time.sleep(RETRY)

    def drain(self, seconds: float) -> None:
        """Wait for the requests that are executed now."""
        deadline = time.monotonic() + seconds
        for _client in range(MAX_CLIENTS):
            if not self._clients.acquire(timeout=max(0.0, deadline - time.monotonic())):
                return

    def _serve(self, client: socket.socket) -> None:
        try:
            with client:
                # The socket's mode excludes other users; this also excludes inherited descriptors.
                if _user_of(client) != os.geteuid():
                    return
                response = self._respond(client)
                client.settimeout(REQUEST_TIMEOUT)
                with contextlib.suppress(OSError):  # The plugin was killed.
                    client.sendall(response)
        finally:
            self._clients.release()

    def _respond(self, client: socket.socket) -> bytes:
        start = time.monotonic()
        command, version = "", VERSIONS[-1]
        error: CniError | None = None
        try:
            request = replace(parse_request(_receive(client)), is_abandoned=lambda: _is_closed(client))
            command, version = request.command, request.version
            start = time.monotonic()
            result = self._handle(request)
            return success_response(result if isinstance(result, dict) else None)
        except CniError as failed:
            error = failed
        except Exception:
            log.exception("%s failed", command or "a request")
            error = CniError(FAILED, "internal error of podnet-agent: see journalctl -u podnet-agent")
        finally:
            self._observe(command, time.monotonic() - start, error)
        return error_response(error, version)


def _listen(path: str) -> socket.socket:
    """Return a listening socket of mode 0600 at ``path``, which replaces a former one."""
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    new = f"{path}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(new)
    listening.bind(new)
    os.chmod(new, 0o600)
    listening.listen(MAX_CLIENTS)
    os.rename(new, path)
    return listening


def _user_of(client: socket.socket) -> int:
    """Return the user ID of the process that connected (SO_PEERCRED, unix(7))."""
    raw = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", raw)[1])


def _is_closed(client: socket.socket) -> bool:
    """Return whether the other end is closed, not only shut down for writing."""
    poll = select.poll()
    poll.register(client, 0)  # POLLHUP is always reported
    return bool(poll.poll(0))


def _receive(client: socket.socket) -> bytes:
    """Return a request, up to the end of the stream. Raises ``CniError``."""
    deadline = time.monotonic() + REQUEST_TIMEOUT
    received = bytearray()
    while True:
        left = deadline - time.monotonic()
        try:
            if left <= 0:
                raise TimeoutError
            client.settimeout(left)
            part = client.recv(1 << 16)
        except (TimeoutError, OSError) as error:
            raise CniError(IO_FAILURE, f"the request of the plugin is incomplete: {error}") from None
        if not part:
            return bytes(received)
        received += part
        if len(received) > MAX_REQUEST:
            raise CniError(IO_FAILURE, f"the request of the plugin exceeds {MAX_REQUEST} bytes")
