# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""cilium_node and cilium_overrides against a real kube-apiserver with etcd, without agents."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._cilium import apply, cluster
from ansible_collections.podnet.datapath.plugins.module_utils._ops import kubernetes
from tests.kubernetes.apiserver import running
from tests.kubernetes.cilium_objects import BEST, CONFIG, CONFIGS, SLOW, CiliumObjects, run_module
from tests.kubernetes.objects import OWNER
from tests.support.background import background


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CiliumObjects]:
    with running(tmp_path_factory.mktemp("cilium")) as config:
        found = CiliumObjects(config)
        found.install()
        yield found


@pytest.fixture
def node(objects: CiliumObjects, request: pytest.FixtureRequest) -> Iterator[str]:
    """Yield a new node with an agent; remove it afterwards."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name).strip("-")[:40].strip("-")
    objects.add_cilium_node(name)
    with objects.controllers():
        yield name
        objects.rejected = objects.unready = frozenset()
    objects.set_config(CONFIG)
    objects.api.request("DELETE", f"/api/v1/nodes/{name}")
    for pod in objects.api.pods(name):
        objects.api.delete(pod, 0)
    objects.cilium().remove_unused()


def state(objects: CiliumObjects, node: str) -> tuple[dict[str, str], bool]:
    """Return a node's override, and whether its change is pending."""
    return objects.keys(node), objects.cilium().state(node).pending is not None


def daemon_uid(objects: CiliumObjects, node: str) -> str:
    (found,) = [pod for pod in objects.api.pods(node) if pod["metadata"]["name"].startswith("daemon-")]
    return str(found["metadata"]["uid"])


def test_node_is_migrated_and_back(objects: CiliumObjects, node: str) -> None:
    agent, daemon, facts = objects.agent_uid(node), daemon_uid(objects, node), objects.facts(node)
    planned = objects.cilium_node(node, check=True, facts=facts)
    assert planned["changed"] and planned["expected"] == BEST, planned
    assert {row["state"] for row in planned["rows"]} == {"available"}
    assert "device_mode = netkit" in planned["diff"][0]["after"]
    assert state(objects, node) == ({}, False) and objects.agent_uid(node) == agent
    done = objects.cilium_node(node, facts=facts)
    assert done["changed"] and done["pending"] and done["restart"], done
    assert objects.agent_uid(node) != agent and daemon_uid(objects, node) != daemon
    assert state(objects, node) == (planned["keys"], True)
    assert objects.facts(node)["settings"] == BEST
    assert objects.cilium_node(node, state="confirmed")["changed"]
    again = objects.cilium_node(node, facts=objects.facts(node))
    assert not again["changed"] and not again["changes"], again
    assert {row["state"] for row in again["rows"]} == {"enabled"}
    assert not objects.cilium_node(node, state="confirmed")["changed"]
    back = objects.cilium_node(node, state="absent", facts=objects.facts(node))
    assert back["changed"] and back["expected"] == SLOW, back
    objects.cilium_node(node, state="confirmed")
    assert state(objects, node) == ({}, False)
    assert not objects.cilium_node(node, state="absent", facts=objects.facts(node))["changed"]
    assert not objects.cilium().remove_unused(), "the CiliumNodeConfig was removed with its last node"


def test_setting_without_new_pods_leaves_them(objects: CiliumObjects, node: str) -> None:
    daemon = daemon_uid(objects, node)
    keep = dict.fromkeys(("device_mode", "big_tcp", "bbr"), "keep")
    done = objects.cilium_node(node, facts=objects.facts(node), settings=keep)
    assert done["restart"] and done["recreated"] == [] and daemon_uid(objects, node) == daemon


def test_rejected_key_is_restored(objects: CiliumObjects, node: str) -> None:
    objects.rejected = frozenset({"datapath-mode"})
    failed = objects.cilium_node(node, facts=objects.facts(node))
    assert failed["failed"] and "does not start: cilium-agent: CrashLoopBackOff" in failed["msg"], failed
    assert "level=fatal msg=['datapath-mode']" in failed["msg"] and state(objects, node)[1]
    restored = objects.cilium_node(node, state="restored")
    assert restored["changed"] and restored["expected"] == SLOW, restored
    assert state(objects, node) == ({}, True), "pending until the settings are verified"
    assert objects.cilium_node(node, state="confirmed")["changed"]
    assert not objects.cilium_node(node, state="restored")["changed"]
    assert state(objects, node) == ({}, False)


def test_failed_change_returns_to_the_former_override(objects: CiliumObjects, node: str) -> None:
    keep = dict.fromkeys(("device_mode", "big_tcp", "bbr"), "keep")
    former = objects.cilium_node(node, facts=objects.facts(node), settings=keep)["keys"]
    objects.cilium_node(node, state="confirmed")
    objects.rejected = frozenset({"datapath-mode"})
    assert objects.cilium_node(node, facts=objects.facts(node))["failed"]
    objects.cilium_node(node, state="restored")
    assert state(objects, node)[0] == former


