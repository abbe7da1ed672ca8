# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Resolve desired settings against the capabilities of one NIC: names, limits, fixed features, header split.

Source: ethtool(8) for the names of features and options.
"""

from __future__ import annotations

import contextlib
import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .._core.plan import listed, shown, suggestion
from .._kernel import qdisc
from .._kernel.ethtool import GROUPS, SIZES, Nic, Setting
from . import features, header_split, steering
from .cpus import Cpus
from .request import Desired, canonical, dashed
from .sysfs import NAPI, Sysfs

# Features as ethtool(8) names them, by patterns over the kernel's names.
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


@dataclass(frozen=True)
class Resolved:
    """Desired settings in the names and values of one NIC.

    ``skipped`` has the reasons for unsupported optional settings, ``limited`` the numbers that were lowered
    to the maximum. ``optional`` has the optional features, which a driver may keep as they are.
    """

    settings: Mapping[str, Setting]
    skipped: Mapping[str, str]
    problems: Sequence[str]
    limited: Mapping[str, int] = field(default_factory=dict)
    optional: frozenset[str] = frozenset()


class _Unsupported(Exception):
    """Driver or kernel do not have a setting; the message follows the setting's name."""


def resolve(nic: Nic, desired: Desired, cpus: Cpus | None = None, irqbalance: bool = False) -> Resolved:
    """Resolve desired settings against a NIC; problems are returned, not raised.

    ``cpus`` and ``irqbalance`` (whether it runs) are required for steering.
    """
    settings: dict[str, Setting] = {}
    skipped: dict[str, str] = {}
    limited: dict[str, int] = {}
    optional: set[str] = set()
    driver = f"driver {nic.driver}" if nic.driver else "no driver"
    requested, problems = _with_header_split(nic, desired, skipped)
    for setting, value in requested.items():
        try:
            members = _members(nic, setting)
            if desired.limit_to_maximum and len(members) == 1 and value != _limit(nic, members[0], value):
                value = limited[members[0]] = nic.maximum[members[0]]
            changeable = _changeable(nic, members, value)
        except _Unsupported as unsupported:
            if desired.is_optional(setting):
                skipped[setting] = str(unsupported)
            else:
                problems.append(
                    f"nics: {nic.name} ({driver}): {setting} {unsupported}: remove it, or list it in optional"
                )
            continue
        except ValueError as error:
            problems.append(f"nics: {nic.name} ({driver}): {setting} = {value} {error}")
            continue
        if setting.startswith("features.") and desired.is_optional(setting):
            optional |= {*changeable}
            if changeable and all(is_kept(nic, member, on) for member, on in changeable.items()):
                skipped[setting] = kept_reason(not any(changeable.values()))
                continue
        for member, member_value in changeable.items():
            if settings.setdefault(member, member_value) != member_value:
                problems.append(
                    f"nics: {nic.name}: {setting} = {value} contradicts another value of {member}"
                )
    for setting, reason in _kept_off(nic, requested, settings).items():
        if desired.is_optional(setting):
            skipped[setting] = reason
        else:
            problems.append(
                f"nics: {nic.name} ({driver}): {setting} {reason}: request that as well, remove"
                f" {setting}, or list it in optional"
            )
    if desired.steering:
        steered, invalid = steering.resolve(
            nic.values, desired.steering, cpus or Cpus(frozenset({0}), frozenset({0})), irqbalance
        )
        settings.update(steered)
        for problem in invalid:
            option = ".".join(problem.split(": ")[:2])
            if desired.is_optional(option):
                skipped[option] = problem.split(": ")[2]
            else:
                problems.append(f"nics: {nic.name} ({driver}): {problem}")
    return Resolved(settings, skipped, problems, limited, frozenset(optional))


def is_kept(nic: Nic, feature: str, on: Setting) -> bool:
    """Return whether a state of a feature is requested, but driver or kernel keep the other one."""
    return nic.wanted.get(feature) == on and nic.values.get(feature) == (not on)


def kept_reason(on: bool) -> str:
    """Return why an optional feature is left out."""
    return f"is kept {shown(on)} by the driver"


def _kept_off(nic: Nic, requested: Mapping[str, object], settings: dict[str, Setting]) -> dict[str, str]:
    """Remove features that the kernel would keep off from ``settings``; return requests and reasons."""
    state = {name: bool(value) for name, value in {**nic.values, **settings}.items()
             if name.startswith("features.")}  # fmt: skip
    reasons = features.kept_off({name.partition(".")[2]: on for name, on in state.items()})
    # Features that are on now although they lack what they need: this kernel has no such rule.
    active = {name.partition(".")[2]: bool(nic.values[name]) for name in state}
    reasons = {name: reason for name, reason in reasons.items() if name not in features.kept_off(active)}
    found = {}
    for setting in requested:
        with contextlib.suppress(_Unsupported, ValueError):
            for member in _members(nic, setting):
                reason = reasons.get(member.partition(".")[2], "")
                if reason and settings.get(member):
                    del settings[member]
                    found[setting] = reason
    return found


def resolve_on_node(nic: Nic, desired: Desired) -> Resolved:
    """Resolve desired settings against a NIC and the CPUs of this node."""
    if not desired.steering:
        return resolve(nic, desired)
    sysfs = Sysfs()
    return resolve(nic, desired, sysfs.cpus(nic.name), sysfs.irqbalance_runs())


