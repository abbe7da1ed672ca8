# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two Pods on a node, which only exist while its settings are verified."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .._core.plan import Change, Result, diff, listed
from .._ops.kubernetes import Json, KubernetesError
from . import containers
from .cluster import MANAGED, CiliumApi

POLL = 1.0  # seconds
LIFETIME = 3600  # seconds after which kubelet ends Pods of a run that was killed


@dataclass(frozen=True)
class Desired:
    """The module's options. Without ``image``, the Pods have the agent's, which the node has already."""

    node: str
    state: str  # present, absent
    namespace: str
    image: str = ""
    command: Sequence[str] = ("sleep", str(LIFETIME))
    timeout: float = 120  # seconds


def names(node: str) -> list[str]:
    """Return the names of a node's Pods."""
    digest = hashlib.sha256(node.encode()).hexdigest()[:12]
    return [f"podnet-probe-{digest}-{number}" for number in (1, 2)]


def run(api: CiliumApi, desired: Desired, check: bool, sleep: Callable[[float], None] = time.sleep) -> Result:
    """Create the Pods and wait until they run, or remove them; raises ``KubernetesError``."""
    path = f"/api/v1/namespaces/{desired.namespace}/pods"
    existing = {name: pod for name in names(desired.node) for pod in [api.api.find(f"{path}/{name}")] if pod}
    present = desired.state == "present"
    changes = [
        Change(f"pod {desired.namespace}/{name}", name in existing, present, desired.node)
        for name in names(desired.node)
        if (name in existing) != present
    ]
    addresses: list[str] = []
    if present and not check:
        for name in names(desired.node):
            if name not in existing:
                api.api.request("POST", path, _pod(api, desired, name))
        addresses = [str(pod["status"].get("podIP") or "") for pod in _wait(api, desired, path, sleep)]
    elif not check:
        for pod in existing.values():
            api.delete_pod(pod)
        _wait_until_gone(api, desired, path, sleep)
    pods = [f"{desired.namespace}/{name}" for name in names(desired.node)] if present else []
    values = {"pods": pods, "addresses": addresses}
    return Result(bool(changes), values, diff=[diff(f"Pods on {desired.node}", changes)])


def _pod(api: CiliumApi, desired: Desired, name: str) -> Json:
    image = desired.image or _agent_image(api, desired.node)
    container = {
        "name": "probe",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": list(desired.command),
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
        # As the Pod Security Standard "restricted" requires.
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "runAsNonRoot": True,
            "runAsUser": 65534,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {**MANAGED, "podnet.datapath/probe": "cilium"}},
        "spec": {
            "nodeName": desired.node,  # the scheduler does not use a cordoned node
            "tolerations": [{"operator": "Exists"}],
            "restartPolicy": "Never",
            "activeDeadlineSeconds": LIFETIME,
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "containers": [container],
        },
    }


def _agent_image(api: CiliumApi, node: str) -> str:
    for pod in api.agent_pods(node):
        for container in pod["spec"]["containers"]:
            if container["name"] == "cilium-agent":
                return str(container["image"])
    raise KubernetesError(
        f"{node} has no Pod of the agent whose image probe Pods can use: set cilium_probe_image"
    )


def _wait_until_gone(api: CiliumApi, desired: Desired, path: str, sleep: Callable[[float], None]) -> None:
    deadline = time.monotonic() + desired.timeout
    while True:
        remaining = [name for name in names(desired.node) if api.api.find(f"{path}/{name}")]
        if not remaining:
            return
        if time.monotonic() >= deadline:
            raise KubernetesError(
                f"{desired.node}: {listed(remaining)} still terminate after {desired.timeout:g} s: check the"
                " kubelet of the node"
            )
        sleep(POLL)


def _wait(api: CiliumApi, desired: Desired, path: str, sleep: Callable[[float], None]) -> list[Json]:
    """Return the Pods as soon as they run."""
    deadline = time.monotonic() + desired.timeout
    while True:
        pods = [api.api.find(f"{path}/{name}") or {} for name in names(desired.node)]
        if all((pod.get("status") or {}).get("phase") == "Running" for pod in pods):
            return pods
        if time.monotonic() >= deadline:
            states = [f"{name}: {_state(pod)}" for name, pod in zip(names(desired.node), pods)]
            raise KubernetesError(
                f"{desired.node}: the probe Pods do not run after {desired.timeout:g} s: {listed(states)}:"
                " set cilium_probe_image and cilium_probe_namespace to what the node can run, or set"
                " cilium_verify: false"
            )
        sleep(POLL)


def _state(pod: Json) -> str:
    phase = (pod.get("status") or {}).get("phase", "missing")
    return f"{phase} {containers.waiting_reason(pod)}".strip()
