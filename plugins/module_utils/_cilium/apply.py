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

from .._core.plan import Change, Problem, Result, diff
from .cluster import FACTS, CiliumApi, NodeState, Pending, hash_of
from .model import Target, agent_of, node_of
from .plan import CiliumPlan, plan, plan_absent
from .restart import Restart, agent_uid, require_drained


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
        require_drained(api, desired.name)
    api.ensure_config(state, found.keys)
    if not restart:
        api.set_override(state, label, None)
        return []
    former, agent = state.pending, agent_uid(api, desired.name)
    pending = Pending(
        former.label if former else state.label,
        # The same label: the run that was interrupted may have restarted the agent already.
        former.agent if former and label == state.label else agent,
        former.facts if former else {name: desired.facts[name] for name in FACTS},
    )
    api.set_override(state, label, pending)
    recreate = found.new_pods or former is not None
    return Restart(api, desired.name, pending.agent, recreate).run(desired.timeout, sleep)


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
    agent = agent_uid(api, desired.name)
    # The agent did not start since, so that it still has the former settings.
    restart = agent != pending.agent or state.label == pending.label
    recreated: list[str] = []
    if not check:
        if state.label != pending.label:
            pending = Pending(pending.label, agent, pending.facts)
        api.set_override(state, pending.label, pending if restart else None)
        if restart:
            recreated = Restart(api, desired.name, pending.agent, True).run(desired.timeout, sleep)
    values = {"pending": restart, "expected": pending.settings, "restart": restart}
    return Result(True, {**values, "recreated": recreated})
