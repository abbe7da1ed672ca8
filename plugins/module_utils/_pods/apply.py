# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plan the devices of an owner's Pods, apply the plan, and restore the former state on failure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from .._core.plan import Problem, Result
from .conflicts import conflicts, exclude_foreign, namespace_conflicts
from .drivers import choose_drivers, program_ids
from .execute import Executor, PodProblem
from .model import Desired, State, down, restrict
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

    def netns_of(self, pods: Iterable[str]) -> dict[str, str]:
        """Return the namespaces of Pods by name."""
        return {name: self.desired.state.devices[name].netns for name in pods}


def resolve_request(options: Mapping[str, Any], check: bool, load_meta: Callable[[], str]) -> Request:
    """Select drivers, look up programs and parse the options; with ``check``, a missing driver is a warning.

    ``load_meta`` loads the kernel module meta, or checks that it can be loaded, and returns an error message.
    """
    drivers, reason, missing = choose_drivers(
        {pod["driver"] or options["driver"] for pod in options["pods"]},
        load_meta,
        options.get("trusted_pods", True),
    )
    ids: dict[str, int] = {}
    problems: list[str] = []
    if "meta" in drivers.values():
        ids, problems = program_ids(options["programs"] or {}, check)
    desired, invalid = parse(options, drivers, ids)
    # In check mode, an earlier task of the play may install a driver that is missing now.
    problems += invalid + ([] if check else missing)
    return Request(options["owner"], desired, reason, problems, missing if check else [])


Excluded = Mapping[str, str]  # why a Pod stays as it is, by name


def known_pods(request: Request, snapshot: Snapshot) -> set[str]:
    """Return the desired Pods that earlier calls created: a process may run in their namespaces."""
    created = snapshot.node.created_namespaces
    existing = {device.name for device in snapshot.state.devices.values()}
    return {
        device.name
        for device in request.desired.state.devices.values()
        if device.name in existing or created.get(device.netns) == request.owner
    }


def isolate(
    request: Request, snapshot: Snapshot, known: Collection[str], excluded: Excluded
) -> dict[str, str]:
    """Return ``excluded`` and the Pods of ``known`` that conflict with the contents of their namespaces.

    What a Pod does in its namespace must not make the call fail for other Pods.
    """
    found = dict(excluded)
    for device in request.desired.state.devices.values():
        problems = namespace_conflicts(device, request.desired, snapshot.node, request.owner)
        if problems and device.name in known:
            found.setdefault(device.name, "; ".join(problems))
    return found


def without(state: State, excluded: Mapping[str, str]) -> State:
    """Return a state without the Pods ``excluded``, which have their namespaces by name."""
    paths = {device.netns for device in state.devices.values() if device.name in excluded}
    kept = {key: device for key, device in state.devices.items() if device.name not in excluded}
    return replace(state, devices=kept, namespaces=state.namespaces - paths - {*excluded.values()})


_Attempt = TypeVar("_Attempt")


def isolating(
    request: Request, known: Collection[str], attempt: Callable[[Snapshot, Excluded], _Attempt]
) -> _Attempt:
    """Return the result of ``attempt``, repeated without a Pod if its namespace makes it fail.

    ``known`` are Pods that earlier calls created, besides those of ``known_pods``. Others are new, so that a
    conflict is a problem of the request. ``attempt`` gets the node's state and the Pods to exclude.
    """
    existing, excluded = set(known), dict[str, str]()
    while True:
        before = read(request.owner, request.namespaces)
        existing |= known_pods(request, before)
        excluded = isolate(request, before, existing, excluded)
        try:
            return attempt(before, excluded)
        except PodProblem as problem:
            if problem.pod not in existing or problem.pod in excluded:
                raise
            excluded[problem.pod] = str(problem)


def exclusion_warnings(excluded: Excluded) -> list[str]:
    """Return a warning for each Pod that stays as it is."""
    return [
        f"Pod {name}: its device stays as it is, because of the contents of its namespace: {why}"
        for name, why in sorted(excluded.items())
    ]


