# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restart a node's agent, and recreate the Pods whose devices are those of the former settings."""

from __future__ import annotations

import time
from collections.abc import Callable

from .._core.plan import listed
from .._ops.kubernetes import Json, KubernetesError
from .._ops.pods import controller, full_name, has_completed, is_mirror, is_ready
from . import containers
from .cluster import CiliumApi

POLL = 2.0  # seconds
# An agent that refuses its configuration never starts. Kubelet repeats it after 10, 20, 40 s and so on.
MAX_RESTARTS = 4
# The agent refuses to start while these Pods exist; they terminate at this time.
TEMPORARY = "existing endpoint"
NOT_READY_TAINT = "node.cilium.io/agent-not-ready"


def require_drained(api: CiliumApi, node: str) -> None:
    """Raise ``KubernetesError`` if Pods remain that no DaemonSet recreates with new devices."""
    names = [full_name(pod) for pod in _on_pod_network(api, node) if not _is_recreated(pod)]
    if names:
        raise KubernetesError(
            f"{node} is not drained: {listed(sorted(names))} would keep their devices, and with them the"
            " agent refuses to start: evict or stop them (fleet_kubernetes_pod_selector must not exclude"
            " them)"
        )


def agent_uid(api: CiliumApi, node: str) -> str:
    """Return the UID of the agent's Pod on a node; empty if there is none."""
    pods = [pod for pod in api.agent_pods(node) if not _terminates(pod)]
    return str(pods[0]["metadata"]["uid"]) if pods else ""


class Restart:
    """The restart of a node's agent, whose Pod has the UID ``former``.

    With ``recreate``, it deletes the Pods of DaemonSets that are older than the new agent. The agent cannot
    start before they have terminated.
    """

    def __init__(self, api: CiliumApi, node: str, former: str, recreate: bool) -> None:
        self._api, self._node, self._former, self._recreate = api, node, former, recreate
        self._deleted: dict[str, str] = {}  # names by UID

    def run(self, timeout: float, sleep: Callable[[float], None]) -> list[str]:
        """Wait until the new agent and the node are ready; return the names of the deleted Pods."""
        deadline = time.monotonic() + timeout
        while True:
            reason = self._step()
            if not reason:
                return sorted(self._deleted.values())
            if time.monotonic() >= deadline:
                raise KubernetesError(
                    f"{self._node}: {reason} after {timeout:g} s: check the events (kubectl describe), or set"
                    " a longer cilium_timeout"
                )
            sleep(POLL)

    def _step(self) -> str:
        """Do what is possible now; return what the restart waits for, empty if it is complete."""
        agents = self._api.agent_pods(self._node)
        for pod in agents:
            if pod["metadata"]["uid"] == self._former:
                if not _terminates(pod):
                    self._api.delete_pod(pod)
                return f"the agent's Pod {pod['metadata']['name']} still terminates"
        successors = [pod for pod in agents if not _terminates(pod)]
        if not successors:
            return "the DaemonSet of the agents has not created a new Pod"
        agent = successors[0]
        remaining = self._delete_older(agent["metadata"]["creationTimestamp"]) if self._recreate else []
        if not is_ready(agent):
            return self._waits_for(agent)
        if remaining:
            return f"{listed(sorted(remaining))} still terminate"
        node = self._api.api.node(self._node)
        taints = [str(taint.get("key")) for taint in node["spec"].get("taints") or []]
        if not is_ready(node) or NOT_READY_TAINT in taints:
            return "the agent is ready, but the node is not"
        return ""

    def _waits_for(self, agent: Json) -> str:
        """Return why an agent is not ready; raises ``KubernetesError`` if it never will be."""
        name, reason = agent["metadata"]["name"], containers.waiting_reason(agent)
        if reason and containers.restarts(agent) >= MAX_RESTARTS and TEMPORARY not in reason:
            raise KubernetesError(
                f"{self._node}: the agent {name} does not start: {reason}: correct the key that it rejects,"
                " or set the setting to keep"
            )
        return f"the agent {name} is not ready{f': {reason}' if reason else ''}"

    def _delete_older(self, since: str) -> list[str]:
        """Delete the Pods of DaemonSets that are not newer than ``since``; return those that still exist."""
        remaining = []
        for pod in filter(_is_recreated, _on_pod_network(self._api, self._node)):
            meta = pod["metadata"]
            # Timestamps have seconds. A Pod of the same second is deleted once.
            if meta["creationTimestamp"] > since:
                continue
            remaining.append(full_name(pod))
            if meta["uid"] not in self._deleted:
                self._deleted[meta["uid"]] = full_name(pod)
                if not _terminates(pod):
                    self._api.delete_pod(pod)
        return remaining


def _terminates(pod: Json) -> bool:
    return bool(pod["metadata"].get("deletionTimestamp"))


def _on_pod_network(api: CiliumApi, node: str) -> list[Json]:
    """Return the Pods of a node with an own network namespace that have not completed."""
    return [
        pod
        for pod in api.api.pods(node)
        if not (pod.get("spec") or {}).get("hostNetwork") and not has_completed(pod)
    ]


def _is_recreated(pod: Json) -> bool:
    """Return whether a DaemonSet recreates a Pod on the same node after its deletion."""
    return controller(pod) == "DaemonSet" and not is_mirror(pod)
