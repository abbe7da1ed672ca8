# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Warnings if Pods and uplinks disagree on packet sizes. Pure.

That is not an error: packets pass, but a CPU segments them, or the sender first has to learn the path MTU.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from .model import DEFAULT_ROUTES, SIZES, Node, State

_LEGACY_SIZE = 65536  # GSO_LEGACY_MAX_SIZE; larger packets are BIG TCP
_LISTED = 3

_Pods = Mapping[str, Mapping[str, object]]


def _pod_sizes(desired: State, current: State) -> _Pods:
    """Return MTU and SIZES of each Pod; options that are not given keep the current value."""
    existing = {name: device.pod.settings for name, device in current.devices.items()}
    return {
        name: {**existing.get(name, {}), **device.pod.settings} for name, device in desired.devices.items()
    }


def _by_value(pods: _Pods, setting: str) -> dict[int, str]:
    """Return the values of a setting, each with the Pods that have it."""
    found: dict[int, list[str]] = {}
    for name, settings in pods.items():
        value = settings.get(setting)
        if isinstance(value, int):
            found.setdefault(value, []).append(name)
    return {
        value: ", ".join(names[:_LISTED]) + f" and {len(names) - _LISTED} more" * (len(names) > _LISTED)
        for value, names in found.items()
    }


def _mismatches(pods: _Pods, dev: str, uplink: Mapping[str, object]) -> Iterator[str]:
    for setting in ("mtu", *SIZES):
        other = uplink.get(setting)
        if not isinstance(other, int):
            continue
        for value, names in _by_value(pods, setting).items():
            sizes = f"{setting}: {value} in {names}, {other} on {dev}"
            if setting == "mtu" and value > other:
                yield f"{sizes}: larger packets cannot leave. Set both to one value ({dev} by nic_tuning)"
            if setting != "mtu" and value != other and max(value, other) > _LEGACY_SIZE:
                yield f"{sizes}: BIG TCP requires the same value on both ({dev} by nic_tuning)"


def size_warnings(desired: State, current: State, node: Node) -> list[str]:
    """Return a message for each size in which Pods differ from their uplinks.

    Uplinks are the interfaces of the host routes or, if there are none, those of the node's default routes.
    """
    pods = _pod_sizes(desired, current)
    defaults = [one for one in node.routes if one.route.to in DEFAULT_ROUTES.values()]
    uplinks = {route.dev for route in desired.host_routes} or {one.route.dev for one in defaults}
    found = [text for dev in sorted(uplinks) for text in _mismatches(pods, dev, node.sizes.get(dev, {}))]
    for one in defaults:
        for value, names in _by_value(pods, "mtu").items():
            if one.route.dev in uplinks and 0 < one.mtu < value:
                sizes = f"mtu: {value} in {names}, {one.mtu} on the route {one.route}"
                found.append(f"{sizes}: larger packets cannot use it. Set both to one value")
    return found
