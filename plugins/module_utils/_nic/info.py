# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read the settings of NICs and what they can be set to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .._core.plan import Problem, reason
from .._kernel.ethtool import Ethtool, Nic
from . import header_split, owner, persist, settings
from .select import Device, select


def _strategies(nic: Nic) -> list[str]:
    """Return the ways of splitting headers that a NIC can be asked for now."""
    return [
        strategy
        for strategy in header_split.STRATEGIES
        if not header_split.choose(strategy, nic.driver, nic.values, {}, nic.xdp)[1]
    ]


def _nic_facts(ethtool: Ethtool, device: Device, kept: Sequence[str], root: str) -> dict[str, Any]:
    nic = settings.read(ethtool, device.name)
    return {
        "name": nic.name,
        "driver": nic.driver,
        "bus": device.bus,
        "default_route": device.default_route,
        "settings": dict(nic.values),
        "minimum": dict(nic.minimum),
        "maximum": dict(nic.maximum),
        "fixed": sorted(nic.fixed),
        "requested_on": sorted(name for name, on in nic.wanted.items() if on and not nic.values[name]),
        "xdp": nic.xdp,
        "header_split": _strategies(nic),
        "mtu_sources": owner.mtus(nic.name, nic.index, root),
        "persisted": nic.name in kept,
    }


def nics(entries: Sequence[Mapping[str, Any]], root: str = "/") -> list[dict[str, Any]]:
    """Return what is known of the NICs that ``entries`` mean, of all without any; raises ``Problem``."""
    ethtool = Ethtool()
    try:
        devices = {device.name: device for device in settings.devices(ethtool)}
        names = [entry["name"] for entry in select(entries, list(devices.values()))] or list(devices)
        kept = persist.kept_names(root)
        return [_nic_facts(ethtool, devices[name], kept, root) for name in names]
    except OSError as error:
        raise Problem(f"a NIC cannot be read: {reason(error)}") from None
    finally:
        ethtool.close()
