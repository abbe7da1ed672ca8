# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A proxy in front of an API server, which ends connections in the middle of an event, or refuses them."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

from lablib import common

ADDRESS = "127.0.0.1"
END_OF_LINE = b"}\n"  # each event of a watch is a line


class ApiProxy:
    """Forwards connections to the server of a kubeconfig; ``config`` is a kubeconfig for the proxy.

    It decrypts what it forwards, because half an encrypted record would be no part of a line.
    """

    def __init__(self, folder: Path, config: Path) -> None:
        found = json.loads(config.read_text())
        cluster = found["clusters"][0]["cluster"]
        host, port = cluster["server"].removeprefix("https://").split(":")
        self._server = (host, int(port))
        self._client = ssl.create_default_context()
        self._client.check_hostname, self._client.verify_mode = False, ssl.CERT_NONE
        key, certificate = folder / "proxy.key", folder / "proxy.crt"
        names = ("-subj", f"/CN={ADDRESS}", "-addext", f"subjectAltName=IP:{ADDRESS}")
        common.run(
            [
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "rsa:2048",
                "-nodes",
                *names,
                "-keyout",
                key,
                "-out",
                certificate,
            ]
        )
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(certificate, key)
        self._listener = socket.create_server((ADDRESS, 0), backlog=64)
        cluster["server"] = f"https://{ADDRESS}:{self._listener.getsockname()[1]}"
        del cluster["certificate-authority-data"]
        cluster["certificate-authority"] = str(certificate)
        self.config = folder / "proxy.kubeconfig"
        self.config.write_text(json.dumps(found))
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._refuses = False
        self._cuts = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, events: int) -> None:
        """End the connections of the next events after half of each."""
        with self._lock:
            self._cuts = events

    @property
    def remaining_cuts(self) -> int:
        return self._cuts

    @contextlib.contextmanager
    def unreachable(self) -> Iterator[None]:
        """End all connections, and refuse others during the block."""
        with self._lock:
            self._refuses = True
            for one in [*self._connections]:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
        try:
            yield
        finally:
            self._refuses = False

    def close(self) -> None:
        self._refuses = True
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _peer = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, raw: socket.socket) -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            stack.enter_context(raw)
            if self._refuses:
                return
            raw.settimeout(10)
            client = stack.enter_context(self._tls.wrap_socket(raw, server_side=True))
            plain = socket.create_connection(self._server, 10)
            server = stack.enter_context(self._client.wrap_socket(stack.enter_context(plain)))
            with self._lock:
                self._connections.add(client)
            stack.callback(self._connections.discard, client)
            self._forward(client, server)

    def _forward(self, client: ssl.SSLSocket, server: ssl.SSLSocket) -> None:
        is_watch = False
        while True:
            readable = [one for one in (client, server) if one.pending()]
            for one in readable or select.select([client, server], [], [])[0]:
                data = one.recv(1 << 16)
                if not data:
                    return
                if one is client:
                    is_watch = is_watch or b"watch=1" in data.partition(b"\r\n")[0]
                    server.sendall(data)
                elif is_watch and END_OF_LINE in data and self._is_cut():
                    client.sendall(data[: len(data) // 2])
                    return
                else:
                    client.sendall(data)

    def _is_cut(self) -> bool:
        with self._lock:
            cut = self._cuts > 0
            self._cuts -= cut
            return cut
