# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The supported boot loaders. To add one, write a ``Bootloader`` class and list it in ``BOOTLOADERS``."""

from __future__ import annotations

from .._node.facts import Node
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


def detect(node: Node) -> type[Bootloader] | None:
    """Return the node's boot loader, ``None`` if it is not supported."""
    return next((bootloader for bootloader in BOOTLOADERS if bootloader.detect(node)), None)


def name(node: Node) -> str:
    """Return the name of the node's boot loader, ``none`` if it is not supported."""
    found = detect(node)
    return found.name if found else "none"
