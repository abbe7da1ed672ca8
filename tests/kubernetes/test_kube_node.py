# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""kube_node against a real kube-apiserver with etcd.

Without kubelet and controllers the tests set the status of Pods and budgets, and remove terminating Pods.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._ops import drain
from tests.kubernetes.apiserver import running
from tests.kubernetes.cluster import DAEMON, OWNER, Cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running(tmp_path_factory.mktemp("cluster")) as config:
        yield Cluster(config)


@pytest.fixture
def node(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """Yield a new node; remove it with its Pods afterwards."""
    name = request.node.name.replace("_", "-")[:60]
    cluster.add_node(name)
    yield name
    for pod in cluster.api.pods(name):
        path = f"/api/v1/namespaces/default/pods/{pod['metadata']['name']}?gracePeriodSeconds=0"
        cluster.api.request("DELETE", path)
    cluster.api.request("DELETE", f"/api/v1/nodes/{name}")


def unschedulable(cluster: Cluster, node: str) -> bool:
    return bool(cluster.api.node(node)["spec"].get("unschedulable"))


def test_node_is_drained_and_uncordoned(cluster: Cluster, node: str) -> None:
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


def test_exhausted_budget_leaves_node_cordoned(cluster: Cluster, node: str) -> None:
    cluster.add_pod("db-a", node, OWNER)
    cluster.add_budget("db", allowed=0)
    with cluster.kubelet():
        refused = cluster.run(node, "drained", timeout=3)
        assert refused["failed"] and "stays cordoned: default/db-a" in refused["msg"], refused
        assert "PodDisruptionBudgets" in refused["msg"]
        assert cluster.names(node) == {"db-a"} and unschedulable(cluster, node)
        threading.Timer(3, cluster.allow, ["db"]).start()
        waited = cluster.run(node, "drained", timeout=60)
    assert waited.get("evicted") == ["default/db-a"] and cluster.names(node) == set(), waited


def test_data_loss_is_refused_before_node_is_cordoned(cluster: Cluster, node: str) -> None:
    cluster.add_pod("single", node, [])
    cluster.add_pod("scratch-a", node, OWNER, volumes=[{"name": "v", "emptyDir": {}}])
    refused = cluster.run(node, "drained")
    assert "default/single has no controller" in refused["msg"]
    assert "default/scratch-a has an emptyDir" in refused["msg"]
    assert not unschedulable(cluster, node)
    with cluster.kubelet():
        forced = cluster.run(node, "drained", force=True, delete_emptydir_data=True)
    assert forced["evicted"] == ["default/scratch-a", "default/single"]


def test_node_cordoned_by_others_stays_cordoned(cluster: Cluster, node: str) -> None:
    version = cluster.api.node(node)["metadata"]["resourceVersion"]
    cluster.api.patch_node(node, True, None, version)
    done = cluster.run(node, "drained")
    assert not done["changed"] and done["note"] == "the node was cordoned before and stays cordoned"
    left = cluster.run(node, "uncordoned")
    assert not left["changed"] and left["note"] == "others cordoned the node, so it stays cordoned"
    assert unschedulable(cluster, node)


def test_max_cordoned_limits_cordoned_nodes(cluster: Cluster, node: str) -> None:
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


def test_unknown_node_is_reported(cluster: Cluster, node: str) -> None:
    refused = cluster.run("nowhere", "drained")
    assert "no node 'nowhere'" in refused["msg"] and node in refused["msg"]
    assert "fleet_kubernetes_node" in refused["msg"]


def test_invalid_token_is_reported(cluster: Cluster, node: str, tmp_path: Path) -> None:
    config = json.loads(cluster.config.read_text())
    config["users"][0]["user"]["token"] = "wrong"
    (tmp_path / "config").write_text(json.dumps(config))
    assert "Unauthorized" in cluster.run(node, "cordoned", kubeconfig=str(tmp_path / "config"))["msg"]
