# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole of nic_tuning: NICs now, and at the next boot. Private to this collection."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from .._core.command import RunCommand
from .._core.files import text_of
from .._core.plan import Plan, Problem, Result, diff, reason
from .._kernel.ethtool import Ethtool
from .._rollback import arm
from .._rollback import checkpoint as _checkpoint
from .._rollback.arm import Confirmation
from . import mtu as _nic_mtu
from . import owner, revert, settings
from . import persist as _nic_persist

ROLLBACK = arm.RollbackProgram("nics", revert.Nics)

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
    files = {
        os.path.join(root, path.lstrip("/")): (
            text_of(former.files.get(path)),
            text_of(after.files.get(path)),
        )
        for path in differing
    }
    with checkpoint.transaction(Plan("nics", files=files)):
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


def _mtu_problems(jobs: Sequence[settings.Job]) -> list[str]:
    """Return what a rollback of lower MTUs would not restore."""
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
    confirmation: Confirmation | None = None,
) -> Result:
    """Bring NICs to their settings, now and, with ``persist``, at boot.

    Raises ``Problem``; then every NIC has its former settings, unless the message says otherwise.
    """
    if persist:
        if nics:
            _nic_persist.check(root)
        _nic_persist.present(root)  # Reports a foreign file before the first change.
    checkpoint = arm.Checkpoint(confirmation or Confirmation(), ROLLBACK, command)
    rollbacks = _checkpoint.unreported()
    ours: Mapping[str, bytes] = {}
    files: list[str] = []
    ethtool = Ethtool()
    try:
        with checkpoint.complete_or_revert():
            found = settings.plan_nics(ethtool, nics)
            found.require_valid()
            replace(found, problems=_mtu_problems(found.jobs)).require_valid()
            if not check:
                changed = [job.nic for job in found.jobs if job.changes]
                with checkpoint.transaction(found, lambda: settings.differing(changed)):
                    settings.apply(ethtool, found.jobs)
            if persist:
                ours = owner.drop_ins(found.entries, root)
                files = _persist(found.entries, ours, check, command, checkpoint, root)
    finally:
        ethtool.close()
    if not check:
        _checkpoint.mark_reported(rollbacks)
    warnings = [*rollbacks.values()]
    if persist:
        here = {**dict.fromkeys(owner.present(root)), **ours}
        warnings += _mtu_warnings(found.entries, here, root)
    return Result(
        bool(found or files),
        {
            "nics": settings.report(found),
            "files": files,
            "checkpoint": checkpoint.name,
            "rolled_back": " ".join(rollbacks.values()),
        },
        warnings,
        [diff(job.nic.name, job.changes) for job in found.jobs if job.changes],
    )
