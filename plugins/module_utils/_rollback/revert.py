# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Roll back what the journal records: compare the current state with the net changes, restore the rest.

A value that is neither the one this collection wrote nor the original one was changed by others. It is
reported as drift and kept.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, Union

from .._core.command import RunCommand
from .._core.files import Metadata, bytes_of, digest, read_file, replace_file, sync_folder, temporary
from .._core.plan import Change, Plan, Problem, Value, reason
from .net_changes import Key, NetChange, NetChanges

_RELOAD = {
    "/etc/systemd/": ["systemctl", "daemon-reload"],
    "/etc/udev/": ["udevadm", "control", "--reload"],
}


class Absent:
    """Type of the current value of a setting that does not exist."""


GONE = Absent()  # Its NIC, namespace or key no longer exists: nothing to restore.
REMOVED = Absent()  # It exists only with its queue: restore it if this collection removed the queue.
Now = Union[Value, Absent]


@dataclass(frozen=True)
class Drift:
    """A setting or file that others changed after this collection."""

    key: Key
    now: Value
    net: NetChange

    def as_dict(self) -> dict[str, Value]:
        """Return the drift as the module returns it; for a file, with digests."""
        found = {"subsystem": self.key.subsystem, "scope": self.key.scope, "name": self.key.name}
        return {**found, "current": self.now, "applied": self.net.after, "original": self.net.before}


@dataclass(frozen=True)
class RollbackPlan(Plan):
    """Changes that restore original values.

    ``settings`` and ``file_changes`` have the changes by key, ``metadata`` those of files by path.
    ``original`` has the settings and files that already have their original values, so that the journal
    records them as restored.
    """

    settings: Mapping[Key, Change] = field(default_factory=dict)
    file_changes: Mapping[Key, Change] = field(default_factory=dict)
    metadata: Mapping[str, Metadata] = field(default_factory=dict)
    original: Plan = field(default_factory=lambda: Plan(""))
    drift: Sequence[Drift] = ()


def plan(
    subsystem: str, nets: NetChanges, now: Mapping[Key, Now], texts: Mapping[Key, str | None], force: bool
) -> RollbackPlan:
    """Return the plan that restores one subsystem.

    ``now`` has the current values of ``nets.settings``, ``texts`` the contents of ``nets.files``. With
    ``force``, drift is restored too.
    """
    restore: dict[Key, Change] = {}
    restore_files: dict[Key, Change] = {}
    settled, drift = [], []
    for key, net in nets.settings.items():
        value = now[key]
        if value is REMOVED and None in {net.after, *net.unfinished}:
            value = None
        if isinstance(value, Absent) or value == net.before:
            settled.append(Change(key.name, net.after, net.before, key.scope))
        elif force or value in {net.after, *net.unfinished}:
            restore[key] = Change(key.name, value, net.before, key.scope)
        else:
            drift.append(Drift(key, value, net))
    files: dict[str, tuple[str | None, str | None]] = {}
    settled_files: dict[str, tuple[str | None, str | None]] = {}
    for key, net in nets.files.items():
        before, found = net.before if isinstance(net.before, str) else None, digest(texts[key])
        if found == digest(before):
            settled_files[key.name] = (before, before)
        elif force or found in {net.after, *net.unfinished}:
            files[key.name] = (texts[key], before)
            restore_files[key] = Change(key.name, texts[key], before)
        else:
            drift.append(Drift(key, found, NetChange(digest(before), net.after, net.unfinished)))
    return RollbackPlan(
        subsystem=subsystem,
        changes=list(restore.values()),
        files=files,
        settings=restore,
        file_changes=restore_files,
        metadata={key.name: net.metadata for key, net in nets.files.items() if net.metadata},
        original=Plan(subsystem, settled, settled_files),
        drift=drift,
    )


# Subsystems


class Subsystem(Protocol):
    """How the settings of one subsystem are read and restored."""

    def read(self, keys: Iterable[Key]) -> dict[Key, Now]:
        """Return the current values, ``GONE`` for what no longer exists."""

    def write(self, desired: Mapping[Key, Value]) -> None:
        """Set original values; raises ``Problem``."""

    def exclusive(self, _keys: Iterable[Key]) -> contextlib.AbstractContextManager[None]:
        """Exclude other processes that change these settings without the lock of the journal."""
        return contextlib.nullcontext()


# Files


def write_files(
    desired: Mapping[str, str | None], command: RunCommand, kept: Mapping[str, Metadata] | None = None
) -> None:
    """Restore the contents of files and the metadata ``kept``, or remove files; raises ``Problem``."""
    try:
        for path, text in desired.items():
            if text is not None:
                os.makedirs(os.path.dirname(path), exist_ok=True)
                replace_file(path, bytes_of(text), like=(kept or {}).get(path))
                continue
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
                sync_folder(path)
    except OSError as error:
        raise Problem(f"{error.filename} cannot be restored: {reason(error)}") from None
    for prefix, words in _RELOAD.items():
        running = prefix != "/etc/udev/" or os.path.exists("/run/udev/control")
        if running and any(path.startswith(prefix) for path in desired):
            code, out, err = command(words)
            if code:
                raise Problem(f"{' '.join(words)} failed: {(out + err).strip()}")


def remove_leftovers(paths: Iterable[str]) -> None:
    """Remove the temporary files of an interrupted run, and empty directories of this collection."""
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary(path))
        folder = os.path.dirname(path)
        if os.path.basename(folder).startswith("podnet") or folder.endswith(".network.d"):
            with contextlib.suppress(OSError):  # It still contains other files.
                os.rmdir(folder)


# Rollback of several subsystems


def plans(
    nets: NetChanges, subsystems: Mapping[str, Subsystem], force: bool, check: bool = False
) -> Iterable[tuple[Subsystem, RollbackPlan]]:
    """Yield the plan of each subsystem, read just before it is yielded: restoring one may change another.

    Until the next one, no other process changes its settings, except with ``check``.
    """
    for name, subsystem in subsystems.items():
        own_nets = NetChanges(
            {key: net for key, net in nets.settings.items() if key.subsystem == name},
            {key: net for key, net in nets.files.items() if key.subsystem == name},
        )
        texts = {key: read_file(key.name) for key in own_nets.files}
        with contextlib.nullcontext() if check else subsystem.exclusive(own_nets.settings):
            yield subsystem, plan(name, own_nets, subsystem.read(own_nets.settings), texts, force)


def apply(found: RollbackPlan, subsystem: Subsystem, command: RunCommand) -> None:
    """Restore one subsystem; raises ``Problem``.

    Files are restored first, as they decide what the next boot does. If one of both fails, the other is
    restored nevertheless.
    """
    problems = []
    try:
        write_files({path: after for path, (dummy, after) in found.files.items()}, command, found.metadata)
    except Problem as problem:
        problems.append(str(problem))
    if found.settings:
        try:
            subsystem.write({key: change.after for key, change in found.settings.items()})
        except Problem as problem:
            problems.append(str(problem))
    if problems:
        raise Problem("\n".join(problems))
    remove_leftovers(found.files)
