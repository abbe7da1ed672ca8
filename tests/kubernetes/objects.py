# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Objects of an API server without kubelets and controllers; tests do their work."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ansible_collections.podnet.datapath.plugins.module_utils._ops import kubernetes
from tests.support.background import background
from tests.support.checkout import CHECKOUT

MODULE = CHECKOUT / "plugins/modules/kube_node.py"
OWNER = [
    {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "1", "controller": True},
]
DAEMON = [{**OWNER[0], "kind": "DaemonSet"}]


class Objects:
    """Node, Pod and PodDisruptionBudget objects of an API server, without kubelets."""

    def __init__(self, config: Path) -> None:
        self.config = config
        self.api = kubernetes.Api(kubernetes.access(str(config)))

    def add_node(self, name: str) -> None:
        self.api.request("POST", "/api/v1/nodes", {"kind": "Node", "metadata": {"name": name}})

    def add_pod(self, name: str, node: str, owners: list[dict[str, Any]], **spec: Any) -> None:
        meta = {"name": name, "labels": {"app": name.split("-")[0]}, "ownerReferences": owners}
        body = {"nodeName": node, "containers": [{"name": "c", "image": "i"}], **spec}
        path = "/api/v1/namespaces/default/pods"
        made = self.api.request("POST", path, {"kind": "Pod", "metadata": meta, "spec": body})
        # A Pod that is not Running is evicted regardless of its budget.
        made["status"] = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
        self.api.request("PUT", f"{path}/{name}/status", made)

    def add_budget(self, name: str, allowed: int, app: str = "") -> None:
        """Add a PodDisruptionBudget and set its allowed disruptions, as its controller does."""
        path = "/apis/policy/v1/namespaces/default/poddisruptionbudgets"
        spec = {"minAvailable": 1, "selector": {"matchLabels": {"app": app or name}}}
        made = self.api.request(
            "POST", path, {"kind": "PodDisruptionBudget", "metadata": {"name": name}, "spec": spec}
        )
        made["status"] = {
            "disruptionsAllowed": allowed,
            "observedGeneration": made["metadata"]["generation"],
            "currentHealthy": 1 + allowed,
            "desiredHealthy": 1,
            "expectedPods": 2,
        }
        self.api.request("PUT", f"{path}/{name}/status", made)

    def allow(self, app: str) -> None:
        path = f"/apis/policy/v1/namespaces/default/poddisruptionbudgets/{app}"
        budget = self.api.request("GET", path)
        budget["status"].update(disruptionsAllowed=1, currentHealthy=2)
        self.api.request("PUT", f"{path}/status", budget)

    def names(self, node: str) -> set[str]:
        return {pod["metadata"]["name"] for pod in self.api.pods(node)}

    @contextlib.contextmanager
    def kubelet(self) -> Iterator[None]:
        """Remove terminating Pods during the block, as kubelets do."""

        def end(stop: threading.Event) -> None:
            while not stop.wait(0.3):
                for pod in self.api.request("GET", "/api/v1/pods")["items"]:
                    meta = pod["metadata"]
                    if meta.get("deletionTimestamp"):
                        with contextlib.suppress(kubernetes.KubernetesError):
                            self.api.request(
                                "DELETE",
                                f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}",
                                {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0},
                            )

        with background(end):
            yield

    def run(self, name: str, state: str, check: bool = False, **options: Any) -> dict[str, Any]:
        """Run kube_node as Ansible does; return its result."""
        arguments = {"name": name, "state": state, "kubeconfig": str(self.config), **options}
        arguments.update(_ansible_check_mode=check, _ansible_diff=True, _ansible_remote_tmp="/tmp")
        done = subprocess.run(
            [sys.executable, str(MODULE)],
            input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}),
            capture_output=True,
            text=True,
            check=False,
        )
        return dict(json.loads(done.stdout))
