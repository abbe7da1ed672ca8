# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Apply the settings of NICs now and at boot, as one change that may require confirmation."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from .._core.command import RunCommand
from .._core.files import text_of
from .._core.plan import Change, Plan, Problem, Result, diff, reason
from .._kernel.ethtool import Ethtool
from .._rollback import arm, checkpoint
from .._rollback.arm import Confirmation
from .._rollback.journal import Observe
from . import configure, mtu, mtu_sources, persist, revert
from .persist import BootFiles
from .plan import NicPlan, requested_name

ROLLBACK = arm.RollbackProgram("nics", revert.Nics)

_RELOAD = (["udevadm", "control", "--reload"], ["systemctl", "daemon-reload"])


def run(
    nics: Sequence[Mapping[str, Any]],
    persistent: bool,
    check: bool,
    command: RunCommand,
    root: str = "/",
    confirmation: Confirmation | None = None,
) -> Result:
    """Apply the settings of NICs now and, if ``persistent``, at boot.

    Raises ``Problem``; then every NIC has its former settings, unless the message says otherwise.
    """
    if persistent:
        if nics:
            persist.require_systemd(root)
        persist.read(root)  # Reports a foreign file before the first change.
    pending = arm.Checkpoint(confirmation or Confirmation(), ROLLBACK, command)
    rollbacks = checkpoint.unreported()
    drop_ins: Mapping[str, bytes] = {}
    files: list[str] = []
    ethtool = Ethtool()
    try:
        with pending.complete_or_revert():
            found = configure.read_plan(ethtool, nics)
            found.require_valid()
            replace(found, problems=_mtu_problems(found)).require_valid()
            if persistent:
                persist.rules(entry["name"] for entry in found.entries)  # Reports unsafe names.
            if not check:
                with pending.transaction(*_observed(found)):
                    found = configure.apply(ethtool, found)
            if persistent:
                mtus = {index: mtu for (_name, index), mtu in _desired_mtus(found).items()}
                drop_ins = mtu_sources.drop_ins(mtus, root)
                former = persist.read(root)
                desired = persist.desired(found.entries, drop_ins).replacing(former)
                files = desired.differing(former)
                if files and not check:
                    with pending.transaction(_file_plan(former, desired, root)):
                        _write_files(former, desired, command, root)
    finally:
        ethtool.close()
    if not check:
        checkpoint.mark_reported(rollbacks)
    warnings = [*rollbacks.values()]
    if persistent:
        planned = {**dict.fromkeys(mtu_sources.present_drop_ins(root)), **drop_ins}
        warnings += _mtu_warnings(_desired_mtus(found), planned, root)
    return Result(
        bool(found or files),
        {
            "nics": configure.report(found),
            "files": files,
            "checkpoint": pending.name,
            "rolled_back": " ".join(rollbacks.values()),
        },
        warnings,
        [diff(one.nic.name, one.changes) for one in found.nics if one.changes],
    )


def _mtu_problems(found: NicPlan) -> list[str]:
    """Return an error for each lower MTU with effects that a rollback cannot undo."""
    planned = {
        one.nic.name: int(one.resolved.settings.get("mtu", one.nic.values["mtu"])) for one in found.nics
    }
    lowered = {
        one.nic.name: (one.nic.index, planned[one.nic.name])
        for one in found.nics
        if planned[one.nic.name] < int(one.nic.values["mtu"])
    }
    if not lowered:
        return []
    return mtu.problems(lowered, planned, mtu.stacked(mtu.devices()), mtu.with_ipv6())


def _observed(found: NicPlan) -> tuple[NicPlan, Observe]:
    """Return the plan with MTUs that the kernel changes along, and a function that returns all changes."""
    planned = [one for one in found.nics if one.changes]
    changed = [one.nic for one in planned]
    related = {
        name: device for name, device in configure.related_to(planned).items()
        if name not in [nic.name for nic in changed]
    }  # fmt: skip
    mtus = {change.scope: int(str(change.after)) for change in found.changes if change.name == "mtu"}
    followed = mtu.followers(mtus, mtu.devices()) if mtus else {}

    def observe() -> list[Change]:
        now = {device.name: device.mtu for device in mtu.devices()}
        return configure.observed_changes(changed) + [
            Change("mtu", device.mtu, now[name], name)
            for name, device in related.items()
            if name in now and now[name] != device.mtu
        ]

    more = [Change("mtu", before, after, name) for name, (before, after) in followed.items()]
    more += [
        Change(requested_name(change.name), one.nic.wanted[change.name], change.after, one.nic.name)
        for one in planned
        for change in one.changes
        if change.before == change.after or change.name in one.resolved.optional
    ]
    return replace(found, changes=[*found.changes, *more]), observe


def _file_plan(former: BootFiles, desired: BootFiles, root: str) -> Plan:
    """Return the plan of the files that differ."""
    return Plan(
        "nics",
        files={
            os.path.join(root, path.lstrip("/")): (
                text_of(former.contents.get(path)),
                text_of(desired.contents.get(path)),
            )
            for path in desired.differing(former)
        },
    )


def _write_files(former: BootFiles, desired: BootFiles, command: RunCommand, root: str) -> None:
    """Write the files and make udev and systemd read them; raises ``Problem`` after restoring the files."""
    try:
        persist.write(desired, root)
        for words in _RELOAD:
            code, out, err = command(words)
            if code:
                raise Problem(f"persist: {' '.join(words)} failed: {(out + err).strip()}")
    except (OSError, Problem) as problem:
        persist.write(former.replacing(desired), root)
        text = reason(problem) if isinstance(problem, OSError) else str(problem)
        raise Problem(f"{text}. The files were restored; the NICs keep their new settings.") from None


def _desired_mtus(found: NicPlan) -> dict[tuple[str, int], int | None]:
    """Return the MTU of each entry, by name and index of its interface."""
    entries = {entry["name"]: entry for entry in found.entries}
    return {(one.nic.name, one.nic.index): entries[one.nic.name].get("mtu") for one in found.nics}


def _mtu_warnings(
    mtus: Mapping[tuple[str, int], int | None], drop_ins: Mapping[str, bytes | None], root: str
) -> list[str]:
    """Return a warning for each file that sets another MTU later."""
    return [
        f"nics: {name}: {file} sets the MTU of the DHCP server: set {mtu} there instead"
        if other == "DHCP"
        else f"nics: {name}: {file} sets MTU {other} at the next boot or reconnect: change it to {mtu} there"
        for (name, index), mtu in mtus.items()
        if mtu
        for file, other in mtu_sources.later_mtus(name, index, root, drop_ins).items()
        if other != str(mtu)
    ]
