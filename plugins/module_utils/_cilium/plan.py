# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plan the settings of Cilium on one node: a pure function of the target and the requested settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from .._core.plan import Change, Plan
from .model import Target
from .prerequisites import AVAILABLE, SINGLE_FAMILY, evaluate
from .settings import (
    AUTO,
    BIG,
    CLUSTER_KEYS,
    IPS,
    KEEP,
    NEWEST,
    OLDEST,
    SETTINGS,
    Scope,
    enabled,
    guide,
    keys_for,
    release,
    same,
    settings_of,
    value_of,
)
from .validation import netkit_errors, startup_errors

ENABLED = "enabled"  # the state of a setting that the agent has, beside those of ``prerequisites``


@dataclass(frozen=True)
class Row:
    """A node's state of one setting, for the report."""

    setting: str
    state: str  # enabled, available, prerequisite missing, unsupported
    current: str
    requested: str
    scope: str
    reason: str = ""

    def as_dict(self) -> dict[str, str]:
        """Return the row as modules return it."""
        return dict(vars(self))


@dataclass(frozen=True)
class CiliumPlan(Plan):
    """The plan for one node: the ``keys`` to override, and the settings that the agent then reports."""

    rows: Sequence[Row] = ()
    keys: Mapping[str, str] = field(default_factory=dict)
    expected: Mapping[str, str] = field(default_factory=dict)

    @property
    def restart(self) -> bool:
        """Return whether the agent does not have the expected settings yet."""
        return any(change.name in SETTINGS for change in self.changes)

    @property
    def new_pods(self) -> bool:
        """Return whether existing Pods of the node have to be recreated."""
        return any(
            change.name in SETTINGS and SETTINGS[change.name].scope is Scope.PODS for change in self.changes
        )


def desired_values(requested: Mapping[str, str]) -> dict[str, str]:
    """Return the requested value of each setting, ``auto`` for those not named."""
    return {name: requested.get(name, AUTO) for name in SETTINGS}


def plan(target: Target, requested: Mapping[str, str]) -> CiliumPlan:
    """Return the plan that gives a node the requested settings with the fewest overridden keys."""
    target = _with_observed(target)
    agent, problems = target.agent, [*_version_problems(target), *_cluster_problems(target)]
    own: dict[str, str] = {}
    rows = []
    expected = dict(agent.settings)
    for name, wanted in _ordered(desired_values(requested)):
        setting, current = SETTINGS[name], agent.settings.get(name, "")
        value = setting.best if wanted == KEEP else _automatic(name, target) if wanted == AUTO else wanted
        verdict = evaluate(name, value, target, own)
        if wanted not in (AUTO, KEEP) and verdict.state != AVAILABLE and current != wanted:
            problems.append(
                f"{target.name}: {name}: {wanted}: {verdict.state}: {verdict.reason}; or request auto"
            )
        decided = value if wanted != KEEP and verdict.state == AVAILABLE else current
        if decided in setting.values:
            own.update(_changed_keys(name, decided, target, own))
            expected[name] = decided
        if current == value:
            rows.append(Row(name, ENABLED, current, wanted, setting.scope.value))
        else:
            rows.append(Row(name, verdict.state, current, wanted, setting.scope.value, verdict.reason))
    rows.sort(key=lambda row: list(SETTINGS).index(row.setting))
    return _complete(target, problems, rows, expected, own)


def _with_observed(target: Target) -> Target:
    """Return the target with what the settings of its agent prove about the node."""
    tunnel = target.agent.cluster.get("routing-mode") == "tunnel"
    big_tcp = target.agent.settings.get("big_tcp", "disabled") != "disabled"
    return replace(target, node=replace(target.node, tunnel_big_tcp=tunnel and big_tcp))


