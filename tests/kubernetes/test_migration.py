# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A node changes from the reference plugin ptp to podnet and back, as docs/kubernetes.md describes."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator

import pytest

from tests.kubernetes.cluster import cni, cri_tools, podnet
from tests.kubernetes.cluster.cluster import Cluster, checkout_name
from tests.kubernetes.cluster.control_plane import kubelet_user
from tests.kubernetes.cluster.deployment import deployment
from tests.kubernetes.cluster.node import Node

pytestmark = pytest.mark.skipif(
    os.environ.get("PODNET_CNI", "podnet") != "podnet", reason="migrates to this collection's plugin"
)
NAME = "migrated"
CRICTL = ("crictl", "--runtime-endpoint=unix:///run/containerd/containerd.sock")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    made = Cluster(checkout_name("migration"))
    try:
        made.up("ptp", [cri_tools.layer("crictl")])
        spread = {
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": NAME}},
            "matchLabelKeys": ["pod-template-hash"],
        }
        pod = {"topologySpreadConstraints": [spread]}
        made.kubectl("apply", "-f", "-", given=deployment(NAME, 4, ["netexec"], pod=pod))
        yield made
    finally:
        made.down()


@contextlib.contextmanager
def without_pods(cluster: Cluster, node: Node) -> Iterator[None]:
    """Drain a node, and remove its other Pods while kubelet is stopped during the block."""
    cluster.kubectl("drain", node.name, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=120s")
    node.stop("kubelet")
    node.run(*CRICTL, "rmp", "--force", "--all")
    yield
    node.start_kubelet(cluster.server.kubeconfig(kubelet_user(node.name)))
    cluster.wait_for("wait", f"node/{node.name}", "--for=condition=Ready")
    cluster.kubectl("uncordon", node.name)
    # Pods that the other node took in the meantime
    cluster.kubectl("rollout", "restart", f"deployment/{NAME}")


def check(cluster: Cluster, *migrated: Node) -> None:
    """Check that all Pods reach each other, and that podnet attached those of the migrated nodes."""
    cluster.wait_for("rollout", "status", f"deployment/{NAME}", seconds=120)
    found = json.loads(cluster.kubectl("get", "pods", f"--selector=app={NAME}", "-o", "json"))["items"]
    pods = [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]
    assert {pod["spec"]["nodeName"] for pod in pods} == {node.name for node in cluster.nodes}
    addresses = [entry["ip"] for pod in pods for entry in pod["status"]["podIPs"]]
    loop = 'for one; do ping -qc1 -W5 "$one" >/dev/null || echo "$one"; done'
    for pod in pods:
        name = str(pod["metadata"]["name"])
        assert cluster.kubectl("exec", name, "--", "sh", "-c", loop, "ping", *addresses) == "", name
    for node in migrated:
        info = json.loads(node.run("podnet-datapath", "info"))
        own = {pod["metadata"]["name"] for pod in pods if pod["spec"]["nodeName"] == node.name}
        assert {f"default/{name}" for name in own} <= {pod["name"] for pod in info["pods"]}


def test_a_node_changes_its_cni_plugin_and_back(cluster: Cluster) -> None:
    node = cluster.nodes[1]
    check(cluster)
    with without_pods(cluster, node):
        podnet.install(cluster, [node], conflist="00-podnet.conflist")
    check(cluster, node)
    with without_pods(cluster, node):
        podnet.module(node, state="absent", force=False)
        # Those of the agent are gone.
        cni.add_routes(cluster.nodes)
    check(cluster)
