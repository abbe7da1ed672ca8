# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The agent passes the objects of the API to the datapath: none before all are known, and none half."""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._agent import cluster
from ansible_collections.podnet.datapath.plugins.module_utils._agent.cluster import ClusterWatch
from ansible_collections.podnet.datapath.plugins.module_utils._agent.config import Config
from ansible_collections.podnet.datapath.plugins.module_utils._agent.protocol import TRY_AGAIN, CniError
from ansible_collections.podnet.datapath.plugins.module_utils._agent.warning_file import Warnings
from ansible_collections.podnet.datapath.plugins.module_utils._agent.worker import Worker
from ansible_collections.podnet.datapath.plugins.module_utils._core.plan import Problem
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.model import Pod, Policy, Service
from ansible_collections.podnet.datapath.plugins.module_utils._ops.kubernetes import Access

Json = dict[str, Any]
NODES, NAMESPACES, PODS = "/api/v1/nodes", "/api/v1/namespaces", "/api/v1/pods"
POLICIES = "/apis/networking.k8s.io/v1/networkpolicies"
SERVICES, SLICES = "/api/v1/services", "/apis/discovery.k8s.io/v1/endpointslices"
EVENTS = "/api/v1/namespaces/x/events"


class ApiServer:
    """Lists and watches of objects; a list waits until its kind is released."""

    def __init__(self) -> None:
        kinds = (NODES, NAMESPACES, PODS, POLICIES, SERVICES, SLICES)
        self.lists: dict[str, list[Json]] = {path: [] for path in kinds}
        self.released = {path: threading.Event() for path in self.lists}
        self.objects: dict[str, Json] = {}  # by path, for GET
        self.posted: list[Json] = []
        self._changed = threading.Condition()
        self._events: dict[str, list[Json]] = {path: [] for path in self.lists}
        self._listed = dict.fromkeys(self.lists, 0)  # number of events before the last list
        self._closed = False
        self.overloaded = False
        self.stop: list[Callable[[], None]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                url = urlsplit(self.path)
                if url.path in outer.lists:
                    if "watch" in parse_qs(url.query):
                        outer.stream(url.path, self)
                        return
                    outer.released[url.path].wait(10)
                    outer._listed[url.path] = len(outer._events[url.path])
                    self._reply(200, {"metadata": {"resourceVersion": "1"}, "items": outer.lists[url.path]})
                elif outer.overloaded:
                    self._reply(503, {"message": "overloaded"})
                elif url.path in outer.objects:
                    self._reply(200, outer.objects[url.path])
                else:
                    self._reply(404, {"message": f"{url.path} not found"})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.posted.append(body)
                self._reply(201, body)

            def _reply(self, status: int, body: Json) -> None:
                text = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_arguments: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def stream(self, path: str, client: BaseHTTPRequestHandler) -> None:
        client.send_response(200)
        client.end_headers()
        for number in itertools.count(self._listed[path]):
            with self._changed:
                while not self._closed and len(self._events[path]) <= number:
                    self._changed.wait()
                if self._closed:
                    return
                event = self._events[path][number]
            client.wfile.write(json.dumps(event).encode() + b"\n")
            client.wfile.flush()

    def emit(self, path: str, kind: str, item: Json) -> None:
        with self._changed:
            self._events[path].append({"type": kind, "object": item})
            self._changed.notify_all()

    def close(self) -> None:
        for stop in (*self.stop, *(one.set for one in self.released.values())):
            stop()
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self.http.shutdown()
        self.http.server_close()


class Datapath:
    """Records what the agent passes to the worker."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.pods: dict[str, Pod] = {}
        self.policies: list[str] = []
        self.problems: list[str] = []
        self.failures = 0
        self.error: Exception = Problem("the maps are full")
        self.changed = threading.Condition()

    def set_cluster(
        self, pods: Mapping[str, Pod], policies: Sequence[Policy], services: Sequence[Service]
    ) -> list[str]:
        with self.changed:
            self.calls.append("all")
            if self.failures:
                self.failures -= 1
                self.changed.notify_all()
                raise self.error
            self.pods, self.policies = dict(pods), [one.name for one in policies]
            self.changed.notify_all()
        return self.problems

    def update_pods(self, changes: Mapping[str, Pod | None]) -> list[str]:
        with self.changed:
            self.calls.append(",".join(changes))
            if self.failures:
                self.failures -= 1
                raise self.error
            for name, pod in changes.items():
                if pod is None:
                    del self.pods[name]
                else:
                    self.pods[name] = pod
            self.changed.notify_all()
        return self.problems

    def wait_for(self, condition: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, 10), (self.calls, self.pods, self.policies)


def pod(name: str, uid: str = "u", **labels: str) -> Json:
    return {
        "metadata": {"name": name, "namespace": "x", "uid": uid, "labels": labels, "resourceVersion": "2"},
        "spec": {"nodeName": "node", "containers": []},
        "status": {"podIPs": [{"ip": f"10.0.0.{len(name)}"}]},
    }


def namespace(name: str) -> Json:
    return {"metadata": {"name": name, "labels": {"team": name}, "resourceVersion": "2"}}


def policy(name: str) -> Json:
    meta = {"name": name, "namespace": "x", "uid": f"uid-{name}", "resourceVersion": "2"}
    return {"metadata": meta, "spec": {"podSelector": {}, "policyTypes": ["Ingress"]}}


@pytest.fixture
def api() -> Iterator[ApiServer]:
    made = ApiServer()
    yield made
    made.close()


def watch_of(api: ApiServer, datapath: Datapath, folder: Path) -> ClusterWatch:
    access = Access(f"http://127.0.0.1:{api.http.server_port}")
    config = Config("node", "datapath.o", kubeconfig="/kubeconfig")
    warnings = Warnings(str(folder / "warnings"))
    made = ClusterWatch(config, access, cast(Worker, datapath), warnings, str(folder / "summary"))
    api.stop.append(made.stop)
    threading.Thread(target=made.run, daemon=True).start()
    return made


def release(api: ApiServer, *paths: str) -> None:
    for path in paths:
        api.released[path].set()


def test_nothing_is_passed_before_all_objects_are_known(
    api: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "LISTS_TIMEOUT", 0.3)
    datapath = Datapath()
    api.lists[PODS], api.lists[NAMESPACES], api.lists[POLICIES] = [pod("a")], [namespace("x")], [policy("p")]
    watch = watch_of(api, datapath, tmp_path)
    release(api, NODES, PODS, NAMESPACES, SERVICES, SLICES)
    with pytest.raises(CniError, match="has not sent all objects yet") as error:
        watch.require_pod("x/a", "u")
    assert error.value.code == TRY_AGAIN and not datapath.calls
    release(api, POLICIES)
    datapath.wait_for(lambda: bool(datapath.calls))
    assert datapath.calls == ["all"] and datapath.policies == ["x/p"]
    assert datapath.pods["x/a"].labels == {"@namespace": "x", "@namespace:team": "x"}
    assert watch.require_pod("x/a", "u") == "u" and watch.require_pod("x/a", "") == "u"
    summary = json.loads((tmp_path / "summary").read_text())
    assert (summary["pods"], summary["policies"], summary["services"]) == (1, 1, 0)


def synchronized(api: ApiServer, folder: Path) -> tuple[ClusterWatch, Datapath]:
    datapath = Datapath()
    api.lists[PODS], api.lists[NAMESPACES] = [pod("a")], [namespace("x")]
    release(api, *api.lists)
    watch = watch_of(api, datapath, folder)
    datapath.wait_for(lambda: datapath.calls == ["all"])
    return watch, datapath


def test_changes_of_pods_are_passed_alone_and_others_together(api: ApiServer, tmp_path: Path) -> None:
    _watch, datapath = synchronized(api, tmp_path)
    api.emit(PODS, "MODIFIED", pod("a", app="web"))
    datapath.wait_for(lambda: datapath.calls == ["all", "x/a"])
    assert datapath.pods["x/a"].labels["app"] == "web"
    api.emit(PODS, "DELETED", pod("a", app="web"))
    datapath.wait_for(lambda: not datapath.pods)
    for number in range(20):
        api.emit(POLICIES, "ADDED", policy(f"p{number:02}"))
    datapath.wait_for(lambda: len(datapath.policies) == 20)
    assert datapath.calls.count("all") < 15, "changes that arrive together are combined"


def test_an_add_reads_a_pod_that_the_watch_does_not_know(api: ApiServer, tmp_path: Path) -> None:
    watch, datapath = synchronized(api, tmp_path)
    with pytest.raises(CniError, match="not found") as error:
        watch.require_pod("x/new", "u2")
    assert error.value.code == TRY_AGAIN
    api.objects[f"{NAMESPACES}/x"] = namespace("x")
    api.objects[f"{NAMESPACES}/x/pods/new"] = pod("new", "u1", app="former")
    with pytest.raises(CniError, match="another Pod x/new, with the UID u1"):
        watch.require_pod("x/new", "u2")
    assert "x/new" not in datapath.pods
    api.objects[f"{NAMESPACES}/x/pods/new"] = {**pod("new", "u2", app="web"), "status": {}}
    assert watch.require_pod("x/new", "u2") == "u2"
    assert datapath.pods["x/new"].labels["app"] == "web" and not datapath.pods["x/new"].addresses
    api.objects.clear()
    assert watch.require_pod("x/new", "u2") == "u2", "it is known now"


def test_a_host_port_of_the_api(api: ApiServer, tmp_path: Path) -> None:
    watch, _datapath = synchronized(api, tmp_path)
    port = api.http.server_port
    own = {"port": port, "target": 80, "protocol": "tcp"}
    with pytest.raises(CniError, match=f"hostPort {port}/tcp: 127.0.0.1 port {port} is that of the Kube"):
        watch.require_host_ports([own])
    watch.require_host_ports([{**own, "protocol": "udp"}, {**own, "port": port ^ 1}])


def interrupt(api: ApiServer, watch: ClusterWatch) -> None:
    """Interrupt the watch of policies; the list that follows gets no answer."""
    api.released[POLICIES].clear()
    api.emit(POLICIES, "ERROR", {"code": 500, "message": "interrupted"})
    while not watch.errors():
        time.sleep(0.05)


def test_an_add_reads_the_policies_while_watches_are_interrupted(api: ApiServer, tmp_path: Path) -> None:
    """After the API was away, a new Pod may be known to its watch before a new policy is known to another."""
    watch, datapath = synchronized(api, tmp_path)
    api.emit(POLICIES, "ADDED", policy("former"))
    datapath.wait_for(lambda: datapath.policies == ["x/former"])
    interrupt(api, watch)
    with pytest.raises(CniError, match="not found"):
        watch.require_pod("x/a", "u")
    api.objects[f"{NAMESPACES}/x"] = namespace("x")
    api.objects[f"{NAMESPACES}/x/pods/a"] = pod("a")
    group = "/apis/networking.k8s.io/v1/namespaces/x/networkpolicies"
    api.objects[group] = {"items": [policy("latest")]}
    assert watch.gauges()["cluster_interrupted_watches"] == 1
    assert watch.require_pod("x/a", "u") == "u"
    assert datapath.policies == ["x/latest"]
    release(api, POLICIES)  # The list is empty: the policy that the ADD has read was deleted meanwhile.
    datapath.wait_for(lambda: not datapath.policies)


def test_an_add_continues_with_the_last_state_if_the_api_is_unreachable(
    api: ApiServer, tmp_path: Path
) -> None:
    watch, _datapath = synchronized(api, tmp_path)
    interrupt(api, watch)
    api.overloaded = True
    assert watch.require_pod("x/a", "u") == "u"
    for uid in ("other", ""):
        with pytest.raises(CniError) as error:
            watch.require_pod("x/a" if uid else "x/new", uid)
        assert error.value.code == TRY_AGAIN


def test_changes_that_the_datapath_rejects_are_repeated(
    api: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "RETRY", 0.1)
    _watch, datapath = synchronized(api, tmp_path)
    datapath.failures = 2
    api.emit(POLICIES, "ADDED", policy("p"))
    datapath.wait_for(lambda: datapath.policies == ["x/p"])
    assert datapath.calls == ["all"] * 4


def test_only_failures_that_last_are_reported_to_load_balancers(
    api: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "RETRY", 0.1)
    watch, datapath = synchronized(api, tmp_path)
    datapath.failures = 1000
    api.emit(POLICIES, "ADDED", policy("p"))
    datapath.wait_for(lambda: len(datapath.calls) > 2)
    assert watch.is_healthy() and watch.gauges()["cluster_update_failed"]
    monkeypatch.setattr(cluster, "HEALTH_TIMEOUT", 0)
    assert not watch.is_healthy()
    datapath.failures = 0
    datapath.wait_for(lambda: datapath.policies == ["x/p"])
    while not watch.is_healthy():
        time.sleep(0.05)


@pytest.mark.parametrize("error", [Problem("the maps are full"), RuntimeError("unexpected")])
def test_a_pod_of_an_add_that_the_datapath_rejects_is_repeated(
    api: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(cluster, "RETRY", 0.1)
    watch, datapath = synchronized(api, tmp_path)
    api.objects[f"{NAMESPACES}/x"] = namespace("x")
    api.objects[f"{NAMESPACES}/x/pods/new"] = pod("new")
    datapath.failures, datapath.error = 1, error
    with contextlib.suppress(RuntimeError):
        watch.require_pod("x/new", "u")
    datapath.wait_for(lambda: "x/new" in datapath.pods)
    while watch.gauges()["cluster_update_failed"]:
        time.sleep(0.05)


def test_what_cannot_be_enforced_is_an_event_and_a_warning(api: ApiServer, tmp_path: Path) -> None:
    _watch, datapath = synchronized(api, tmp_path)
    datapath.problems = ["policies (x/p (tcp http = 80)): 20 port ranges exceed the maximum", "no object"]
    api.emit(POLICIES, "ADDED", policy("p"))
    api.emit(POLICIES, "ADDED", policy("q"))
    deadline = threading.Event()
    file, warnings = tmp_path / "warnings", ""
    while not (api.posted and "NetworkPolicy" in warnings) and not deadline.wait(0.05):
        warnings = file.read_text() if file.exists() else ""
    (event,) = api.posted
    assert event["involvedObject"]["uid"] == "uid-p" and event["reason"] == "NotEnforced"
    assert event["message"] == "20 port ranges exceed the maximum"
    assert "NetworkPolicy x/p: 20 port ranges" in warnings and "no object" in warnings


def test_an_invalid_object_is_an_event_and_others_are_passed_on(api: ApiServer, tmp_path: Path) -> None:
    api.lists[PODS], api.lists[NAMESPACES] = [pod("a")], [namespace("x"), namespace("y")]
    ports = [{"port": 1 << 20}]
    spec = {"clusterIPs": ["10.96.0.1"], "ports": ports}
    service = {"metadata": {"name": "web", "namespace": "x", "uid": "uid-web"}, "spec": spec}
    api.lists[SERVICES] = [service]
    release(api, *api.lists)
    datapath = Datapath()
    watch = watch_of(api, datapath, tmp_path)
    datapath.wait_for(lambda: set(datapath.pods) == {"x/a"})
    while not api.posted:
        time.sleep(0.05)
    (event,) = api.posted
    assert event["involvedObject"]["uid"] == "uid-web" and "1048576 is not a port" in event["message"]
    assert watch.unenforced == 1 and not watch.errors()
    api.emit(NAMESPACES, "MODIFIED", {"metadata": {"name": "x", "labels": [], "resourceVersion": "3"}})
    datapath.wait_for(lambda: not datapath.pods)
    while "Namespace x: it is invalid" not in (tmp_path / "warnings").read_text():
        time.sleep(0.05)
    assert len(api.posted) == 1
    api.emit(NAMESPACES, "MODIFIED", namespace("x"))
    api.emit(SERVICES, "DELETED", service)
    datapath.wait_for(lambda: set(datapath.pods) == {"x/a"})
    api.objects[f"{NAMESPACES}/x"] = namespace("x")
    api.objects[f"{NAMESPACES}/x/pods/b"] = {**pod("b"), "status": []}
    with pytest.raises(CniError, match="Pod x/b: it is invalid"):
        watch.require_pod("x/b", "u")
