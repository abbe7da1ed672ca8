# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Apply a plan of sysctls as one transaction, and report the result."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from .._core.files import DropIn
from .._core.plan import Change, Problem, Result, diff, reason
from .._kernel import sock_diag
from .._rollback import journal
from . import late
from .keys import name_of
from .namespaces import NODE, Netns, initial_values, selected_pods
from .order import order
from .plan import SysctlPlan, plan_file, read_plan
from .tree import Tree
from .window import RMEM_MAX, window_bounds
from .writers import MARKER, writer_warnings, writers


def run(params: Mapping[str, Any], check: bool, root: str = "/") -> Result:
    """Set the sysctls of the module's options; searches other writers below ``root``.

    Raises ``Problem``; then neither the kernel nor the file has changed.
    """
    _check_options(params)
    file, scale, tree = params["file"], params["window_scale"], Tree()
    drop_in = DropIn(file, MARKER) if file else None
    if params["state"] == "absent":
        found = SysctlPlan(subsystem="sysctls", files=plan_file(drop_in, {}), desired={NODE: {}})
        result = _result(found, drop_in)
        if not check:
            apply(tree, found)
        return result
    with selected_pods(params["pods"]) as (pods, skipped):
        found = read_plan(tree, params, pods, drop_in)
        desired = found.desired[NODE]
        others = writers(desired, file, root)
        result = _result(found, drop_in)
        result.warnings += writer_warnings(others, file)
        result.warnings += late.warnings(desired, file, root) if file else []
        if scale is not None and RMEM_MAX not in desired:
            result.warnings += _scale_warnings(scale, file, root)
        result.values["other_writers"] = [writer.as_dict() for writer in others]
        result.values["pods_skipped"] = skipped
        if not check:
            apply(tree, found)
        if scale is not None:
            result.values["connections"], more = _connections(found.desired, scale)
            result.warnings += more
        result.values["new_pod_defaults"] = _new_pod_defaults(tree, found, pods)
    return result


def _check_options(params: Mapping[str, Any]) -> None:
    file = params["file"]
    if file and not (os.path.isabs(file) and file.endswith(".conf")):
        raise Problem(
            f"file: {file!r} is not an absolute path that ends in .conf; only such files are read at boot"
        )
    if params["state"] == "absent" and not file:
        raise Problem("state: absent removes the file, but file is empty: set file")


# Apply


def apply(tree: Tree, found: SysctlPlan) -> None:
    """Write the sysctls of every namespace and the file as one transaction.

    Raises ``Problem``; then every sysctl has its former value and the file is unchanged.
    """
    with journal.transaction(replace(found, changes=_predicted(tree, found)), _observer(tree, found)):
        done = _write(tree, found)
        for path, (dummy, after) in found.files.items():
            try:
                DropIn(path, MARKER).write(after)
            except OSError as error:
                raise Problem(f"{path} cannot be written: {reason(error)}. {_restore(tree, done)}") from None


def _predicted(tree: Tree, found: SysctlPlan) -> list[Change]:
    """Return the changes with those that the kernel makes along, which the journal needs beforehand."""
    changes = list(found.changes)
    for namespace in found.desired:
        with namespace.entered():
            changes += [
                Change(name_of(path), before, after, namespace.name)
                for path, (before, after) in tree.predicted(found.changes_of(namespace)).items()
            ]
    return changes


def _observer(tree: Tree, found: SysctlPlan) -> journal.Observe:
    """Return a function that compares all keys that the plan may reach with their current values."""
    former = []
    for namespace, desired in found.desired.items():
        if found.changes_of(namespace):
            with namespace.entered():
                former.append((namespace, tree.values(tree.related(desired))))

    def observe() -> list[Change]:
        observed = []
        for namespace, values in former:
            with namespace.entered():
                now = tree.values(values)
            observed += [
                Change(name_of(path), values[path], now[path], namespace.name)
                for path in now
                if now[path] != values[path]
            ]
        return observed

    return observe


