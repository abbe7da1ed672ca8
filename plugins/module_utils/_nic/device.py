# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read all interfaces, and all settings of a NIC: ethtool, link, qdisc and sysfs."""

from __future__ import annotations

import socket
from dataclasses import replace

from .._kernel import qdisc
from .._kernel.ethtool import Ethtool, Nic, Setting
from .._node.routes import default_interfaces
from .select import Device
from .sysfs import Sysfs


def devices(ethtool: Ethtool) -> list[Device]:
    """Return all interfaces with the properties that select them."""
    carrying = default_interfaces()
    return [
        Device(name, *ethtool.driver(name), name in carrying)
        for name in sorted(name for dummy, name in socket.if_nameindex())
    ]


def read(ethtool: Ethtool, name: str) -> Nic:
    """Return all settings of a NIC, qdisc and sysfs included; raises ``OSError``."""
    nic = ethtool.read(name)
    values: dict[str, Setting] = {**nic.values, **Sysfs().read(name, nic.index)}
    kind = qdisc.read(nic.index)
    if kind:
        values["qdisc"] = kind
    return replace(nic, values=values)
