# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What NICs are to be set to: options to settings, the plan, and the way there and back.

Private to this collection. Settings are named as in ``_ethtool.Nic``.
Sources: ethtool(8) for the names of options, netif_set_gso_max_size() of net/core/dev.h for the sizes.
"""

from __future__ import annotations

import fnmatch
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from ansible.module_utils.parsing.convert_bool import boolean

from ansible_collections.podnet.datapath.plugins.module_utils import _plan
from ansible_collections.podnet.datapath.plugins.module_utils._ethtool import (
    GROUPS,
    SIZES,
    Ethtool,
    Nic,
    Setting,
)
from ansible_collections.podnet.datapath.plugins.module_utils._plan import Change, Problem

# The order of writing: a private flag can change what features there are, a number of queues what rings and
# coalescing are, and all of them which MTU fits.
_ORDER = ("priv_flags", "features", "channels", "rings", "coalesce", "mtu", "sizes")

# What ethtool(8) calls features, by patterns over the kernel's names.
_FEATURE_ALIASES = {
    "rx-checksum": ("rx", "rx-checksumming"),
    "tx-checksum-*": ("tx", "tx-checksumming"),
    "tx-scatter-gather*": ("sg", "scatter-gather"),
    "tx-tcp*-segmentation": ("tso", "tcp-segmentation-offload"),
    "tx-generic-segmentation": ("gso", "generic-segmentation-offload"),
    "rx-gro": ("gro", "generic-receive-offload"),
    "rx-lro": ("lro", "large-receive-offload"),
    "rx-vlan-hw-parse": ("rxvlan", "rx-vlan-offload"),
    "tx-vlan-hw-insert": ("txvlan", "tx-vlan-offload"),
    "rx-ntuple-filter": ("ntuple", "ntuple-filters"),
    "rx-hashing": ("rxhash", "receive-hashing"),
}
_ALIASES = {alias: pattern for pattern, aliases in _FEATURE_ALIASES.items() for alias in aliases}

_LEGACY_SIZE = 65536  # GSO_LEGACY_MAX_SIZE


@dataclass(frozen=True)
class Wish:
    """What is asked of one NIC: values by setting as the user names it, and what may be unsupported."""

    nic: str
    settings: Mapping[str, object]
    optional: tuple[str, ...] = ()

    def is_optional(self, setting: str) -> bool:
        """Tell whether the setting, or its whole group, may be unsupported."""
        names = {_canonical(setting), setting.partition(".")[0]}
        return any(_canonical(name) in names for name in self.optional)


@dataclass(frozen=True)
class Resolved:
    """A wish in the settings of one NIC, what of it is left out and why, and what is wrong with it."""

    settings: Mapping[str, Setting]
    skipped: Mapping[str, str]
    problems: Sequence[str]


@dataclass(frozen=True)
class Job:
    """What is to be done to one NIC."""

    nic: Nic
    resolved: Resolved
    changes: Sequence[Change]


class _Unsupported(Exception):
    """A setting that driver or kernel does not have; the text ends a sentence that begins with it."""


def _canonical(name: str) -> str:
    """Return a setting's name with dashes: kernel and drivers have both, people mix them up."""
    group, dot, word = name.partition(".")
    return f"{group}.{word.replace('_', '-')}" if dot else name


def parse(nics: Iterable[Mapping[str, Any]]) -> list[Wish]:
    """Return the wishes in the module's option ``nics``; raises ``Problem``."""
    wishes = []
    problems = []
    seen = set()
    for entry in nics:
        nic = entry["name"]
        if nic in seen:
            problems.append(f"nics: {nic} is listed twice: put all its settings into one entry")
        seen.add(nic)
        settings: dict[str, object] = {}
        for option in ("mtu", *SIZES):
            if entry.get(option) is not None:
                settings[option] = entry[option]
        for group in ("priv_flags", "features", *GROUPS):
            for word, value in (entry.get(group) or {}).items():
                settings[f"{group}.{word}"] = value
        wish = Wish(nic, settings, tuple(entry.get("optional") or ()))
        asked = {*map(_canonical, settings), *(setting.partition(".")[0] for setting in settings)}
        for name in wish.optional:
            if _canonical(name) not in asked:
                problems.append(
                    f"nics: {nic}: optional names {name}, which is not asked for"
                    + (_plan.suggestion(name, asked) or f"; asked for: {_plan.listed(sorted(settings))}")
                )
        wishes.append(wish)
    if problems:
        raise Problem("\n".join(problems))
    return wishes


def _flag(value: object) -> bool:
    try:
        return bool(boolean(value))
    except TypeError:
        raise ValueError("is neither on nor off") from None


def _integer(value: object) -> int:
    if isinstance(value, bool) or not str(value).isdecimal():
        raise ValueError("is no whole number of at least 0")
    return int(str(value))


