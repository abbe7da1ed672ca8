# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Steps and devices as modules return them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .._core.plan import Change, diff
from .model import Device, State
from .plan import Step, shown


def _device_text(device: Device) -> str:
    return f"{device.driver} {device.host_interface} - {device.interface} in {device.netns}"


def changes_of(steps: Iterable[Step]) -> list[Change]:
    """Return the changes that steps make; the scope of a change is its Pod."""
    changes = []
    for step in steps:
        scope = step.device.name if step.device else ""
        verb, _underscore, what = step.action.partition("_")
        if verb == "set":
            prefix = f"{_interface(step)} " if step.end else ""
            changes += [
                Change(f"{prefix}{key}", _value(step.before.get(key)), shown(value), scope)
                for key, value in sorted(step.value.items())
            ]
            continue
        value = _device_text(step.of) if what == "device" else shown(step.value)
        name = f"{_interface(step)} {what}" if step.end else what.replace("_", " ")
        removed = verb == "delete"
        changes.append(Change(name, value if removed else None, None if removed else value, scope))
    return changes


def _interface(step: Step) -> str:
    return step.of.host_interface if step.end == "host" else step.of.interface


def _value(value: object) -> str | None:
    return None if value is None else shown(value)


def diffs(changes: Iterable[Change]) -> list[dict[str, str]]:
    """Return a diff for each Pod, and one for namespaces and host routes."""
    scopes: dict[str, list[Change]] = {}
    for change in changes:
        scopes.setdefault(change.scope, []).append(change)
    return [diff(f"Pod {scope}" if scope else "node", found) for scope, found in sorted(scopes.items())]


def pods_of(state: State, indexes: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return the Pods of a state; ``indexes`` has interface indexes by name."""
    return [
        {
            "name": name,
            "driver": device.driver,
            "host_interface": device.host_interface,
            "host_ifindex": indexes.get(device.host_interface, 0),
            "netns": device.netns,
            "interface": device.interface,
            "addresses": sorted(device.pod.addresses),
        }
        for name, device in state.devices.items()
    ]
