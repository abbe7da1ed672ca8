# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Entries of systemd-boot, and unified kernel images."""

from __future__ import annotations

from pathlib import Path

from ansible_collections.podnet.datapath.plugins.module_utils._boot import systemd_boot
from tests.unit.boot.boot_system import System, facts


class SystemdBoot(System):
    """A system with systemd-boot, two kernel entries and an entry without a kernel."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        (root / "usr/sbin/update-grub").unlink()
        self.entries = root / "boot/efi/loader/entries"
        self.entries.mkdir(parents=True)
        for version in ("6.1", "6.12"):
            (self.entries / f"m-{version}.conf").write_text(
                f"title Debian\nversion {version}\noptions root=UUID=1 ro quiet\nlinux /m/{version}/linux\n"
            )
        (self.entries / "shell.conf").write_text("title Shell\nefi /shell.efi\noptions -x\n")
        self.future = root / "etc/kernel/cmdline"

    def boot(self) -> None:
        line = self.entries / "m-6.1.conf" if hasattr(self, "entries") else None
        self.cmdline.write_text(" ".join(systemd_boot.read_options(line.read_text())) if line else "quiet")
        (self.root / "run/podnet/boot_args").unlink(missing_ok=True)


def test_entries_and_the_command_line_of_future_kernels(tmp_path: Path) -> None:
    system = SystemdBoot(tmp_path)
    system.future.parent.mkdir()
    system.future.write_text("root=UUID=1 ro quiet\n")
    untouched = system.files()
    predicted = system(["iommu=pt"], check=True)
    assert system.files() == untouched
    made = system(["iommu=pt"])
    assert made == predicted and made["bootloader"] == "systemd-boot" and made["reboot_required"]
    for file in (*system.entries.glob("m-*"), system.future):
        assert file.read_text().count("root=UUID=1 ro quiet iommu=pt\n") == 1
    assert "iommu" not in (system.entries / "shell.conf").read_text()
    assert not system(["iommu=pt"])["changed"]
    system.boot()
    assert facts(system(["iommu=pt"])) == (False, False, [], [])
    # A kernel was installed without the managed arguments.
    (system.entries / "m-7.conf").write_text("linux /m/7/linux\noptions root=UUID=1\n")
    assert system(["iommu=pt"])["changed"] and not system(["iommu=pt"])["changed"]
    (system.entries / "m-7.conf").unlink()
    assert facts(system([])) == (True, True, [], ["iommu=pt"])
    system.boot()
    (tmp_path / "proc/cmdline").write_bytes(untouched[str(tmp_path / "proc/cmdline")])
    assert system.files() == untouched


def test_unified_kernel_images_are_rejected(tmp_path: Path) -> None:
    system = SystemdBoot(tmp_path)
    (tmp_path / "boot/efi/EFI/Linux").mkdir(parents=True)
    (tmp_path / "boot/efi/EFI/Linux/debian.efi").touch()
    assert "is a unified kernel image" in system.refused(["iommu=pt"])
