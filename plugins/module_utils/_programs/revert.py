# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs and their attachments under the journal's eyes, and the way back. Private to this collection.

In the journal, the scope is the directory of the pins. An attachment's name is that of its pin, its value is
program, kernel's number and type; ``progs`` stands for all that is pinned. Numbers are those of one boot,
and a boot takes all of it: where nothing is pinned, nothing is to be put back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

from .._core.command import RunCommand
from .._core.plan import Change, Plan, Problem, Value, reason
from .._datapath.maps import kept_at
from .._kernel.bpf import BpfError
from .._rollback import arm
from .._rollback.arm import Confirmation
from .._rollback.net_changes import Key
from .._rollback.revert import GONE, Now
from . import attach, plan
from .pins import Pins
from .plan import Attachment

ALL = "progs"


def _values(pins: Pins) -> dict[str, str]:
    """Return what is, as the journal has it; empty where nothing is pinned."""
    found = {key: _text(a, pins.program_ids.get(key, 0)) for key, a in pins.attachments.items()}
    if pins.programs or pins.maps:  # A killed run may have pinned maps alone.
        found[ALL] = " ".join(f"{name}#{info.id}" for name, info in sorted(pins.programs.items()))
    return found


def _text(a: Attachment, number: int) -> str:
    return f"{a.program}#{number} {a.type}"


def _parsed(value: str) -> tuple[str, str]:
    """Return program and type of an attachment's value."""
    program, dummy, kind = value.partition(" ")
    return program.partition("#")[0], kind


class Programs:
    """Programs, their maps and attachments, as a subsystem of the way back."""

    def read(self, keys: Iterable[Key]) -> dict[Key, Now]:
        """Return what is."""
        keys = list(keys)
        values = {}
        for path in {key.scope for key in keys}:
            pins = Pins(path)
            # A killed run may have attached what it did not come to pin.
            pins.find_strays(key.name for key in keys if key.scope == path)
            values[path] = _values(pins)
        return {key: values[key.scope].get(key.name) if values[key.scope] else GONE for key in keys}

    def write(self, wished: Mapping[Key, Value]) -> None:
        """Bring them back to what they were; raises ``Problem``."""
        for path in {key.scope for key in wished}:
            former = {
                key.name: _parsed(str(value)) if value else None
                for key, value in wished.items()
                if key.scope == path and key.name != ALL
            }
            try:
                attach.back(path, former)
            except BpfError as problem:
                raise Problem(str(problem)) from None
            except OSError as error:
                raise Problem(f"programs of {path} cannot be put back: {reason(error)}") from None


ROLLBACK = arm.RollbackProgram("programs", Programs)


class Journalled:
    """Journal of one call of bpf_attach, under a checkpoint if it changes an uplink."""

    def __init__(self, confirmation: Confirmation, command: RunCommand) -> None:
        self._armed = arm.Checkpoint(confirmation, ROLLBACK, command)
        self._free = arm.Checkpoint(Confirmation(), ROLLBACK, command)

    @property
    def checkpoint(self) -> str:
        """Return the checkpoint's name, empty where nothing is to be confirmed."""
        return self._armed.name

    @contextlib.contextmanager
    def guard(self, pins: Pins, changes: Sequence[plan.Change]) -> Iterator[None]:
        """Journal what the block changes of the pins, which are as they were when that was planned."""
        path, before = pins.path, _values(pins)

        def observe() -> list[Change]:
            after = _values(Pins(path))
            names = sorted({*before, *after})
            return [
                Change(name, before.get(name), after.get(name), path)
                for name in names
                if before.get(name) != after.get(name)
            ]

        names = [change.name for change in changes if change.kind == "attachment"]
        planned = {change.name: change.after or None for change in changes if change.kind == "attachment"}
        if any(change.kind == "program" for change in changes):
            planned[ALL] = "new" if any(c.kind == "program" and c.after for c in changes) else None
        journalled = Plan(
            "programs",
            [Change(name, before.get(name), after, path) for name, after in sorted(planned.items())],
        )
        uplink = any(name.endswith(("-ingress", "-egress")) for name in names)
        checkpoint = self._armed if uplink or not journalled else self._free
        transaction = checkpoint.transaction(journalled, observe, backup=kept_at(path))
        with checkpoint.complete_or_revert(), transaction:
            if journalled and checkpoint.name:
                attach.keep(path)
            yield
