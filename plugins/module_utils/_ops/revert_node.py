# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole of the module revert: every subsystem that is journalled. Private to this collection."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

from .._boot import apply
from .._core import plan
from .._core.command import RunCommand
from .._core.plan import Change, Problem, Result, Value
from .._kernel import netns
from .._nic import apply as _nic_tuning
from .._nic import revert as _revert_nics
from .._node import pod_netns
from .._node.facts import Node
from .._programs import revert as _revert_programs
from .._rollback import arm, journal, revert
from .._rollback.arm import Confirmation
from .._rollback.net_changes import Key, NetChanges, net_changes
from .._rollback.revert import GONE, Now, Subsystem
from .._sysctl.keys import path_of
from .._sysctl.tree import Tree

SUBSYSTEMS = ("programs", "nics", "boot_args", "sysctls")  # in the order of the way back


class Sysctls:
    """Sysctls of the node, and of Pods that still run."""

    def __init__(self) -> None:
        self._tree = Tree()
        self._paths: dict[str, str] = {}

    @contextlib.contextmanager
    def _entered(self, scope: str) -> Iterator[None]:
        if scope and not self._paths:
            self._paths = {namespace.name: namespace.path for namespace in pod_netns.found()}
        if scope and scope not in self._paths:
            raise ProcessLookupError(scope)
        with netns.entered(self._paths[scope]) if scope else contextlib.nullcontext():
            yield

    def read(self, keys: Iterable[Key]) -> dict[Key, Now]:
        """Return what is."""
        found: dict[Key, Now] = {}
        for scope, names in _by_scope(keys).items():
            found.update(dict.fromkeys(names, GONE))
            with contextlib.suppress(OSError), self._entered(scope):
                for key in names:
                    if self._tree.exists(path_of(key.name)):
                        found[key] = self._tree.read(path_of(key.name))
        return found

    def write(self, wished: Mapping[Key, Value]) -> None:
        """Set them; raises ``Problem``."""
        for scope, keys in _by_scope(wished).items():
            with self._entered(scope):
                desired = {path_of(key.name): str(wished[key]) for key in keys}
                now = self._tree.current(desired)
                changes = [Change(key.name, now[path_of(key.name)], wished[key]) for key in keys]
                # What the kernel changes along with them and we never changed is to stay as it is.
                self._tree.apply(changes, {**self._tree.touched(changes, desired), **desired})


def _by_scope(keys: Iterable[Key]) -> dict[str, list[Key]]:
    found: dict[str, list[Key]] = {}
    for key in keys:
        found.setdefault(key.scope, []).append(key)
    return found


class BootArgs:
    """Our arguments in the boot loader's entries, all of them one thing."""

    def __init__(self, command: RunCommand) -> None:
        self._loader = apply.bootloader(Node("/"), command)

    def read(self, keys: Iterable[Key]) -> dict[Key, Now]:
        """Return what is."""
        if self._loader is None:
            return dict.fromkeys(keys, GONE)
        return dict.fromkeys(keys, " ".join(self._loader.read().managed) or None)

    def write(self, wished: Mapping[Key, Value]) -> None:
        """Write them; raises ``Problem``."""
        for value in wished.values():
            if self._loader:
                self._loader.write(str(value or "").split())


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
            f"confirm_timeout: {confirmation.seconds} is for subsystems: [nics] alone, not for"
            f" [{', '.join(subsystems)}]: have the rest put back by another call, without it"
        )
    known: dict[str, Subsystem] = {
        "programs": _revert_programs.Programs(),
        "nics": _revert_nics.Nics(),
        "boot_args": BootArgs(command),
        "sysctls": Sysctls(),
    }
    wanted = {name: known[name] for name in SUBSYSTEMS if name in subsystems}
    checkpoint = arm.Checkpoint(confirmation or Confirmation(), _nic_tuning.ROLLBACK, command)
    # A pending checkpoint of the same name is this call, repeated.
    journal.refuse_other(journal.pending(journal.read()), confirmation.name if confirmation else "")
    nets = net_changes(journal.read())
    plans = []
    with checkpoint.complete_or_revert():
        for subsystem, found in revert.plans(nets, wanted, force):
            plans.append(found)
            if not check:
                revert.apply(found, subsystem, command, checkpoint.transaction, journal.transaction)
    archived = "" if check else _put_away(command)
    restored = {key: change for found in plans for key, change in {**found.things, **found.texts}.items()}
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


def _put_away(command: RunCommand) -> str:
    """Archive a journal in which nothing is left, and return its new name; else empty."""
    with journal.locked():
        records = journal.read()
        if not records or journal.pending(records) or not _settled(net_changes(records)):
            return ""
        arm.remove(command)
        return journal.archive()


def _settled(nets: NetChanges) -> bool:
    """Tell whether nothing is left, but for programs that went with a boot or with a Pod's device."""
    if nets.files or any(key.subsystem != "programs" for key in nets.things):
        return False
    now = _revert_programs.Programs().read(nets.things)
    return not revert.plan("programs", nets, now, {}, force=True)


def _is_file(key: Key) -> bool:
    return key.name.startswith("/") and key.subsystem not in ("boot_args", "programs")


def _shown(key: Key, change: Change) -> Change:
    """Return a change without the contents of a file, which may be a program."""
    if not _is_file(key):
        return change
    before, after = ("there" if value is not None else None for value in (change.before, change.after))
    return Change(change.name, before, "as before" if after else None)


def _diffs(back: Mapping[Key, Change]) -> dict[str, list[Change]]:
    found: dict[str, list[Change]] = {}
    for key, change in back.items():
        found.setdefault(f"{key.subsystem} {key.scope}".strip(), []).append(_shown(key, change))
    return found


def _drift_warning(drift: revert.Drift) -> str:
    key = drift.key
    where = f"{key.subsystem}: {key.scope}: " if key.scope else f"{key.subsystem}: "
    if _is_file(key):
        return f"{where}{key.name} was changed after this collection wrote it: it is left alone (force: true)"
    return (
        f"{where}{key.name} is {plan.shown(drift.now)},"
        f" neither {plan.shown(drift.net.after)} as this collection left it nor"
        f" {plan.shown(drift.net.before)} as it was before: it is left alone (force: true puts it back)"
    )
