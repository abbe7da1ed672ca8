# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Give one node its own settings of Cilium, confirm them, or restore the former ones.

The cluster's objects have all state, so that a killed run can be repeated: the node's label says which keys
apply, its annotation what to restore and which Pod of the agent ran before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .._core.plan import Change, Problem, Result, diff, listed
from .._ops.kubernetes import Json, KubernetesError
from .._ops.pods import controller, full_name, has_completed, is_mirror, is_ready
from . import containers
from .cluster import FACTS, CiliumApi, NodeState, Pending, hash_of
from .model import Target, agent_of, node_of
from .plan import CiliumPlan, plan, plan_absent

POLL = 2.0  # seconds
# An agent that refuses its configuration never starts. Kubelet repeats it after 10, 20, 40 s and so on.
MAX_RESTARTS = 4
# The agent refuses to start while these Pods exist; they terminate at this time.
TEMPORARY = "existing endpoint"
NOT_READY_TAINT = "node.cilium.io/agent-not-ready"


@dataclass(frozen=True)
class Desired:
    """The module's options; ``facts`` are the return values of cilium_info on the node."""

    name: str
    state: str  # present, absent, confirmed, restored
    settings: Mapping[str, str] = field(default_factory=dict)
    accepted: Sequence[str] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    timeout: float = 600  # seconds


def run(api: CiliumApi, desired: Desired, check: bool, sleep: Callable[[float], None] = time.sleep) -> Result:
    """Bring the node to the desired state, with ``check`` only plan it; raises ``Problem``."""
    state = api.state(desired.name)
    if desired.state == "confirmed":
        return _confirm(api, state, check)
    if desired.state == "restored":
        return _restore(api, state, desired, check, sleep)
    found = _planned(state, desired)
    found.require_valid()
    label, pending = hash_of(found.keys), state.pending
    restart = found.restart or pending is not None
    changed = restart or label != state.label
    values = {
        **_values(state, found),
        "pending": pending is not None,
        "restart": restart,
        "changes": [
            *(change.name for change in found.changes),
            *(["override"] if label != state.label else []),
            *(["confirmation"] if pending else []),
        ],
        "peers": api.peers(desired.name),
    }
    recreated: list[str] = []
    if changed and not check:
        recreated = _apply(api, state, found, label, restart, desired, sleep)
        values["pending"] = restart
    return Result(changed, {**values, "recreated": recreated}, diff=[_diff(state, found, label)])


def _planned(state: NodeState, desired: Desired) -> CiliumPlan:
    facts = desired.facts
    if not facts.get("running"):
        # The agent may be stopped because an earlier run was interrupted.
        if state.pending is None:
            raise Problem(
                f"{desired.name}: the Cilium agent does not answer, so that its settings are unknown: repair"
                f" it first: {facts.get('error')}"
            )
        facts = state.pending.facts
    try:
        node, agent = node_of(facts), agent_of(facts)
    except (KeyError, TypeError) as error:
        raise Problem(
            f"facts: the value does not consist of return values of cilium_info ({error!r}): pass what the"
            " module returned on this node"
        ) from None
    target = Target(desired.name, state.cluster, node, agent, frozenset(desired.accepted))
    return plan_absent(target) if desired.state == "absent" else plan(target, desired.settings)


def _values(state: NodeState, found: CiliumPlan) -> dict[str, Any]:
    return {
        "rows": [row.as_dict() for row in found.rows],
        "keys": dict(found.keys),
        "expected": dict(found.expected),
        "config": state.cluster.configured(),
    }


def _diff(state: NodeState, found: CiliumPlan, label: str) -> dict[str, str]:
    before = state.own.get(state.label, {})
    keys = [Change(key, before.get(key), found.keys.get(key)) for key in sorted({*before, *found.keys})]
    return diff(
        f"Cilium on {state.name}", [*found.changes, *(one for one in keys if one.before != one.after)]
    )


def _apply(
    api: CiliumApi,
    state: NodeState,
    found: CiliumPlan,
    label: str,
    restart: bool,
    desired: Desired,
    sleep: Callable[[float], None],
) -> list[str]:
    """Change the override, restart the agent if need be; return the recreated Pods."""
    if restart and (found.new_pods or state.pending):
        _require_drained(api, desired.name)
    api.ensure_config(state, found.keys)
    if not restart:
        api.set_override(state, label, None)
        return []
    former, agent = state.pending, _agent_uid(api, desired.name)
    pending = Pending(
        former.label if former else state.label,
        # The same label: the run that was interrupted may have restarted the agent already.
        former.agent if former and label == state.label else agent,
        former.facts if former else {name: desired.facts[name] for name in FACTS},
    )
    api.set_override(state, label, pending)
    return _restart(
        api, desired.name, pending.agent, found.new_pods or former is not None, desired.timeout, sleep
    )


def _confirm(api: CiliumApi, state: NodeState, check: bool) -> Result:
    pending = state.pending
    if pending and not check:
        api.set_override(state, state.label, None)
        api.remove_unused()
    return Result(pending is not None, {"pending": False})


