# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Entries of systemd-boot, the command line of future kernels, and unified kernel images."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.podnet.datapath.plugins.module_utils._boot import (
    bootloader,
    command_line,
    systemd_boot,
)
from tests.unit.boot.boot_system import System, facts, fill


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
        if hasattr(self, "entries"):
            text = (self.entries / "m-6.1.conf").read_text()
            words = command_line.arguments(text, systemd_boot.start_of_options)
            self.cmdline.write_text(" ".join(words))
            (self.root / "run/podnet/boot_args").unlink(missing_ok=True)
        else:
            self.cmdline.write_text("quiet")

    def keep(self, text: str) -> None:
        """Set the command line of future kernels."""
        self.future.parent.mkdir(exist_ok=True)
        self.future.write_text(text)


def test_entries_and_the_command_line_of_future_kernels(tmp_path: Path) -> None:
    system = SystemdBoot(tmp_path)
    system.keep("root=UUID=1 ro quiet\n")
    untouched = system.files()
    predicted = system(["iommu=pt"], check=True)
    assert system.files() == untouched
    made = system(["iommu=pt"])
    assert made == predicted and made["bootloader"] == "systemd-boot" and made["reboot_required"]
    for file in system.entries.glob("m-*"):
        assert file.read_text().count("options root=UUID=1 ro quiet\noptions iommu=pt\n") == 1
    assert system.future.read_text() == "root=UUID=1 ro quiet\niommu=pt\n"
    assert "iommu" not in (system.entries / "shell.conf").read_text()
    assert not system(["iommu=pt"])["changed"]
    system.boot()
    assert facts(system(["iommu=pt"])) == (False, False, [], [])
    # A kernel was installed without the managed arguments.
    (system.entries / "m-7.conf").write_text("linux /m/7/linux\noptions root=UUID=1\n")
    assert system(["iommu=pt"])["changed"] and not system(["iommu=pt"])["changed"]
    (system.entries / "m-7.conf").unlink()
    # So was the command line of future kernels.
    system.keep("root=UUID=1 ro quiet\n")
    assert system(["iommu=pt"])["changed"] and not system(["iommu=pt"])["changed"]
    assert facts(system([])) == (True, True, [], ["iommu=pt"])
    system.boot()
    (tmp_path / "proc/cmdline").write_bytes(untouched[str(tmp_path / "proc/cmdline")])
    assert system.files() == untouched


CMDLINES = [
    "# note\nroot=UUID=1 ro\n#debug\nquiet\n",
    "root=UUID=1 ro\n# the end\n",
    "root=UUID=1  ro\tquiet",
    "\n\n  root=UUID=1\n\n\n",
    "root=UUID=1\r\nquiet\r\n",
    "# only a comment",
    "",
    'root=UUID=1 dyndbg="file a.c # +p"\n  # indented\n',
]


@pytest.mark.parametrize("text", CMDLINES)
def test_every_line_of_others_keeps_its_bytes(tmp_path: Path, text: str) -> None:
    system = SystemdBoot(tmp_path)
    system.keep("")
    system.future.write_bytes(text.encode())
    system.future.chmod(0o600)
    entry = system.entries / "m-6.1.conf"
    entry.write_bytes(b"# caf\xe9\r\noptions\troot=UUID=1\n\nlinux /l\noptions  ro quiet\ninitrd /i")
    untouched = system.files()
    system(["iommu=pt", "nowatchdog"])
    lines = system.future.read_bytes().decode().split("\n")
    lines.remove("iommu=pt nowatchdog")
    assert "\n".join(lines) == text
    assert (
        b"options\troot=UUID=1\n\nlinux /l\noptions  ro quiet\noptions iommu=pt nowatchdog\n"
        in entry.read_bytes()
    )
    assert not system(["iommu=pt", "nowatchdog"])["changed"]
    system(["nowatchdog"])
    assert system.future.read_bytes().decode().split("\n").count("nowatchdog") == 1
    system([])
    assert system.files() == untouched
    assert system.future.stat().st_mode & 0o777 == 0o600


words = st.text('abc=-_#" ', min_size=0, max_size=12)


