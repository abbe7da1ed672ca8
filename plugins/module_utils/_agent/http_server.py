# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""An HTTP server for GET requests from any host."""

from __future__ import annotations

import contextlib
import http.server
import socket
import socketserver
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

_CLIENTS = 64  # at the same time, so that hosts cannot use all memory of the agent
_TIMEOUT = 10  # seconds without a byte of a client's request
_DISPLACED = 1  # seconds for the thread of a displaced client to end


@dataclass(frozen=True)
class Response:
    """A response; ``headers`` replace the default ones."""

    status: int
    text: str
    headers: Mapping[str, str] = field(default_factory=dict)


class HttpServer(http.server.ThreadingHTTPServer):
    """Serves the responses of a function of the path. ``::`` stands for all IPv6 addresses only."""

    daemon_threads = True
    request_queue_size = 2 * _CLIENTS

    def __init__(self, address: str, port: int, respond: Callable[[str], Response]) -> None:
        """Raises ``OSError``."""
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._clients = threading.BoundedSemaphore(_CLIENTS)
        self._open: dict[socket.socket, None] = {}  # in the order of their arrival
        self._lock = threading.Lock()
        self._stopped = False
        self._thread = threading.Thread(target=self._serve, name="http", daemon=True)
        self.respond = respond
        super().__init__((address, port), _Handler)

    def server_bind(self) -> None:
        """Bind the socket. That of ``HTTPServer`` also waits for a name server."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        socketserver.TCPServer.server_bind(self)

    def start(self) -> None:
        """Serve in a thread until ``stop`` is called."""
        self._thread.start()

    def stop(self) -> None:
        """Close the socket; its port can be used again at once."""
        self._stopped = True
        self.socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self.server_close()

    def _serve(self) -> None:
        while not self._stopped:
            self.handle_request()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Handle a connection in a thread. If there are too many, displace the oldest one.

        A client that sends its request byte by byte does not keep others from being served.
        """
        if not self._clients.acquire(blocking=False):
            self._displace()
            if not self._clients.acquire(timeout=_DISPLACED):
                self.shutdown_request(request)
                return
        with self._lock:
            self._open[request] = None
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._forget(request)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Handle a connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._forget(request)

    def _displace(self) -> None:
        """Shut down the oldest connection, so that its thread ends."""
        with self._lock:
            oldest = next(iter(self._open), None)
            if oldest:
                del self._open[oldest]
                with contextlib.suppress(OSError):
                    oldest.shutdown(socket.SHUT_RDWR)

    def _forget(self, request: socket.socket) -> None:
        with self._lock:
            self._open.pop(request, None)
        self._clients.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that end the connection early."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: HttpServer
    timeout = _TIMEOUT

    def do_GET(self) -> None:
        response = self.server.respond(self.path)
        body = response.text.encode()
        self.send_response(response.status)
        headers = {"Content-Type": "text/plain; version=0.0.4", **response.headers}
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        """Log nothing: scrapes are frequent."""
