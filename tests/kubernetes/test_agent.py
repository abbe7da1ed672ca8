# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What only this collection's CNI does in a cluster: the agent's restarts, reports, and other runtimes."""

from __future__ import annotations

import json
import os

import pytest

from tests.kubernetes.cluster import images, podnet
from tests.kubernetes.cluster.cluster import AnyCluster
from tests.kubernetes.cluster.node import Node
from tests.kubernetes.waiting import wait

pytestmark = pytest.mark.skipif(
    os.environ.get("PODNET_CNI", "podnet") != "podnet", reason="requires this collection's agent"
)


def test_a_node_without_an_agent_is_not_ready(kubernetes: AnyCluster) -> None:
    node = kubernetes.nodes[1]

    def ready() -> str:
        path = '{.status.conditions[?(@.type=="Ready")]}'
        return kubernetes.kubectl("get", "node", node.name, "-o", f"jsonpath={path}")

    node.stop("podnet-agent")
    try:
        wait(lambda: '"status":"False"' in ready() and "podnet-agent" in ready(), 60 * kubernetes.patience)
    finally:
        podnet.start_agent(node)
    wait(lambda: '"status":"True"' in ready(), 60 * kubernetes.patience)


def test_the_installation_is_complete(kubernetes: AnyCluster) -> None:
    node = kubernetes.nodes[0]
    if not isinstance(node, Node):
        pytest.skip("site.yml has installed the agent")
    result = podnet.present(node, kubeconfig=podnet.KUBECONFIG)
    assert not result["changed"] and not result["warnings"] and not result["status"], result
    assert result["active"] == "10-podnet.conflist"


def test_a_pod_with_the_longest_annotations_starts(kubernetes: AnyCluster) -> None:
    """JSON's escapes make six bytes of each, more than a request may have."""
    text = "<" * (256 * 1024 - len("long"))
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "annotated", "annotations": {"long": text}},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "c", "image": images.AGNHOST, "imagePullPolicy": "Never"}],
        },
    }
    kubernetes.kubectl("create", "-f", "-", given=json.dumps(pod))
    kubernetes.wait_for("wait", "pod/annotated", "--for=condition=Ready")
    kubernetes.kubectl("delete", "pod", "annotated")


def test_ctr_attaches_a_container(kubernetes: AnyCluster) -> None:
    node = kubernetes.nodes[0]
    container = ("ctr", "-n", "k8s.io", "run", "--cni", "--rm", images.AGNHOST, "by-ctr")
    shown = node.run(*container, "ip", "address", "show", "dev", "eth0")
    network = node.pod_cidrs[0].rpartition(".")[0]
    assert f"inet {network}." in shown, shown
    records = node.run("sh", "-c", "cat /var/lib/podnet-datapath/agent/attachments/*.json || true")
    assert "by-ctr" not in records
