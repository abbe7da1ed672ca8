# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checkpoints: changes of the network that the node rolls back unless they are confirmed in time.

This module ends checkpoints. Its code stays on the node and also runs from a timer and at boot, where nothing
but Python is available. ``arm`` begins them.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import time
from collections.abc import Iterable, Mapping
from typing import Any

from .._core.command import RunCommand
from .._core.plan import Problem, reason, shown
from . import journal, revert
from .journal import Record
from .net_changes import net_changes
from .revert import Subsystem

# A timer of this boot only: the next boot starts the service itself.
TIMER = "/run/systemd/system/podnet-checkpoint.timer"
# Exists while a checkpoint is armed, and reserves the space that a rollback may need on a full disk.
ARMED = f"{journal.FOLDER}/armed"
_MAX_RETRY_DELAY = 300  # seconds between two attempts to roll back


# What the journal records


def status(records: Iterable[Record], name: str = "") -> dict[str, Any]:
    """Return the state of a checkpoint, of the last one without a name; empty if there is none."""
    found: dict[str, Any] = {}
    for record in records:
        if record.get("complete") == found.get("checkpoint", ""):
            found["complete"] = True
        if "checkpoint_state" not in record or name not in ("", record["checkpoint"]):
            continue
        if record["checkpoint_state"] == "armed":
            found = dict(record)
        elif found.get("checkpoint") == record["checkpoint"]:
            found = {**found, **record, "time": found["time"], "ended": record["time"]}
    return found


def ended_message(name: str, found: Mapping[str, Any]) -> str:
    """Return why a checkpoint that is not armed cannot be confirmed or reverted."""
    if not found:
        return f"checkpoint: the journal has no checkpoint{f' named {name}' if name else ''}"
    if found["checkpoint_state"] == "reverted":
        how = f"{found['ended']} ({found['reason']}): {_restored(found)}"
        return f"checkpoint {found['checkpoint']} was reverted at {how}"
    return f"checkpoint {found['checkpoint']} is already {found['checkpoint_state']}"


def unreported() -> dict[str, str]:
    """Return a message for each automatic rollback that no run has reported yet, by checkpoint."""
    try:
        records = journal.read()
    except OSError:  # A dry run without the permission to read it.
        return {}
    reported = {record["reported"] for record in records if "reported" in record}
    names = [
        str(r["checkpoint"])
        for r in records
        if r.get("checkpoint_state") == "reverted" and r.get("automatic")
    ]
    messages = {}
    for name in names:
        if name not in reported:
            found = status(records, name)
            messages[name] = (
                f"this node rolled back a change from {found['by']} at {found['time']}: {found['reason']} (at"
                f" {found['ended']}). Restored: {_restored(found)}"
            )
    return messages


def mark_reported(names: Iterable[str]) -> None:
    """Record that the rollbacks of these checkpoints were reported."""
    for name in names:
        with contextlib.suppress(OSError, Problem), journal.locked():
            journal.append({"reported": name, "time": journal.now()})


def _restored(found: Mapping[str, Any]) -> str:
    return ", ".join(found.get("reverted", ())) or "nothing, as nothing had been changed"


# End of a checkpoint


def complete(name: str) -> None:
    """Record that all changes of a checkpoint were made; raises ``Problem``."""
    try:
        with journal.locked():
            journal.refuse_ended(journal.read(), name)
            journal.append({"complete": name, "time": journal.now()})
    except OSError as error:
        raise Problem(
            f"{journal.path()} cannot be written ({reason(error)}), so the change is rolled back:"
            " free space on a writable file system"
        ) from None


def end(name: str, state: str, command: RunCommand, why: str = "", **more: Any) -> None:
    """Record the end of a checkpoint, with the reason ``why``, and stop its timer. Raises ``OSError``."""
    record = {"checkpoint": name, "checkpoint_state": state, "time": journal.now(), "reason": why, **more}
    _release_space()
    journal.append(record)
    for folder in {r["backup"] for r in journal.read() if r.get("checkpoint") == name and r.get("backup")}:
        shutil.rmtree(folder, ignore_errors=True)
    disarm(command)