def _restore(
    api: CiliumApi, state: NodeState, desired: Desired, check: bool, sleep: Callable[[float], None]
) -> Result:
    """Restore what the unconfirmed change replaced. The annotation stays until the settings are confirmed."""
    pending = state.pending
    if pending is None:
        return Result(False, {"pending": False, "expected": {}, "recreated": [], "restart": False})
    agent = _agent_uid(api, desired.name)
    # The agent did not start since, so that it still has the former settings.
    restart = agent != pending.agent or state.label == pending.label
    recreated: list[str] = []
    if not check:
        if state.label != pending.label:
            pending = Pending(pending.label, agent, pending.facts)
        api.set_override(state, pending.label, pending if restart else None)
        if restart:
            recreated = _restart(api, desired.name, pending.agent, True, desired.timeout, sleep)
    values = {"pending": restart, "expected": pending.settings, "restart": restart}
    return Result(True, {**values, "recreated": recreated})


def _require_drained(api: CiliumApi, node: str) -> None:
    """Raise ``KubernetesError`` if Pods remain that no DaemonSet recreates with new devices."""
    names = [full_name(pod) for pod in _on_pod_network(api, node) if not _is_recreated(pod)]
    if names:
        raise KubernetesError(
            f"{node} is not drained: {listed(sorted(names))} would keep their devices, and with them the"
            " agent refuses to start: evict or stop them (fleet_kubernetes_pod_selector must not exclude"
            " them)"
        )


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


def _agent_uid(api: CiliumApi, node: str) -> str:
    """Return the UID of the agent's Pod on a node; empty if there is none."""
    pods = [pod for pod in api.agent_pods(node) if not pod["metadata"].get("deletionTimestamp")]
    return str(pods[0]["metadata"]["uid"]) if pods else ""


def _restart(
    api: CiliumApi,
    node: str,
    former: str,
    recreate: bool,
    timeout: float,
    sleep: Callable[[float], None],
) -> list[str]:
    """Delete the agent's Pod ``former`` and wait until its successor and the node are ready.

    With ``recreate``, deletes the Pods of DaemonSets that are older than the successor, because their devices
    are those of the former settings. The agent cannot start before they have terminated. Returns their names.
    """
    deadline = time.monotonic() + timeout
    deleted: dict[str, str] = {}
    while True:
        agents = api.agent_pods(node)
        reason = _progress(api, node, agents, former, recreate, deleted)
        if not reason:
            return sorted(deleted.values())
        if time.monotonic() >= deadline:
            raise KubernetesError(
                f"{node}: {reason} after {timeout:g} s: check the events (kubectl describe), or set a longer"
                " cilium_timeout"
            )
        sleep(POLL)


def _progress(
    api: CiliumApi, node: str, agents: Sequence[Json], former: str, recreate: bool, deleted: dict[str, str]
) -> str:
    """Do the next step of a restart; return what it waits for, empty if it is complete."""
    for pod in agents:
        if pod["metadata"]["uid"] == former:
            if not pod["metadata"].get("deletionTimestamp"):
                api.delete_pod(pod)
            return f"the agent's Pod {pod['metadata']['name']} still terminates"
    successors = [pod for pod in agents if not pod["metadata"].get("deletionTimestamp")]
    if not successors:
        return "the DaemonSet of the agents has not created a new Pod"
    agent = successors[0]
    remaining = _recreate(api, node, agent["metadata"]["creationTimestamp"], deleted) if recreate else []
    trouble = containers.waiting_reason(agent)
    if not is_ready(agent):
        name = agent["metadata"]["name"]
        if trouble and containers.restarts(agent) >= MAX_RESTARTS and TEMPORARY not in trouble:
            raise KubernetesError(
                f"{node}: the agent {name} does not start: {trouble}: correct the key that it rejects, or set"
                " the setting to keep"
            )
        return f"the agent {name} is not ready{f': {trouble}' if trouble else ''}"
    if remaining:
        return f"{listed(sorted(remaining))} still terminate"
    current = api.api.node(node)
    taints = [str(taint.get("key")) for taint in current["spec"].get("taints") or []]
    if not is_ready(current) or NOT_READY_TAINT in taints:
        return "the agent is ready, but the node is not"
    return ""


def _recreate(api: CiliumApi, node: str, since: str, deleted: dict[str, str]) -> list[str]:
    """Delete the Pods of DaemonSets that are not newer than ``since``; return the ones that still exist."""
    remaining = []
    for pod in filter(_is_recreated, _on_pod_network(api, node)):
        meta = pod["metadata"]
        # Timestamps have seconds. A Pod of the same second is deleted once.
        if meta["creationTimestamp"] > since:
            continue
        remaining.append(full_name(pod))
        if meta["uid"] not in deleted:
            deleted[meta["uid"]] = remaining[-1]
            if not meta.get("deletionTimestamp"):
                api.delete_pod(pod)
    return remaining
