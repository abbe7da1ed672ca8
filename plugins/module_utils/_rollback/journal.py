# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What was changed on a node, and what it was before: a file that only grows, written before each change.

Private to this collection. A change is two lines of JSON: what is about to happen, on disk before it does,
and how it ended. Whatever cuts a run short, the first line tells what may have been touched.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .._core import ssh_origin
from .._core.files import sync_folder
from .._core.plan import Change, Problem, Value, reason

FOLDER = "/var/lib/podnet-datapath"
FILE = "journal.jsonl"
_WAIT = 30.0  # seconds for another module on this node to end

Record = Mapping[str, Any]


# What a journal says


@dataclass(frozen=True)
class Key:
    """A thing of the node, files by path; ``place``: a NIC, a Pod's namespace, or empty for the node."""

    subsystem: str
    place: str
    name: str


@dataclass(frozen=True)
class Span:
    """What a thing was before our first change, and after our last.

    ``cut``: what it was before those of our changes whose end is not told; each may not have happened.
    """

    before: Value
    after: Value
    cut: frozenset[Value] = frozenset()


@dataclass(frozen=True)
class Folded:
    """Everything that a journal says is not as it was before us. A file's ``after`` is a digest."""

    things: Mapping[Key, Span]
    files: Mapping[Key, Span]

    def __bool__(self) -> bool:
        return bool(self.things or self.files)


def _lay(
    spans: dict[Any, Span],
    key: object,
    before: Value,
    after: Value,
    told: bool,
    same: Callable[[Any], Any],
) -> None:
    """Add a change to what is known of a thing, ``told``: whether its end is.

    ``same`` makes a former value comparable with a later one.
    """
    span = spans.pop(key, Span(before, same(before)))
    cut = frozenset() if told else (span.cut | {span.after}) - {same(span.before)}
    if same(span.before) != after or cut:
        spans[key] = Span(span.before, after, cut)


def fold(records: Iterable[Record]) -> Folded:
    """Return what differs from before the first record.

    What was put back counts no more, so that a later change begins with what the thing was then. A change
    whose end is not told, a way back as well, may or may not have happened: it stands as it was planned.
    """
    records = list(records)
    ends = {record["run"]: record for record in records if "end" in record}
    things: dict[Key, Span] = {}
    files: dict[Key, Span] = {}
    for record in records:
        if "changes" not in record or "end" in record:
            continue
        end = ends.get(record["run"], {})
        for change in end.get("changes", record["changes"]):
            key = Key(record["subsystem"], change["scope"], change["name"])
            told = "changes" in end
            _lay(things, key, change["before"], change["after"], told, lambda value: value)
        for path, file in record["files"].items():
            if path in end.get("files_kept", ()):
                continue
            key = Key(record["subsystem"], "", path)
            _lay(files, key, file["before"], file["after"], bool(end), digest)
    return Folded(things, files)


def digest(text: str | None) -> str | None:
    """Return what stands for a file's content; ``None`` is no file."""
    return None if text is None else hashlib.sha256(bytes_of(text)).hexdigest()


def text_of(data: bytes | None) -> str | None:
    """Return a file's content as a journal keeps it; every byte comes back from it."""
    return None if data is None else data.decode("utf-8", "surrogateescape")


def read_file(path: str) -> str | None:
    """Return a file's content, ``None`` where there is none."""
    try:
        with open(path, "rb") as file:
            return text_of(file.read())
    except FileNotFoundError:
        return None


def bytes_of(text: str) -> bytes:
    """Return the bytes of a file's content as a journal keeps it."""
    return text.encode("utf-8", "surrogateescape")


# The file


def boot_id() -> str:
    """Return the kernel's identifier of this boot."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def now() -> str:
    """Return the time, as the journal has it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def requester() -> str:
    """Return from where this process was started: the controller's address, as sshd tells it."""
    return ssh_origin.address() or "this node"


def path() -> str:
    """Return the journal's path."""
    return os.path.join(FOLDER, FILE)