def test_node_that_is_never_ready_is_reported(objects: CiliumObjects, node: str) -> None:
    objects.unready = frozenset({node})
    failed = objects.cilium_node(node, facts=objects.facts(node), timeout=5)
    assert failed["failed"] and f"{node}: the agent cilium-{node}" in failed["msg"], failed
    assert "is not ready" in failed["msg"] and "after 5 s" in failed["msg"]
    objects.unready = frozenset()
    assert objects.cilium_node(node, state="restored")["changed"]


def test_node_with_other_pods_is_not_changed(objects: CiliumObjects, node: str) -> None:
    objects.add_pod(f"web-{node}", node, OWNER)
    refused = objects.cilium_node(node, facts=objects.facts(node))
    assert f"is not drained: default/web-{node} would keep" in refused["msg"], refused
    assert state(objects, node) == ({}, False)


def test_stopped_agent_is_refused_unless_a_change_is_pending(objects: CiliumObjects, node: str) -> None:
    stopped = {"running": False, "error": "connection refused"}
    refused = objects.cilium_node(node, facts=stopped)
    assert "does not answer" in refused["msg"] and "connection refused" in refused["msg"]
    objects.rejected = frozenset({"datapath-mode"})
    assert objects.cilium_node(node, facts=objects.facts(node))["failed"]
    objects.rejected = frozenset()
    # The interrupted change can be taken back, with the facts that it recorded.
    back = objects.cilium_node(node, state="absent", facts=stopped)
    assert back["changed"] and back["expected"] == SLOW, back


class Killed(BaseException):
    """The controller is killed."""


