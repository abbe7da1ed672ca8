# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""States of pins and attachments, and the plan that leads from one to another. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from urllib.parse import quote, unquote

from .._core.plan import Plan, Problem
from .._kernel.bpf import Layout

# Suffix of a replacement in progress; the next run removes what a killed run leaves.
PENDING = "~"


@dataclass(frozen=True)
class Attachment:
    """A program at a hook of a device or, with type ``cgroup``, of the cgroup with this path.

    ``ifindex`` is the number that the kernel has for it, 0 if it no longer exists.
    """

    owner: str
    device: str
    hook: str
    type: str
    ifindex: int
    program: str

    @property
    def on_uplink(self) -> bool:
        """Return whether traffic of the node itself may pass here. Devices of Pods have other hooks."""
        return self.hook in ("ingress", "egress")

    @property
    def key(self) -> str:
        """Return the name of the pin below links/."""
        return f"{self.owner}/{pin_name(self.device, self.hook)}"

    def __str__(self) -> str:
        return f"{self.program} at {self.device} {self.hook} ({self.type})"


@dataclass(frozen=True)
class State:
    """The current or desired pins and attachments.

    An attachment's ``program`` ends in ``~`` if a killed run left its replacement, and is empty if the
    program that runs is not pinned.
    """

    programs: Mapping[str, str] = field(default_factory=dict)  # name: tag
    rodata: bytes = b""
    maps: Mapping[str, Layout] = field(default_factory=dict)
    attachments: Mapping[str, Attachment] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """One pin or attachment to create, replace or remove. ``before`` and ``after`` are texts for the diff."""

    kind: str  # map, program, attachment, command
    name: str
    before: str = ""
    after: str = ""

    @property
    def action(self) -> str:
        """Return create, replace or remove."""
        return "create" if not self.before else "replace" if self.after else "remove"


@dataclass(frozen=True)
class ProgramPlan(Plan):
    """The plan for one directory of pins: ``changes`` go to the journal, ``steps`` are executed.

    ``values`` are the current values as the journal has them.
    """

    steps: Sequence[Step] = ()
    pin_path: str = ""
    values: Mapping[str, str] = field(default_factory=dict)


def steps_between(
    current: State, desired: State, owner: str | None, replaced: Collection[str] = ()
) -> list[Step]:
    """Return the steps from ``current`` to ``desired``.

    ``desired.attachments`` are all attachments of ``owner``. Those of other owners stay, and run the new
    programs if the programs change. Without ``owner`` they are those of all owners. ``replaced`` are maps to
    create again even if their layout is unchanged.
    Raises ``Problem`` if another owner's attachment would lose its program.
    """
    steps = []
    for name in sorted({*current.maps, *desired.maps}):
        before, after = current.maps.get(name), desired.maps.get(name)
        if before != after or name in replaced:
            steps.append(Step("map", name, layout_text(before), layout_text(after)))

    reload = (
        current.programs != desired.programs
        or current.rodata != desired.rodata
        or any(step.after for step in steps)
    )
    for name in sorted({*current.programs, *desired.programs}):
        if reload:
            steps.append(
                Step(
                    "program",
                    name,
                    program_text(current.programs.get(name), current.rodata),
                    program_text(desired.programs.get(name), desired.rodata),
                )
            )

    others = {
        key: replace(a, program=a.program.rstrip(PENDING))
        for key, a in current.attachments.items()
        if owner is not None and a.owner != owner
    }
    orphans = [str(a) for a in others.values() if a.program and a.program not in desired.programs]
    if orphans:
        raise Problem(
            f"object: programs that other owners attached are missing: {', '.join(orphans)}: detach"
            f" those first"
        )
    attachments = {**others, **desired.attachments}
    for key in sorted({*current.attachments, *attachments}):
        attached, requested = current.attachments.get(key), attachments.get(key)
        if attached != requested or (reload and requested and requested.program):
            steps.append(Step("attachment", key, str(attached or ""), str(requested or "")))
    return steps


def layout_text(layout: Layout | None) -> str:
    if layout is None:
        return ""
    return (
        f"type {layout.type}, key {layout.key_size} B, value {layout.value_size} B,"
        f" {layout.max_entries} entries, flags {layout.flags:#x}"
    )


def program_text(tag: str | None, rodata: bytes) -> str:
    return "" if tag is None else f"tag {tag or 'of other maps'}, rodata {rodata.hex()}"


def pin_name(device: str, hook: str) -> str:
    """Return an attachment's file name. The BPF file system allows no dots."""
    return f"{quote(device, safe='').replace('.', '%2E')}-{hook}"


def split_pin_name(name: str) -> tuple[str, str]:
    """Return device and hook of an attachment's file name."""
    device, _dash, hook = name.rpartition("-")
    return unquote(device), hook
