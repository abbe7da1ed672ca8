# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plan the devices of an owner's Pods, apply the plan, and restore the former state on failure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .._core.plan import Problem, Result
from .conflicts import conflicts, exclude_foreign
from .drivers import choose_drivers, program_ids
from .execute import Executor
from .model import Desired, State, restrict
from .parse import parse
from .plan import PodPlan, Step, steps_between
from .read import Contents, Snapshot, read
from .report import changes_of, diffs, pods_of
from .run_files import locked
from .size_warnings import size_warnings


@dataclass(frozen=True)
class Request:
    """Parsed options of one owner; ``problems`` are those found without reading its devices."""

    owner: str
    desired: Desired
    driver_reason: str
    problems: Sequence[str] = ()
    warnings: Sequence[str] = ()

    @property
    def namespaces(self) -> list[str]:
        """The paths of the Pods' namespaces."""
        return [device.netns for device in self.desired.state.devices.values()]


def resolve_request(options: Mapping[str, Any], check: bool, load_meta: Callable[[], str]) -> Request:
    """Select drivers, look up programs and parse the options; with ``check``, a missing driver is a warning.

    ``load_meta`` loads the kernel module meta, or checks that it can be loaded, and returns an error message.
    """
    drivers, reason, missing = choose_drivers(
        {pod["driver"] or options["driver"] for pod in options["pods"]}, load_meta
    )
    ids: dict[str, int] = {}
    problems: list[str] = []
    if "meta" in drivers.values():
        ids, problems = program_ids(options["programs"] or {}, check)
    desired, invalid = parse(options, drivers, ids)
    # In check mode, an earlier task of the play may install a driver that is missing now.
    problems += invalid + ([] if check else missing)
    return Request(options["owner"], desired, reason, problems, missing if check else [])


def plan_pods(request: Request, snapshot: Snapshot, names: Collection[str] | None = None) -> PodPlan:
    """Return the plan for an owner's Pods, or for those of ``names`` alone. Pure."""
    desired, node = request.desired, snapshot.node
    target = exclude_foreign(desired, node, request.owner, snapshot.host_routes)
    steps = steps_between(restrict(snapshot.state, target, names), target)
    return PodPlan(
        subsystem="pods",
        changes=changes_of(steps),
        problems=[*request.problems, *conflicts(desired, node, request.owner, snapshot.host_routes)],
        warnings=request.warnings,
        steps=steps,
        target=target,
    )


def bring_to(
    owner: str,
    before: Snapshot,
    target: State,
    namespaces: Sequence[str],
    names: Collection[str] | None = None,
) -> Snapshot:
    """Bring an owner's objects, or those of the Pods ``names``, to ``target`` and return the new snapshot.

    A step can have side effects: the kernel deletes routes with a link that is set down, and secondary
    addresses with the primary one. A second round repairs them. What differs after that was ignored or
    clamped, which raises ``Problem``. On failure, the former state is restored.
    """
    with Executor(owner) as executor:
        try:
            current = before
            for _round in range(2):
                steps = steps_between(restrict(current.state, target, names), target)
                if not steps:
                    return current
                executor.execute(steps)
                current = read(owner, namespaces, _unchanged(current, steps))
            remaining = steps_between(restrict(current.state, target, names), target)
            if remaining:
                options = ", ".join(sorted({step.option for step in remaining}))
                raise Problem(
                    f"{options}: the kernel accepted every step, but reading back shows a different value"
                    f" for: " + "; ".join(map(str, remaining))
                )
            return current
        except (Problem, OSError) as error:
            former = restrict(before.state, target, names)
            raise Problem(f"{error}. {_restore(owner, executor, former, namespaces, names)}") from error


def _unchanged(snapshot: Snapshot, steps: Sequence[Step]) -> dict[str, Contents]:
    """Return the contents of namespaces that the steps do not change."""
    changed = {step.value for step in steps if step.action.endswith("_namespace")}
    changed |= {step.device.netns for step in steps if step.device}
    return {path: contents for path, contents in snapshot.namespaces.items() if path not in changed}


def _restore(
    owner: str,
    executor: Executor,
    former: State,
    namespaces: Sequence[str],
    names: Collection[str] | None,
) -> str:
    """Restore the former state; return a message on the result."""
    # The Pod's end of an incomplete device is unknown, so the device is neither kept nor created again.
    incomplete = {name for name, device in former.devices.items() if not device.complete}

    def complete(state: State) -> State:
        return replace(state, devices={k: v for k, v in state.devices.items() if k not in incomplete})

    try:
        current = restrict(read(owner, namespaces).state, former, names)
        executor.execute(steps_between(complete(current), complete(former)))
    except (Problem, OSError) as error:
        return f"Restoring the former state failed as well: {error}"
    return "The former state was restored"


def run(options: Mapping[str, Any], check: bool, load_meta: Callable[[], str]) -> Result:
    """Bring an owner's Pods to the state that the module's options declare; with ``check``, only plan it.

    Raises ``Problem``: if the request is invalid, nothing has changed; if a change fails, the former state is
    restored.
    """
    request = resolve_request(options, check, load_meta)
    with locked(not check):
        before = read(request.owner, request.namespaces)
        plan = plan_pods(request, before)
        plan.require_valid()
        after = before if check else bring_to(request.owner, before, plan.target, request.namespaces)
    desired = request.desired.state
    return Result(
        bool(plan),
        {
            "pods": pods_of(desired, after.indexes),
            "driver_reason": request.driver_reason,
            "changes": [str(step) for step in plan.steps],
        },
        [*plan.warnings, *size_warnings(desired, after.state, after.node)],
        diffs(plan.changes),
    )
