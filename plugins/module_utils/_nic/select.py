# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Select NICs by name, driver, PCI address or default route."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .._core.plan import Problem, listed

SELECTORS = ("name", "driver", "pci", "default_route")


@dataclass(frozen=True)
class Device:
    """An interface with the properties that select it. ``bus`` is a PCI address or the driver's bus info."""

    name: str
    driver: str = ""
    bus: str = ""
    default_route: bool = False


def _pci(address: str) -> str:
    """Return a PCI address with its domain; ``3b:00.0`` is in domain 0000."""
    return f"0000:{address}" if re.fullmatch(r"[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7]", address) else address


def _matching(selector: str, value: Any, devices: Sequence[Device]) -> list[str]:
    if selector == "name":
        return [device.name for device in devices if device.name == value]
    if selector == "driver":
        return [device.name for device in devices if device.driver == value]
    if selector == "pci":
        return [device.name for device in devices if device.bus.lower() == _pci(value).lower()]
    return [device.name for device in devices if device.default_route]


def _available(selector: str, devices: Sequence[Device]) -> str:
    """Return the values that would match, for an error."""
    if selector == "default_route":
        return "no interface has a default route"
    values = {device.name if selector == "name" else device.driver if selector == "driver" else device.bus
              for device in devices}  # fmt: skip
    return f"available: {listed(sorted(values - {''}))}"


def select(entries: Iterable[Mapping[str, Any]], devices: Sequence[Device]) -> list[dict[str, Any]]:
    """Return an entry for each selected NIC, with its ``name``; raises ``Problem``."""
    found: list[dict[str, Any]] = []
    problems = []
    selected_by: dict[str, str] = {}
    for entry in entries:
        given = [selector for selector in SELECTORS if entry.get(selector)]
        if len(given) != 1:
            problems.append(f"nics: an entry has {listed(given)} of {listed(SELECTORS)}: set exactly one")
            continue
        selector, value = given[0], entry[given[0]]
        shown = str(value) if selector == "name" else f"{selector}: {value}"
        names = _matching(selector, value, devices)
        if not names:
            problems.append(f"nics: no NIC matches {shown}; {_available(selector, devices)}")
        for name in names:
            if selected_by.setdefault(name, shown) != shown or name in [one["name"] for one in found]:
                problems.append(
                    f"nics: {name} is listed twice, by {selected_by[name]} and by {shown}: merge its settings"
                    " into one entry"
                )
            found.append({**entry, "name": name})
    if problems:
        raise Problem("\n".join(problems))
    return found
