# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Watches continue after errors of the API."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._ops.kubernetes import Access, Api
from ansible_collections.podnet.datapath.plugins.module_utils._ops.watch import Watch

Answer = tuple[int, list[Any]]  # status, and objects, one a line


class Server:
    """An API server that gives prepared answers, and then ends all watches without an event."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.paths: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.paths.append(self.path)
                status, objects = outer.answers.pop(0) if outer.answers else (200, [])
                body = "".join(json.dumps(one) + "\n" for one in objects).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_arguments: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


def node(name: str, version: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "resourceVersion": version}}


def listed(version: str, *items: Any) -> Answer:
    return 200, [{"metadata": {"resourceVersion": version}, "items": list(items)}]


def test_credentials_are_renewed_when_a_watch_is_rejected(server: Server) -> None:
    rejected = {"kind": "Status", "message": "Unauthorized"}
    server.answers = [
        listed("1", node("a", "1")),
        (401, [rejected]),
        (401, [rejected]),
        listed("2", node("a", "1"), node("b", "2")),
    ]
    renewed = []

    def renew() -> Access:
        renewed.append(True)
        return access

    access = Access(f"http://127.0.0.1:{server.http.server_port}", renew=renew)
    errors: list[str] = []
    follow = Watch(Api(access), "/api/v1/nodes", errors.append).follow()
    assert [*next(follow)] == ["a"] and [*next(follow)] == ["a", "b"]
    assert renewed and errors[0] == errors[-1] == "" and "Unauthorized" in errors[1]


def test_a_malformed_response_and_an_expired_version_are_followed_by_a_list(server: Server) -> None:
    gone = {"type": "ERROR", "object": {"code": 410, "message": "too old"}}
    server.answers = [
        (200, [{"items": []}]),
        listed("1", node("a", "1")),
        (200, [{"type": "ADDED", "object": {}}]),
        listed("2", node("b", "2")),
        (200, [gone]),
        listed("3", node("c", "3")),
        (200, [{"type": "ADDED", "object": node("d", "4")}]),
    ]
    errors: list[str] = []
    access = Access(f"http://127.0.0.1:{server.http.server_port}")
    follow = Watch(Api(access), "/api/v1/nodes", errors.append).follow()
    assert [[*next(follow)] for _number in range(4)] == [["a"], ["b"], ["c"], ["c", "d"]]
    assert [error for error in errors if error] == [error for error in errors if "invalid response" in error]


def test_watches_that_end_at_once_are_repeated_with_a_delay(server: Server) -> None:
    server.answers = [listed("1", node("a", "1"))]
    stopped = threading.Event()
    access = Access(f"http://127.0.0.1:{server.http.server_port}")
    watch = Watch(Api(access), "/api/v1/nodes", lambda _error: None, stopped)
    timer = threading.Timer(0.5, stopped.set)
    timer.start()
    assert len(list(watch.follow())) == 1
    assert len(server.paths) < 5
