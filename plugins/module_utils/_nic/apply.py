# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole of nic_tuning: NICs now, and at the next boot. Private to this collection."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any

from .._core.plan import Change, Problem, reason
from .._rollback import arm, journal
from .._rollback import checkpoint as _checkpoint
from .._rollback.arm import Terms
from .._rollback.revert import RunCommand
from . import mtu as _nic_mtu
from . import owner, revert, settings
from . import persist as _nic_persist

WAY_BACK = arm.WayBack("nics", revert.Nics)

_RELOAD = (["udevadm", "control", "--reload"], ["systemctl", "daemon-reload"])


def _mtu_warnings(
    entries: Sequence[Mapping[str, Any]], ours: Mapping[str, bytes | None], root: str
) -> list[str]:
    """Return a sentence for each file by which somebody else gives a NIC another MTU."""
    return [
        f"nics: {entry['name']} gets MTU {mtu} from {file} at the next boot or reconnect: make it"
        f" {entry['mtu']} there"
        for entry in entries
        if entry.get("mtu")
        for file, mtu in owner.later_mtus(
            entry["name"], socket.if_nametoindex(entry["name"]), root, ours
        ).items()
        if mtu != str(entry["mtu"])
    ]


def _persist(
    entries: Sequence[Mapping[str, Any]],
    ours: Mapping[str, bytes],
    check: bool,
    command: RunCommand,
    checkpoint: arm.Checkpoint,
    root: str,
) -> list[str]:
    """Keep ``entries`` for the next boot; return the files that changed. Raises ``Problem``."""
    former = _nic_persist.present(root)
    after = _nic_persist.wanted(entries, ours).after(former)
    differing = after.differing(former)
    if check or not differing:
        return differing
    with checkpoint.entered(_files_entry(former, after, root)):
        try:
            _nic_persist.write(after, root)
            for words in _RELOAD:
                code, out, err = command(words)
                if code:
                    raise Problem(f"persist: {' '.join(words)} failed: {(out + err).strip()}")
        except (OSError, Problem) as problem:
            _nic_persist.write(former.after(after), root)
            text = reason(problem) if isinstance(problem, OSError) else str(problem)
            raise Problem(f"{text}. The files are as they were; the NICs have their new settings.") from None
    return differing


def _files_entry(former: _nic_persist.Kept, after: _nic_persist.Kept, root: str) -> journal.Entry:
    """Return what the journal is to know before files are written."""
    text = journal.text_of
    return journal.Entry(
        "nics",
        files={
            os.path.join(root, path.lstrip("/")): (text(former.files.get(path)), text(after.files.get(path)))
            for path in after.differing(former)
        },
    )


def _nics_entry(jobs: Sequence[settings.Job]) -> journal.Entry:
    """Return what the journal is to know before NICs are set.

    Other channels may take queues away, with what these had: all of it, should nobody come to tell the end.
    """
    changes = [(job.nic.name, change) for job in jobs for change in job.changes]
    for job in jobs:
        planned = {change.name for change in job.changes}
        if any(name.startswith("channels.") for name in planned):
            changes += [
                (job.nic.name, Change(setting, value, None))
                for setting, value in job.nic.values.items()
                if settings.of_queue(setting) and setting not in planned
            ]
    return journal.Entry(
        "nics", changes, looked=lambda: settings.differing(job.nic for job in jobs if job.changes)
    )


def _objections(jobs: Sequence[settings.Job]) -> list[str]:
    """Return what the way back would not bring back. At boot nobody asks for a way back."""
    wished = {job.nic.name: int(job.resolved.settings.get("mtu", job.nic.values["mtu"])) for job in jobs}
    lowered = {
        job.nic.name: (job.nic.index, wished[job.nic.name])
        for job in jobs
        if wished[job.nic.name] < int(job.nic.values["mtu"])
    }
    if not lowered:
        return []
    return _nic_mtu.problems(lowered, wished, _nic_mtu.above(), _nic_mtu.with_ipv6())


def run(
    nics: Sequence[Mapping[str, Any]],
    persist: bool,
    check: bool,
    command: RunCommand,
    root: str = "/",
    terms: Terms | None = None,
) -> tuple[dict[str, Any], list[str]]:
    """Do what the module's options say; return its result, and warnings.

    Raises ``Problem``; then every NIC is set as before, unless the text says otherwise.
    """
    if persist:
        if nics:
            _nic_persist.check(root)
        _nic_persist.present(root)  # Names a file of somebody else's before the first change.
    checkpoint = arm.Checkpoint(terms or Terms(), WAY_BACK, command)
    ours: Mapping[str, bytes] = {}
    news = _checkpoint.news()
    with checkpoint.whole():
        result = settings.run(nics, check, lambda jobs: checkpoint.entered(_nics_entry(jobs)), _objections)
        entries = result.pop("entries")
        result["files"] = []
        if persist:
            ours = owner.drop_ins(entries, root)
            result["files"] = _persist(entries, ours, check, command, checkpoint, root)
    if not check:
        _checkpoint.told(news)
    result["checkpoint"], result["rolled_back"] = checkpoint.name, " ".join(news.values())
    if not persist:
        return result, [*news.values()]
    result["changed"] = result["changed"] or bool(result["files"])
    here = {**dict.fromkeys(owner.present(root)), **ours}
    return result, [*news.values(), *_mtu_warnings(entries, here, root)]
