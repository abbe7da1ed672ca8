# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is pinned and attached, and what leads from one such state to another. Private to this collection."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import quote, unquote

from .._kernel.bpf import BpfError, Layout

# What ends so is a replacement under way; a run that was killed leaves it to the next one.
PENDING = "~"


@dataclass(frozen=True)
class Attachment:
    """A program at a hook of a device."""

    owner: str
    device: str
    hook: str
    type: str
    ifindex: int
    program: str

    @property
    def on_uplink(self) -> bool:
        """Tell whether the node's own traffic may pass here: Pods' devices have hooks of their own."""
        return self.hook in ("ingress", "egress")

    @property
    def key(self) -> str:
        """Name of the pin, below links/."""
        return f"{self.owner}/{pin_name(self.device, self.hook)}"

    def __str__(self) -> str:
        return f"{self.program} at {self.device} {self.hook} ({self.type})"


@dataclass(frozen=True)
class State:
    """What is, or shall be, pinned and attached.

    An attachment's ``program`` ends in ``~`` where a killed run left its replacement, and is empty
    where what runs is not pinned at all.
    """

    programs: Mapping[str, str] = field(default_factory=dict)  # name: tag
    rodata: bytes = b""
    maps: Mapping[str, Layout] = field(default_factory=dict)
    attachments: Mapping[str, Attachment] = field(default_factory=dict)


@dataclass(frozen=True)
class Change:
    """One thing to do. ``before`` and ``after`` are what the diff shows; empty: it is not there."""

    kind: str  # map, program, attachment
    name: str
    before: str = ""
    after: str = ""

    @property
    def action(self) -> str:
        """Return create, replace or remove."""
        return "create" if not self.before else "replace" if self.after else "remove"


def plan(current: State, desired: State, owner: str | None, renewed: Collection[str] = ()) -> list[Change]:
    """Return what leads from ``current`` to ``desired``.

    ``desired.attachments`` are all of this owner's; those of other owners stay, with new programs
    where the programs change. Without ``owner`` they are everybody's. ``renewed`` are maps that are made
    anew whatever their layout.
    Raises BpfError where another owner's attachment would lose its program.
    """
    changes = []
    for name in sorted({*current.maps, *desired.maps}):
        before, after = current.maps.get(name), desired.maps.get(name)
        if before != after or name in renewed:
            changes.append(Change("map", name, _layout_text(before), _layout_text(after)))

    reload = (
        current.programs != desired.programs
        or current.rodata != desired.rodata
        or any(change.after for change in changes)
    )
    for name in sorted({*current.programs, *desired.programs}):
        if reload:
            changes.append(
                Change(
                    "program",
                    name,
                    _program_text(current.programs.get(name), current.rodata),
                    _program_text(desired.programs.get(name), desired.rodata),
                )
            )

    others = {
        key: replace(a, program=a.program.rstrip(PENDING))
        for key, a in current.attachments.items()
        if owner is not None and a.owner != owner
    }
    orphans = [str(a) for a in others.values() if a.program and a.program not in desired.programs]
    if orphans:
        raise BpfError(
            f"object: it lacks programs that others have attached: {', '.join(orphans)}; detach those first"
        )
    wanted = {**others, **desired.attachments}
    for key in sorted({*current.attachments, *wanted}):
        was, shall = current.attachments.get(key), wanted.get(key)
        if was != shall or (reload and shall and shall.program):
            changes.append(Change("attachment", key, str(was or ""), str(shall or "")))
    return changes


def _layout_text(layout: Layout | None) -> str:
    if layout is None:
        return ""
    return (
        f"type {layout.type}, key {layout.key_size} B, value {layout.value_size} B,"
        f" {layout.max_entries} entries, flags {layout.flags:#x}"
    )


def _program_text(tag: str | None, rodata: bytes) -> str:
    return "" if tag is None else f"tag {tag or 'of other maps'}, rodata {rodata.hex()}"


def pin_name(device: str, hook: str) -> str:
    """Return an attachment's file name. The BPF file system knows no names with dots."""
    return f"{quote(device, safe='').replace('.', '%2E')}-{hook}"


def split_pin_name(name: str) -> tuple[str, str]:
    """Return device and hook of an attachment's file name."""
    device, _dash, hook = name.rpartition("-")
    return unquote(device), hook