def disarm(command: RunCommand) -> None:
    """Remove the timer and the file that marks an armed checkpoint."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(ARMED)
    command(["systemctl", "stop", os.path.basename(TIMER)])
    with contextlib.suppress(FileNotFoundError):
        os.unlink(TIMER)


def expire(command: RunCommand, subsystems: Mapping[str, Subsystem]) -> str:
    """Entry point of the rollback timer and the boot unit: revert the armed checkpoint; return a message."""
    with journal.locked():  # A process that is arming holds the lock until the journal has the checkpoint.
        armed = journal.pending(journal.read())
        if not armed:  # The process that was arming was killed before that.
            disarm(command)
            return "No checkpoint is pending confirmation."
    booted = armed["boot_id"] != journal.boot_id()
    why = "the node booted before the confirmation" if booted else f"not confirmed in {armed['timeout']} s"
    name = str(armed["checkpoint"])
    try:
        found = roll_back(name, why, command, subsystems, automatic=True)
    except (Problem, OSError):
        # systemd restarts this service without limit. A NIC that refuses a setting is reset ever less often.
        time.sleep(min(2 ** min(_attempts(journal.read(), name), 16), _MAX_RETRY_DELAY))
        raise
    return f"Reverted ({why}): {_restored(found)}"


def roll_back(
    name: str, why: str, command: RunCommand, subsystems: Mapping[str, Subsystem], automatic: bool = False
) -> dict[str, Any]:
    """Roll back all changes of a checkpoint; return its state. Raises ``Problem``."""
    _release_space()
    _mark_reverting(name)
    nets = net_changes(record for record in journal.read() if _belongs(record, name))
    # Drift is restored too: without this rollback the node may stay unreachable.
    for subsystem, plan in revert.plans(nets, subsystems, force=True):
        with journal.rollback_transaction(plan.original, name):
            revert.remove_leftovers(plan.original.files)
        with journal.rollback_transaction(plan, name):
            revert.apply(plan, subsystem, command)
    with journal.locked():
        more = {"automatic": True} if automatic else {}
        end(name, "reverted", command, why, reverted=_original_values(journal.read(), name), **more)
    return status(journal.read(), name)


def _attempts(records: Iterable[Record], name: str) -> int:
    """Return how many times the rollback of a checkpoint has begun."""
    begun = itertools.dropwhile(
        lambda r: (r.get("checkpoint"), r.get("checkpoint_state")) != (name, "reverting"), records
    )
    return sum("changes" in r and "end" not in r for r in begun if r.get("checkpoint") == name)


def _release_space() -> None:
    with contextlib.suppress(OSError):
        os.truncate(ARMED, 0)


def _mark_reverting(name: str) -> None:
    """Record that a checkpoint can no longer be confirmed; raises ``Problem`` if it was confirmed."""
    with journal.locked():
        found = status(journal.read(), name)
        if found.get("checkpoint_state") == "reverting":  # An earlier attempt recorded it.
            return
        if found.get("checkpoint_state") != "armed":
            raise Problem(ended_message(name, found))
        with contextlib.suppress(OSError):
            journal.append(
                {"checkpoint": found["checkpoint"], "checkpoint_state": "reverting", "time": journal.now()}
            )


def _original_values(records: Iterable[Record], name: str) -> list[str]:
    """Return what a checkpoint changed, with the original values, however often the rollback had to begin."""
    until = itertools.takewhile(
        lambda r: (r.get("checkpoint"), r.get("checkpoint_state")) != (name, "reverting"), records
    )
    nets = net_changes(record for record in until if _belongs(record, name))
    return [
        *(f"{key.scope}: {key.name} = {shown(net.before)}" for key, net in nets.settings.items()),
        *(key.name for key in nets.files),
    ]


def _belongs(record: Record, name: str) -> bool:
    return "end" in record or ("changes" in record and record.get("checkpoint") == name)
