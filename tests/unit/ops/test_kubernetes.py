# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Selection of the Pods that a drain evicts, the limit of cordoned nodes, and kubeconfigs."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.podnet.datapath.plugins.module_utils._ops import drain, kubernetes, pods
from ansible_collections.podnet.datapath.plugins.module_utils._ops.kubernetes import KubernetesError


def pod(name: str, owner: str = "ReplicaSet", phase: str = "Running", **more: Any) -> dict[str, Any]:
    owners = [{"kind": owner, "controller": True}] if owner else []
    meta = {"name": name, "namespace": "default", "ownerReferences": owners, **more.pop("metadata", {})}
    return {"metadata": meta, "spec": more, "status": {"phase": phase}}


EMPTYDIR = {"volumes": [{"name": "v", "emptyDir": {}}]}


@pytest.mark.parametrize(
    ("given", "evicted", "refused"),
    [
        (pod("web"), True, ""),
        (pod("agent", "DaemonSet"), False, ""),
        (pod("static", "Node", metadata={"annotations": {pods.MIRROR: "x"}}), False, ""),
        (pod("single", ""), True, "no controller"),
        (pod("scratch", **EMPTYDIR), True, "emptyDir"),
        (pod("job", "", phase="Succeeded", **EMPTYDIR), True, ""),
        (pod("agent", "DaemonSet", **EMPTYDIR), False, ""),
    ],
)
def test_drain_evicts_and_refuses(given: dict[str, Any], evicted: bool, refused: str) -> None:
    found, reasons = drain.evictable([given], force=False, delete_emptydir_data=False)
    assert bool(found) == evicted
    assert refused in "".join(reasons) and bool(refused) == bool(reasons)
    assert drain.evictable([given], force=True, delete_emptydir_data=True)[1] == []


def test_nodes_of_earlier_runs_count_against_the_limit() -> None:
    nodes = [
        {"metadata": {"name": f"n{number}", "annotations": {kubernetes.ANNOTATION: "site"}}}
        for number in (1, 2)
    ]
    nodes.append({"metadata": {"name": "n3"}})
    assert "2 other nodes" in drain.over_limit(nodes, "n3", 2) and "n1, n2" in drain.over_limit(
        nodes, "n3", 2
    )
    assert drain.over_limit(nodes, "n1", 2) == "", "a node does not count against itself"
    assert drain.over_limit(nodes, "n3", 3) == drain.over_limit(nodes, "n3", 0) == ""


