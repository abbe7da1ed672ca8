# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Objects for an API server without kubelets and controllers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Json = dict[str, Any]
ANNOTATION = {"example.com/config": "0123456789abcdef" * 8}


def namespace(name: str, **labels: str) -> Json:
    return {"kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def pod_of(at: str, name: str, node: str, labels: dict[str, str]) -> Json:
    """Return a Pod of about 4 KiB, as large as those of many clusters."""
    probe = {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 10, "failureThreshold": 3}
    container: Json = {
        "image": "registry.example.com/team/application@sha256:" + "0" * 64,
        "env": [{"name": f"SETTING_{index}", "value": f"value of setting {index}"} for index in range(8)],
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
        "volumeMounts": [{"name": "config", "mountPath": "/etc/config", "readOnly": True}],
    }
    app = {
        "ports": [{"name": "http", "containerPort": 8080}],
        "livenessProbe": probe,
        "readinessProbe": probe,
    }
    return {
        "kind": "Pod",
        "metadata": {"name": name, "namespace": at, "labels": labels, "annotations": ANNOTATION},
        "spec": {
            "nodeName": node,
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "app", **container, **app}, {"name": "proxy", **container}],
            "volumes": [{"name": "config", "configMap": {"name": "config"}}],
        },
    }


def pod_status(found: Sequence[str]) -> Json:
    """Return the status of a running Pod with addresses."""
    now = "2026-01-01T00:00:00Z"
    kinds = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")
    return {
        "phase": "Running",
        "podIP": found[0],
        "podIPs": [{"ip": one} for one in found],
        "startTime": now,
        "conditions": [{"type": kind, "status": "True", "lastTransitionTime": now} for kind in kinds],
    }


def policy(at: str, name: str, labels: dict[str, str], **rules: Any) -> Json:
    """Return a policy for Pods with labels."""
    spec = {"podSelector": {"matchLabels": labels}, **rules}
    return {"kind": "NetworkPolicy", "metadata": {"name": name, "namespace": at}, "spec": spec}


def service(at: str, name: str, port: int = 80, protocol: str = "TCP") -> Json:
    """Return a service of both families without a selector."""
    ports = [{"name": "p", "port": port, "protocol": protocol}]
    spec = {"ports": ports, "ipFamilyPolicy": "RequireDualStack"}
    return {"kind": "Service", "metadata": {"name": name, "namespace": at}, "spec": spec}


def endpoint_slice(
    at: str, of: str, family: int, found: list[str], port: int = 8080, protocol: str = "TCP"
) -> Json:
    """Return the EndpointSlice of a service and family."""
    meta = {"name": f"{of}-{family}", "namespace": at, "labels": {"kubernetes.io/service-name": of}}
    return {
        "kind": "EndpointSlice",
        "metadata": meta,
        "addressType": f"IPv{family}",
        "ports": [{"name": "p", "port": port, "protocol": protocol}],
        "endpoints": [{"addresses": [one], "conditions": {"ready": True}} for one in found],
    }
