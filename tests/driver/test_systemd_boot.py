# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""boot_args with a guest that boots through systemd-boot from an ESP."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from lablib import image

from ansible_collections.podnet.datapath.plugins.module_utils._boot import apply
from tests.driver.packages import unpacked
from tests.support import one_boot
from tests.support.lab_node import run

KERNEL = os.environ.get("PODNET_KERNEL", "6.1")
TIMEOUT = 900.0  # seconds for an emulated guest
SUITE = "bookworm"
PACKAGES = ("ovmf", "systemd-boot-efi", "mtools", "dosfstools")
# The last line passes a command to init. Its words are no arguments of the kernel.
ENTRY = """\
title Debian
# root of the guest
options root=/dev/vda1 rw console=ttyS0
linux /vmlinuz
initrd /initrd.img
options panic=-1 init=/bin/sh -- -c "echo; echo cmdline: $(cat /proc/cmdline); poweroff -f"
"""


@pytest.fixture(scope="module")
def packages() -> Path:
    """Return a root with Debian's packages of the firmware, the boot loader and FAT tools."""
    return unpacked("firmware with systemd-boot", SUITE, PACKAGES)


class Guest:
    """The files of a node that boots through systemd-boot, below a directory."""

    def __init__(self, root: Path, packages: Path) -> None:
        self._root, self._packages = root, packages
        self._base, dummy = image.ensure_image(KERNEL)
        self.esp = root / "boot/efi"
        self.entry = self.esp / "loader/entries/debian.conf"
        for folder in ("EFI/BOOT", "loader/entries"):
            (self.esp / folder).mkdir(parents=True)
        (self.esp / "loader/loader.conf").write_text("timeout 0\n")
        self.entry.write_text(ENTRY)
        shutil.copy(
            packages / "usr/lib/systemd/boot/efi/systemd-bootx64.efi", self.esp / "EFI/BOOT/BOOTX64.EFI"
        )
        for name in ("vmlinuz", "initrd.img"):
            shutil.copy(self._base.root / name, self.esp / name)
        (root / "proc/sys/kernel/random").mkdir(parents=True)

    def set(self, args: Sequence[str]) -> None:
        params = {"args": list(args), "state": "present", "acknowledge_risk": False}

        def command(words: Sequence[str]) -> tuple[int, str, str]:
            raise AssertionError(f"systemd-boot needs no program: {words}")

        assert apply.run(params, False, command, str(self._root)).as_dict()["bootloader"] == "systemd-boot"

    def boot(self, work: Path) -> str:
        """Boot once; return the kernel's command line."""
        disk = work / "esp.img"
        with disk.open("wb") as file:
            file.truncate(192 << 20)
        run(str(self._packages / "sbin/mkfs.vfat"), "-F", "32", str(disk))
        run(str(self._packages / "usr/bin/mcopy"), "-s", "-i", str(disk), *map(str, self.esp.iterdir()), "::")
        shared = self._packages / "usr/share/OVMF"
        variables = work / "variables.fd"
        shutil.copy(shared / "OVMF_VARS_4M.fd", variables)
        machine = [
            *("-machine", "q35", "-smp", "2"),
            *("-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={shared / 'OVMF_CODE_4M.fd'}"),
            *("-drive", f"if=pflash,unit=1,format=raw,file={variables}"),
        ]
        console = one_boot.emulate(self._base, disk, machine, TIMEOUT, loader=True)
        found = [line for line in console.splitlines() if line.startswith("cmdline: ")]
        assert found, console[-3000:]
        return found[-1].strip()


def test_the_kernel_gets_the_arguments_and_no_longer_after_their_removal(
    packages: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    guest = Guest(tmp_path, packages)
    guest.set(["iommu=pt", "init_on_free=0"])
    line = guest.boot(tmp_path_factory.mktemp("with"))
    arguments, dummy, rest = line.partition(" -- ")
    assert "root=/dev/vda1 rw console=ttyS0 iommu=pt init_on_free=0 panic=-1" in arguments
    assert "iommu" not in rest
    guest.set([])
    assert guest.entry.read_text() == ENTRY
    assert "iommu" not in guest.boot(tmp_path_factory.mktemp("without"))
