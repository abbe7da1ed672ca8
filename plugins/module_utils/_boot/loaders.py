# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The supported boot loaders. To add one, write a ``Bootloader`` class and list it in ``BOOTLOADERS``."""

from __future__ import annotations

from .._node.host import Host
from .bootloader import Bootloader
from .grub import Grub
from .grubby import Grubby
from .systemd_boot import SystemdBoot

# In the order of detection: systems with grubby also have GRUB's files.
BOOTLOADERS: tuple[type[Bootloader], ...] = (
    Grubby,
    Grub,
    SystemdBoot,
)


def detect(node: Host) -> type[Bootloader] | None:
    """Return the node's boot loader, ``None`` if it is not supported."""
    return next((bootloader for bootloader in BOOTLOADERS if bootloader.detect(node)), None)


def name(node: Host) -> str:
    """Return the name of the node's boot loader, ``none`` if it is not supported."""
    found = detect(node)
    return found.name if found else "none"