def _ordered(requested: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the settings in an order in which each value depends on earlier ones only.

    A setting that is turned off no longer requires those above it in ``SETTINGS``.
    """
    off = [name for name in requested if requested[name] == SETTINGS[name].values[0]]
    return [(name, requested[name]) for name in [*reversed(off), *(n for n in requested if n not in off)]]


def _automatic(name: str, target: Target) -> str:
    """Return the value that ``auto`` requests. Older kernels may have one family of BIG TCP only."""
    node = target.node
    if name == "device_mode" and target.agent.settings.get(name) == "netkit-l2":
        return "netkit-l2"
    if name != "big_tcp" or release(node.kernel) >= SINGLE_FAMILY:
        return SETTINGS[name].best
    config = target.cluster.configured()
    has = {"ipv4": node.ipv4_big_tcp, "ipv6": node.ipv6_big_tcp}
    families = [ip for ip in IPS if has[ip] and enabled(config, f"enable-{ip}")]
    return families[0] if len(families) == 1 else "enabled"


def _changed_keys(name: str, value: str, target: Target, own: Mapping[str, str]) -> dict[str, str]:
    """Return the keys of a setting that differ from the configuration without our override."""
    base = target.cluster.configured()
    configured = settings_of(base)[name]
    if configured == value or (configured == AUTO and value == target.agent.settings.get(name)):
        return {}
    keys = keys_for(name, value, target.cluster.configured(own))
    return {key: wanted for key, wanted in keys.items() if not same(base, key, wanted)}


def plan_absent(target: Target) -> CiliumPlan:
    """Return the plan that removes our override, so that the cluster's configuration applies again."""
    target = _with_observed(target)
    config, node, agent = target.cluster.configured(), target.node, target.agent
    settings = settings_of(config)
    if settings["big_tcp"] != "disabled" and node.gso_limit <= BIG:
        settings["big_tcp"] = "disabled"
    if settings["device_mode"] == AUTO:
        refused = netkit_errors({**config, "datapath-mode": "netkit"}, node, agent.version)
        settings["device_mode"] = "veth" if refused else "netkit"
    rows = [
        Row(
            name,
            ENABLED if agent.settings.get(name) == value else AVAILABLE,
            agent.settings.get(name, ""),
            value,
            SETTINGS[name].scope.value,
        )
        for name, value in settings.items()
    ]
    return _complete(target, _cluster_problems(target), rows, settings, {})


def _complete(
    target: Target,
    problems: Sequence[str],
    rows: Sequence[Row],
    expected: Mapping[str, str],
    keys: Mapping[str, str],
) -> CiliumPlan:
    """Return the plan with its changes and the agent's checks of the complete configuration."""
    agent = target.agent
    changes = [
        Change(name, agent.settings.get(name), value, target.name)
        for name, value in expected.items()
        if agent.settings.get(name) != value
    ]
    refused = startup_errors(target.cluster.configured(keys), target.node, agent.version) if changes else []
    return CiliumPlan(
        subsystem="cilium",
        changes=changes,
        problems=[
            *problems,
            *(f"{target.name}: the agent would refuse to start: {reason}" for reason in refused),
        ],
        rows=rows,
        keys=keys,
        expected=expected,
    )


def _version_problems(target: Target) -> list[str]:
    version = target.agent.version
    if OLDEST <= release(version) <= NEWEST:
        return []
    oldest, newest = (".".join(map(str, one)) for one in (OLDEST, NEWEST))
    return [
        f"{target.name}: Cilium {version or 'of unknown version'} is not supported: this release of the"
        f" collection knows the checks of the agents of {oldest} to {newest}; upgrade the older one"
    ]


def _cluster_problems(target: Target) -> list[str]:
    """Return a problem for each change of the whole cluster that a restart of this agent would make."""
    config = target.cluster.configured()
    found = []
    for key in CLUSTER_KEYS:
        reported = target.agent.cluster.get(key)
        if reported and not same(config, key, reported):
            found.append(
                f"{target.name}: the ConfigMap has {key}: {value_of(config, key)}, but the agent runs with"
                f" {reported}, so its restart would change it on this node only; {guide(key)}"
            )
    return found
