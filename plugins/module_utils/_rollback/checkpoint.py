# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A change that takes itself back unless it is confirmed in time. Private to this collection.

The node does that alone: a timer of systemd starts a program with a copy of this code, and so does the next
boot. Controller and network are not needed. The journal has all of its state: what is armed, what was
changed since, and how it ended.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import shutil
import time
from collections.abc import Iterable, Mapping
from typing import Any

from .._core.plan import Problem, reason, shown
from . import journal
from . import revert as _revert
from .journal import Record
from .revert import RunCommand, Subsystem

# A timer of this boot only: the next one starts the service itself.
TIMER = "/run/systemd/system/podnet-checkpoint.timer"
# There while something is armed, and as large as the way back may need on a full disk.
ARMED = f"{journal.FOLDER}/armed"
_LONGEST = 300  # seconds between two tries of a way back


# What the journal says


def status(records: Iterable[Record], name: str = "") -> dict[str, Any]:
    """Return how a checkpoint stands, the last one where no name is given; empty without any."""
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


# Deeds


def complete(name: str) -> None:
    """Write that everything was changed that was to be; raises ``Problem``."""
    try:
        with journal.locked():
            journal.refuse_ended(journal.read(), name)
            journal.append({"complete": name, "time": journal.now()})
    except OSError as error:
        raise Problem(
            f"{journal.path()} cannot be written ({reason(error)}), so the change is taken back:"
            " have room on a writable file system"
        ) from None


def end(name: str, state: str, command: RunCommand, why: str = "", **more: Any) -> None:
    """Write how a checkpoint ended, and stop its timer. Raises ``OSError``."""
    record = {"checkpoint": name, "checkpoint_state": state, "time": journal.now(), "reason": why, **more}
    _make_room()
    journal.append(record)
    for folder in {r["kept"] for r in journal.read() if r.get("checkpoint") == name and r.get("kept")}:
        shutil.rmtree(folder, ignore_errors=True)
    stand_down(command)


def stand_down(command: RunCommand) -> None:
    """Take the timer away, and what says that something is armed."""
    _disarm()
    command(["systemctl", "stop", os.path.basename(TIMER)])
    with contextlib.suppress(FileNotFoundError):
        os.unlink(TIMER)


def too_late(name: str, found: Mapping[str, Any]) -> str:
    """Return why a checkpoint that is not armed can no longer be ended."""
    if not found:
        return f"checkpoint: the journal knows none{f' of the name {name}' if name else ''}: nothing is armed"
    if found["checkpoint_state"] == "reverted":
        how = f"{found['ended']} ({found['reason']}): {_back(found)}"
        return f"checkpoint {found['checkpoint']} was reverted at {how}"
    return f"checkpoint {found['checkpoint']} is {found['checkpoint_state']} already"


def expire(command: RunCommand, subsystems: Mapping[str, Subsystem]) -> str:
    """Be what timer and boot start: revert what is armed; return a sentence."""
    with journal.locked():  # Whoever arms has it until the journal knows.
        armed = journal.pending(journal.read())
        if not armed:  # Whoever armed was killed before the journal knew.
            stand_down(command)
            return "Nothing waits for a confirmation."
    booted = armed["boot_id"] != journal.boot_id()
    why = "the node booted before the confirmation" if booted else f"not confirmed in {armed['timeout']} s"
    name = str(armed["checkpoint"])
    try:
        found = revert(name, why, command, subsystems, by_itself=True)
    except (Problem, OSError):
        # systemd starts this again without end: a NIC that refuses a setting is reset less and less often.
        time.sleep(min(2 ** min(_tries(journal.read(), name), 16), _LONGEST))
        raise
    return f"Reverted, as {why}: {_back(found)}"


def _tries(records: Iterable[Record], name: str) -> int:
    """Return how often the way back of a checkpoint was begun."""
    begun = itertools.dropwhile(
        lambda r: (r.get("checkpoint"), r.get("checkpoint_state")) != (name, "reverting"), records
    )
    return sum("changes" in r and "end" not in r for r in begun if r.get("checkpoint") == name)


def _back(found: Mapping[str, Any]) -> str:
    return ", ".join(found.get("reverted", ())) or "nothing had been changed yet"


def news() -> dict[str, str]:
    """Return a sentence, by checkpoint, for each change that the node took back and nobody was told of."""
    try:
        records = journal.read()
    except OSError:  # A dry run of somebody who may not read it.
        return {}
    known = {record["told"] for record in records if "told" in record}
    names = [
        str(r["checkpoint"])
        for r in records
        if r.get("checkpoint_state") == "reverted" and r.get("by_itself")
    ]
    sentences = {}
    for name in names:
        if name not in known:
            found = status(records, name)
            sentences[name] = (
                f"a change from {found['by']} of {found['time']} was taken back by this node at"
                f" {found['ended']}, as {found['reason']}: {_back(found)}"
            )
    return sentences


def told(names: Iterable[str]) -> None:
    """Remember that somebody was told of these checkpoints."""
    for name in names:
        with contextlib.suppress(OSError, Problem), journal.locked():
            journal.append({"told": name, "time": journal.now()})


def revert(
    name: str, why: str, command: RunCommand, subsystems: Mapping[str, Subsystem], by_itself: bool = False
) -> dict[str, Any]:
    """Take back everything that was changed under a checkpoint; raises ``Problem``."""
    _make_room()
    _mark_reverting(name)
    folded = journal.fold(record for record in journal.read() if _belongs(record, name))
    # Whatever it is now: this is the way back from a node that cannot be reached.
    entered = functools.partial(journal.entered, checkpoint=name, unjournalled=True)
    _revert.run(folded, subsystems, command, force=True, entered=entered)
    with journal.locked():
        more = {"by_itself": True} if by_itself else {}
        end(name, "reverted", command, why, reverted=_former(journal.read(), name), **more)
    return status(journal.read(), name)


def _make_room() -> None:
    with contextlib.suppress(OSError):
        os.truncate(ARMED, 0)


def _disarm() -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(ARMED)


def _mark_reverting(name: str) -> None:
    """From now on it is too late to confirm. Raises ``Problem`` where it was confirmed meanwhile."""
    with journal.locked():
        found = status(journal.read(), name)
        if found.get("checkpoint_state") == "reverting":  # begun before
            return
        if found.get("checkpoint_state") != "armed":
            raise Problem(too_late(name, found))
        with contextlib.suppress(OSError):
            journal.append(
                {"checkpoint": found["checkpoint"], "checkpoint_state": "reverting", "time": journal.now()}
            )


def _former(records: Iterable[Record], name: str) -> list[str]:
    """Return what a checkpoint had changed, as it was: however often the way back had to be begun."""
    until = itertools.takewhile(
        lambda r: (r.get("checkpoint"), r.get("checkpoint_state")) != (name, "reverting"), records
    )
    folded = journal.fold(record for record in until if _belongs(record, name))
    return [
        *(f"{key.place}: {key.name} = {shown(span.before)}" for key, span in folded.things.items()),
        *(key.name for key in folded.files),
    ]


def _belongs(record: Record, name: str) -> bool:
    return "end" in record or ("changes" in record and record.get("checkpoint") == name)
