# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Roll back programs and attachments, and record changes of them under a checkpoint."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping

from .._core.command import RunCommand
from .._core.plan import Change, Problem, Value, reason
from .._datapath.maps import backup_path
from .._rollback import arm
from .._rollback.arm import Confirmation
from .._rollback.net_changes import Key
from .._rollback.revert import GONE, Now, Subsystem
from .backup import back_up, restore
from .pins import Pins, locked
from .plan import ProgramPlan
from .record import ALL, program_and_type, values


class Programs(Subsystem):
    """Programs, their maps and attachments, as a subsystem of the rollback."""

    def read(self, keys: Iterable[Key]) -> dict[Key, Now]:
        """Return the current values."""
        keys = list(keys)
        found = {}
        for path in {key.scope for key in keys}:
            pins = Pins(path)
            # A killed run may have attached programs before it pinned them.
            pins.find_unpinned(key.name for key in keys if key.scope == path)
            found[path] = values(pins)
        return {key: found[key.scope].get(key.name) if found[key.scope] else GONE for key in keys}

    def write(self, desired: Mapping[Key, Value]) -> None:
        """Restore former values; raises ``Problem``."""
        for path in {key.scope for key in desired}:
            former = {
                key.name: program_and_type(str(value)) if value else None
                for key, value in desired.items()
                if key.scope == path and key.name != ALL
            }
            try:
                restore(path, former)
            except OSError as error:
                raise Problem(f"programs of {path} cannot be restored: {reason(error)}") from None

    @contextlib.contextmanager
    def exclusive(self, keys: Iterable[Key]) -> Iterator[None]:
        """Exclude other processes that attach or replace programs."""
        with contextlib.ExitStack() as held:
            for path in sorted({key.scope for key in keys}):
                held.enter_context(locked(path))
            yield


ROLLBACK = arm.RollbackProgram("programs", Programs)


class CheckpointRecorder:
    """Records changes in the journal, under a checkpoint if they affect an uplink."""

    def __init__(self, confirmation: Confirmation, command: RunCommand) -> None:
        self._armed = arm.Checkpoint(confirmation, ROLLBACK, command)
        self._unconfirmed = arm.Checkpoint(Confirmation(), ROLLBACK, command)

    @property
    def checkpoint(self) -> str:
        """Return the checkpoint's name, empty if nothing needs a confirmation."""
        return self._armed.name

    @contextlib.contextmanager
    def transaction(self, plan: ProgramPlan) -> Iterator[None]:
        """Record what the block changes."""
        path, before = plan.pin_path, plan.values

        def observe() -> list[Change]:
            after = values(Pins(path))
            return [
                Change(name, before.get(name), after.get(name), path)
                for name in sorted({*before, *after})
                if before.get(name) != after.get(name)
            ]

        uplink = any(change.name.endswith(("-ingress", "-egress")) for change in plan.changes)
        checkpoint = self._armed if uplink or not plan else self._unconfirmed
        transaction = checkpoint.transaction(plan, observe, backup=backup_path(path))
        with checkpoint.complete_or_revert(), transaction:
            if plan and checkpoint.name:
                back_up(path)
            yield
