# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plan the changes of NICs, and the order of the writes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from .._core.plan import Change, Plan
from .._kernel.ethtool import SIZES, Nic, Setting
from .request import Desired
from .resolve import Resolved

# A private flag may add or remove features, a number of channels changes rings and coalescing, and all of
# them limit the MTU. A qdisc is created for the existing queues. Features that are turned off come first, as
# they may need another feature or flag that is turned off too.
_ORDER = (
    "split_off", "features_off", "priv_flags", "features", "channels", "rings", "coalesce", "pause", "mtu",
    "sizes", "qdisc", "napi", "queues", "irqs",
)  # fmt: skip
_SPLIT = "rings.tcp-data-split"
_UNGROUPED = ("mtu", "sizes", "qdisc")  # steps whose settings have no group in their name
_LEGACY_SIZE = 65536  # GSO_LEGACY_MAX_SIZE

# One write: a group, and values by name within the group.
Step = tuple[str, dict[str, Setting]]


@dataclass(frozen=True)
class PlannedNic:
    """The current state of one NIC, its desired settings and their changes."""

    nic: Nic
    desired: Desired
    resolved: Resolved
    changes: Sequence[Change]


@dataclass(frozen=True)
class NicPlan(Plan):
    """The plan for NICs; ``entries`` are those of the module's option, one for each selected NIC."""

    nics: Sequence[PlannedNic] = ()
    entries: Sequence[Mapping[str, Any]] = ()


def requested_name(feature: str) -> str:
    """Return the name under which the journal has whether a feature is requested, while its state is kept."""
    return f"requested.{feature.partition('.')[2]}"


def is_queue_setting(setting: str) -> bool:
    """Return whether a setting exists only as long as its queue."""
    return setting.startswith("queues.")


def depends_on_queues(setting: str) -> bool:
    """Return whether a setting belongs to queues or interrupts, which other settings add and remove."""
    return is_queue_setting(setting) or setting.startswith("irqs.") or setting == "qdisc"


def plan(nics: Iterable[tuple[Nic, Desired, Resolved]], entries: Sequence[Mapping[str, Any]] = ()) -> NicPlan:
    """Return the plan for NICs.

    Fewer channels remove queues with all their settings, so these are part of the plan.
    """
    planned = [
        PlannedNic(nic, desired, resolved, [] if resolved.problems else changes(nic, resolved.settings))
        for nic, desired, resolved in nics
    ]
    found = [change for one in planned for change in one.changes]
    for one in planned:
        names = {change.name for change in one.changes}
        if any(name.startswith("channels.") for name in names):
            found += [
                Change(setting, value, None, one.nic.name)
                for setting, value in one.nic.values.items()
                if is_queue_setting(setting) and setting not in names
            ]
    problems = [problem for one in planned for problem in one.resolved.problems]
    return NicPlan(subsystem="nics", changes=found, problems=problems, nics=planned, entries=entries)


def changes(nic: Nic, settings: Mapping[str, Setting]) -> list[Change]:
    """Return the changes that set a NIC to ``settings``, in the order of the writes.

    A feature that is requested but off, because another one is missing, is a change: it is requested again.
    """
    return [
        Change(setting, nic.values[setting], settings[setting], nic.name)
        for setting in sorted(settings, key=lambda setting: _rank(setting, settings[setting]))
        if nic.values[setting] != settings[setting]
        or nic.wanted.get(setting, settings[setting]) != settings[setting]
    ]


def _rank(setting: str, value: object) -> tuple[int, int, str]:
    group = "sizes" if setting in SIZES else setting.partition(".")[0]
    if value is False and group == "features":
        group = "features_off"
    if value is False and setting == _SPLIT:
        group = "split_off"
    # An IPv4 size comes after the size that sets it too.
    return _ORDER.index(group), list(SIZES).index(setting) if setting in SIZES else 0, setting


def precedes_mtu(setting: str) -> bool:
    """Return whether a setting is written before the MTU, which it may limit."""
    return _rank(setting, True)[0] < _ORDER.index("mtu")


def steps(nic: Nic, planned: Iterable[Change]) -> list[Step]:
    """Return the changes as steps.

    The kernel sets the IPv4 size too when a size of 65536 or less is set (netif_set_gso_max_size() in
    net/core/dev.h). If no IPv4 size is planned, the step therefore also has the current one, which the kernel
    applies last.
    """
    found: list[Step] = []
    for change in planned:
        group, word = [*change.name.split(".", 1), change.name][:2]
        if change.name in SIZES:
            group = "sizes"
        # Turning the split off is a step on its own, before the other rings.
        if not found or found[-1][0] != group or (group, {*found[-1][1]}) == ("rings", {"tcp-data-split"}):
            found.append((group, {}))
        found[-1][1][word] = cast(Setting, change.after)
    for group, values in found:
        if group == "sizes":
            for size in ("gso", "gro"):
                ipv4 = f"{size}_ipv4_max_size"
                if (
                    cast(int, values.get(f"{size}_max_size", _LEGACY_SIZE + 1)) <= _LEGACY_SIZE
                    and ipv4 in nic.values
                ):
                    values.setdefault(ipv4, nic.values[ipv4])
    return found


def step_settings(step: Step) -> dict[str, Setting]:
    """Return the values of a step by the full names of settings."""
    group, values = step
    if group in _UNGROUPED:
        return dict(values)
    return {f"{group}.{word}": value for word, value in values.items()}


def former_settings(current: Nic, former: Nic, requested: bool = True) -> dict[str, Setting]:
    """Return the former values of settings that differ now.

    With ``requested``, features have the values that were requested, otherwise those that were active.
    """
    return {
        setting: former.wanted.get(setting, value) if requested else value
        for setting, value in former.values.items()
        if setting in current.values
        and setting not in current.fixed
        and (current.values[setting], current.wanted.get(setting)) != (value, former.wanted.get(setting))
    }
