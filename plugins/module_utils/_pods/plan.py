# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compare two states of an owner's Pods and return the steps between them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .._core.plan import Plan
from .model import Device, End, Route, State


@dataclass(frozen=True)
class Step:
    """One request to the kernel.

    ``option`` is the option that it results from, for error messages; ``before`` the former settings of an
    action that changes settings.
    """

    action: str
    option: str
    device: Device | None = None
    end: str = ""  # host or pod
    value: Any = None
    before: Mapping[str, object] = field(default_factory=dict)

    @property
    def of(self) -> Device:
        """The device of a step that has one."""
        if self.device is None:
            raise ValueError(f"the step {self.action} has no device")
        return self.device

    def __str__(self) -> str:
        where = ""
        if self.device is not None:
            interface = self.device.host_interface if self.end == "host" else self.device.interface
            where = f"{self.device.name}: " + (f"{interface} ({self.end} end): " if self.end else "")
        return (
            where
            + self.action.replace("_", " ")
            + (f" {shown(self.value)}" if self.value is not None else "")
        )


def shown(value: Any) -> str:
    """Return a step's value as text."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {shown(value[key])}" for key in sorted(value))
    if isinstance(value, tuple) and not isinstance(value, Route):
        return " at ".join(value)
    return str(value)


@dataclass(frozen=True)
class PodPlan(Plan):
    """The steps to ``target``, which is the desired state without foreign objects."""

    steps: Sequence[Step] = ()
    target: State = field(default_factory=State)


_OPTIONS = {
    "peer_policy": "policy",
    "from_pod": "programs",
    "to_pod": "programs",
    "mac": "mode",
    "up": "name",
    "loopback": "netns",
}


def option_of(keys: Iterable[str]) -> str:
    """Return the options that settings result from."""
    return ", ".join(sorted({_OPTIONS.get(key, key) for key in keys}))


def recreate_option(current: Device, desired: Device) -> str | None:
    """Return the option for which the kernel requires a new device, None if it can be changed."""
    if not current.complete:
        return "netns"
    for option in ("driver", "mode", "netns", "interface", "host_interface"):
        if getattr(current, option) != getattr(desired, option):
            return option
    return None


def _differing(current: Mapping[str, object], desired: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in desired.items() if current.get(key) != value}


def _settings_step(
    action: str, device: Device, end: str, current: Mapping[str, object], desired: Mapping[str, object]
) -> list[Step]:
    settings = _differing(current, desired)
    if not settings:
        return []
    before = {key: current.get(key) for key in settings}
    return [Step(action, option_of(settings), device, end, settings, before)]


def _end_steps(device: Device, end: str, current: End, desired: End) -> list[Step]:
    """Return the steps of one end, in an order that the kernel accepts."""
    steps: list[Step] = []

    def add(action: str, values: Iterable[Any]) -> None:
        steps.extend(Step(action, "addresses", device, end, value) for value in values)

    add("delete_route", sorted(current.routes - desired.routes))
    add("delete_neighbour", sorted(current.neighbours - desired.neighbours))
    steps += _settings_step("set", device, end, current.settings, desired.settings)
    # New addresses first: an IPv4 interface loses its routes with its last address.
    add("add_address", sorted(desired.addresses - current.addresses))
    add("delete_address", sorted(current.addresses - desired.addresses))
    add("add_neighbour", sorted(desired.neighbours - current.neighbours))
    add("add_route", sorted(desired.routes - current.routes))
    return steps


def _device_steps(current: Device, desired: Device) -> list[Step]:
    return [
        *_settings_step("set_driver", desired, "", current.driver_settings, desired.driver_settings),
        *_end_steps(desired, "host", current.host, desired.host),
        *_end_steps(desired, "pod", current.pod, desired.pod),
    ]


def _newly_created(device: Device) -> Device:
    """Return the device as the kernel creates it: other settings need further requests."""

    def end(one: End) -> End:
        return End({key: value for key, value in one.settings.items() if key in ("mtu", "mac")})

    return replace(device, host=end(device.host), pod=end(device.pod))


def steps_between(current: State, desired: State) -> list[Step]:
    """Return the steps from one state to another, in order.

    Deletions come first, so that names and addresses are free. Namespaces are deleted last, because that
    cannot be undone.
    """
    deletions: list[Step] = []
    steps: list[Step] = []
    for name, device in current.devices.items():
        option = "pods"
        if name in desired.devices:
            option = recreate_option(device, desired.devices[name]) or ""
        if option:
            deletions.append(Step("delete_device", option, device))
    for path in sorted(desired.namespaces - current.namespaces):
        steps.append(Step("create_namespace", "netns", value=path))
    for name, device in desired.devices.items():
        existing = current.devices.get(name)
        if existing is None or recreate_option(existing, device):
            steps.append(Step("create_device", "driver", device))
            existing = _newly_created(device)
        steps += _device_steps(existing, device)
    for route in sorted(current.host_routes - desired.host_routes):
        steps.append(Step("delete_host_route", "host_routes", value=route))
    for route in sorted(desired.host_routes - current.host_routes):
        steps.append(Step("add_host_route", "host_routes", value=route))
    for path in sorted(current.namespaces - desired.namespaces):
        steps.append(Step("delete_namespace", "netns", value=path))
    return deletions + steps


def created(steps: Iterable[Step]) -> set[str]:
    """Return the Pods whose device the steps create."""
    return {step.of.name for step in steps if step.action == "create_device"}
