# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Desired settings of NICs, parsed from the module's option ``nics``.

Settings are named as in ``_kernel.ethtool.Nic``, with the user's spelling.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .._core.plan import Problem, listed, suggestion
from .._kernel.ethtool import GROUPS, SIZES


@dataclass(frozen=True)
class Desired:
    """What a user requests for one NIC. ``optional`` names settings and groups that may be unsupported."""

    nic: str
    settings: Mapping[str, object]
    optional: tuple[str, ...] = ()
    steering: Mapping[str, object] = field(default_factory=dict)
    header_split: str = ""
    limit_to_maximum: bool = False

    def is_optional(self, setting: str) -> bool:
        """Return whether the setting, or its group, may be unsupported."""
        names = {canonical(setting), setting.partition(".")[0]}
        return any(canonical(name) in names for name in self.optional)


def dashed(word: str) -> str:
    """Return a name with dashes in place of underscores."""
    return word.replace("_", "-")


def canonical(name: str) -> str:
    """Return a setting's name with dashes, as kernel and drivers use dashes and underscores."""
    group, dot, word = name.partition(".")
    return f"{group}.{dashed(word)}" if dot else name


def parse(nics: Iterable[Mapping[str, Any]]) -> list[Desired]:
    """Return the desired settings of each NIC; raises ``Problem``."""
    parsed = []
    problems = []
    seen = set()
    for entry in nics:
        nic = entry["name"]
        if nic in seen:
            problems.append(f"nics: {nic} is listed twice: merge its settings into one entry")
        seen.add(nic)
        settings: dict[str, object] = {}
        for option in ("mtu", *SIZES, "qdisc"):
            if entry.get(option) is not None:
                settings[option] = entry[option]
        for group in ("priv_flags", "features", *GROUPS, "napi"):
            for word, value in (entry.get(group) or {}).items():
                settings[f"{group}.{word}"] = value
        steering = {word: value for word, value in (entry.get("steering") or {}).items() if value is not None}
        desired = Desired(
            nic,
            settings,
            tuple(entry.get("optional") or ()),
            steering,
            entry.get("header_split") or "",
            bool(entry.get("limit_to_maximum")),
        )
        problems += _optional_problems(desired)
        parsed.append(desired)
    if problems:
        raise Problem("\n".join(problems))
    return parsed


def _optional_problems(desired: Desired) -> list[str]:
    """Return an error for each optional setting that is not requested."""
    names = [*desired.settings, *(f"steering.{word}" for word in desired.steering)]
    names += ["header_split"] if desired.header_split else []
    requested = {*map(canonical, names), *(setting.partition(".")[0] for setting in names)}
    return [
        f"nics: {desired.nic}: optional: {name} is not among the requested settings"
        + (suggestion(name, requested) or f"; requested: {listed(sorted(names))}")
        for name in desired.optional
        if canonical(name) not in requested
    ]
