# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The journal: an append-only file of all changes on a node, written before each change is made.

A change is two records, each a line of JSON: the plan, on disk before the change begins, and the end with
what really changed. If a run is interrupted, the first record names everything that it may have touched.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from .._core import lock
from .._core.files import digest, metadata, read_file, sync_folder
from .._core.plan import Change, Plan, Problem, Value, reason

FOLDER = "/var/lib/podnet-datapath"
FILE = "journal.jsonl"
_LOCK_TIMEOUT = 30.0  # seconds to wait for another module on this node

Record = Mapping[str, Any]
Observe = Callable[[], Sequence[Change]]


# The file


def boot_id() -> str:
    """Return the kernel's identifier of this boot."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def now() -> str:
    """Return the time in the journal's format, UTC as in RFC 3339."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def path() -> str:
    """Return the journal's path."""
    return os.path.join(FOLDER, FILE)


def read() -> list[dict[str, Any]]:
    """Return all records; raises ``Problem`` if a line is not JSON.

    Ignores a last line without a newline: the node stopped while it was written, so its change never began.
    """
    text = ""
    with contextlib.suppress(FileNotFoundError), open(path(), encoding="utf-8") as file:
        text = file.read()
    records = []
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        if not line.endswith("\n"):
            break
        try:
            records.append(json.loads(line))
        except ValueError:
            raise Problem(
                f"{path()}: line {number} is not JSON: inspect the file and repair that line"
            ) from None
    return records


def append(record: Record) -> None:
    """Append a record and return once it is on disk; raises ``OSError`` and leaves the file unchanged."""
    os.makedirs(FOLDER, mode=0o700, exist_ok=True)
    descriptor = os.open(path(), os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        with open(path(), "rb") as file:
            end = file.read().rfind(b"\n") + 1
        os.ftruncate(descriptor, end)
        line = json.dumps(record, sort_keys=True).encode() + b"\n"
        try:
            written = os.write(descriptor, line)
            if written < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, end)
            raise
    finally:
        os.close(descriptor)
    sync_folder(path())


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """Hold the lock of the journal, which is required for any change of the node; raises ``Problem``."""
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(lock.locked(os.path.join(FOLDER, "lock"), _LOCK_TIMEOUT))
        except OSError as error:
            raise Problem(_not_writable(error)) from None
        yield


def archive() -> str:
    """Rename a journal that has nothing left to revert; return its new name."""
    name = os.path.join(FOLDER, f"journal-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.jsonl")
    os.rename(path(), name)
    return name


def _not_writable(error: OSError) -> str:
    return (
        f"{path()} cannot be written ({reason(error)}), so nothing was changed:"
        " run as root (become), and free space on a writable file system"
    )


# Transactions


@contextlib.contextmanager
def transaction(
    plan: Plan, observe: Observe | None = None, *, checkpoint: str = "", backup: str = ""
) -> Iterator[None]:
    """Write the plan to the journal before the block, and the changes made after it.

    ``observe`` returns the changes that can be observed, against the values before the plan. ``backup`` is a
    directory that a rollback of ``checkpoint`` needs; it is removed when the checkpoint ends.

    Raises ``Problem`` before the block if the journal cannot be written, if another change is pending
    confirmation, if ``checkpoint`` has ended, or if something has changed since it was planned.
    """
    if not plan:
        yield
        return
    with locked():
        records = read()
        refuse_other(pending(records), checkpoint)
        if checkpoint:
            refuse_ended(records, checkpoint)
        _refuse_drift(plan, observe)
        run = uuid.uuid4().hex[:12]
        try:
            append(_begin(plan, run, checkpoint, backup))
        except OSError as error:
            raise Problem(_not_writable(error)) from None
        with _ended(plan, run, observe):
            yield


@contextlib.contextmanager
def rollback_transaction(plan: Plan, checkpoint: str) -> Iterator[None]:
    """Record what a rollback of ``checkpoint`` changes.

    A full disk does not prevent the rollback, as the node may be unreachable without it. Raises ``Problem``
    if another checkpoint is pending.
    """
    if not plan:
        yield
        return
    with locked():
        refuse_other(pending(read()), checkpoint)
        run = uuid.uuid4().hex[:12]
        with contextlib.suppress(OSError):
            append(_begin(plan, run, checkpoint))
        with _ended(plan, run, None):
            yield