def _checked(nic: Nic, setting: str, value: object) -> Setting:
    """Return the value for a setting that the NIC has; raises ``ValueError`` with what is wrong."""
    if isinstance(nic.values[setting], bool):
        return _flag(value)
    number = _integer(value)
    if setting in nic.maximum and number > nic.maximum[setting]:
        raise ValueError(f"is above the maximum of {nic.maximum[setting]}")
    if number < nic.minimum.get(setting, 0):
        raise ValueError(f"is below the minimum of {nic.minimum[setting]}")
    if number >= 1 << 32:
        raise ValueError("does not fit into 32 bits")
    return number


def _members(nic: Nic, setting: str) -> list[str]:
    """Return the NIC's settings that a name stands for: one, or several for a name of ethtool(8).

    Raises ``_Unsupported`` where the NIC has none, ``ValueError`` for a name that means nothing.
    """
    group, word = [*_canonical(setting).split(".", 1), ""][:2]
    if group in GROUPS and word not in GROUPS[group].fields:
        near = _plan.suggestion(word, GROUPS[group].fields)
        raise ValueError(
            f"is no setting of ethtool{near or '; there are: ' + ', '.join(GROUPS[group].fields)}"
        )
    names = {_canonical(name): name for name in nic.values if name.partition(".")[0] == group}
    pattern = f"features.{_ALIASES.get(word, word)}" if group == "features" else setting
    found = [names[name] for name in sorted(fnmatch.filter(names, _canonical(pattern)))]
    if found:
        return found
    if group in ("features", "priv_flags"):
        words = [name.partition(".")[2] for name in names]
        near = _plan.suggestion(word, words)
        if group == "priv_flags":
            raise _Unsupported(
                f"is no private flag of the driver{near or '; it has: ' + _plan.listed(words)}"
            )
        raise _Unsupported(f"is no feature that this kernel knows{near}")
    if group in SIZES:
        raise _Unsupported("is not known to this kernel")
    raise _Unsupported("is not supported by the driver")


def resolve(nic: Nic, wish: Wish) -> Resolved:
    """Return a wish in the settings of a NIC; checks support, limits and fixed features."""
    settings: dict[str, Setting] = {}
    skipped: dict[str, str] = {}
    problems: list[str] = []
    driver = f"driver {nic.driver}" if nic.driver else "no driver"
    for setting, value in wish.settings.items():
        try:
            members = _members(nic, setting)
            checked = {member: _checked(nic, member, value) for member in members}
            free = {m: v for m, v in checked.items() if m not in nic.fixed}
            stuck = [m for m in checked if m in nic.fixed and nic.values[m] != checked[m]]
            if stuck and not free:
                fixed = _plan.shown(nic.values[stuck[0]])
                raise _Unsupported(f"is fixed {fixed}, so it cannot be {_plan.shown(_flag(value))}")
        except _Unsupported as unsupported:
            if wish.is_optional(setting):
                skipped[setting] = str(unsupported)
            else:
                problems.append(
                    f"nics: {nic.name} ({driver}): {setting} {unsupported}:"
                    " leave it out, or name it in optional"
                )
            continue
        except ValueError as error:
            problems.append(f"nics: {nic.name} ({driver}): {setting} = {value} {error}")
            continue
        for member, member_value in free.items():
            if settings.setdefault(member, member_value) != member_value:
                problems.append(
                    f"nics: {nic.name}: {setting} = {value} contradicts another entry for {member}"
                )
    return Resolved(settings, skipped, problems)


def _rank(setting: str) -> tuple[int, int, str]:
    group = "sizes" if setting in SIZES else setting.partition(".")[0]
    # An IPv4 size after the size that it follows.
    return _ORDER.index(group), list(SIZES).index(setting) if setting in SIZES else 0, setting


def plan(nic: Nic, settings: Mapping[str, Setting]) -> list[Change]:
    """Return the changes that bring a NIC to ``settings``, in the order of writing.

    A feature that is off only for want of another one counts as a change, so that it is asked for.
    """
    return [
        Change(setting, nic.values[setting], settings[setting])
        for setting in sorted(settings, key=_rank)
        if nic.values[setting] != settings[setting]
        or nic.wanted.get(setting, settings[setting]) != settings[setting]
    ]


def messages(nic: Nic, changes: Iterable[Change]) -> list[tuple[str, dict[str, Setting]]]:
    """Return the changes as messages: a group, and values by name within the group.

    Setting a size to 65536 or less sets the IPv4 size too; where that is not asked for, the message
    carries the present IPv4 size as well, which the kernel takes last.
    """
    found: list[tuple[str, dict[str, Setting]]] = []
    for change in changes:
        group, word = [*change.name.split(".", 1), change.name][:2]
        if change.name in SIZES:
            group = "sizes"
        if not found or found[-1][0] != group:
            found.append((group, {}))
        found[-1][1][word] = cast(Setting, change.after)
    for group, values in found:
        if group == "sizes":
            for size in ("gso", "gro"):
                ipv4 = f"{size}_ipv4_max_size"
                if values.get(f"{size}_max_size", _LEGACY_SIZE + 1) <= _LEGACY_SIZE and ipv4 in nic.values:
                    values.setdefault(ipv4, nic.values[ipv4])
    return found


