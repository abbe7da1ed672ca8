# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Objects of a Cilium cluster in an API server; a thread does the work of kubelets and DaemonSets."""

from __future__ import annotations

import contextlib
import itertools
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ansible_collections.podnet.datapath.plugins.module_utils._cilium import cluster, settings
from ansible_collections.podnet.datapath.plugins.module_utils._ops.kubernetes import KubernetesError
from tests.kubernetes.objects import DAEMON, Objects
from tests.support.background import background
from tests.support.checkout import CHECKOUT

CONFIG = {
    "routing-mode": "native",
    "ipv4-native-routing-cidr": "10.0.0.0/8",
    "kube-proxy-replacement": "true",
    "enable-ipv4": "true",
    "enable-ipv6": "false",
    "datapath-mode": "veth",
}
NODE = {
    "kernel": "6.12.74",
    "netkit": True,
    "netkit_scrub": True,
    "missing_helpers": [],
    "ipv4_big_tcp": True,
    "ipv6_big_tcp": True,
    "gso_limit": 524280,
    "bbr": True,
}
BEST = {"host_routing": "bpf", "device_mode": "netkit", "big_tcp": "enabled", "bbr": "enabled"}
SLOW = {"host_routing": "legacy", "device_mode": "veth", "big_tcp": "disabled", "bbr": "disabled"}
SYSTEM = "/api/v1/namespaces/kube-system"
CONFIGS = "/apis/cilium.io/v2/namespaces/kube-system/ciliumnodeconfigs"
_SCHEMA = {
    "type": "object",
    "properties": {
        "spec": {
            "type": "object",
            "required": ["defaults", "nodeSelector"],
            "properties": {
                "defaults": {"type": "object", "additionalProperties": {"type": "string"}},
                "nodeSelector": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
            },
        }
    },
    "required": ["spec"],
}


def definition(*versions: str) -> dict[str, Any]:
    """Return the CustomResourceDefinition of CiliumNodeConfigs, as Cilium has it."""
    names = {"kind": "CiliumNodeConfig", "plural": "ciliumnodeconfigs", "singular": "ciliumnodeconfig"}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "ciliumnodeconfigs.cilium.io"},
        "spec": {
            "group": "cilium.io",
            "names": names,
            "scope": "Namespaced",
            "versions": [
                {
                    "name": version,
                    "served": True,
                    "storage": version == versions[-1],
                    "schema": {"openAPIV3Schema": _SCHEMA},
                }
                for version in versions
            ],
        },
    }