def _listed(changes: Iterable[Change]) -> list[dict[str, Value]]:
    return [{"scope": change.scope, **change.as_dict()} for change in changes]


def _begin(plan: Plan, run: str, checkpoint: str, backup: str = "") -> Record:
    return {
        "time": now(),
        "boot_id": boot_id(),
        "run": run,
        "by": lock.requester(),
        "subsystem": plan.subsystem,
        "changes": _listed(plan.changes),
        "files": {
            name: {"before": before, "after": digest(after), **_metadata_of(name, before)}
            for name, (before, after) in plan.files.items()
        },
        **({"checkpoint": checkpoint} if checkpoint else {}),
        **({"backup": backup} if checkpoint and backup else {}),
    }


def _metadata_of(name: str, before: str | None) -> dict[str, Any]:
    """Return the metadata with which a rollback creates a file again."""
    found = None if before is None else metadata(name)
    return {"metadata": found.as_dict()} if found else {}


@contextlib.contextmanager
def _ended(plan: Plan, run: str, observe: Observe | None) -> Iterator[None]:
    """Record the end of the block. If that cannot be written, the change counts as planned."""
    failed = True
    try:
        yield
        failed = False
    finally:
        unchanged = [name for name, (old, new) in plan.files.items() if old != new and read_file(name) == old]
        record: dict[str, Any] = {"time": now(), "run": run, "end": "failed" if failed else "done"}
        with contextlib.suppress(Problem, OSError):
            if observe:
                record["changes"] = _listed(observe())
            elif not failed:
                record["changes"] = _listed(plan.changes)
        if failed and record.get("changes") == [] and len(unchanged) == len(plan.files):
            record["end"] = "restored"
        if unchanged:
            record["files_unchanged"] = unchanged
        with contextlib.suppress(OSError):
            append(record)


def _refuse_drift(plan: Plan, observe: Observe | None) -> None:
    """Raise ``Problem`` if something that the plan changes has changed since it was planned."""
    planned = {(change.scope, change.name) for change in plan.changes}
    try:
        observed = observe() if observe else ()
        moved = [
            f"{change.scope}: {change.name}".lstrip(": ")
            for change in observed
            if (change.scope, change.name) in planned
        ]
        moved += [name for name, (before, dummy) in plan.files.items() if read_file(name) != before]
    except OSError as error:
        what = error.filename or f"the state of {plan.subsystem}"
        raise Problem(f"{what} can no longer be read ({reason(error)}): run this again") from None
    if moved:
        raise Problem(
            f"{', '.join(moved)} changed while this was planned, so nothing was changed: run this again"
        )


# Pending checkpoints


def pending(records: Iterable[Record]) -> Record | None:
    """Return the checkpoint that is neither confirmed nor reverted."""
    unconfirmed: dict[str, Record] = {}
    for record in records:
        state = record.get("checkpoint_state")
        if state == "armed":
            unconfirmed[record["checkpoint"]] = record
        elif state and state != "reverting":
            unconfirmed.pop(record["checkpoint"], None)
    return next(iter(unconfirmed.values()), None)


def refuse_other(armed: Record | None, checkpoint: str = "") -> None:
    """Raise ``Problem`` if a checkpoint other than ``checkpoint`` is pending confirmation."""
    if armed is None or armed["checkpoint"] == checkpoint:
        return
    raise Problem(
        f"a change from {armed['by']} at {armed['time']} is pending confirmation (checkpoint"
        f" {armed['checkpoint']}, {armed['timeout']} s): run this again once it is confirmed or reverted, or"
        " revert it now with the module checkpoint and state: reverted"
    )


def refuse_pending() -> None:
    """Raise ``Problem`` if any checkpoint is pending confirmation."""
    refuse_other(pending(read()))


def refuse_ended(records: Iterable[Record], checkpoint: str) -> None:
    """Raise ``Problem`` if a checkpoint is no longer armed."""
    states = [
        r["checkpoint_state"]
        for r in records
        if r.get("checkpoint") == checkpoint and "checkpoint_state" in r
    ]
    if states[-1:] != ["armed"]:
        raise Problem(
            f"confirm_timeout: checkpoint {checkpoint} expired before all changes were made, so they are"
            " rolled back: increase confirm_timeout"
        )