def _with_header_split(
    nic: Nic, desired: Desired, skipped: dict[str, str]
) -> tuple[dict[str, object], list[str]]:
    """Return the desired settings and those of the header split strategy, and problems of the latter."""
    settings = dict(desired.settings)
    if not desired.header_split:
        return settings, []
    resolved: dict[str, object] = {}
    for setting, value in settings.items():
        with contextlib.suppress(_Unsupported, ValueError):
            resolved.update({member: _parse_value(nic, member, value) for member in _members(nic, setting)})
    more, problems = header_split.choose(desired.header_split, nic.driver, nic.values, resolved, nic.xdp)
    if problems and not more and desired.is_optional("header_split"):
        skipped["header_split"] = problems[0].partition(": ")[2]
        return settings, []
    if problems:
        return settings, [f"nics: {nic.name}: {problem}" for problem in problems]
    return {**settings, **more}, []


def _members(nic: Nic, setting: str) -> list[str]:
    """Return the NIC's settings with this name; a name of ethtool(8) may stand for several features.

    Raises ``_Unsupported`` if the NIC has none, ``ValueError`` for an unknown name.
    """
    group, word = [*canonical(setting).split(".", 1), ""][:2]
    if group == "napi" and word not in map(dashed, NAPI):
        raise ValueError(f"is not a NAPI setting; available: {', '.join(NAPI)}")
    if group in GROUPS and word not in GROUPS[group].fields:
        similar = suggestion(word, GROUPS[group].fields)
        raise ValueError(
            f"is not an ethtool setting{similar or '; available: ' + listed(GROUPS[group].fields)}"
        )
    names = {canonical(name): name for name in nic.values if name.partition(".")[0] == group}
    pattern = f"features.{_ALIASES.get(word, word)}" if group == "features" else setting
    found = [names[name] for name in sorted(fnmatch.filter(names, canonical(pattern)))]
    if not found:
        raise _Unsupported(_unsupported_reason(group, word, [name.partition(".")[2] for name in names]))
    return found


def _unsupported_reason(group: str, word: str, available: Sequence[str]) -> str:
    """Return why a NIC does not have a setting."""
    if group == "priv_flags":
        similar = suggestion(word, available)
        return f"is not a private flag of the driver{similar or '; available: ' + listed(available)}"
    if group == "features":
        return f"is not a feature of this kernel{suggestion(word, available)}"
    if group == "napi":
        return "is not available in /sys for this NIC"
    if group == "qdisc":
        return "cannot be read while the interface is down"
    if group in SIZES:
        return "is not supported by this kernel"
    return "is not supported by the driver"


def _limit(nic: Nic, setting: str, value: object) -> object:
    """Return the NIC's maximum for a number above it, otherwise the value."""
    maximum = nic.maximum.get(setting)
    return maximum if maximum is not None and str(value).isdecimal() and int(str(value)) > maximum else value


def _changeable(nic: Nic, members: Sequence[str], value: object) -> dict[str, Setting]:
    """Return the value of each member that is not fixed.

    Raises ``ValueError`` if the value is invalid, ``_Unsupported`` if all members are fixed and one differs.
    """
    parsed = {member: _parse_value(nic, member, value) for member in members}
    changeable = {member: parsed[member] for member in members if member not in nic.fixed}
    differing = [m for m in members if m in nic.fixed and nic.values[m] != parsed[m]]
    if differing and not changeable:
        fixed = shown(nic.values[differing[0]])
        raise _Unsupported(f"is fixed {fixed} and cannot be set to {shown(_parse_flag(value))}")
    return changeable


def _parse_value(nic: Nic, setting: str, value: object) -> Setting:
    """Return the value in the type of the NIC's setting; raises ``ValueError`` if it is out of range."""
    if setting == "qdisc":
        return _parse_qdisc(str(nic.values[setting]), str(value))
    if isinstance(nic.values[setting], bool):
        return _parse_flag(value)
    number = _parse_integer(value)
    if setting in nic.maximum and number > nic.maximum[setting]:
        raise ValueError(f"exceeds the maximum of {nic.maximum[setting]}: lower it, or set limit_to_maximum")
    if number < nic.minimum.get(setting, 0):
        raise ValueError(f"is below the minimum of {nic.minimum[setting]}")
    if number >= 1 << 32:
        raise ValueError("exceeds 32 bits")
    return number


def _parse_flag(value: object) -> bool:
    word = str(value).lower()
    if word in ("true", "yes", "on", "1", "y", "t"):
        return True
    if word in ("false", "no", "off", "0", "n", "f"):
        return False
    raise ValueError("is neither on nor off")


def _parse_integer(value: object) -> int:
    if isinstance(value, bool) or not str(value).isdecimal():
        raise ValueError("is not a non-negative integer")
    return int(str(value))


def _parse_qdisc(current: str, desired: str) -> str:
    if desired not in qdisc.PLAIN:
        raise ValueError(f"is not supported: choose one of {listed(sorted(qdisc.PLAIN))}")
    if desired != current and not {*qdisc.kinds(current)} <= qdisc.PLAIN:
        raise ValueError(f"would replace the configured qdisc {current}: delete that first (tc qdisc del)")
    return desired