def read() -> list[dict[str, Any]]:
    """Return the records; raises ``Problem``.

    A last line without its end was being written when the node stopped: what it announces did not begin.
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
            raise Problem(f"{path()}: line {number} is no JSON: look what happened to the file") from None
    return records


def append(record: Record) -> None:
    """Write a record, and return only once it is on disk; raises ``OSError``, the file is as before then."""
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
    """Have the journal, and with it the right to change the node, to oneself; raises ``Problem``."""
    name = os.path.join(FOLDER, "lock")
    try:
        os.makedirs(FOLDER, mode=0o700, exist_ok=True)
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Problem(f"{_refusal(error)}") from None
    try:
        deadline = time.monotonic() + _WAIT
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > deadline:
                    holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip()
                    raise Problem(
                        f"another run is changing this node ({holder}): run this again when it is done"
                    ) from None
            time.sleep(0.2)
        with contextlib.suppress(OSError):  # Only for the text above.
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"from {requester()}, process {os.getpid()}".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _refusal(error: OSError) -> str:
    return (
        f"{path()} cannot be written ({reason(error)}), so nothing was changed:"
        " run as root (become), and have room on a writable file system"
    )


# Changes under the journal's eyes


@dataclass
class Entry:
    """A change that is to be journalled. ``looked`` returns what really differs from before it.

    ``kept``: a folder with what the way back needs, to be removed once the checkpoint has ended.
    ``found``: nothing is to be changed, as somebody else did that already.
    """

    subsystem: str
    changes: Sequence[tuple[str, Change]] = ()
    files: Mapping[str, tuple[str | None, str | None]] = field(default_factory=dict)
    looked: Callable[[], Sequence[tuple[str, Change]]] | None = None
    kept: str = ""
    found: bool = False

    def __bool__(self) -> bool:
        return bool(self.changes or self.files)


def _listed(changes: Iterable[tuple[str, Change]]) -> list[dict[str, Value]]:
    return [{"scope": place, **change.as_dict()} for place, change in changes]


def pending(records: Iterable[Record]) -> Record | None:
    """Return the checkpoint that is neither confirmed nor reverted."""
    open_ones: dict[str, Record] = {}
    for record in records:
        state = record.get("checkpoint_state")
        if state == "armed":
            open_ones[record["checkpoint"]] = record
        elif state and state != "reverting":
            open_ones.pop(record["checkpoint"], None)
    return next(iter(open_ones.values()), None)


@contextlib.contextmanager
def entered(entry: Entry, checkpoint: str = "", unjournalled: bool = False) -> Iterator[None]:
    """Journal what the block changes.

    Raises ``Problem`` before the block where the journal cannot be written, where somebody else's change
    still waits for its confirmation or was made since ``entry`` was planned, or where the time of
    ``checkpoint`` is up: nothing would take this back.
    ``unjournalled``, for the way back itself: goes on all the same.
    """
    if not entry:
        yield
        return
    with locked():
        records = read()
        refuse_other(pending(records), checkpoint)
        if checkpoint and not unjournalled:
            refuse_ended(records, checkpoint)
        if not unjournalled:
            _refuse_moved(entry)
        run = uuid.uuid4().hex[:12]
        begin = {
            "time": now(),
            "boot_id": boot_id(),
            "run": run,
            "by": requester(),
            "subsystem": entry.subsystem,
            "changes": _listed(entry.changes),
            "files": {
                name: {"before": before, "after": digest(after)}
                for name, (before, after) in entry.files.items()
            },
            **({"checkpoint": checkpoint} if checkpoint else {}),
            **({"kept": entry.kept} if checkpoint and entry.kept else {}),
        }
        try:
            append(begin)
        except OSError as error:
            if not unjournalled:
                raise Problem(_refusal(error)) from None
        try:
            yield
        except BaseException:
            _close(run, entry, failed=True)
            raise
        _close(run, entry, failed=False)


def _close(run: str, entry: Entry, failed: bool) -> None:
    """Write how it ended. Where that cannot be written, the change stands as it was planned."""
    kept = [name for name, (old, new) in entry.files.items() if old != new and read_file(name) == old]
    record: dict[str, Any] = {"time": now(), "run": run, "end": "failed" if failed else "done"}
    with contextlib.suppress(Problem, OSError):
        if entry.looked:
            record["changes"] = _listed(entry.looked())
        elif not failed:
            record["changes"] = _listed(entry.changes)
    if failed and record.get("changes") == [] and len(kept) == len(entry.files):
        record["end"] = "put back"
    if kept:
        record["files_kept"] = kept
    with contextlib.suppress(OSError):
        append(record)


def refuse_other(armed: Record | None, checkpoint: str = "") -> None:
    """Raise ``Problem`` where a change waits for its confirmation, other than that of ``checkpoint``."""
    if armed is None or armed["checkpoint"] == checkpoint:
        return
    raise Problem(
        f"a change from {armed['by']} of {armed['time']} waits for its confirmation (checkpoint"
        f" {armed['checkpoint']}, {armed['timeout']} s): run this again when it is confirmed or reverted, or"
        " have it reverted now by checkpoint with state: reverted"
    )


def refuse_pending() -> None:
    """Raise ``Problem`` where a change waits for its confirmation: the node is somebody else's until then."""
    refuse_other(pending(read()))


def _refuse_moved(entry: Entry) -> None:
    """Raise ``Problem`` where what is to be changed is not any more as it was when that was planned."""
    planned = {(place, change.name) for place, change in entry.changes}
    try:
        looked = entry.looked() if entry.looked else ()
        moved = [
            f"{place}: {change.name}".lstrip(": ")
            for place, change in looked
            if (place, change.name) in planned
        ]
        moved += [name for name, (before, dummy) in entry.files.items() if read_file(name) != before]
    except OSError as error:
        what = error.filename or f"what is to be changed of {entry.subsystem}"
        raise Problem(f"{what} cannot be read any more ({reason(error)}): run this again") from None
    if moved:
        raise Problem(f"{', '.join(moved)}: changed by somebody else just now, so left alone: run this again")


def refuse_ended(records: Iterable[Record], checkpoint: str) -> None:
    """Raise ``Problem`` where a checkpoint is not armed any more."""
    states = [
        r["checkpoint_state"]
        for r in records
        if r.get("checkpoint") == checkpoint and "checkpoint_state" in r
    ]
    if states[-1:] != ["armed"]:
        raise Problem(
            f"confirm_timeout: its time was up before all was changed (checkpoint {checkpoint}), so what was"
            " changed is taken back: give more seconds"
        )


def archive() -> str:
    """Put a journal away in which nothing is left to revert; return its new name."""
    name = os.path.join(FOLDER, f"journal-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.jsonl")
    os.rename(path(), name)
    return name
