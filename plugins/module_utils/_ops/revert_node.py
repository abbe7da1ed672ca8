# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Roll back all changes of this collection that the journal records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .._boot.revert import BootArgs
from .._core import plan
from .._core.command import RunCommand
from .._core.plan import Change, Problem, Result
from .._nic import apply as _nic_tuning
from .._nic import revert as _revert_nics
from .._programs import revert as _revert_programs
from .._rollback import arm, journal, revert
from .._rollback.arm import Confirmation
from .._rollback.net_changes import Key, NetChanges, net_changes
from .._rollback.revert import Subsystem
from .._sysctl.revert import Sysctls

SUBSYSTEMS = ("programs", "nics", "boot_args", "sysctls")  # in the order of the rollback


def run(
    subsystems: Sequence[str],
    force: bool,
    check: bool,
    command: RunCommand,
    confirmation: Confirmation | None = None,
) -> Result:
    """Restore what this collection changed in ``subsystems``; raises ``Problem``."""
    if confirmation and confirmation.seconds and list(subsystems) != ["nics"]:
        raise Problem(
            f"confirm_timeout: {confirmation.seconds} requires subsystems: [nics], not"
            f" [{', '.join(subsystems)}]: revert the others in another call without confirm_timeout"
        )
    known: dict[str, Subsystem] = {
        "programs": _revert_programs.Programs(),
        "nics": _revert_nics.Nics(),
        "boot_args": BootArgs(command),
        "sysctls": Sysctls(),
    }
    selected = {name: known[name] for name in SUBSYSTEMS if name in subsystems}
    checkpoint = arm.Checkpoint(confirmation or Confirmation(), _nic_tuning.ROLLBACK, command)
    # A pending checkpoint of the same name is this call, repeated.
    journal.refuse_other(journal.pending(journal.read()), confirmation.name if confirmation else "")
    nets = net_changes(journal.read())
    plans = []
    with checkpoint.complete_or_revert():
        for subsystem, found in revert.plans(nets, selected, force, check):
            plans.append(found)
            if check:
                continue
            with journal.transaction(found.original):
                revert.remove_leftovers(found.original.files)
            with checkpoint.transaction(found):
                revert.apply(found, subsystem, command)
    archived = "" if check else _archive(command)
    restored = {
        key: change for found in plans for key, change in {**found.settings, **found.file_changes}.items()
    }
    drift = [one for found in plans for one in found.drift]
    values = {
        "changes": [
            {"subsystem": key.subsystem, "scope": key.scope, **_shown(key, change).as_dict()}
            for key, change in restored.items()
        ],
        "drift": [one.as_dict() for one in drift],
        "archived": archived,
        "checkpoint": checkpoint.name,
    }
    diffs = [plan.diff(where, changes) for where, changes in _diffs(restored).items()]
    return Result(bool(restored), values, [_drift_warning(one) for one in drift], diffs)


def _archive(command: RunCommand) -> str:
    """Archive the journal and return its new name if nothing remains to be reverted; else return ""."""
    with journal.locked():
        records = journal.read()
        if not records or journal.pending(records) or not _is_original(net_changes(records)):
            return ""
        arm.remove(command)
        return journal.archive()


def _is_original(nets: NetChanges) -> bool:
    """Return whether no change remains, except programs that disappeared with a boot or a Pod's device."""
    if nets.files or any(key.subsystem != "programs" for key in nets.settings):
        return False
    now = _revert_programs.Programs().read(nets.settings)
    return not revert.plan("programs", nets, now, {}, force=True)


def _is_file(key: Key) -> bool:
    return key.name.startswith("/") and key.subsystem not in ("boot_args", "programs")


def _shown(key: Key, change: Change) -> Change:
    """Return a change without file contents, which may be binary."""
    if not _is_file(key):
        return change
    before, after = ("present" if value is not None else None for value in (change.before, change.after))
    return Change(change.name, before, "original" if after else None)


def _diffs(restored: Mapping[Key, Change]) -> dict[str, list[Change]]:
    found: dict[str, list[Change]] = {}
    for key, change in restored.items():
        found.setdefault(f"{key.subsystem} {key.scope}".strip(), []).append(_shown(key, change))
    return found


def _drift_warning(drift: revert.Drift) -> str:
    key = drift.key
    where = f"{key.subsystem}: {key.scope}: " if key.scope else f"{key.subsystem}: "
    if _is_file(key):
        return f"{where}{key.name} changed since this collection wrote it: set force: true to restore it"
    return (
        f"{where}{key.name} is {plan.shown(drift.now)}, but this collection set"
        f" {plan.shown(drift.net.after)} (originally {plan.shown(drift.net.before)}), so it is kept: set"
        " force: true to restore it"
    )