def config(**user: Any) -> dict[str, Any]:
    return {
        "current-context": "a",
        "contexts": [{"name": "a", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1/"}}],
        "users": [{"name": "u", "user": user}],
    }


@pytest.mark.parametrize("dump", [json.dumps, yaml.safe_dump])
def test_kubeconfig_in_json_or_yaml(tmp_path: Path, dump: Any) -> None:
    path = tmp_path / "config"
    path.write_text(dump(config(tokenFile="token")))
    (tmp_path / "token").write_text("secret\n")
    found = kubernetes.access(str(path))
    assert found.server == "http://127.0.0.1:1" and found.headers == {"Authorization": "Bearer secret"}
    with pytest.raises(
        KubernetesError, match=r"API at http://127.0.0.1:1: a token over plain HTTP is refused"
    ):
        kubernetes.Api(found).nodes()
    without = kubernetes.Access(found.server)
    with pytest.raises(KubernetesError, match=r"API at http://127.0.0.1:1: .*Connection refused"):
        kubernetes.Api(without).nodes()


def test_a_kubeconfig_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Operators replace server and CA, and kubelet replaces the file of its client certificate."""
    monkeypatch.setattr(kubernetes, "FILE_PERIOD", 0)
    path = tmp_path / "config"
    path.write_text(json.dumps(config()))
    with answering(200) as (url, seen):
        api = kubernetes.Api(kubernetes.access(str(path)))
        path.write_text(json.dumps(config()).replace("http://127.0.0.1:1/", url))
        assert api.request("GET", "/") == {} and len(seen) == 1
    path.write_text(json.dumps({**config(), "users": ["u"]}))
    with pytest.raises(KubernetesError, match="no user 'u'"):
        api.request("GET", "/")


def test_a_rejected_kubeconfig_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The token of the agent's kubeconfig expires, and an operator replaces the file."""
    path = tmp_path / "config"
    tokens = []

    def send(api: kubernetes.Api, *_request: object) -> dict[str, Any]:
        tokens.append(api.access.headers["Authorization"])
        if tokens[-1] != "Bearer new":
            raise KubernetesError("GET /api: Unauthorized (HTTP 401)", 401)
        return {}

    monkeypatch.setattr(kubernetes.Api, "_send", send)
    monkeypatch.setattr(kubernetes.Api, "_connect", lambda api, given: setattr(api, "access", given))
    path.write_text(json.dumps(config(token="old")))
    api = kubernetes.Api(kubernetes.access(str(path)))
    with pytest.raises(KubernetesError, match="Unauthorized"):
        api.request("GET", "/api")
    path.write_text(json.dumps(config(token="new")))
    assert api.request("GET", "/api") == {}
    assert tokens == ["Bearer old"] * 3 + ["Bearer new"]


class _Redirecting(BaseHTTPRequestHandler):
    """Redirects every request to ``target``, and records the paths that it receives."""

    target = ""
    seen: list[str]

    def do_GET(self) -> None:
        self.seen.append(self.path)
        self.send_response(307)
        self.send_header("Location", self.target)
        self.end_headers()

    do_POST = do_PATCH = do_GET

    def log_message(self, *_unused: object) -> None:
        pass


@pytest.mark.parametrize("method", ["GET", "POST", "PATCH"])
def test_redirects_are_refused(method: str) -> None:
    """Another server, and the same one: neither gets the credentials again."""
    server = HTTPServer(("127.0.0.1", 0), _Redirecting)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        for target in ("http://192.0.2.1/", "https://192.0.2.1/", "/other"):
            _Redirecting.target, _Redirecting.seen = target, []
            api = kubernetes.Api(kubernetes.Access(f"http://127.0.0.1:{server.server_port}"))
            with pytest.raises(KubernetesError, match=r"redirects to .* \(HTTP 307\), which is refused"):
                api.request(method, "/api/v1/nodes", None if method == "GET" else {})
            assert _Redirecting.seen == ["/api/v1/nodes"]
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (json.dumps(config(**{"auth-provider": {"name": "gcp"}})), "user 'u' .*auth-provider.*with exec"),
        (json.dumps(config(token="a\nb")), "user 'u': the token has white space"),
        (json.dumps({**config(), "current-context": "b"}), "no context 'b'"),
        ("[]", "is not a kubeconfig"),
        ("{", "neither JSON nor YAML"),
    ],
)
def test_unusable_kubeconfig_is_an_error(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(KubernetesError, match=said):
        kubernetes.access(str(path))


def test_missing_kubeconfig_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(KubernetesError, match="set the path of a kubeconfig"):
        kubernetes.access(None)
    with pytest.raises(KubernetesError, match="No such file"):
        kubernetes.access(str(tmp_path / "none"))


Seen = list[tuple[str, str | None, bytes]]  # method, content type and body of each request


@contextlib.contextmanager
def answering(*answers: int) -> Iterator[tuple[str, Seen]]:
    """Answer requests with statuses and an empty object; yield the URL and the requests."""
    remaining, seen = list(answers), []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"] or 0))
            seen.append((self.command, self.headers["Content-Type"], body))
            self.send_response(remaining.pop(0))
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        do_PATCH = do_GET

        def log_message(self, *_unused: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", seen
        finally:
            server.shutdown()
            thread.join()
    assert not remaining


@pytest.mark.parametrize(
    ("answers", "waits"), [([503, 200], True), ([502, 504, 200], True), ([403], False), ([429], False)]
)
def test_request_is_repeated_while_the_api_is_unavailable(
    monkeypatch: pytest.MonkeyPatch, answers: list[int], waits: bool
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    with answering(*answers) as (url, _seen):
        api = kubernetes.Api(kubernetes.Access(url), patience=60)
        if waits:
            assert api.request("GET", "/") == {}
        else:
            with pytest.raises(KubernetesError):
                api.request("GET", "/")
    assert bool(waited) == waits


def test_only_a_missing_object_is_none() -> None:
    with answering(200, 404, 403) as (url, _seen):
        api = kubernetes.Api(kubernetes.Access(url))
        assert api.find("/") == {} and api.find("/") is None
        with pytest.raises(KubernetesError):
            api.find("/")


def test_a_change_is_a_merge_patch() -> None:
    with answering(200) as (url, seen):
        kubernetes.Api(kubernetes.Access(url)).patch("/", {"metadata": {"labels": {"a": None}}})
    assert seen == [("PATCH", "application/merge-patch+json", b'{"metadata": {"labels": {"a": null}}}')]


def test_unknown_name_is_not_repeated() -> None:
    api = kubernetes.Api(kubernetes.Access("http://api.invalid:1"), patience=60)
    began = time.monotonic()
    with pytest.raises(KubernetesError):
        api.request("GET", "/")
    assert time.monotonic() - began < 30
