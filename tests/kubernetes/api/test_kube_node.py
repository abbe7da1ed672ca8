# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""kube_node against a real kube-apiserver with etcd.

Without kubelet and controllers the tests set the status of Pods and budgets, and remove terminating Pods.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._ops import drain, kubernetes
from ansible_collections.podnet.datapath.plugins.module_utils._ops.exec_credential import VERSIONS
from tests.kubernetes.apiserver import TOKEN, running
from tests.kubernetes.objects import DAEMON, OWNER, Objects

PAST = "2020-01-01T00:00:00Z"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Objects]:
    with running(tmp_path_factory.mktemp("cluster")) as config:
        yield Objects(config)


@pytest.fixture
def node(cluster: Objects, request: pytest.FixtureRequest) -> Iterator[str]:
    """Yield a new node; remove it with its Pods afterwards."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name).strip("-")[:60]
    cluster.add_node(name)
    yield name
    for pod in cluster.api.pods(name):
        path = f"/api/v1/namespaces/default/pods/{pod['metadata']['name']}?gracePeriodSeconds=0"
        cluster.api.request("DELETE", path)
    cluster.api.request("DELETE", f"/api/v1/nodes/{name}")


def unschedulable(cluster: Objects, node: str) -> bool:
    return bool(cluster.api.node(node)["spec"].get("unschedulable"))


def test_node_is_drained_and_uncordoned(cluster: Objects, node: str) -> None:
    cluster.add_pod("web-a", node, OWNER)
    cluster.add_pod("agent-a", node, DAEMON)
    planned = cluster.run(node, "drained", check=True)
    assert planned["changed"] and planned["evicted"] == ["default/web-a"]
    assert cluster.names(node) == {"web-a", "agent-a"} and not unschedulable(cluster, node)
    with cluster.kubelet():
        done = cluster.run(node, "drained")
    assert done["changed"] and done["evicted"] == ["default/web-a"], done
    assert cluster.names(node) == {"agent-a"} and unschedulable(cluster, node)
    assert not cluster.run(node, "drained")["changed"]
    assert cluster.run(node, "uncordoned")["changed"] and not unschedulable(cluster, node)
    assert drain.cordoned_by(cluster.api.node(node)) == ""
    assert not cluster.run(node, "uncordoned")["changed"]


def test_exhausted_budget_leaves_node_cordoned(cluster: Objects, node: str) -> None:
    cluster.add_pod("db-a", node, OWNER)
    cluster.add_budget("db", allowed=0)
    with cluster.kubelet():
        refused = cluster.run(node, "drained", timeout=3)
        assert refused["failed"] and "stays cordoned: default/db-a" in refused["msg"], refused
        assert "default/db-a (PodDisruptionBudget db)" in refused["msg"]
        assert "The disruption budget db needs" in refused["msg"]
        assert "fleet_kubernetes_disable_eviction" in refused["msg"]
        assert cluster.names(node) == {"db-a"} and unschedulable(cluster, node)
        threading.Timer(3, cluster.allow, ["db"]).start()
        waited = cluster.run(node, "drained", timeout=60)
    assert waited.get("evicted") == ["default/db-a"] and cluster.names(node) == set(), waited


def test_data_loss_is_refused_before_node_is_cordoned(cluster: Objects, node: str) -> None:
    cluster.add_pod("single", node, [])
    cluster.add_pod("scratch-a", node, OWNER, volumes=[{"name": "v", "emptyDir": {}}])
    refused = cluster.run(node, "drained")
    assert "default/single has no controller" in refused["msg"]
    assert "default/scratch-a has an emptyDir" in refused["msg"]
    assert not unschedulable(cluster, node)
    with cluster.kubelet():
        forced = cluster.run(node, "drained", force=True, delete_emptydir_data=True)
    assert forced["evicted"] == ["default/scratch-a", "default/single"]


def test_node_cordoned_by_others_stays_cordoned(cluster: Objects, node: str) -> None:
    version = cluster.api.node(node)["metadata"]["resourceVersion"]
    cluster.api.patch_node(node, True, None, version)
    done = cluster.run(node, "drained")
    assert not done["changed"] and done["note"] == "the node was cordoned before and stays cordoned"
    left = cluster.run(node, "uncordoned")
    assert not left["changed"] and left["note"] == "others cordoned the node, so it stays cordoned"
    assert unschedulable(cluster, node)


def test_max_cordoned_limits_cordoned_nodes(cluster: Objects, node: str) -> None:
    cluster.add_node("other")
    assert cluster.run("other", "cordoned", max_cordoned=1, owner="earlier")["changed"]
    refused = cluster.run(node, "drained", max_cordoned=1)
    assert "1 other nodes" in refused["msg"] and "other" in refused["msg"]
    assert not unschedulable(cluster, node)
    assert not cluster.run("other", "cordoned", max_cordoned=1)["changed"], (
        "a node does not count against itself"
    )
    assert cluster.run(node, "cordoned", max_cordoned=2)["changed"]
    assert not cluster.run("other", "uncordoned")["changed"], "the node has another owner"
    assert cluster.run("other", "uncordoned", owner="earlier")["changed"]


def test_unknown_node_is_reported(cluster: Objects, node: str) -> None:
    refused = cluster.run("nowhere", "drained")
    assert "no node 'nowhere'" in refused["msg"] and node in refused["msg"]
    assert "fleet_kubernetes_node" in refused["msg"]


def test_invalid_token_is_reported(cluster: Objects, node: str, tmp_path: Path) -> None:
    config = json.loads(cluster.config.read_text())
    config["users"][0]["user"]["token"] = "wrong"
    (tmp_path / "config").write_text(json.dumps(config))
    assert "Unauthorized" in cluster.run(node, "cordoned", kubeconfig=str(tmp_path / "config"))["msg"]


def test_selector_limits_the_drain(cluster: Objects, node: str) -> None:
    for name in ("front-a", "store-a"):
        cluster.add_pod(name, node, OWNER)
    cluster.add_pod("single", node, [])
    refused = cluster.run(node, "drained", pod_selector="app in (front")
    assert "pod_selector: 'app in (front' is not a label selector" in refused["msg"], refused
    assert not unschedulable(cluster, node)
    planned = cluster.run(node, "drained", check=True, pod_selector="app in (front,none)")
    assert planned["evicted"] == ["default/front-a"] and cluster.names(node) >= {"front-a"}
    with cluster.kubelet():
        done = cluster.run(node, "drained", pod_selector="app in (front,none)")
    assert done["evicted"] == ["default/front-a"] and cluster.names(node) == {"store-a", "single"}
    assert not cluster.run(node, "drained", pod_selector="app in (front,none)")["changed"]


def test_disabled_eviction_ignores_the_budget(cluster: Objects, node: str) -> None:
    cluster.add_pod("queue-a", node, OWNER)
    cluster.add_budget("queue", allowed=0)
    planned = cluster.run(node, "drained", check=True, disable_eviction=True)
    assert planned["evicted"] == ["default/queue-a"] and cluster.names(node) == {"queue-a"}
    with cluster.kubelet():
        assert cluster.run(node, "drained", timeout=1)["failed"]
        done = cluster.run(node, "drained", timeout=30, disable_eviction=True)
    assert done.get("evicted") == ["default/queue-a"] and cluster.names(node) == set(), done


def test_pod_with_two_budgets_is_reported(cluster: Objects, node: str) -> None:
    cluster.add_pod("twice-a", node, OWNER)
    cluster.add_budget("twice", allowed=1)
    cluster.add_budget("twice-too", allowed=1, app="twice")
    refused = cluster.run(node, "drained", timeout=1)
    assert "default/twice-a (PodDisruptionBudget twice, twice-too)" in refused["msg"], refused


def test_stuck_pod_is_skipped(cluster: Objects, node: str) -> None:
    """No kubelet removes the Pod, as on a node that is down."""
    cluster.add_pod("stuck-a", node, OWNER)
    refused = cluster.run(node, "drained", timeout=1, grace_period=1)
    assert "default/stuck-a still terminates" in refused["msg"], refused
    assert "PodDisruptionBudget" not in refused["msg"]
    done = cluster.run(node, "drained", timeout=30, skip_wait_for_delete_timeout=1)
    assert not done.get("failed") and cluster.names(node) == {"stuck-a"}, done


def with_user(cluster: Objects, folder: Path, **user: object) -> str:
    config = json.loads(cluster.config.read_text())
    config["users"][0]["user"] = user
    (folder / "config").write_text(json.dumps(config))
    return str(folder / "config")


def plugin(folder: Path, script: str) -> dict[str, object]:
    (folder / "plugin").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "plugin").chmod(0o755)
    return {"apiVersion": VERSIONS[0], "command": "./plugin", "interactiveMode": "IfAvailable"}


def credential(**status: str) -> str:
    return json.dumps({"apiVersion": VERSIONS[0], "kind": "ExecCredential", "status": status})


def test_token_of_a_plugin(cluster: Objects, node: str, tmp_path: Path) -> None:
    path = with_user(cluster, tmp_path, exec=plugin(tmp_path, f"echo '{credential(token=TOKEN)}'"))
    assert cluster.run(node, "cordoned", check=True, kubeconfig=path)["changed"]
    assert cluster.run(node, "cordoned", kubeconfig=path)["changed"] and unschedulable(cluster, node)


def test_client_certificate_of_a_plugin(cluster: Objects, node: str, tmp_path: Path) -> None:
    names = {"clientCertificateData": "client.crt", "clientKeyData": "client.key"}
    status = {key: (cluster.config.parent / name).read_text() for key, name in names.items()}
    (tmp_path / "answer").write_text(credential(**status))
    path = with_user(cluster, tmp_path, exec=plugin(tmp_path, f"cat '{tmp_path}/answer'"))
    assert cluster.run(node, "cordoned", kubeconfig=path)["changed"] and unschedulable(cluster, node)


@pytest.mark.parametrize(
    "first", [{"token": "old"}, {"token": TOKEN, "expirationTimestamp": PAST}], ids=["rejected", "expired"]
)
def test_plugin_runs_again(cluster: Objects, node: str, tmp_path: Path, first: dict[str, str]) -> None:
    """The API rejects the first credential, or it expires."""
    script = f"""echo >>'{tmp_path}/runs'
[ "$(wc -l <'{tmp_path}/runs')" -gt 1 ] && echo '{credential(token=TOKEN)}' || echo '{credential(**first)}'"""
    path = with_user(cluster, tmp_path, exec=plugin(tmp_path, script))
    assert cluster.run(node, "cordoned", kubeconfig=path)["changed"]
    assert (tmp_path / "runs").read_text() == "\n" * 2


def test_rejected_plugin_is_reported(cluster: Objects, node: str, tmp_path: Path) -> None:
    path = with_user(cluster, tmp_path, exec=plugin(tmp_path, f"echo '{credential(token='wrong')}'"))
    refused = cluster.run(node, "cordoned", kubeconfig=path)
    assert "user 'podnet', exec command './plugin': the API rejects" in refused["msg"], refused


def test_rotated_token_file_is_read_again(cluster: Objects, node: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("old\n")
    path = with_user(cluster, tmp_path, token="wrong", tokenFile="token")
    api = kubernetes.Api(kubernetes.access(path))
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    assert api.node(node)["metadata"]["name"] == node
