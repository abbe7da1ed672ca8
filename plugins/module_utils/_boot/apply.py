# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plan and apply the kernel arguments of every boot entry."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .._core.command import RunCommand, clean
from .._core.files import replace_file
from .._core.plan import Change, Plan, Problem, Result, diff
from .._node.host import Host
from .._rollback import journal
from .arguments import iommu_users, parse, risks, stale
from .bootloader import Bootloader, Current
from .command_line import missing, name_of, words
from .loaders import BOOTLOADERS, booted, detect

# Arguments that earlier runs removed and the running kernel still has; /run is empty after a boot.
_STALE = "/run/podnet/boot_args"


@dataclass(frozen=True)
class BootPlan(Plan):
    """The plan for one boot loader; its only change is that of the managed arguments.

    ``outdated`` has the changes of entries that lack managed arguments, for example because their kernel was
    installed after the last run.
    """

    outdated: Sequence[Change] = ()

    @property
    def shown(self) -> Sequence[Change]:
        """Return the changes for the user."""
        return self.outdated or self.changes


def plan(current: Current, tokens: Sequence[str], file: str) -> BootPlan:
    """Return the plan that makes ``tokens`` the managed arguments, which ``file`` records."""
    before, after = " ".join(current.managed), " ".join(tokens)
    change = Change(file, before or None, after or None)
    if before != after or current.interrupted:
        return BootPlan("boot_args", [change])
    outdated = [
        Change(entry.title, " ".join(entry.tokens), " ".join([*entry.tokens, *absent]))
        for entry in current.entries
        for absent in [missing(tokens, entry.tokens)]
        if absent
    ]
    return BootPlan(subsystem="boot_args", changes=[change] if outdated else [], outdated=outdated)


def apply(found: BootPlan, loader: Bootloader, tokens: Sequence[str]) -> None:
    """Write ``tokens`` to the boot loader's entries as one transaction; raises ``Problem``."""
    (change,) = found.changes

    def observe() -> list[Change]:
        now = replace(change, after=" ".join(loader.read().managed) or None)
        return [now] if now.before != now.after else []

    with journal.transaction(found, observe):
        loader.write(tokens)


def bootloader(node: Host, command: RunCommand) -> Bootloader | None:
    """Return access to the node's boot loader, ``None`` if it is not supported."""
    found = detect(node)
    return found(node, clean(command)) if found else None


def _require_acceptable(risky: dict[str, str], acknowledged: bool, node: Host) -> None:
    """Raise ``Problem`` if arguments disable protections without consent, or an IOMMU that is in use."""
    if risky and not acknowledged:
        raise Problem(
            "\n".join(
                f"args: {token}: {risk}: remove it, or set acknowledge_risk: true"
                for token, risk in risky.items()
            )
        )
    without_iommu = [token for token in risky if "iommu" in name_of(token)]
    users = iommu_users(node) if without_iommu else []
    if users:
        raise Problem(
            f"args: {' '.join(without_iommu)}: {', '.join(users)} need the IOMMU:"
            " use iommu=pt, or stop using these devices first"
        )


def _read_stale(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().split()
    except FileNotFoundError:
        return []


def _write_stale(path: str, tokens: Iterable[str]) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    replace_file(path, "\n".join([*tokens, ""]).encode())


def run(params: dict[str, Any], check: bool, command: RunCommand, root: str = "/") -> Result:
    """Set the arguments of the module's options in every entry; raises ``Problem``, then nothing changed."""
    tokens = parse(params["args"]) if params["state"] == "present" else []
    node, risky = Host(root), risks(tokens)
    _require_acceptable(risky, params["acknowledge_risk"], node)
    loader = bootloader(node, command)
    if loader is None and tokens:
        known = ", ".join(sorted(one.name for one in BOOTLOADERS))
        other = f", as {booted(node)} booted this node" if booted(node) else ""
        raise Problem(
            f"args: no supported boot loader found ({known}){other}: set the arguments where this kernel is"
            " started, or install grub2"
        )
    running = words(node.read("/proc/cmdline"))
    current = loader.read() if loader else Current((), ())
    if tokens and current.unsupported:
        raise Problem(f"args: {current.unsupported}")
    found = plan(current, tokens, loader.file) if loader else BootPlan("boot_args")
    former = [*_read_stale(node.path(_STALE)), *current.managed]
    leaving = stale(former, {*tokens, *current.unmanaged()}, running)
    if loader and found and not check:
        apply(found, loader, tokens)
        if leaving:
            _write_stale(node.path(_STALE), leaving)
    absent = list(missing(tokens, running))
    name = loader.name if loader else "none"
    values = {
        "changes": [change.as_dict() for change in found.shown],
        "bootloader": name,
        "args": tokens,
        "missing": absent,
        "stale": leaving,
        "reboot_required": bool(absent or leaving),
        "boot_id": node.read("/proc/sys/kernel/random/boot_id"),
    }
    warnings = [f"args: {token}: {risk}" for token, risk in risky.items()]
    return Result(
        bool(found), values, warnings, [diff(f"boot arguments ({name})", found.shown)] if found else []
    )
