# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The work of the module meta_device: check everything, then change, or go back. Private to this collection.

_pods decides, _pods_read reads, _pods_change changes, and here they are put together.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .._kernel import bpf, netlink
from . import model
from .agreement import disagreements
from .change import ApplyError, Changer
from .model import Change, State
from .read import Snapshot, read
from .record import locked


class OptionError(Exception):
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


# Drivers


def driver_problem(driver: str, load: Callable[[], str]) -> str | None:
    """Say why this node cannot make links of a driver, or None where it can.

    ``load`` loads the kernel module meta, or only tells whether that would work, and returns what
    stands in the way.
    """
    if driver == "meta" and not os.path.exists("/sys/module/meta"):
        refusal = load()
        return f"the kernel module meta cannot be loaded ({refusal})" if refusal else None
    if not netlink.has_link_kind(driver):
        return f"kernel {os.uname().release} has no {driver}"
    return None


_REMEDIES = {
    "meta": "run the role podnet.datapath.meta_driver on this node, or choose driver: auto",
    "netkit": "boot a kernel from 6.7 on with CONFIG_NETKIT, or choose driver: auto",
    "veth": "boot a kernel with CONFIG_VETH",
}


def choose_drivers(wanted: Iterable[str], load: Callable[[], str]) -> tuple[dict[str, str], str, list[str]]:
    """Return the driver for each value of the option, why auto became which, and what stands in the way."""
    names = set(wanted)
    chosen = {name: name for name in names if name != "auto"}
    problems = []
    reason = ""
    if "auto" in names:
        reasons = []
        for driver in ("netkit", "meta", "veth"):
            problem = driver_problem(driver, load)
            if problem is None:
                reasons.append(f"{driver} is there")
                chosen["auto"] = driver
                break
            reasons.append(problem)
        else:
            chosen["auto"] = "veth"
            problems.append(f"driver: auto finds no driver: {'; '.join(reasons)}")
        reason = "auto: " + "; ".join(reasons)
    for driver in sorted(names - {"auto"}):
        problem = driver_problem(driver, load)
        if problem is not None:
            problems.append(f"driver: {driver}: {problem}: {_REMEDIES[driver]}")
    return chosen, reason, problems


def program_ids(paths: Mapping[str, str | None], unknown_is_fine: bool) -> tuple[dict[str, int], list[str]]:
    """Return the ids of pinned programs by direction, and what is wrong with the paths.

    An empty path stands for no program. With ``unknown_is_fine`` (check mode) a program that is not
    pinned yet is no problem.
    """
    ids: dict[str, int] = {}
    problems = []
    for direction, path in paths.items():
        if path is None:
            continue
        if not path:
            ids[direction] = model.NO_PROGRAM
            continue
        try:
            with bpf.closing(bpf.obj_get(path)) as descriptor:
                if "bpf-prog" not in os.readlink(f"/proc/self/fd/{descriptor}"):
                    raise bpf.BpfError("something else is pinned there")
                ids[direction] = bpf.program_info(descriptor).id
        except (OSError, bpf.BpfError) as error:
            if unknown_is_fine and isinstance(error, FileNotFoundError):
                ids[direction] = model.UNKNOWN_PROGRAM
            else:
                problems.append(
                    f"programs.{direction}: {path} is no pinned program ({error}): pin it with bpf_attach"
                )
    return ids, problems


# Changing, or going back


def bring(owner: str, before: Snapshot, target: State, namespaces: Sequence[str]) -> Snapshot:
    """Take an owner's state to ``target`` and return what is there then.

    The kernel may take more along than it was told to (routes with a link that goes down, secondary
    addresses with the primary one), so a second round puts right what the first left. What differs
    after that was ignored or clamped, and is an error.

    Raises ``ApplyError``; the state before is restored first, as far as the kernel lets it.
    """
    with Changer(owner) as changer:
        try:
            now = before
            for _round in range(2):
                changes = model.plan(now.state, target)
                if not changes:
                    return now
                changer.apply(changes)
                now = read(owner, namespaces, _untouched(now, changes))
            left = model.plan(now.state, target)
            if left:
                options = ", ".join(sorted({change.option for change in left}))
                raise ApplyError(f"{options}: the kernel did not keep: " + "; ".join(map(str, left)))
            return now
        except (ApplyError, OSError) as error:
            raise ApplyError(f"{error}. {_go_back(owner, changer, before, namespaces)}") from error


def _untouched(snapshot: Snapshot, changes: Sequence[Change]) -> dict[str, Any]:
    """Return what is known of the namespaces that the changes do not affect."""
    touched = {change.value for change in changes if change.action.endswith("_namespace")}
    touched |= {change.device.netns for change in changes if change.device}
    return {path: one for path, one in snapshot.inside.items() if path not in touched}


def _go_back(owner: str, changer: Changer, before: Snapshot, namespaces: Sequence[str]) -> str:
    """Restore the state before; say how far that went."""
    # A device whose inner end is out of sight cannot be told whole, so it is neither kept nor made again.
    lost = {name for name, device in before.state.devices.items() if not device.whole}

    def whole(state: State) -> State:
        return replace(state, devices={k: v for k, v in state.devices.items() if k not in lost})

    try:
        changer.apply(model.plan(whole(read(owner, namespaces).state), whole(before.state)))
    except (ApplyError, OSError) as error:
        return f"Going back to the former state failed as well: {error}"
    return "The former state was restored"


# All together


def _described(desired: State, snapshot: Snapshot) -> list[dict[str, Any]]:
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


def run(options: Mapping[str, Any], check: bool, load_meta: Callable[[], str]) -> Outcome:
    """Bring an owner's Pods to the state that the module's options declare; with ``check``, only plan it.

    Raises ``OptionError`` (nothing was changed) and ``ApplyError`` (the kernel refused).
    """
    owner = options["owner"]
    wanted = {pod["driver"] or options["driver"] for pod in options["pods"]}
    drivers, reason, obstacles = choose_drivers(wanted, load_meta)
    ids: dict[str, int] = {}
    problems: list[str] = []
    if "meta" in drivers.values():
        ids, problems = program_ids(options["programs"] or {}, unknown_is_fine=check)
    desired, wrong = model.resolve(options, drivers, ids)
    problems += wrong
    # Before the first real run a driver may be missing that an earlier task of the play would install.
    warnings = obstacles if check else []
    problems += [] if check else obstacles

    namespaces = [device.netns for device in desired.state.devices.values()]
    with locked(not check):
        before = read(owner, namespaces)
        problems += model.conflicts(desired, before.node, owner, before.recorded)
        if problems:
            raise OptionError(problems)
        target = model.settle(desired, before.node, owner, before.recorded)
        changes = model.plan(before.state, target)
        after = before if check else bring(owner, before, target, namespaces)
    warnings += disagreements(desired.state, after.state, after.node)
    diff = {"before": model.describe(before.state, changes), "after": model.describe(target, changes)}
    return Outcome(_described(desired.state, after), reason, changes, diff, warnings)
