# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plan the sysctls of a node, of its running Pods, and the drop-in file for the next boot."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .._core.files import DropIn, read_file
from .._core.plan import Change, Plan
from .._kernel import routes
from .keys import name_of, parse, path_of
from .namespaces import NODE, Netns, initial_values
from .order import changes
from .tree import Tree
from .window import MAX_SCALE, RMEM_MAX, TCP_RMEM, TCP_WMEM, solve_window, window_bounds
from .writers import render

# Keys without effect in newer kernels, from Documentation/networking/ip-sysctl.rst.
WITHOUT_EFFECT = {
    "net/ipv4/tcp_adv_win_scale": "since Linux 6.6 the kernel measures the overhead of a buffer",
    "net/ipv4/tcp_low_latency": "Linux 4.14 removed the prequeue",
    "net/ipv4/tcp_fack": "Linux 4.15 replaced FACK by RACK",
    "net/ipv4/tcp_tw_recycle": "Linux 4.12 removed it, as it broke connections through NAT",
}

# Values after which the kernel accepts no other one, "" for any: it accepts only lower limits or fewer bits.
_ONE_WAY = {
    "kernel/kexec_load_disabled": "1",
    "kernel/kexec_load_limit_panic": "",
    "kernel/kexec_load_limit_reboot": "",
    "kernel/modules_disabled": "1",
    "kernel/tainted": "",
    "kernel/unprivileged_bpf_disabled": "1",
    "kernel/usermodehelper/bset": "",
    "kernel/usermodehelper/inheritable": "",
    "kernel/yama/ptrace_scope": "3",
}


@dataclass(frozen=True)
class SysctlPlan(Plan):
    """The plan for sysctls; a change's scope is the name of its network namespace.

    ``desired`` has the values by path for each namespace, the node's first.
    """

    desired: Mapping[Netns, Mapping[str, str]] = field(default_factory=dict)

    def changes_of(self, namespace: Netns) -> list[Change]:
        """Return the changes in one network namespace."""
        return [change for change in self.changes if change.scope == namespace.name]


def read_plan(
    tree: Tree, params: Mapping[str, Any], pods: Sequence[Netns], drop_in: DropIn | None
) -> SysctlPlan:
    """Read the sysctls of the node and of ``pods`` and return the plan for the module's options.

    Raises ``Problem``.
    """
    scale = params["window_scale"]
    accepted = bool(params.get("acknowledge_risk"))
    node = _plan_node(tree, parse(params["sysctls"]), scale, accepted)
    requested = parse(params["pods"]["sysctls"], "pods: sysctls") if params["pods"] else {}
    in_pods = _plan_pods(tree, requested, scale, node.desired[NODE], pods, accepted)
    desired = {**node.desired, **in_pods.desired}
    return SysctlPlan(
        subsystem="sysctls",
        changes=[*node.changes, *in_pods.changes],
        files=plan_file(drop_in, desired[NODE]),
        warnings=node.warnings,
        desired=desired,
    )


def plan_file(drop_in: DropIn | None, desired: Mapping[str, str]) -> dict[str, tuple[str | None, str | None]]:
    """Return the change of the drop-in file, empty without one; raises ``Problem``."""
    after = render(desired) if desired else None
    if drop_in is None or drop_in.read() == after:
        return {}
    drop_in.check_writable()
    return {drop_in.path: (read_file(drop_in.path), after)}


def _plan_node(tree: Tree, requested: Mapping[str, str], scale: int | None, accepted: bool) -> SysctlPlan:
    """Return the plan for this network namespace; raises ``Problem``."""
    warnings = [
        f"sysctls: {name_of(path)} has no effect in newer kernels ({cause}): remove it"
        for path, cause in WITHOUT_EFFECT.items()
        if path in requested
    ]
    if any(path in WITHOUT_EFFECT and not tree.exists(path) for path in requested):
        SysctlPlan(subsystem="sysctls", problems=warnings).require_valid()
    desired = dict(requested)
    tree.current(requested)  # Reports unknown keys before the window is solved.
    if scale is not None:
        rmem_max, more = _read_rmem_max(tree, requested, scale)
        warnings += more
        desired |= solve_window(scale, requested, tree.current({TCP_RMEM, TCP_WMEM}) | rmem_max)
    current = tree.current(desired)
    planned = changes(current, desired)
    problems = _write_problems(tree, NODE, planned) + _forwarding_problems(tree, "sysctls", current, desired)
    problems += [] if accepted else _lasting_problems("sysctls", planned)
    found = SysctlPlan(
        subsystem="sysctls", changes=planned, problems=problems, warnings=warnings, desired={NODE: desired}
    )
    found.require_valid()
    return found