class Mortal(kubernetes.Api):
    """An API of a controller that is killed at its n-th change, before or after it is sent."""

    def __init__(self, access: kubernetes.Access, remaining: int, sent: bool) -> None:
        super().__init__(access)
        self.remaining, self.sent = remaining, sent

    def request(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> Any:
        self.remaining -= method != "GET"
        if not self.remaining and not self.sent:
            raise Killed
        found = super().request(method, path, body, kind)
        if not self.remaining:
            raise Killed
        return found


def run(objects: CiliumObjects, node: str, state: str, api: kubernetes.Api | None = None) -> None:
    """Run what cilium_node runs, in this process."""
    facts = objects.facts(node) if state in ("present", "absent") else {}
    desired = apply.Desired(node, state, {}, (), facts, 60)
    cilium = cluster.CiliumApi(api or objects.api, "kube-system")
    apply.run(cilium, desired, False, sleep=lambda _seconds: time.sleep(0.2))


@pytest.mark.parametrize("sent", [False, True])
@pytest.mark.parametrize("second", ["present", "absent", "restored"])
def test_killed_controller(objects: CiliumObjects, node: str, second: str, sent: bool) -> None:
    """The next run completes or restores the change, whatever request the controller was killed at."""
    access = kubernetes.access(str(objects.config))
    # The changes: CiliumNodeConfig, node, agent, Pod of the DaemonSet.
    for number in range(1, 5):
        with pytest.raises(Killed):
            run(objects, node, "present", Mortal(access, number, sent))
        run(objects, node, second)
        run(objects, node, "confirmed")
        keys, pending = state(objects, node)
        assert not pending and bool(keys) == (second == "present"), (number, keys)
        assert objects.facts(node)["settings"] == (BEST if second == "present" else SLOW)
        run(objects, node, "absent")
        run(objects, node, "confirmed")


def test_api_unreachable_for_a_while(objects: CiliumObjects, node: str, tmp_path: Path) -> None:
    config = json.loads(objects.config.read_text())
    server = config["clusters"][0]["cluster"]["server"]
    target = int(server.rpartition(":")[2])
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
    config["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{port}"
    (tmp_path / "config").write_text(json.dumps(config))
    options = {"facts": objects.facts(node), "kubeconfig": str(tmp_path / "config")}
    refused = objects.cilium_node(node, **options, api_timeout=0)
    assert "Connection refused" in refused["msg"], refused
    with background(partial(forward, port, target, 5.0)):
        done = objects.cilium_node(node, **options, api_timeout=30)
    assert done.get("changed") and done["expected"] == BEST, done


def forward(port: int, target: int, delay: float, stop: threading.Event) -> None:
    """Forward connections to the API server, after a delay in which they are refused."""
    stop.wait(delay)
    with socket.create_server(("127.0.0.1", port)) as server:
        server.settimeout(0.2)
        while not stop.is_set():
            try:
                client = server.accept()[0]
            except TimeoutError:
                continue
            upstream = socket.create_connection(("127.0.0.1", target))
            for source, sink in ((client, upstream), (upstream, client)):
                threading.Thread(target=copy, args=(source, sink), daemon=True).start()


def copy(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
    except OSError:
        pass
    finally:
        sink.close()


# Objects of others


def test_conflicts_are_found(objects: CiliumObjects, node: str) -> None:
    path = "/apis/node.k8s.io/v1/runtimeclasses"
    body = {"metadata": {"name": "kata-qemu"}, "handler": "kata-qemu"}
    objects.api.request("POST", path, {**body, "scheduling": {"nodeSelector": {"kata": "yes"}}})
    try:
        assert "kata" not in objects.cilium().state(node).cluster.conflicts
        kind = "application/merge-patch+json"
        label = {"metadata": {"labels": {"kata": "yes"}}}
        objects.api.request("PATCH", f"/api/v1/nodes/{node}", label, kind)
        found = objects.cilium_node(node, check=True, facts=objects.facts(node))
        assert "kata-qemu" in next(row["reason"] for row in found["rows"] if row["setting"] == "device_mode")
        options = {"facts": objects.facts(node), "accept_conflicts": ["kata"]}
        assert objects.cilium_node(node, check=True, **options)["expected"] == BEST
    finally:
        objects.api.request("DELETE", f"{path}/kata-qemu")


def test_foreign_override_has_precedence_by_name(objects: CiliumObjects, node: str) -> None:
    spec = {"nodeSelector": {"matchLabels": {}}, "defaults": {"datapath-mode": "veth"}}
    kind = {"apiVersion": "cilium.io/v2", "kind": "CiliumNodeConfig"}
    objects.api.request("POST", CONFIGS, {**kind, "metadata": {"name": "zzz"}, "spec": spec})
    try:
        found = objects.cilium_node(node, check=True, facts=objects.facts(node))
        reason = next(row["reason"] for row in found["rows"] if row["setting"] == "device_mode")
        assert "the CiliumNodeConfig zzz sets it" in reason
    finally:
        objects.api.request("DELETE", f"{CONFIGS}/zzz")


def test_missing_objects_are_reported(objects: CiliumObjects, node: str) -> None:
    facts = objects.facts(node)
    refused = objects.cilium_node(node, facts=facts, namespace="default")
    assert "namespace default has no ConfigMap cilium-config: set cilium_namespace" in refused["msg"]
    assert "no node 'nowhere'" in objects.cilium_node("nowhere", facts=facts)["msg"]
    assert "facts: the value does not consist" in objects.cilium_node(node, facts={"running": True})["msg"]


# The end of a migration


def test_overrides_are_replaced_by_values(objects: CiliumObjects, node: str) -> None:
    objects.add_cilium_node(f"{node}-2")
    arguments = {"kubeconfig": str(objects.config)}
    try:
        objects.cilium_node(node, facts=objects.facts(node))
        found = run_module("cilium_overrides", arguments)
        assert any("not confirmed" in problem for problem in found["problems"]), found
        objects.cilium_node(node, state="confirmed")
        found = run_module("cilium_overrides", arguments)
        assert any(f"veth on {node}-2" in problem for problem in found["problems"]), found
        assert run_module("cilium_overrides", {**arguments, "state": "absent"})["failed"]
        objects.cilium_node(f"{node}-2", facts=objects.facts(f"{node}-2"))
        objects.cilium_node(f"{node}-2", state="confirmed")
        found = run_module("cilium_overrides", arguments)
        assert not found["problems"] and len(found["differences"]) == 2 * len(found["keys"]), found
        assert found["values"]["bpf"] == {"datapathMode": "netkit", "masquerade": True}
        refused = run_module("cilium_overrides", {**arguments, "state": "absent"})
        assert "datapath-mode would change from netkit to veth" in refused["msg"], refused
        objects.set_config({**CONFIG, **found["keys"]})
        agents = [objects.agent_uid(name) for name in (node, f"{node}-2")]
        assert run_module("cilium_overrides", {**arguments, "state": "absent"}, check=True)["changed"]
        assert objects.keys(node)
        assert run_module("cilium_overrides", {**arguments, "state": "absent"})["changed"]
        assert not run_module("cilium_overrides", {**arguments, "state": "absent"})["changed"]
        assert agents == [objects.agent_uid(name) for name in (node, f"{node}-2")]
        assert state(objects, node) == ({}, False)
        again = objects.cilium_node(node, facts=objects.facts(node))
        assert not again["changed"], "a restart of the agent changes nothing"
    finally:
        objects.api.request("DELETE", f"/api/v1/nodes/{node}-2")


def test_probe_pods(objects: CiliumObjects, node: str) -> None:
    arguments = {"kubeconfig": str(objects.config), "name": node, "timeout": 2}
    refused = run_module("cilium_probe_pods", arguments)
    assert "the probe Pods do not run after 2 s" in refused["msg"], refused
    names = [pod["metadata"]["name"] for pod in objects.api.pods(node)]
    assert sum(name.startswith("podnet-probe-") for name in names) == 2
    (image,) = {
        container["image"]
        for pod in objects.api.pods(node)
        if pod["metadata"]["name"].startswith("podnet-probe-")
        for container in pod["spec"]["containers"]
    }
    assert image == "cilium:v1.20.2"
    assert run_module("cilium_probe_pods", {**arguments, "state": "absent"})["changed"]
    assert not [one for one in objects.api.pods(node) if "podnet-probe-" in one["metadata"]["name"]]
