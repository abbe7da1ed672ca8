# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The way back: what the journal says was changed, as it was before. Private to this collection.

What is neither as we left it nor as it was before us has been changed by somebody else, and is left to them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Union

from .._core.files import replace_file, sync_folder, temporary
from .._core.plan import Change, Problem, Value, reason
from . import journal
from .journal import Folded, Key, Span

RunCommand = Callable[[Sequence[str]], "tuple[int, str, str]"]
Entered = Callable[[journal.Entry], "contextlib.AbstractContextManager[None]"]

_RELOADED = {
    "/etc/systemd/": ["systemctl", "daemon-reload"],
    "/etc/udev/": ["udevadm", "control", "--reload"],
}


class Gone:
    """Stands for the value of a thing that is no longer there: its NIC, its namespace, its key."""


GONE = Gone()
# Of what comes and goes with others, as a queue with their number: it is to come back where we took it away.
AWAY = Gone()
Now = Union[Value, Gone]


@dataclass(frozen=True)
class Drift:
    """A thing that somebody else changed after us."""

    key: Key
    now: Value
    span: Span

    def as_dict(self) -> dict[str, Value]:
        """Return it as the module returns it; of a file, only digests."""
        found = {"subsystem": self.key.subsystem, "scope": self.key.place, "name": self.key.name}
        return {**found, "current": self.now, "applied": self.span.after, "original": self.span.before}


@dataclass(frozen=True)
class Plan:
    """What is to be put back, what is as it was already, and what is not ours any more."""

    back: Mapping[Key, Change]
    settled: Mapping[Key, Span]
    drift: Sequence[Drift]


def plan(spans: Mapping[Key, Span], now: Mapping[Key, Now], force: bool) -> Plan:
    """Compare what is with what we left; ``force`` puts back what somebody else changed, too."""
    back: dict[Key, Change] = {}
    settled: dict[Key, Span] = {}
    drift = []
    for key, span in spans.items():
        value = now[key]
        if value is AWAY and None in {span.after, *span.cut}:
            value = None
        if isinstance(value, Gone) or value == span.before:
            settled[key] = span
        elif force or value in {span.after, *span.cut}:
            back[key] = Change(key.name, value, span.before)
        else:
            drift.append(Drift(key, value, span))
    return Plan(back, settled, drift)


# Concerns


class Subsystem(Protocol):
    """How the things of one subsystem are read and written."""

    def read(self, keys: Iterable[Key]) -> dict[Key, Now]:
        """Return what is, ``GONE`` for what is no longer there."""

    def write(self, wished: Mapping[Key, Value]) -> None:
        """Bring things to their former values; raises ``Problem``."""


class Files:
    """Files that modules wrote."""

    def __init__(self, command: RunCommand) -> None:
        self._command = command

    def read(self, keys: Iterable[Key]) -> dict[Key, Now]:
        """Return what is."""
        return {key: journal.read_file(key.name) for key in keys}

    def write(self, wished: Mapping[str, str | None]) -> None:
        """Give files their former content, or take them away; raises ``Problem``."""
        try:
            for path, text in wished.items():
                if text is not None:
                    os.makedirs(os.path.dirname(path), exist_ok=True)
                    replace_file(path, journal.bytes_of(text))
                    continue
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
                    sync_folder(path)
        except OSError as error:
            raise Problem(f"{error.filename} cannot be put back: {reason(error)}") from None
        for prefix, words in _RELOADED.items():
            running = prefix != "/etc/udev/" or os.path.exists("/run/udev/control")
            if running and any(path.startswith(prefix) for path in wished):
                code, out, err = self._command(words)
                if code:
                    raise Problem(f"{' '.join(words)} failed: {(out + err).strip()}")

    @staticmethod
    def tidy(paths: Iterable[str]) -> None:
        """Take away what a killed run left beside files, and folders of ours that have none any more."""
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary(path))
            folder = os.path.dirname(path)
            if os.path.basename(folder).startswith("podnet") or folder.endswith(".network.d"):
                with contextlib.suppress(OSError):  # Other files are still there.
                    os.rmdir(folder)


def file_plan(spans: Mapping[Key, Span], now: Mapping[Key, Now], force: bool) -> Plan:
    """As ``plan``, for files, which are compared by digest; changes have texts."""
    former = {
        key: Span(journal.digest(_text(span.before)), span.after, span.cut) for key, span in spans.items()
    }
    found = plan(former, {key: journal.digest(_text(value)) for key, value in now.items()}, force)
    back = {key: Change(key.name, _text(now[key]), spans[key].before) for key in found.back}
    return Plan(back, {key: spans[key] for key in found.settled}, found.drift)


def _text(value: Now) -> str | None:
    return value if isinstance(value, str) else None


# The whole


@dataclass
class Outcome:
    """What was, or would be, put back, and what was left alone."""

    back: dict[Key, Change]
    drift: list[Drift]


def run(
    folded: Folded,
    subsystems: Mapping[str, Subsystem],
    command: RunCommand,
    *,
    force: bool = False,
    check: bool = False,
    entered: Entered = journal.entered,
) -> Outcome:
    """Put back what ``folded`` says, a subsystem after the other, each journalled by ``entered``.

    Raises ``Problem``.
    """
    files = Files(command)
    outcome = Outcome({}, [])
    for name, subsystem in subsystems.items():
        things = {key: span for key, span in folded.things.items() if key.subsystem == name}
        its_files = {key: span for key, span in folded.files.items() if key.subsystem == name}
        planned = plan(things, subsystem.read(things), force)
        with_files = file_plan(its_files, files.read(its_files), force)
        outcome.back.update({**planned.back, **with_files.back})
        outcome.drift += [*planned.drift, *with_files.drift]
        if check:
            continue
        _carry_out(name, subsystem, files, planned, with_files, entered)
    return outcome


def _carry_out(
    name: str,
    subsystem: Subsystem,
    files: Files,
    planned: Plan,
    with_files: Plan,
    entered: Entered,
) -> None:
    """Put one subsystem back, and journal that: what was found as it was before us is settled, too."""
    settled = [(key.place, Change(key.name, s.after, s.before)) for key, s in planned.settled.items()]
    changes = [(key.place, change) for key, change in planned.back.items()]
    texts = {key.name: (_text(c.before), _text(c.after)) for key, c in with_files.back.items()}
    same = {key.name: (_text(s.before), _text(s.before)) for key, s in with_files.settled.items()}
    with entered(journal.Entry(name, settled, same, found=True)):
        files.tidy(same)
    with entered(journal.Entry(name, changes, texts)):
        problems = []
        # First what the next boot would do; what cannot be put back keeps nothing else from it.
        try:
            files.write({path: after for path, (dummy, after) in texts.items()})
        except Problem as problem:
            problems.append(str(problem))
        if planned.back:
            try:
                subsystem.write({key: change.after for key, change in planned.back.items()})
            except Problem as problem:
                problems.append(str(problem))
        if problems:
            raise Problem("\n".join(problems))
        files.tidy(texts)
