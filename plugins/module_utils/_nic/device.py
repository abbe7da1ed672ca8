# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read all interfaces, and all settings of a NIC: ethtool, link, qdisc and sysfs."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from .._kernel import qdisc
from .._kernel.ethtool import Ethtool, Nic, Setting
from .._kernel.messages import message_types
from .._kernel.netlink import KernelRefusal, decode
from .._kernel.routes import default_interfaces
from .._kernel.rtnl import RTM_GETLINK, Rtnl
from .select import Device
from .sysfs import Sysfs

_LONGEST_ALTERNATIVE = 127  # ALTIFNAMSIZ, without the final null


def devices(ethtool: Ethtool) -> list[Device]:
    """Return all interfaces with the properties that select them."""
    carrying = default_interfaces()
    return [
        Device(name, *ethtool.driver(name), name in carrying)
        for name in sorted(name for dummy, name in socket.if_nameindex())
    ]


class Vanished(OSError):
    """The interface does not exist, or was removed while it was read.

    ``ENODEV`` does not show that: ethtool also returns it during a reset (net/ethtool/netlink.c).
    """

    def __init__(self) -> None:
        super().__init__(errno.ENODEV, os.strerror(errno.ENODEV))


def with_primary_names(entries: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return entries in which names of interfaces replace alternative names."""
    names = {name for dummy, name in socket.if_nameindex()}
    return [
        {**entry, "name": _primary_name(str(entry["name"]))}
        if entry.get("name") and entry["name"] not in names
        else entry
        for entry in entries
    ]


def _primary_name(name: str) -> str:
    """Return the name of the interface with the alternative name ``name``, else ``name`` itself."""
    if len(name.encode()) > _LONGEST_ALTERNATIVE:
        return name
    message = message_types().link()
    message["attrs"] = [("IFLA_ALT_IFNAME", name)]
    with contextlib.suppress(KernelRefusal), Rtnl() as rtnl:
        return str(decode(type(message), rtnl.get(message, RTM_GETLINK)).get_attr("IFLA_IFNAME"))
    return name


def read(ethtool: Ethtool, name: str) -> Nic:
    """Return all settings of a NIC, qdisc and sysfs included; raises ``OSError``, of which ``Vanished``."""
    interface = next((one for one in socket.if_nameindex() if one[1] == name), None)
    try:
        nic = ethtool.read(name)
        values: dict[str, Setting] = {**nic.values, **Sysfs().read(name, nic.index)}
        kind = qdisc.read(nic.index)
    except OSError:
        # Another interface may have the name by now.
        if interface in socket.if_nameindex():
            raise
        raise Vanished from None
    if kind:
        values["qdisc"] = kind
    return replace(nic, values=values)