def way_back(now: Nic, former: Nic) -> dict[str, Setting]:
    """Return the settings in which a NIC differs from what it was, as they were."""
    return {
        setting: former.wanted.get(setting, value)
        for setting, value in former.values.items()
        if setting in now.values
        and setting not in now.fixed
        and (now.values[setting], now.wanted.get(setting)) != (value, former.wanted.get(setting))
    }


def missed(nic: Nic, settings: Mapping[str, Setting]) -> list[str]:
    """Return a sentence for each setting that the kernel accepted and did not carry out."""
    sentences = []
    for setting, value in settings.items():
        now = nic.values.get(setting)
        if now != value:
            cause = "it may need another feature" if setting in nic.wanted else "ask for that or leave it out"
            sentences.append(
                f"nics: {nic.name} (driver {nic.driver}): {setting} = {_plan.shown(value)} was accepted, but"
                f" is {_plan.shown(now)} now: {cause}"
            )
    return sentences


def _write(ethtool: Ethtool, nic: Nic, group: str, values: Mapping[str, Setting]) -> None:
    """Write one message; raises ``Problem`` with the kernel's words."""
    link = group in ("mtu", "sizes")
    try:
        ethtool.write(nic.index, "link" if link else group, values)
    except OSError as error:
        asked = ", ".join(f"{word} = {_plan.shown(value)}" for word, value in values.items())
        raise Problem(
            f"nics: {nic.name} (driver {nic.driver}): the kernel refuses"
            f" {asked if link else f'{group}: {asked}'}: {_plan.reason(error)}"
        ) from None


def _restore(ethtool: Ethtool, former: Nic) -> list[str]:
    """Set a NIC as it was; return what failed."""
    try:
        now = ethtool.read(former.name)
    except OSError as error:
        return [f"{former.name}: {_plan.reason(error)}"]
    failed = []
    for message in messages(now, plan(now, way_back(now, former))):
        try:
            _write(ethtool, now, *message)
        except Problem as problem:
            failed.append(str(problem))
    return failed


def restore(ethtool: Ethtool, nics: Iterable[Nic]) -> str:
    """Set NICs as they were; return a sentence on how that went."""
    failed = []
    for former in nics:
        _restore(ethtool, former)
        # What can be set depends on what is set: the second look sees what the first brought back.
        failed += _restore(ethtool, former)
    return f"Not put back: {'; '.join(failed)}." if failed else "Every NIC is set as it was before."


def apply(ethtool: Ethtool, jobs: Sequence[Job]) -> None:
    """Change NICs one after the other, then look whether it came true.

    Raises ``Problem`` where the kernel refuses or clamps; everything is set as before then.
    """
    touched: list[Nic] = []
    wrong: list[str] = []
    try:
        for job in jobs:
            if job.changes:
                touched.append(job.nic)
            for message in messages(job.nic, job.changes):
                _write(ethtool, job.nic, *message)
        for job in jobs:
            if job.changes:
                wrong += missed(ethtool.read(job.nic.name), job.resolved.settings)
        if wrong:
            raise Problem("\n".join(wrong))
    except (OSError, Problem) as problem:
        raise Problem(f"{problem}\n{restore(ethtool, reversed(touched))}") from None


def run(nics: Sequence[Mapping[str, Any]], check: bool) -> dict[str, Any]:
    """Do what the module's options say and return its result.

    Raises ``Problem``; then every NIC is set as before.
    """
    wishes = parse(nics)
    there = sorted(name for index, name in socket.if_nameindex())
    unknown = [wish.nic for wish in wishes if wish.nic not in there]
    if unknown:
        raise Problem(f"nics: there is no {_plan.listed(unknown)} here; there are: {_plan.listed(there)}")
    ethtool = Ethtool()
    try:
        jobs = []
        for wish in wishes:
            nic = ethtool.read(wish.nic)
            resolved = resolve(nic, wish)
            jobs.append(Job(nic, resolved, [] if resolved.problems else plan(nic, resolved.settings)))
        problems = [problem for job in jobs for problem in job.resolved.problems]
        if problems:
            raise Problem("\n".join(problems))
        if not check:
            apply(ethtool, jobs)
    finally:
        ethtool.close()
    return {
        "changed": any(job.changes for job in jobs),
        "nics": [
            {
                "name": job.nic.name,
                "driver": job.nic.driver,
                "changes": [change.as_dict() for change in job.changes],
                "skipped": dict(job.resolved.skipped),
            }
            for job in jobs
        ],
        "diff": [_plan.diff(job.nic.name, job.changes) for job in jobs if job.changes],
    }