def _write(tree: Tree, found: SysctlPlan) -> list[tuple[Netns, dict[str, str]]]:
    """Write all changes; return the former values of each namespace.

    Raises ``Problem``; then every sysctl of every namespace has its former value.
    """
    done: list[tuple[Netns, dict[str, str]]] = []
    for namespace, desired in found.desired.items():
        try:
            with namespace.entered():
                done.append((namespace, tree.apply(found.changes_of(namespace), desired)))
        except Problem as problem:
            where = f"pods: {namespace.name}: " if namespace.name else ""
            others = f" Other namespaces: {_restore(tree, done)}" if done else ""
            raise Problem(f"{where}{problem}{others}") from None
    return done


def _restore(tree: Tree, done: Sequence[tuple[Netns, dict[str, str]]]) -> str:
    """Restore every namespace; return a message with the result."""
    failed = []
    for namespace, former in reversed(done):
        with namespace.entered():
            message = tree.restore(former)
            if message != tree.RESTORED:
                failed.append(f"{namespace.name}: {message}" if namespace.name else message)
    return " ".join(failed) or tree.RESTORED


# Report


def _result(found: SysctlPlan, drop_in: DropIn | None) -> Result:
    pods = [namespace for namespace in found.desired if namespace != NODE]
    values = {
        "changes": [change.as_dict() for change in found.changes_of(NODE)],
        "values": _by_name(found.desired[NODE]),
        "pods": [
            {
                "netns": pod.name,
                "changes": [change.as_dict() for change in found.changes_of(pod)],
                "values": _by_name(found.desired[pod]),
            }
            for pod in pods
        ],
        "pods_skipped": {},
        "new_pod_defaults": {},
        "connections": [],
        "other_writers": [],
    }
    diffs = [
        diff(f"running sysctls of {namespace.name}" if namespace.name else "running sysctls", changes)
        for namespace in found.desired
        if (changes := found.changes_of(namespace))
    ]
    for path, (dummy, after) in found.files.items():
        before = drop_in.read() if drop_in else None
        diffs.append(
            {"before_header": path, "after_header": path, "before": before or "", "after": after or ""}
        )
    return Result(bool(found), values, list(found.warnings), diffs)


def _by_name(values: Mapping[str, str]) -> dict[str, str]:
    return {name_of(path): values[path] for path in sorted(values, key=order)}


def _scale_warnings(scale: int, file: str, root: str) -> list[str]:
    """Return a warning for each file that changes the window scale at the next boot."""
    high = window_bounds(scale)[1]
    return [
        f"{writer.file} sets {name_of(RMEM_MAX)} = {writer.value}, so the window scale will not be {scale}"
        f" after a boot: set it to at most {high} there"
        for writer in writers({RMEM_MAX: ""}, file, root)
        if writer.value.isdecimal() and int(writer.value) > high
    ]


def _connections(namespaces: Iterable[Netns], scale: int) -> tuple[list[dict[str, object]], list[str]]:
    """Return the connections with another window scale, and a warning if they cannot be listed."""
    listed: list[dict[str, object]] = []
    try:
        for namespace in namespaces:
            with namespace.entered():
                others = sock_diag.by_scale(sock_diag.connections(), scale)
            listed += [{"netns": namespace.name, **other} for other in others]
    except OSError as error:
        return [], [f"window_scale: this kernel does not list TCP connections: {reason(error)}"]
    return listed, []


def _new_pod_defaults(tree: Tree, found: SysctlPlan, pods: Sequence[Netns]) -> dict[str, str]:
    """Return the keys whose initial value in a new Pod differs from that in the selected Pods."""
    desired = {path: value for pod in pods for path, value in found.desired[pod].items()}
    initial = initial_values(tree, desired)
    return {name_of(path): initial[path] for path in sorted(initial) if initial[path] != desired[path]}
