# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs and attachments in the journal.

The scope of a change is the directory of the pins. An attachment's name is that of its pin, its value is
program, kernel id and type. ``progs`` stands for all pinned programs. Ids are valid for one boot, and a boot
removes all programs: where nothing is pinned, nothing is left to restore.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Protocol

from .._core.plan import Change
from .pins import Pins
from .plan import Attachment, ProgramPlan, Step

ALL = "progs"


class Recorder(Protocol):
    """Writes changes of programs to the journal."""

    def transaction(self, plan: ProgramPlan) -> contextlib.AbstractContextManager[None]:
        """Record what the block changes."""


def values(pins: Pins) -> dict[str, str]:
    """Return the current values by name, as the journal has them; empty if nothing is pinned."""
    found = {key: _text(a, pins.program_ids.get(key, 0)) for key, a in pins.attachments.items()}
    if pins.programs or pins.maps:  # A killed run may have pinned maps alone.
        found[ALL] = " ".join(f"{name}#{info.id}" for name, info in sorted(pins.programs.items()))
    return found


def _text(a: Attachment, program_id: int) -> str:
    return f"{a.program}#{program_id} {a.type}"


def program_and_type(value: str) -> tuple[str, str]:
    """Return program and type of an attachment's value."""
    program, dummy, kind = value.partition(" ")
    return program.partition("#")[0], kind


def program_plan(pins: Pins, steps: Sequence[Step]) -> ProgramPlan:
    """Return the plan that executes ``steps``, with its changes as the journal has them."""
    before = values(pins)
    planned = {step.name: step.after or None for step in steps if step.kind == "attachment"}
    if any(step.kind == "program" for step in steps):
        planned[ALL] = "new" if any(step.kind == "program" and step.after for step in steps) else None
    changes = [Change(name, before.get(name), after, pins.path) for name, after in sorted(planned.items())]
    return ProgramPlan(subsystem="programs", changes=changes, steps=steps, pin_path=pins.path, values=before)
