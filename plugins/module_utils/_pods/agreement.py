# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether Pods and the way out of the node agree on the sizes of packets. Private to this collection.

Pure. That they differ is no error: packets pass, but cut by a CPU, or once the sender has learnt the MTU.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from .model import DEFAULT_ROUTES, SIZES, Node, State

_LEGACY_SIZE = 65536  # GSO_LEGACY_MAX_SIZE: what is larger is BIG TCP
_NAMED = 3

_Pods = Mapping[str, Mapping[str, object]]


def _sizes(wanted: State, present: State) -> _Pods:
    """Return MTU and SIZES of each Pod; what its options leave open is as it is."""
    now = {name: device.pod.settings for name, device in present.devices.items()}
    return {name: {**now.get(name, {}), **device.pod.settings} for name, device in wanted.devices.items()}


def _by_value(pods: _Pods, setting: str) -> dict[int, str]:
    """Return the values of a setting, each with the Pods that have it."""
    found: dict[int, list[str]] = {}
    for name, settings in pods.items():
        value = settings.get(setting)
        if isinstance(value, int):
            found.setdefault(value, []).append(name)
    return {
        value: ", ".join(names[:_NAMED]) + f" and {len(names) - _NAMED} more" * (len(names) > _NAMED)
        for value, names in found.items()
    }


def _differing(pods: _Pods, dev: str, takes: Mapping[str, object]) -> Iterator[str]:
    for setting in ("mtu", *SIZES):
        other = takes.get(setting)
        if not isinstance(other, int):
            continue
        for value, who in _by_value(pods, setting).items():
            what = f"{setting}: {value} in {who}, {other} at {dev}"
            if setting == "mtu" and value > other:
                yield f"{what}: larger packets do not leave. Make both the same ({dev} by nic_tuning)"
            if setting != "mtu" and value != other and max(value, other) > _LEGACY_SIZE:
                yield f"{what}: BIG TCP wants both the same ({dev} by nic_tuning)"


def disagreements(wanted: State, present: State, node: Node) -> list[str]:
    """Return a sentence for each size in which Pods differ from their way out of the node.

    That is the interfaces of the host routes; where there are none, those of the node's default routes.
    """
    pods = _sizes(wanted, present)
    defaults = [one for one in node.routes if one.route.to in DEFAULT_ROUTES.values()]
    ways = {route.dev for route in wanted.host_routes} or {one.route.dev for one in defaults}
    found = [sentence for dev in sorted(ways) for sentence in _differing(pods, dev, node.sizes.get(dev, {}))]
    for one in defaults:
        for value, who in _by_value(pods, "mtu").items():
            if one.route.dev in ways and 0 < one.mtu < value:
                what = f"mtu: {value} in {who}, {one.mtu} on the route {one.route}"
                found.append(f"{what}: larger packets do not take it. Make both the same")
    return found
