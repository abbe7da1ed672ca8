# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Cordon, drain and uncordon a Kubernetes node.

A node that this collection cordons is annotated with the owner, and only such a node is uncordoned.
Source: kubernetes.io/docs, "Safely Drain a Node".
"""

from __future__ import annotations

import contextlib
import datetime
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from .._core.plan import Change, Plan, Result
from .kubernetes import ANNOTATION, Api, Json, KubernetesError
from .pods import controller, full_name, has_completed, is_mirror

POLL = 2.0  # seconds


@dataclass(frozen=True)
class Desired:
    """The module's options."""

    name: str
    state: str  # cordoned, drained, uncordoned
    owner: str = "site"
    force: bool = False
    delete_emptydir_data: bool = False
    grace_period: int | None = None  # seconds
    timeout: int = 600  # seconds
    max_cordoned: int = 0
    pod_selector: str = ""
    disable_eviction: bool = False
    skip_wait_for_delete_timeout: int = 0  # seconds


@dataclass(frozen=True)
class Current:
    """The cluster as far as a plan needs it; ``pods`` are those on the node."""

    node: Json
    nodes: Sequence[Json] = ()
    pods: Sequence[Json] = ()


@dataclass(frozen=True)
class DrainPlan(Plan):
    """The plan for one node."""

    cordoned: bool = False
    evictions: Sequence[Json] = ()
    note: str = ""


def cordoned_by(node: Json) -> str:
    """Return the owner for whom this collection cordoned the node; empty if it did not."""
    return str((node["metadata"].get("annotations") or {}).get(ANNOTATION) or "")


def evictable(pods: Iterable[Json], force: bool, delete_emptydir_data: bool) -> tuple[list[Json], list[str]]:
    """Return the Pods to evict, and a reason for each whose eviction needs one of the two options.

    Skips Pods of DaemonSets, which are recreated at once, and mirror Pods, which are files on the node.
    Completed Pods can be evicted without an option.
    """
    found, refused = [], []
    for pod in pods:
        owner, completed = controller(pod), has_completed(pod)
        if owner == "DaemonSet" or is_mirror(pod):
            continue
        if not completed and not owner and not force:
            refused.append(f"{full_name(pod)} has no controller that recreates it")
        volumes = (pod.get("spec") or {}).get("volumes") or []
        if not completed and not delete_emptydir_data and any("emptyDir" in volume for volume in volumes):
            refused.append(f"{full_name(pod)} has an emptyDir, whose data would be lost")
        found.append(pod)
    return found, refused


def over_limit(nodes: Iterable[Json], name: str, limit: int) -> str:
    """Return an error if cordoning ``name`` would exceed ``limit`` cordoned nodes, else an empty string."""
    others = sorted(
        node["metadata"]["name"] for node in nodes if cordoned_by(node) and node["metadata"]["name"] != name
    )
    if not limit or len(others) < limit:
        return ""
    return (
        f"max_cordoned: this collection has cordoned {len(others)} other nodes ({', '.join(others[:10])}),"
        f" and the "
        f"limit is {limit}: roll out to those nodes again, which uncordons them, or raise"
        f" fleet_max_unavailable"
    )


def read(api: Api, desired: Desired) -> Current:
    """Return the current state; raises ``KubernetesError``."""
    node = api.node(desired.name)
    nodes = api.nodes() if desired.max_cordoned and desired.state != "uncordoned" else []
    return Current(node, nodes, _selected(api, desired) if desired.state == "drained" else [])


def _selected(api: Api, desired: Desired) -> list[Json]:
    pods = api.pods(desired.name, desired.pod_selector)
    return [pod for pod in pods if not stuck(pod, desired.skip_wait_for_delete_timeout, time.time())]


def stuck(pod: Json, limit: int, now: float) -> bool:
    """Return whether a Pod should have terminated more than ``limit`` seconds ago; 0 is no limit."""
    stamp = pod["metadata"].get("deletionTimestamp")
    if limit <= 0 or not stamp:
        return False
    return now - datetime.datetime.fromisoformat(stamp.replace("Z", "+00:00")).timestamp() > limit


def plan(current: Current, desired: Desired) -> DrainPlan:
    """Return the plan that cordons, drains or uncordons a node."""
    cordoned = bool(current.node["spec"].get("unschedulable"))
    owner = cordoned_by(current.node)
    if desired.state == "uncordoned":
        return _uncordon(cordoned, owner, desired)
    problems = []
    pods: list[Json] = []
    if desired.state == "drained":
        pods, refused = evictable(current.pods, desired.force, desired.delete_emptydir_data)
        if refused:
            problems.append(
                f"{desired.name} is not drained: {'; '.join(refused)}: move these Pods, or set "
                "fleet_kubernetes_force (no controller) or fleet_kubernetes_delete_emptydir_data (emptyDir)"
            )
    problem = over_limit(current.nodes, desired.name, desired.max_cordoned)
    if problem:
        problems.append(problem)
    changes = [] if cordoned else [Change("cordoned", False, True, desired.name)]
    changes += [Change(f"pod {full_name(pod)}", "running", None, desired.name) for pod in pods]
    note = "the node was cordoned before and stays cordoned" if cordoned and not owner else ""
    return DrainPlan(
        subsystem="kubernetes",
        changes=changes,
        problems=problems[:1],
        cordoned=True,
        evictions=pods,
        note=note,
    )