@given(st.lists(words, max_size=5), st.lists(st.sampled_from(["x=1", "y", "z-z"]), unique=True, min_size=1))
def test_edits_of_any_text_are_undone(lines: list[str], tokens: list[str]) -> None:
    text = "\n".join(lines)
    start = systemd_boot.start_of_cmdline
    made = command_line.edited(text, start, [], tokens)
    rest = made.split("\n")
    rest.remove(" ".join(tokens))
    assert "\n".join(rest) == text
    assert command_line.edited(made, start, tokens, []) == text
    assert not command_line.missing(tokens, command_line.arguments(made, start))


def test_arguments_are_placed_before_those_of_init(tmp_path: Path) -> None:
    system = SystemdBoot(tmp_path)
    system.keep("root=UUID=1\nro -- single\nquiet\n")
    (system.entries / "m-6.1.conf").write_text("linux /l\noptions root=UUID=1 -- single\n")
    untouched = system.files()
    system(["iommu=pt"])
    assert system.future.read_text() == "root=UUID=1\niommu=pt\nro -- single\nquiet\n"
    assert "options iommu=pt\noptions root=UUID=1 -- single\n" in (system.entries / "m-6.1.conf").read_text()
    system([])
    system.boot()
    (tmp_path / "proc/cmdline").write_bytes(untouched[str(tmp_path / "proc/cmdline")])
    assert system.files() == untouched


def test_arguments_that_an_earlier_version_appended_to_a_line_are_removed(tmp_path: Path) -> None:
    system = SystemdBoot(tmp_path)
    system.keep("root=UUID=1 ro quiet iommu=pt nowatchdog\n")
    record = tmp_path / bootloader.RECORD.lstrip("/")
    record.parent.mkdir()
    record.write_text(f"{bootloader.MARKER}\niommu=pt\nnowatchdog\n")
    system([])
    assert system.future.read_text() == "root=UUID=1 ro quiet\n"


def test_a_value_that_overrides_is_reported(tmp_path: Path) -> None:
    system = SystemdBoot(tmp_path)
    system.keep("root=UUID=1\niommu=strict -- single\n")
    assert f"iommu=strict overrides it in {system.future}" in system.refused(["iommu=pt"])


def test_entries_of_both_partitions_are_changed(tmp_path: Path) -> None:
    system = SystemdBoot(tmp_path)
    other = tmp_path / "boot/loader/entries"
    other.mkdir(parents=True)
    (other / "n-6.1.conf").write_text("linux /l\noptions root=UUID=2\n")
    (tmp_path / "efi").symlink_to(tmp_path / "boot/efi")
    made = system(["iommu=pt"])
    assert made["changed"]
    for file in (*other.glob("*"), *system.entries.glob("m-*")):
        assert file.read_text().count("options iommu=pt\n") == 1
    assert not system(["iommu=pt"])["changed"]


@pytest.mark.parametrize("free", [0, 4096])
def test_a_full_partition_changes_nothing(small_boot: Path, free: int) -> None:
    system = SystemdBoot(small_boot)
    fill(small_boot / "boot", free)
    times = {path: os.stat(path).st_mtime_ns for path in system.files()}
    message = system.refused([f"memmap={number}M" for number in range(300)])
    assert "cannot be written: No space left on device" in message and "not restored" not in message
    assert {path: os.stat(path).st_mtime_ns for path in system.files()} == times


def test_unified_kernel_images_are_rejected(tmp_path: Path) -> None:
    system = SystemdBoot(tmp_path)
    (tmp_path / "boot/efi/EFI/Linux").mkdir(parents=True)
    (tmp_path / "boot/efi/EFI/Linux/debian.efi").touch()
    assert "is a unified kernel image" in system.refused(["iommu=pt"])
    assert not system([])["changed"], "the role calls the module without arguments, too"


def test_links_among_the_entries(tmp_path: Path) -> None:
    system = SystemdBoot(tmp_path)
    (system.entries / "m-6.1.conf").rename(tmp_path / "boot/efi/real")
    (system.entries / "m-6.1.conf").symlink_to("../../real")
    (system.entries / "gone.conf").symlink_to("../../gone")
    (system.entries / "empty.conf").touch()
    system(["iommu=pt"])
    assert (system.entries / "m-6.1.conf").is_symlink()
    assert "options iommu=pt\n" in (tmp_path / "boot/efi/real").read_text()