def _plan_pods(
    tree: Tree,
    requested: Mapping[str, str],
    scale: int | None,
    node: Mapping[str, str],
    pods: Iterable[Netns],
    accepted: bool,
) -> SysctlPlan:
    """Return the plan for Pods; ``node`` has the node's desired values. Raises ``Problem``."""
    tree.current(requested)
    namespaced, problems = split(requested, initial_values(tree, requested), node)
    rmem_max = _read_rmem_max(tree, node, scale)[0] if scale is not None else {}
    planned: list[Change] = []
    found: dict[Netns, Mapping[str, str]] = {}
    for pod in pods:
        with pod.entered():
            desired = dict(namespaced)
            if scale is not None:
                current = tree.current({TCP_RMEM, TCP_WMEM}) | rmem_max
                desired |= solve_window(scale, namespaced, current)
            now = tree.current(desired)
            its = changes(now, desired, pod.name)
            where = f"pods: {pod.name}"
            problems += _write_problems(tree, pod, its) + _forwarding_problems(tree, where, now, desired)
            problems += [] if accepted else _lasting_problems(where, its)
        planned += its
        found[pod] = desired
    plan = SysctlPlan(subsystem="sysctls", changes=planned, problems=problems, desired=found)
    plan.require_valid()
    return plan


def split(
    requested: Mapping[str, str], namespaced: Iterable[str], node: Mapping[str, str]
) -> tuple[dict[str, str], list[str]]:
    """Return the values to set in each Pod, and errors for global keys.

    ``namespaced`` are the keys that are per namespace. A global key is valid if ``node`` sets the same value.
    """
    namespaced = set(namespaced)
    problems = [
        f"pods: sysctls: {name_of(path)} is global in this kernel, and sysctls "
        + (f"sets it to {node[path]}" if path in node else "does not set it")
        + f": set it to {value} there"
        for path, value in requested.items()
        if path not in namespaced and node.get(path) != value
    ]
    return {path: value for path, value in requested.items() if path in namespaced}, problems


def _write_problems(tree: Tree, namespace: Netns, planned: Iterable[Change]) -> list[str]:
    """Return an error for each change of a key that is not writable in the entered namespace."""
    where = f"pods: {namespace.name}" if namespace.name else "sysctls"
    return [
        f"{where}: {change.name} is read-only here (it is {change.before}): run as root (become), outside of"
        " a container, and in the initial network namespace if the key is global"
        for change in planned
        if not tree.writable(path_of(change.name))
    ]


def _lasting_problems(where: str, planned: Iterable[Change]) -> list[str]:
    """Return an error for each change of the entered namespace with effects that a revert does not undo."""
    found = []
    for change in planned:
        path = path_of(change.name)
        match = re.fullmatch(r"net/ipv6/conf/(.+)/(disable_ipv6|addr_gen_mode|stable_secret)", path)
        if path in _ONE_WAY and _ONE_WAY[path] in ("", change.after):
            found.append(f"{where}: {change.name} = {change.after} can only be undone by a reboot")
        if not match or match[1] == "default":
            continue
        if match[2] != "disable_ipv6":
            found.append(
                f"{where}: {change.name} = {change.after} makes the kernel add link-local addresses, and a"
                " revert does not remove them"
            )
        elif change.after != "0":
            used = sorted(name for name in routes.ipv6_in_use() if match[1] in ("all", name))
            if used:
                found.append(
                    f"{where}: {change.name} = {change.after} removes the IPv6 addresses and routes of"
                    f" {', '.join(used)}, and a revert does not restore them"
                )
    return [f"{problem}: remove it, or set acknowledge_risk: true" for problem in found]


def _read_rmem_max(tree: Tree, desired: Mapping[str, str], scale: int) -> tuple[dict[str, str], list[str]]:
    """Return net.core.rmem_max, which limits the window of Pods too, or a warning if it is not visible."""
    if RMEM_MAX in desired:
        return {RMEM_MAX: desired[RMEM_MAX]}, []
    if tree.exists(RMEM_MAX):
        return {RMEM_MAX: tree.read(RMEM_MAX)}, []
    high = window_bounds(min(max(scale, 0), MAX_SCALE))[1]
    return {}, [
        f"{name_of(RMEM_MAX)} is not visible in this network namespace: if the node's value exceeds {high},"
        f" the window scale will not be {scale}"
    ]


def _forwarding_problems(
    tree: Tree, where: str, current: Mapping[str, str], desired: Mapping[str, str]
) -> list[str]:
    """Return errors if IPv6 forwarding, of all or one interface, would delete learned default routes."""
    enabled = [path for path in fnmatch.filter(desired, "net/ipv6/conf/*/forwarding")
               if desired[path] != "0" and current[path] == "0" and "/default/" not in path]  # fmt: skip
    if not enabled:
        return []
    interfaces = {name for route in routes.default_routes() if route.learned for name in route.interfaces}
    problems = []
    for interface in sorted(interfaces):
        path = f"net/ipv6/conf/{interface}/accept_ra"
        if tree.exists(path) and desired.get(path, tree.read(path)) == "1":
            problems.append(
                f"{where}: {name_of(enabled[0])} = {desired[enabled[0]]} makes the kernel ignore router"
                f" advertisements on {interface}, which provide its default route: set {name_of(path)} to 2"
                " as well"
            )
    return problems
