# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Apply a plan to NICs, compare the result, and restore former settings if a write fails."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from .._core.lock import locked
from .._core.plan import Change, Problem, listed, reason, shown
from .._kernel.ethtool import Ethtool, Nic, Setting
from . import mtu
from .device import Vanished, devices, read, with_primary_names
from .plan import (
    NicPlan,
    PlannedNic,
    Step,
    changes,
    depends_on_queues,
    former_settings,
    is_queue_setting,
    plan,
    precedes_mtu,
    requested_name,
    step_settings,
    steps,
)
from .request import parse
from .resolve import is_kept, kept_reason, resolve_on_node
from .select import select
from .write import NotSupported, write_step

_BOOT_LOCK = "/run/podnet/nics.lock"


def read_plan(ethtool: Ethtool, nics: Sequence[Mapping[str, Any]]) -> NicPlan:
    """Read the selected NICs and return their plan; raises ``Problem`` if an entry selects none.

    NICs that vanish meanwhile are left out, unless an entry names them.
    """
    named = {str(nic.get("name")) for nic in with_primary_names(nics)}
    entries = select(with_primary_names(nics), devices(ethtool))
    planned = []
    for desired in parse(entries):
        try:
            nic = read(ethtool, desired.nic)
        except OSError as error:
            if not isinstance(error, Vanished) or desired.nic in named:
                raise Problem(f"nics: {desired.nic} cannot be read: {reason(error)}") from None
            entries = [entry for entry in entries if entry["name"] != desired.nic]
            continue
        planned.append((nic, desired, resolve_on_node(nic, desired)))
    return plan(planned, entries)


def set_up(nics: Sequence[Mapping[str, Any]], name: str) -> list[dict[str, Any]]:
    """Apply the settings of the NIC ``name`` and of those that depend on it, without a journal, as at boot.

    Returns what changed. The units of dependent NICs start in any order, so each applies the settings of all.
    Raises ``Problem``; then every NIC has its former settings.
    """
    if name not in [entry["name"] for entry in nics]:
        raise Problem(f"{name} is not among the NICs with settings: {listed([n['name'] for n in nics])}")
    ethtool = Ethtool()
    try:
        with locked(_BOOT_LOCK):
            present = mtu.related([name], mtu.devices())
            if name not in present:
                raise Problem(f"there is no NIC {name}")
            found = read_plan(ethtool, [entry for entry in nics if entry["name"] in present])
            found.require_valid()
            found = apply(ethtool, found)
    finally:
        ethtool.close()
    return report(found)


def apply(ethtool: Ethtool, found: NicPlan) -> NicPlan:
    """Change NICs, then read them again and compare.

    MTUs are set for all NICs together, after the settings that limit them. Returns the plan, without
    optional features that a driver keeps as they are.

    Raises ``Problem`` if the kernel refuses or limits a value; then every NIC has its former settings.
    """
    touched: list[Nic] = []
    problems: list[str] = []
    applied: dict[str, PlannedNic] = {}
    planned = [one for one in found.nics if one.changes]
    mtus = {device.name: device.mtu for device in related_to(planned).values()}
    try:
        for one in planned:
            touched.append(one.nic)
            _write_changes(ethtool, one, precedes_mtu)
        desired = {one.nic.name: int(one.resolved.settings.get("mtu", 0)) for one in found.nics}
        errors = write_mtus(ethtool, {name: desired[name] for name in mtus if desired.get(name)})
        if errors:
            raise Problem("\n".join(errors))
        for one in planned:
            _write_changes(ethtool, one, lambda setting: setting != "mtu" and not precedes_mtu(setting))
        for one in planned:
            resolved = one.resolved.settings.items()
            settings = {s: value for s, value in resolved if s == "qdisc" or not depends_on_queues(s)}
            settings.update(_write_queue_settings(ethtool, one))
            now = read(ethtool, one.nic.name)
            applied[one.nic.name] = effective = _without_kept(one, now)
            dropped = {*one.resolved.settings} - {*effective.resolved.settings}
            problems += not_applied(now, {s: value for s, value in settings.items() if s not in dropped})
        if problems:
            raise Problem("\n".join(problems))
    except (OSError, Problem) as problem:
        raise Problem(f"{problem}\n{restore(ethtool, list(reversed(touched)), mtus)}") from None
    return replace(found, nics=[applied.get(one.nic.name, one) for one in found.nics])


def _without_kept(one: PlannedNic, now: Nic) -> PlannedNic:
    """Return the plan of a NIC without the optional features that do not have the requested state."""
    settings = one.resolved.settings
    kept = {
        s: not settings[s] for s in one.resolved.optional if s in settings and is_kept(now, s, settings[s])
    }
    resolved = replace(
        one.resolved,
        settings={s: value for s, value in settings.items() if s not in kept},
        skipped={**one.resolved.skipped, **{s: kept_reason(on) for s, on in kept.items()}},
    )
    return replace(one, resolved=resolved, changes=[c for c in one.changes if c.name not in kept])


def related_to(planned: Iterable[PlannedNic]) -> dict[str, mtu.Device]:
    """Return the interfaces whose MTUs depend on those of planned NICs, in the order of the writes."""
    return mtu.related([one.nic.name for one in planned], mtu.devices())