class CiliumObjects(Objects):
    """A cluster whose agents start with what ConfigMap and CiliumNodeConfigs say.

    ``rejected`` has keys with which an agent crashes, ``unready`` nodes whose agents never become ready.
    """

    rejected: frozenset[str] = frozenset()
    unready: frozenset[str] = frozenset()

    def __init__(self, config: Path) -> None:
        super().__init__(config)
        # What the agents that started last have in effect.
        self.started: dict[str, dict[str, str]] = {}

    def install(self) -> None:
        """Create what the operator and the chart create."""
        self.define()
        self.set_config(CONFIG)

    def define(self) -> None:
        """Create the definition of CiliumNodeConfigs, as the operator does."""
        path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
        self.api.request("POST", path, definition("v2"))
        # At first, the API server answers that the storage is being initialized.
        self._wait_for(lambda: self.api.request("GET", CONFIGS))

    def _wait_for(self, probe: Any) -> None:
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(KubernetesError):
                if probe():
                    return
            assert time.monotonic() < deadline
            time.sleep(0.2)

    def set_config(self, data: Mapping[str, str]) -> None:
        body = {"metadata": {"name": "cilium-config"}, "data": dict(data)}
        try:
            self.api.request("POST", f"{SYSTEM}/configmaps", body)
        except KubernetesError:
            self.api.request("PUT", f"{SYSTEM}/configmaps/cilium-config", body)

    def add_cilium_node(self, name: str) -> None:
        """Add a ready node with an agent and the Pod of another DaemonSet."""
        self.add_node(name)
        status = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
        kind = "application/merge-patch+json"
        self.api.request("PATCH", f"/api/v1/nodes/{name}/status", status, kind)
        self.add_agent(name)
        self.add_pod(f"daemon-{name}-0", name, DAEMON)

    def add_agent(self, node: str) -> None:
        name = f"cilium-{node}-{next(_COUNTER)}"
        meta = {"name": name, "labels": {"k8s-app": "cilium"}, "ownerReferences": DAEMON}
        spec = {
            "nodeName": node,
            "hostNetwork": True,
            "containers": [{"name": "cilium-agent", "image": "cilium:v1.20.2"}],
        }
        made = self.api.request("POST", f"{SYSTEM}/pods", {"kind": "Pod", "metadata": meta, "spec": spec})
        ready = node not in self.unready and not self.rejected & {*self.keys(node)}
        self.started[node] = self.config_of(node) if ready else {}
        container: dict[str, Any] = {"name": "cilium-agent", "image": "i", "imageID": "i", "ready": ready}
        if ready:
            container |= {"restartCount": 0, "state": {"running": {}}}
        else:
            message = f"level=fatal msg={sorted(self.rejected)}"
            ended = {"terminated": {"exitCode": 1, "message": message}}
            container |= {"restartCount": 9 if self.rejected else 0, "lastState": ended}
            container["state"] = {"waiting": {"reason": "CrashLoopBackOff"}}
        made["status"] = {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": str(ready)}],
            "containerStatuses": [container],
        }
        self.api.request("PUT", f"{SYSTEM}/pods/{name}/status", made)

    def cilium(self) -> cluster.CiliumApi:
        return cluster.CiliumApi(self.api, "kube-system")

    def keys(self, node: str) -> dict[str, str]:
        """Return the keys of the override that applies to a node."""
        state = self.cilium().state(node)
        return dict(state.own.get(state.label, {}))

    def config_of(self, node: str) -> dict[str, str]:
        """Return the configuration that an agent which starts now gets."""
        return self.cilium().state(node).cluster.configured(self.keys(node))

    def facts(self, node: str) -> dict[str, Any]:
        """Return what cilium_info returns on a node whose agent started now."""
        config = self.config_of(node)
        return {
            "running": True,
            "version": "1.20.2",
            "settings": settings.settings_of(config),
            "cluster": {key: settings.value_of(config, key) for key in settings.CLUSTER_KEYS},
            "node": NODE,
        }

    def agent_uid(self, node: str) -> str:
        """Return the UID of a node's agent."""
        pods = self.cilium().agent_pods(node)
        assert len(pods) == 1
        return str(pods[0]["metadata"]["uid"])

    @contextlib.contextmanager
    def controllers(self) -> Iterator[None]:
        """Remove terminating Pods, and create them again as their DaemonSets do."""

        def work(stop: threading.Event) -> None:
            while not stop.wait(0.2):
                with contextlib.suppress(KubernetesError):
                    self._work()

        with background(work):
            yield

    def _work(self) -> None:
        nodes = {node["metadata"]["name"] for node in self.api.nodes()}
        pods = self.api.request("GET", "/api/v1/pods")["items"]
        for pod in pods:
            meta, node = pod["metadata"], pod["spec"].get("nodeName")
            if not meta.get("deletionTimestamp"):
                continue
            path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"
            now = {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0}
            self.api.request("DELETE", path, now)
            if node in nodes and meta.get("ownerReferences") == DAEMON:
                if meta.get("labels", {}).get("k8s-app") == "cilium":
                    self.add_agent(node)
                else:
                    self.add_pod(f"daemon-{node}-{next(_COUNTER)}", node, DAEMON)

    def cilium_node(self, name: str, check: bool = False, **options: Any) -> dict[str, Any]:
        """Run the module cilium_node as Ansible does; return its result."""
        arguments = {"name": name, "kubeconfig": str(self.config), "timeout": 30, **options}
        return run_module("cilium_node", arguments, check)


_COUNTER = itertools.count(1)


def run_module(name: str, arguments: Mapping[str, Any], check: bool = False) -> dict[str, Any]:
    """Run a module as Ansible does; return its result."""
    internal = {"_ansible_check_mode": check, "_ansible_diff": True, "_ansible_remote_tmp": "/tmp"}
    done = subprocess.run(
        [sys.executable, str(CHECKOUT / f"plugins/modules/{name}.py")],
        input=json.dumps({"ANSIBLE_MODULE_ARGS": {**arguments, **internal}}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout, done.stderr
    return dict(json.loads(done.stdout))
