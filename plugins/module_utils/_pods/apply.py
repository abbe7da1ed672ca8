# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The work of the module meta_device: check everything, then change, or go back. Private to this collection.

_pods decides, _pods_read reads, _pods_change changes, and here they are put together.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .._core.plan import Problem
from . import model
from .agreement import disagreements
from .change import ApplyError, Changer
from .drivers import choose_drivers, program_ids
from .model import Change, State
from .read import Snapshot, read
from .record import locked


class OptionError(Problem):
    """What is wrong with the options, found before anything was changed."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("nothing was changed: " + "; ".join(problems))


@dataclass(frozen=True)
class Outcome:
    """What the module returns."""

    pods: list[dict[str, Any]]
    driver_reason: str
    changes: list[Change]
    diff: dict[str, Any]
    warnings: list[str] = field(default_factory=list)


# Changing, or going back


def bring(
    owner: str,
    before: Snapshot,
    target: State,
    namespaces: Sequence[str],
    names: Collection[str] | None = None,
) -> Snapshot:
    """Take an owner's state to ``target`` and return what is there then; of the Pods ``names`` alone, if
    given.

    The kernel may take more along than it was told to (routes with a link that goes down, secondary
    addresses with the primary one), so a second round puts right what the first left. What differs
    after that was ignored or clamped, and is an error.

    Raises ``ApplyError``; the state before is restored first, as far as the kernel lets it.
    """
    with Changer(owner) as changer:
        try:
            now = before
            for _round in range(2):
                changes = model.plan(model.restrict(now.state, target, names), target)
                if not changes:
                    return now
                changer.apply(changes)
                now = read(owner, namespaces, _untouched(now, changes))
            left = model.plan(model.restrict(now.state, target, names), target)
            if left:
                options = ", ".join(sorted({change.option for change in left}))
                raise ApplyError(f"{options}: the kernel did not keep: " + "; ".join(map(str, left)))
            return now
        except (ApplyError, OSError) as error:
            former = replace(before, state=model.restrict(before.state, target, names))
            raise ApplyError(f"{error}. {_go_back(owner, changer, former, namespaces, names)}") from error


def _untouched(snapshot: Snapshot, changes: Sequence[Change]) -> dict[str, Any]:
    """Return what is known of the namespaces that the changes do not affect."""
    touched = {change.value for change in changes if change.action.endswith("_namespace")}
    touched |= {change.device.netns for change in changes if change.device}
    return {path: one for path, one in snapshot.inside.items() if path not in touched}


def _go_back(
    owner: str,
    changer: Changer,
    before: Snapshot,
    namespaces: Sequence[str],
    names: Collection[str] | None,
) -> str:
    """Restore the state before; say how far that went."""
    # A device whose inner end is out of sight cannot be told whole, so it is neither kept nor made again.
    lost = {name for name, device in before.state.devices.items() if not device.whole}

    def whole(state: State) -> State:
        return replace(state, devices={k: v for k, v in state.devices.items() if k not in lost})

    try:
        now = model.restrict(read(owner, namespaces).state, before.state, names)
        changer.apply(model.plan(whole(now), whole(before.state)))
    except (ApplyError, OSError) as error:
        return f"Going back to the former state failed as well: {error}"
    return "The former state was restored"


# All together


@dataclass(frozen=True)
class Request:
    """Options with the drivers and programs of this node; ``problems`` are those found without its
    devices.
    """

    owner: str
    desired: model.Desired
    driver_reason: str
    problems: list[str]
    warnings: list[str]

    @property
    def namespaces(self) -> list[str]:
        """The paths of the Pods' namespaces."""
        return [device.netns for device in self.desired.state.devices.values()]


def resolve_request(options: Mapping[str, Any], check: bool, load_meta: Callable[[], str]) -> Request:
    """Choose drivers and look up programs; with ``check``, a missing driver is a warning."""
    drivers, reason, obstacles = choose_drivers(
        {pod["driver"] or options["driver"] for pod in options["pods"]}, load_meta
    )
    ids: dict[str, int] = {}
    problems: list[str] = []
    if "meta" in drivers.values():
        ids, problems = program_ids(options["programs"] or {}, check)
    desired, wrong = model.resolve(options, drivers, ids)
    # Before the first real run a driver may be missing that an earlier task of the play would install.
    problems += wrong + ([] if check else obstacles)
    return Request(options["owner"], desired, reason, problems, obstacles if check else [])


def described(desired: State, snapshot: Snapshot) -> list[dict[str, Any]]:
    """Return the Pods as the module returns them."""
    return [
        {
            "name": name,
            "driver": device.driver,
            "host_interface": device.host_interface,
            "host_ifindex": snapshot.indexes.get(device.host_interface, 0),
            "netns": device.netns,
            "interface": device.interface,
            "addresses": sorted(device.pod.addresses),
        }
        for name, device in desired.devices.items()
    ]


def target_of(request: Request, before: Snapshot) -> State:
    """Return the desired state without what is foreign on the node; raises ``OptionError`` on conflicts."""
    problems = request.problems + model.conflicts(
        request.desired, before.node, request.owner, before.recorded
    )
    if problems:
        raise OptionError(problems)
    return model.settle(request.desired, before.node, request.owner, before.recorded)


def run(options: Mapping[str, Any], check: bool, load_meta: Callable[[], str]) -> Outcome:
    """Bring an owner's Pods to the state that the module's options declare; with ``check``, only plan it.

    Raises ``OptionError`` (nothing was changed) and ``ApplyError`` (the kernel refused).
    """
    request = resolve_request(options, check, load_meta)
    with locked(not check):
        before = read(request.owner, request.namespaces)
        target = target_of(request, before)
        changes = model.plan(before.state, target)
        after = before if check else bring(request.owner, before, target, request.namespaces)
    warnings = request.warnings + disagreements(request.desired.state, after.state, after.node)
    diff = {"before": model.describe(before.state, changes), "after": model.describe(target, changes)}
    pods = described(request.desired.state, after)
    return Outcome(pods, request.driver_reason, changes, diff, warnings)
