# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs and their attachments under the journal's eyes, and the way back. Private to this collection.

In the journal ``place`` is the folder of pins. An attachment's name is that of its pin, its value is
program, kernel's number and type; ``progs`` stands for all that is pinned. Numbers are those of one boot,
and a boot takes all of it: where nothing is pinned, nothing is to be put back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

from .._core.plan import Change, Problem, Value, reason
from .._datapath.maps import kept_at
from .._kernel.bpf import BpfError
from .._rollback import arm, journal
from .._rollback.arm import Terms
from .._rollback.journal import Key
from .._rollback.revert import GONE, Now, RunCommand
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
        for place in {key.place for key in keys}:
            pins = Pins(place)
            # A killed run may have attached what it did not come to pin.
            pins.find_strays(key.name for key in keys if key.place == place)
            values[place] = _values(pins)
        return {key: values[key.place].get(key.name) if values[key.place] else GONE for key in keys}

    def write(self, wished: Mapping[Key, Value]) -> None:
        """Bring them back to what they were; raises ``Problem``."""
        for place in {key.place for key in wished}:
            former = {
                key.name: _parsed(str(value)) if value else None
                for key, value in wished.items()
                if key.place == place and key.name != ALL
            }
            try:
                attach.back(place, former)
            except BpfError as problem:
                raise Problem(str(problem)) from None
            except OSError as error:
                raise Problem(f"programs of {place} cannot be put back: {reason(error)}") from None


WAY_BACK = arm.WayBack("programs", Programs)


class Journalled:
    """Journals one call of bpf_attach, under a checkpoint on ``terms`` where an uplink is concerned."""

    def __init__(self, terms: Terms, command: RunCommand) -> None:
        self._armed = arm.Checkpoint(terms, WAY_BACK, command)
        self._free = arm.Checkpoint(Terms(), WAY_BACK, command)

    @property
    def checkpoint(self) -> str:
        """Return the checkpoint's name, empty where nothing is to be confirmed."""
        return self._armed.name

    @contextlib.contextmanager
    def guard(self, pins: Pins, changes: Sequence[plan.Change]) -> Iterator[None]:
        """Journal what the block changes of the pins, which are as they were when that was planned."""
        path, before = pins.path, _values(pins)

        def looked() -> list[tuple[str, Change]]:
            after = _values(Pins(path))
            names = sorted({*before, *after})
            return [
                (path, Change(name, before.get(name), after.get(name)))
                for name in names
                if before.get(name) != after.get(name)
            ]

        names = [change.name for change in changes if change.kind == "attachment"]
        planned = {change.name: change.after or None for change in changes if change.kind == "attachment"}
        if any(change.kind == "program" for change in changes):
            planned[ALL] = "new" if any(c.kind == "program" and c.after for c in changes) else None
        entry = journal.Entry(
            "programs",
            [(path, Change(name, before.get(name), after)) for name, after in sorted(planned.items())],
            looked=looked,
            kept=kept_at(path),
        )
        uplink = any(name.endswith(("-ingress", "-egress")) for name in names)
        checkpoint = self._armed if uplink or not entry else self._free
        with checkpoint.whole(), checkpoint.entered(entry):
            if entry and checkpoint.name:
                attach.keep(path)
            yield
