# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Watches continue after errors of the API."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Optional

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._ops import watch
from ansible_collections.podnet.datapath.plugins.module_utils._ops.kubernetes import Access, Api
from ansible_collections.podnet.datapath.plugins.module_utils._ops.watch import Watch

Answer = tuple[int, Optional[list[Any]]]  # status, and objects, one a line; None: nothing for a second


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
                if objects is None:
                    self.send_response(status)
                    self.end_headers()
                    time.sleep(1)
                    return
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
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(watch, "MIN_DELAY", 0.02)
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


def node(name: str, version: str, **labels: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "resourceVersion": version, "labels": labels}}


def listed(version: str, *items: Any, following: str = "") -> Answer:
    return 200, [{"metadata": {"resourceVersion": version, "continue": following}, "items": list(items)}]


def labels_of(item: dict[str, Any]) -> dict[str, str] | None:
    """Reduce an object to its labels; ignore hidden ones."""
    labels: dict[str, str] = item["metadata"].get("labels") or {}
    return None if "hidden" in labels else labels


def watch_of(
    server: Server,
    errors: list[str] | None = None,
    stopped: threading.Event | None = None,
    renew: Callable[[], Access] | None = None,
) -> Watch[dict[str, str]]:
    access = Access(f"http://127.0.0.1:{server.http.server_port}", renew=renew)
    report = [] if errors is None else errors
    return Watch(Api(access), "/api/v1/nodes", labels_of, report.append, stopped)


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
        return Access(f"http://127.0.0.1:{server.http.server_port}", renew=renew)

    errors: list[str] = []
    follow = watch_of(server, errors, renew=renew).follow()
    assert [next(follow), next(follow)] == [{"a": {}}, {"b": {}}]
    assert renewed and errors[0] == errors[-1] == "" and "Unauthorized" in errors[1]


def test_a_malformed_response_and_an_expired_version_are_followed_by_a_list(server: Server) -> None:
    gone = {"type": "ERROR", "object": {"code": 410, "message": "too old"}}
    server.answers = [
        (200, [{"items": []}]),
        listed("1", node("a", "1"), node("same", "1")),
        (200, [{"type": "ADDED", "object": {}}]),
        listed("2", node("b", "2"), node("same", "1")),
        (200, [gone]),
        listed("2", node("b", "2"), node("same", "1")),
        (410, [{"message": "too old"}]),
        listed("3", node("c", "3"), node("same", "3", changed="yes")),
        (200, [{"type": "ADDED", "object": node("d", "4")}]),
    ]
    errors: list[str] = []
    follow = watch_of(server, errors).follow()
    assert [next(follow) for _number in range(4)] == [
        {"a": {}, "same": {}},
        {"a": None, "b": {}},
        {"b": None, "c": {}, "same": {"changed": "yes"}},
        {"d": {}},
    ]
    assert [error for error in errors if error] == [error for error in errors if "invalid response" in error]


def test_an_empty_list_is_reported_once(server: Server) -> None:
    server.answers = [
        listed("1"),
        (410, [{"message": "too old"}]),
        listed("2"),
        (200, [{"type": "ADDED", "object": node("a", "3")}]),
    ]
    follow = watch_of(server).follow()
    assert [next(follow), next(follow)] == [{}, {"a": {}}]


def test_a_list_is_read_in_pages(server: Server) -> None:
    server.answers = [listed("7", node("a", "1"), following="next page"), listed("7", node("b", "2"))]
    assert next(watch_of(server).follow()) == {"a": {}, "b": {}}
    assert "limit=" in server.paths[0] and "continue" not in server.paths[0]
    assert "continue=next+page" in server.paths[1]


def test_only_changes_of_what_the_caller_reads_are_reported(server: Server) -> None:
    bookmark = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "6"}}}
    server.answers = [
        listed("1", node("a", "1"), node("ignored", "1", hidden="")),
        (200, [{"type": "MODIFIED", "object": node("a", "2")}, bookmark]),
        (200, [{"type": "MODIFIED", "object": node("ignored", "7")}]),
        (200, [{"type": "MODIFIED", "object": node("a", "8", hidden="")}]),
        (200, [{"type": "DELETED", "object": node("ignored", "9", hidden="")}]),
        (200, [{"type": "DELETED", "object": node("ignored", "10")}]),
    ]
    follow = watch_of(server).follow()
    assert [next(follow), next(follow), next(follow)] == [{"a": {}}, {"ignored": {}}, {"a": None}]
    assert "resourceVersion=6" in server.paths[2], "a bookmark advances the version"
    stopped = len(server.paths)
    assert stopped <= 5


def test_an_interrupted_event_and_an_overloaded_server_do_not_cause_a_list(server: Server) -> None:
    server.answers = [
        listed("1", node("a", "1")),
        (200, [{"type": "ADDED", "object": node("b", "2")}, "torn"]),
        (503, [{"message": "overloaded"}]),
        (200, [{"type": "ADDED", "object": node("c", "3")}]),
    ]
    errors: list[str] = []
    follow = watch_of(server, errors).follow()
    assert [next(follow) for _number in range(3)] == [{"a": {}}, {"b": {}}, {"c": {}}]
    assert all("watch=1" in path for path in server.paths[1:])
    assert "overloaded" in " ".join(errors) and errors[-1] == ""


def test_objects_that_the_caller_has_read_are_in_the_next_list(server: Server) -> None:
    """The caller may have read a version whose change was reverted, while the watch was interrupted."""
    gone = (410, [{"message": "too old"}])
    server.answers = [
        listed("1", node("a", "1"), node("same", "1")),
        gone,
        listed("3", node("a", "1"), node("same", "1")),
        (200, [{"type": "MODIFIED", "object": node("a", "4", changed="yes")}]),
        gone,
        listed("5", node("a", "4", changed="yes"), node("same", "1")),
    ]
    watch = watch_of(server)
    follow = watch.follow()
    assert next(follow) == {"a": {}, "same": {}}
    watch.set_read(["a", "deleted"])
    assert [next(follow), next(follow)] == [{"a": {}, "deleted": None}, {"a": {"changed": "yes"}}]
    assert next(follow) == {"deleted": None}


def test_a_silent_watch_is_followed_by_a_list(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """After etcd is restored, the server sends nothing to watches that begin at a later version."""
    monkeypatch.setattr(watch, "READ_TIMEOUT", 0.3)
    server.answers = [listed("7", node("a", "7")), (200, None), listed("2", node("b", "2"))]
    follow = watch_of(server).follow()
    assert [next(follow), next(follow)] == [{"a": {}}, {"a": None, "b": {}}]


def test_an_unexpected_exception_does_not_end_the_watch(server: Server) -> None:
    server.answers = [listed("1", node("a", "1"))] * 2
    errors: list[str] = []
    failures = [RecursionError("too deep")]

    def reduce(item: dict[str, Any]) -> dict[str, str] | None:
        if failures:
            raise failures.pop()
        return labels_of(item)

    access = Access(f"http://127.0.0.1:{server.http.server_port}")
    assert next(Watch(Api(access), "/api/v1/nodes", reduce, errors.append).follow()) == {"a": {}}
    assert "too deep" in errors[0] and errors[-1] == ""


def test_watches_that_end_at_once_are_repeated_with_a_delay(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "MIN_DELAY", 0.5)
    server.answers = [listed("1", node("a", "1"))]
    stopped = threading.Event()
    timer = threading.Timer(0.4, stopped.set)
    timer.start()
    assert len(list(watch_of(server, stopped=stopped).follow())) == 1
    assert len(server.paths) < 5