def plan_pods(
    request: Request,
    snapshot: Snapshot,
    names: Collection[str] | None = None,
    excluded: Excluded | None = None,
) -> PodPlan:
    """Return the plan for an owner's Pods, or for those of ``names`` alone, except those ``excluded``.

    Pure.
    """
    desired, node, excluded = request.desired, snapshot.node, excluded or {}
    paths = request.netns_of(excluded)
    target = without(exclude_foreign(desired, node, request.owner, snapshot.host_routes), paths)
    current = without(snapshot.state, paths)
    steps = steps_between(restrict(current, target, names), target)
    return PodPlan(
        subsystem="pods",
        changes=changes_of(steps),
        problems=[
            *request.problems,
            *conflicts(desired, node, request.owner, snapshot.host_routes, excluded),
        ],
        warnings=[*request.warnings, *exclusion_warnings(excluded)],
        steps=steps,
        target=target,
    )


def bring_to(
    owner: str,
    before: Snapshot,
    target: State,
    namespaces: Sequence[str],
    names: Collection[str] | None = None,
    excluded: Mapping[str, str] | None = None,
    closed: bool = False,
) -> Snapshot:
    """Bring an owner's objects, or those of the Pods ``names``, to ``target`` and return the new snapshot.

    Pods in ``excluded``, which has their namespaces by name, stay as they are. With ``closed``, veth devices
    that a failure makes it create again stay down, because their programs are not attached.

    A step can have side effects: the kernel deletes routes with a link that is set down, and secondary
    addresses with the primary one. A second round repairs them. What differs after that was ignored or
    clamped, which raises ``Problem``. On failure, the former state is restored.
    """

    def own(state: State) -> State:
        return without(state, excluded or {})

    target = own(target)
    with Executor(owner) as executor:
        try:
            current = before
            for _round in range(2):
                steps = steps_between(restrict(own(current.state), target, names), target)
                if not steps:
                    return current
                executor.execute(steps)
                current = read(owner, namespaces, _unchanged(current, steps))
            remaining = steps_between(restrict(own(current.state), target, names), target)
            if remaining:
                raise _mismatch(remaining)
            return current
        except (Problem, OSError) as error:
            former = restrict(own(before.state), target, names)
            restored = _restore(executor, former, lambda: own(read(owner, namespaces).state), names, closed)
            message = f"{error}. {restored}"
            if isinstance(error, PodProblem):
                raise PodProblem(message, error.pod) from error
            raise Problem(message) from error


def _mismatch(remaining: Sequence[Step]) -> Problem:
    """Return the problem of steps without the intended effect."""
    options = ", ".join(sorted({step.option for step in remaining}))
    message = f"{options}: the kernel accepted every step, but reading back shows a different value for: "
    message += "; ".join(map(str, remaining))
    by_pod = [step for step in remaining if step.device and step.end == "pod"]
    return PodProblem(message, by_pod[0].of.name) if by_pod else Problem(message)


def _unchanged(snapshot: Snapshot, steps: Sequence[Step]) -> dict[str, Contents]:
    """Return the contents of namespaces that the steps do not change."""
    changed = {step.value for step in steps if step.action.endswith("_namespace")}
    changed |= {step.device.netns for step in steps if step.device}
    return {path: contents for path, contents in snapshot.namespaces.items() if path not in changed}


def _restore(
    executor: Executor,
    former: State,
    read_state: Callable[[], State],
    names: Collection[str] | None,
    closed: bool,
) -> str:
    """Restore the former state; return a message on the result."""
    # The Pod's end of an incomplete device is unknown, so the device is neither kept nor created again.
    incomplete = {name for name, device in former.devices.items() if not device.complete}

    def complete(state: State) -> State:
        return replace(state, devices={k: v for k, v in state.devices.items() if k not in incomplete})

    try:
        current = restrict(read_state(), former, names)
        steps = steps_between(complete(current), complete(former))
        if closed:
            again = {
                step.of.name: down(step.of)
                for step in steps
                if step.action == "create_device" and step.of.driver == "veth"
            }
            former = replace(former, devices={**former.devices, **again})
            steps = steps_between(complete(current), complete(former))
        executor.execute(steps)
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

        def attempt(before: Snapshot, excluded: Excluded) -> tuple[PodPlan, Snapshot]:
            plan = plan_pods(request, before, excluded=excluded)
            plan.require_valid()
            if check:
                return plan, before
            paths = request.netns_of(excluded)
            return plan, bring_to(request.owner, before, plan.target, request.namespaces, excluded=paths)

        plan, after = isolating(request, (), attempt)
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
