# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The restart of an agent, with Pods that terminate and are recreated from one poll to the next."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._cilium import restart
from ansible_collections.podnet.datapath.plugins.module_utils._ops.kubernetes import KubernetesError

NODE, AGENT = "n", "kube-system/cilium"
READY = {"conditions": [{"type": "Ready", "status": "True"}]}
SINCE, LATER = "2026-01-01T00:00:10Z", "2026-01-01T00:00:20Z"


def pod(name: str, uid: str, created: str, kind: str = "DaemonSet", **spec: Any) -> dict[str, Any]:
    """Return a running Pod."""
    namespace, _slash, name = name.partition("/")
    return {
        "metadata": {
            "namespace": namespace,
            "name": name,
            "uid": uid,
            "creationTimestamp": created,
            "ownerReferences": [{"kind": kind, "controller": True}] if kind else [],
        },
        "spec": spec,
        "status": READY,
    }


class Node:
    """A node in the API's place; ``sleep`` passes the time in which kubelet and DaemonSets act."""

    def __init__(self, *pods: dict[str, Any]) -> None:
        self.agents = [pod(AGENT, "former", SINCE, hostNetwork=True)]
        self.running = list(pods)
        self.deleted: list[str] = []
        self.taints: list[dict[str, str]] = [{"key": restart.NOT_READY_TAINT}]
        self.successor = pod(AGENT, "new", LATER, hostNetwork=True)
        self.api = self

    def agent_pods(self, _node: str) -> list[dict[str, Any]]:
        return self.agents

    def pods(self, _node: str) -> list[dict[str, Any]]:
        return [*self.agents, *self.running]

    def node(self, _name: str) -> dict[str, Any]:
        return {"spec": {"taints": self.taints}, "status": READY}

    def delete_pod(self, one: dict[str, Any]) -> None:
        self.deleted.append(one["metadata"]["uid"])
        one["metadata"]["deletionTimestamp"] = LATER

    def sleep(self, _seconds: float) -> None:
        for group in (self.agents, self.running):
            for one in [one for one in group if "deletionTimestamp" in one["metadata"]]:
                group.remove(one)
                if group is self.running:
                    self.running.append(pod("x/web", f"{one['metadata']['uid']}-again", LATER + "1"))
        if not self.agents:
            self.agents.append(self.successor)
        elif self.agents == [self.successor]:
            self.taints = []

    def restart(self, recreate: bool, timeout: float = 10) -> list[str]:
        found = restart.Restart(self, NODE, "former", recreate)  # type: ignore[arg-type]
        return found.run(timeout, self.sleep)


def test_former_agent_and_older_pods_are_deleted_once() -> None:
    node = Node(pod("x/web", "old", SINCE), pod("x/proxy", "host", SINCE, hostNetwork=True))
    assert node.restart(recreate=True) == ["x/web"]
    assert node.deleted == ["former", "old"] and node.agents == [node.successor]


def test_pods_stay_if_their_devices_do_not_change() -> None:
    node = Node(pod("x/web", "old", SINCE))
    assert node.restart(recreate=False) == [] and node.deleted == ["former"]


def test_an_agent_that_was_restarted_already_is_not_deleted_again() -> None:
    node = Node()
    node.agents = [node.successor]
    assert node.restart(recreate=True) == [] and node.deleted == []


@pytest.mark.parametrize(
    ("log", "restarts", "message"),
    [
        ("invalid routing mode", restart.MAX_RESTARTS, "n: the agent cilium does not start: .*routing mode"),
        ("invalid routing mode", 1, "n: the agent cilium is not ready: .* after 0 s: check the events"),
        (restart.TEMPORARY, restart.MAX_RESTARTS, "n: the agent cilium is not ready: .* after 0 s"),
    ],
)
def test_an_agent_that_does_not_start(log: str, restarts: int, message: str) -> None:
    """An agent that waits for former Pods to terminate may still start; one that rejects a key does not."""
    node = Node()
    state = {"waiting": {"reason": "CrashLoopBackOff"}}
    failed = {"state": state, "lastState": {"terminated": {"message": log}}, "restartCount": restarts}
    node.agents = [{**node.successor, "status": {"containerStatuses": [{"name": "agent", **failed}]}}]
    with pytest.raises(KubernetesError, match=message):
        node.restart(recreate=True, timeout=0)


def test_a_node_with_the_agents_taint_is_not_ready() -> None:
    node = Node()
    node.agents = [node.successor]
    with pytest.raises(KubernetesError, match="n: the agent is ready, but the node is not after 0 s"):
        node.restart(recreate=True, timeout=0)


@pytest.mark.parametrize(
    ("one", "drained"),
    [
        (pod("x/web", "a", SINCE), True),
        (pod("x/host", "a", SINCE, "", hostNetwork=True), True),
        ({**pod("x/job", "a", SINCE, "Job"), "status": {"phase": "Succeeded"}}, True),
        (pod("x/web", "a", SINCE, "ReplicaSet"), False),
        (pod("x/web", "a", SINCE, ""), False),
    ],
)
def test_pods_that_no_daemonset_recreates_must_be_drained(one: dict[str, Any], drained: bool) -> None:
    node: Any = Node(one)
    if drained:
        restart.require_drained(node, NODE)
        return
    with pytest.raises(KubernetesError, match="n is not drained: x/web would keep their devices"):
        restart.require_drained(node, NODE)


def test_uid_of_the_running_agent() -> None:
    node: Any = Node()
    assert restart.agent_uid(node, NODE) == "former"
    node.delete_pod(node.agents[0])
    assert restart.agent_uid(node, NODE) == ""
