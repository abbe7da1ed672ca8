# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Return the settings and capabilities of NICs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .._core.plan import Problem, reason
from .._kernel.ethtool import Ethtool, Nic
from . import device, header_split, mtu_sources, persist
from .select import Device, select


def _strategies(nic: Nic) -> list[str]:
    """Return the header split strategies that a NIC supports now."""
    return [
        strategy
        for strategy in header_split.STRATEGIES
        if not header_split.choose(strategy, nic.driver, nic.values, {}, nic.xdp)[1]
    ]


def _nic_facts(ethtool: Ethtool, found: Device, persisted: Sequence[str], root: str) -> dict[str, Any]:
    nic = device.read(ethtool, found.name)
    return {
        "name": nic.name,
        "driver": nic.driver,
        "bus": found.bus,
        "default_route": found.default_route,
        "settings": dict(nic.values),
        "minimum": dict(nic.minimum),
        "maximum": dict(nic.maximum),
        "fixed": sorted(nic.fixed),
        "requested_on": sorted(name for name, on in nic.wanted.items() if on and not nic.values[name]),
        "xdp": nic.xdp,
        "header_split": _strategies(nic),
        "mtu_sources": mtu_sources.mtus(nic.name, nic.index, root),
        "persisted": nic.name in persisted,
    }


def nics(entries: Sequence[Mapping[str, Any]], root: str = "/") -> list[dict[str, Any]]:
    """Return the facts of the NICs that ``entries`` select, of all without entries; raises ``Problem``."""
    ethtool = Ethtool()
    try:
        devices = {found.name: found for found in device.devices(ethtool)}
        names = [
            entry["name"] for entry in select(device.with_primary_names(entries), list(devices.values()))
        ] or list(devices)
        persisted = persist.persisted_names(root)
        found = []
        for name in names:
            try:
                found.append(_nic_facts(ethtool, devices[name], persisted, root))
            except OSError as error:
                if not isinstance(error, device.Vanished) or any(entry.get("name") for entry in entries):
                    raise Problem(f"{name} cannot be read: {reason(error)}") from None
        return found
    finally:
        ethtool.close()
