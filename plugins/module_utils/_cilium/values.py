# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Helm values that replace the overrides of all nodes, and the check that their removal changes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .._core.plan import Change, Plan, Problem, Result, diff, listed
from .cluster import CiliumApi, NodeState
from .model import Cluster
from .settings import KEYS, same, value_of


@dataclass(frozen=True)
class Overridden:
    """A node with an agent: its configuration without our override, and the keys of the override."""

    name: str
    cluster: Cluster
    keys: Mapping[str, str]
    pending: bool = False


def helm_values(keys: Mapping[str, str]) -> dict[str, Any]:
    """Return keys of the ConfigMap as values of Cilium's chart."""
    found: dict[str, Any] = {}
    for key in sorted(keys, key=list(KEYS).index):
        *parents, name = KEYS[key].chart.split(".")
        inner = found
        for parent in parents:
            inner = inner.setdefault(parent, {})
        value = keys[key]
        inner[name] = value == "true" if value in ("true", "false") else value
    return found


def common_keys(nodes: Sequence[Overridden]) -> tuple[dict[str, str], list[str]]:
    """Return the keys that replace the overrides of all nodes, and why there are none for some of them.

    A value of the chart applies to all nodes. So it may only be set if each node has it already.
    """
    problems = [
        f"{node.name}: its change is not confirmed: run the rollout for this node again"
        for node in nodes
        if node.pending
    ]
    found: dict[str, str] = {}
    for key in sorted({key for node in nodes for key in node.keys}):
        having: dict[str, list[str]] = {}
        for node in nodes:
            having.setdefault(value_of(node.cluster.configured(node.keys), key), []).append(node.name)
        if len(having) == 1:
            found[key] = next(iter(having))
            continue
        shown = "; ".join(
            f"{value} on {listed(sorted(names)[:5])}" for value, names in sorted(having.items())
        )
        problems.append(
            f"{key} is not the same on all nodes ({shown}): migrate the remaining nodes, or keep the"
            " overrides"
        )
    return found, problems


def differences(nodes: Sequence[Overridden]) -> list[str]:
    """Return what a restart of the agents would change if the overrides were removed now."""
    return [
        f"{node.name}: {key} would change from {value} to {value_of(node.cluster.configured(), key)}"
        for node in nodes
        for key, value in node.keys.items()
        if not same(node.cluster.configured(), key, value)
    ]


def compare(rendered: Mapping[str, str], current: Mapping[str, str], keys: Mapping[str, str]) -> list[str]:
    """Return how a ConfigMap that the chart rendered differs from the current one with ``keys``.

    Keys that the chart does not render keep the agent's default.
    """
    expected = {**current, **keys}
    return [
        f"{key}: {expected.get(key, '(not set)')} would become {rendered.get(key, '(not set)')}"
        for key in sorted({*expected, *rendered})
        if not same(rendered, key, value_of(expected, key))
    ]


# The module


def run(api: CiliumApi, absent: bool, rendered: Mapping[str, str] | None, check: bool) -> Result:
    """Return the values that replace the overrides; with ``absent``, remove them unless that changes a node.

    Raises ``Problem``.
    """
    states = api.states()
    nodes = [_overridden(state) for state in states]
    keys, problems = common_keys(nodes)
    remaining = differences(nodes)
    labelled = [state for state in states if state.label]
    current = states[0].cluster.config if states else {}
    values = {
        "values": helm_values(keys),
        "keys": keys,
        "nodes": {node.name: dict(node.keys) for node in nodes if node.keys},
        "problems": problems,
        "differences": remaining,
        "rendered_differences": [] if rendered is None else compare(rendered, current, keys),
    }
    if not absent:
        return Result(False, values)
    found = Plan(
        subsystem="cilium",
        changes=[Change("override", state.label, None, state.name) for state in labelled],
        problems=[
            *problems,
            *(f"{one}: set the values of cilium-values.yaml for the cluster first" for one in remaining),
        ],
    )
    found.require_valid()
    if not check:
        for state in labelled:
            api.set_override(state, "", None)
        api.remove_unused()
    return Result(bool(found), values, diff=[diff("Cilium", found.changes)])


def _overridden(state: NodeState) -> Overridden:
    if state.label and state.label not in state.own:
        raise Problem(
            f"{state.name}: its CiliumNodeConfig does not exist (label {state.label}), so that the next"
            " restart of its agent restores the cluster's configuration: run the rollout for this node again"
        )
    return Overridden(state.name, state.cluster, state.own.get(state.label, {}), state.pending is not None)
