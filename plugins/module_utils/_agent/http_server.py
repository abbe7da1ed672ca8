# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""HTTP servers for GET requests from any host."""

from __future__ import annotations

import contextlib
import http.server
import selectors
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


class _Clients:
    """The open connections of servers. If there are too many, a new one displaces the oldest one.

    So a client that sends its request byte by byte does not keep others from being served.
    """

    def __init__(self) -> None:
        self._free = threading.BoundedSemaphore(_CLIENTS)
        self._open: dict[socket.socket, None] = {}  # in the order of their arrival
        self._lock = threading.Lock()

    def add(self, client: socket.socket) -> bool:
        """Add a connection; return False if the displaced one does not end."""
        if not self._free.acquire(blocking=False):
            self._displace()
            if not self._free.acquire(timeout=_DISPLACED):
                return False
        with self._lock:
            self._open[client] = None
        return True

    def remove(self, client: socket.socket) -> None:
        """Remove a connection that was added."""
        with self._lock:
            self._open.pop(client, None)
        self._free.release()

    def _displace(self) -> None:
        """Shut down the oldest connection, so that its thread ends."""
        with self._lock:
            oldest = next(iter(self._open), None)
            if oldest:
                del self._open[oldest]
                with contextlib.suppress(OSError):
                    oldest.shutdown(socket.SHUT_RDWR)


class HttpServers:
    """Serves responses at any number of addresses, by one thread and one for each client.

    All share the limit of clients, so that neither many addresses nor many clients use all threads and memory
    of the agent.
    """

    def __init__(self) -> None:
        self._clients = _Clients()
        self._selector = selectors.DefaultSelector()
        self._thread = threading.Thread(target=self._serve, name="http", daemon=True)

    def add(self, address: str, port: int, respond: Callable[[str], Response]) -> HttpServer:
        """Serve the responses of a function of the path. ``::`` stands for all IPv6 addresses only.

        Raises ``OSError``.
        """
        server = HttpServer(address, port, respond, self._clients)
        self._selector.register(server, selectors.EVENT_READ, server.accept)
        if not self._thread.ident:
            self._thread.start()
        return server

    def remove(self, server: HttpServer) -> None:
        """Serve an address no more; its port can be used again at once."""
        self._selector.unregister(server)
        server.server_close()

    def _serve(self) -> None:
        while True:
            for key, _events in self._selector.select():
                key.data()


class HttpServer(http.server.ThreadingHTTPServer):
    """Accepts the clients of one address."""

    daemon_threads = True
    request_queue_size = 2 * _CLIENTS

    def __init__(
        self, address: str, port: int, respond: Callable[[str], Response], clients: _Clients
    ) -> None:
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._clients = clients
        self.respond = respond
        super().__init__((address, port), _Handler)
        self.socket.setblocking(False)  # The client may have gone.

    def server_bind(self) -> None:
        """Bind the socket. That of ``HTTPServer`` also waits for a name server."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        socketserver.TCPServer.server_bind(self)

    def accept(self) -> None:
        """Accept a client, if there still is one, and handle it in a thread."""
        try:
            client, address = self.get_request()
        except OSError:
            return
        try:
            self.process_request(client, address)
        except RuntimeError:  # no thread
            self.shutdown_request(client)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Handle a connection in a thread."""
        if not self._clients.add(request):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._clients.remove(request)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Handle a connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._clients.remove(request)

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