def _uncordon(cordoned: bool, owner: str, desired: Desired) -> DrainPlan:
    if owner != desired.owner:
        who = f"owner {owner}" if owner else "others"
        note = f"{who} cordoned the node, so it stays cordoned" if cordoned else ""
        return DrainPlan(subsystem="kubernetes", cordoned=cordoned, note=note)
    return DrainPlan(
        subsystem="kubernetes", changes=[Change("cordoned", cordoned, False, desired.name)], cordoned=False
    )


def apply(
    api: Api,
    current: Current,
    desired: Desired,
    found: DrainPlan,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Cordon or uncordon the node, then evict its Pods and wait until they are gone.

    Raises ``KubernetesError``; a node that cannot be drained stays cordoned.
    """
    version = current.node["metadata"]["resourceVersion"]
    for change in found.changes:
        if change.name == "cordoned":
            owner = desired.owner if change.after else None
            api.patch_node(desired.name, bool(change.after) or None, owner, version)
    if found.evictions:
        _evict(api, desired, list(found.evictions), sleep)


def _evict(api: Api, desired: Desired, pods: list[Json], sleep: Callable[[float], None]) -> None:
    version = "" if desired.disable_eviction else api.eviction_version()
    deadline = time.monotonic() + desired.timeout
    requested: set[str] = set()
    refusals: dict[str, KubernetesError] = {}
    while True:
        for pod in pods:
            uid = pod["metadata"]["uid"]
            if uid in requested or pod["metadata"].get("deletionTimestamp"):
                continue
            try:
                if version:
                    api.evict(pod, version, desired.grace_period)
                else:
                    api.delete(pod, desired.grace_period)
                refusals.pop(uid, None)
                requested.add(uid)
            except KubernetesError as error:
                if error.status in (404, 409):  # The Pod is gone, or another Pod has its name.
                    refusals.pop(uid, None)
                    requested.add(uid)
                elif version and error.status in (429, 500):  # A budget refuses it, or it has two budgets.
                    refusals[uid] = error
                else:
                    raise
        present = {pod["metadata"]["uid"]: pod for pod in api.pods(desired.name)}
        now = time.time()
        pods = [
            pod
            for pod in pods
            if pod["metadata"]["uid"] in present
            and not stuck(present[pod["metadata"]["uid"]], desired.skip_wait_for_delete_timeout, now)
        ]
        if not pods:
            return
        if time.monotonic() >= deadline:
            raise _timed_out(api, desired, pods, refusals, version)
        sleep(POLL)


def _timed_out(
    api: Api, desired: Desired, pods: Iterable[Json], refusals: Mapping[str, KubernetesError], version: str
) -> KubernetesError:
    reasons, refused, terminating = [], False, False
    for pod in pods:
        error = refusals.get(pod["metadata"]["uid"])
        if not error:
            terminating = True
            reasons.append(f"{full_name(pod)} still terminates")
            continue
        refused = True
        budgets: list[str] = []
        with contextlib.suppress(KubernetesError):  # The account may not be allowed to list them.
            budgets = api.budgets(pod, version)
        named = f" (PodDisruptionBudget {', '.join(budgets)})" if budgets else ""
        reasons.append(f"{full_name(pod)}{named}: {error}")
    remedies = []
    if refused:
        remedies.append(
            "check the PodDisruptionBudgets, or delete the Pods regardless of them"
            " (fleet_kubernetes_disable_eviction)"
        )
    if terminating:
        remedies.append(
            "check the kubelet and the finalizers of Pods that still terminate, or do not wait for them"
            " (fleet_kubernetes_skip_wait_for_delete_timeout)"
        )
    remedies.append("allow more time (fleet_kubernetes_timeout)")
    return KubernetesError(
        f"{desired.name} is not drained after {desired.timeout} s and stays cordoned: {'; '.join(reasons)}:"
        f" {'; '.join(remedies)}"
    )


def run(api: Api, desired: Desired, check: bool, sleep: Callable[[float], None] = time.sleep) -> Result:
    """Bring a node to the desired state, with ``check`` only plan it; raises ``Problem``."""
    current = read(api, desired)
    found = plan(current, desired)
    found.require_valid()
    if not check:
        apply(api, current, desired, found, sleep)
    before = bool(current.node["spec"].get("unschedulable"))
    evicted = sorted(full_name(pod) for pod in found.evictions)
    return Result(
        bool(found),
        {"cordoned": found.cordoned, "was_cordoned": before, "evicted": evicted, "note": found.note},
        diff=[_diff(before, found.cordoned, evicted)],
    )


def _diff(before: bool, after: bool, evicted: Sequence[str]) -> dict[str, str]:
    return {
        "before": f"cordoned: {str(before).lower()}\n" + "".join(f"pod: {pod}\n" for pod in evicted),
        "after": f"cordoned: {str(after).lower()}\n",
    }