def _write_changes(ethtool: Ethtool, one: PlannedNic, selected: Callable[[str], bool]) -> None:
    """Write the selected changes of one NIC, except those of queues and interrupts."""
    due = [c for c in one.changes if selected(c.name) and not depends_on_queues(c.name)]
    write_steps(
        functools.partial(read, ethtool, one.nic.name),
        functools.partial(write_step, ethtool, one.nic),
        steps(one.nic, due),
    )


def write_mtus(ethtool: Ethtool, desired: Mapping[str, int]) -> list[str]:
    """Set MTUs that depend on each other; return errors."""
    indexes = {device.name: device.index for device in mtu.devices()}
    return mtu.write_all(
        lambda: {device.name: device.mtu for device in mtu.devices()},
        lambda name, value: ethtool.write(indexes[name], "link", {"mtu": value}),
        desired,
    )


def _write_queue_settings(ethtool: Ethtool, one: PlannedNic) -> dict[str, Setting]:
    """Set the queues and interrupts that exist now; return their settings."""
    nic = read(ethtool, one.nic.name)
    resolved = resolve_on_node(nic, one.desired).settings.items()
    settings = {setting: value for setting, value in resolved if depends_on_queues(setting)}
    for step in steps(nic, changes(nic, settings)):
        write_step(ethtool, nic, step)
    return settings


def write_steps(current: Callable[[], Nic], write: Callable[[Step], None], due: Iterable[Step]) -> None:
    """Write steps in order, without changes that an earlier step already caused.

    A step that the driver does not support is retried after all others: mlx5, for example, splits headers
    while HW-GRO is on, and up to Linux 6.12 does not support setting the split.
    """
    waiting = [(step, False) for step in due]
    while waiting:
        step, retried = waiting.pop(0)
        nic = current()
        remaining = changes(nic, step_settings(step))
        for part in [step] if remaining and step[0] == "sizes" else steps(nic, remaining):
            try:
                write(part)
            except NotSupported:
                if retried:
                    raise
                waiting.append((part, True))


def not_applied(nic: Nic, settings: Mapping[str, Setting]) -> list[str]:
    """Return an error for each setting that reads back with another value."""
    problems = []
    for setting, value in settings.items():
        current = nic.values.get(setting)
        if current != value:
            cause = "it may need another feature" if setting in nic.wanted else "request that or remove it"
            problems.append(
                f"nics: {nic.name} (driver {nic.driver}): the kernel accepted {setting} = {shown(value)},"
                f" but reads back {shown(current)}: {cause}"
            )
    return problems


def restore(ethtool: Ethtool, nics: Collection[Nic], mtus: Mapping[str, int] | None = None) -> str:
    """Set NICs to former settings and interfaces to former MTUs; return a message with the result.

    Repeats as long as it changes something: settings of one NIC may depend on those of another.
    """
    seen: list[Mapping[str, object]] = []
    while True:
        failed: list[str] = []
        for former in nics:
            try:
                current = functools.partial(read, ethtool, former.name)
                failed += restore_steps(current, functools.partial(write_step, ethtool, former), former)
            except OSError as error:
                failed.append(f"{former.name}: {reason(error)}")
        failed += write_mtus(ethtool, mtus or {})
        differing = _differing(ethtool, nics)
        if not differing or differing in seen:
            break
        seen.append(differing)
    failed = failed if differing else []
    return f"Not restored: {'; '.join(failed)}." if failed else "Every NIC has its former settings."


def _differing(ethtool: Ethtool, nics: Iterable[Nic]) -> Mapping[str, object]:
    """Return the former settings that NICs do not have now."""
    found = {}
    for former in nics:
        with contextlib.suppress(OSError):
            settings = former_settings(read(ethtool, former.name), former)
            if settings:
                found[former.name] = settings
    return found


def restore_steps(current: Callable[[], Nic], write: Callable[[Step], None], former: Nic) -> list[str]:
    """Write the steps that restore a NIC; return errors."""
    failed: list[str] = []
    # Two rounds: first with the features that were active, then with those that were requested. The kernel
    # rejects turning a setting off while a feature that needs it is requested.
    for requested in (False, True):
        nic = current()
        failed.clear()
        for step in steps(nic, changes(nic, former_settings(nic, former, requested))):
            try:
                write(step)
            except Problem as problem:
                failed.append(str(problem))
    return failed


def observed_changes(nics: Iterable[Nic]) -> list[Change]:
    """Return all settings of NICs that differ now, including those that the driver changed along with others.

    The settings of a removed queue became ``None``: a rollback restores them with the queue. A NIC that
    vanished has no changes.
    """
    ethtool = Ethtool()
    pairs = []
    try:
        for former in nics:
            with contextlib.suppress(Vanished):
                pairs.append((former, read(ethtool, former.name)))
    finally:
        ethtool.close()
    return [
        Change(setting, value, now.values.get(setting), now.name)
        for former, now in pairs
        for setting, value in former.values.items()
        if (setting in now.values or is_queue_setting(setting)) and now.values.get(setting) != value
    ] + [
        Change(requested_name(feature), on, now.wanted[feature], now.name)
        for former, now in pairs
        for feature, on in former.wanted.items()
        if now.wanted.get(feature, on) != on and now.values[feature] == former.values[feature]
    ]


def report(found: NicPlan) -> list[dict[str, Any]]:
    """Return the changes of each NIC as the module returns them."""
    return [
        {
            "name": one.nic.name,
            "driver": one.nic.driver,
            "changes": [change.as_dict() for change in one.changes],
            "skipped": dict(one.resolved.skipped),
            "limited": dict(one.resolved.limited),
        }
        for one in found.nics
    ]
