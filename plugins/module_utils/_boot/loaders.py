# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The supported boot loaders. To add one, write a ``Bootloader`` class and list it in ``BOOTLOADERS``.

Source: the Boot Loader Interface of systemd.io for the EFI variable LoaderInfo.
"""

from __future__ import annotations

import re

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
_LOADER_INFO = "/sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"


def booted(node: Host) -> str:
    """Return name and version of the boot loader that started the running system, empty if unknown."""
    try:
        with open(node.path(_LOADER_INFO), "rb") as file:
            data = file.read()[4:]  # four bytes of attributes
    except OSError:
        return ""
    return data.decode("utf-16-le", "replace").partition("\0")[0].strip()


def detect(node: Host) -> type[Bootloader] | None:
    """Return the node's boot loader, ``None`` if it is not supported.

    The loader that started the system decides. Only without its name do the files on disk decide, as those of
    another loader may be left over. systemd-boot passes the path of the initrd as an argument, GRUB does not.
    """
    started = booted(node).lower()
    if started.startswith("systemd-boot"):
        found: tuple[type[Bootloader], ...] = (SystemdBoot,)
    elif started.startswith("grub"):
        found = (Grubby, Grub)
    elif not started and re.search(r"(^|\s)initrd=\\", node.read("/proc/cmdline")):
        found = (SystemdBoot, *BOOTLOADERS)
    else:
        found = () if started else BOOTLOADERS
    return next((bootloader for bootloader in found if bootloader.detect(node)), None)


def name(node: Host) -> str:
    """Return the name of the node's boot loader, ``none`` if it is not supported."""
    found = detect(node)
    return found.name if found else "none"
