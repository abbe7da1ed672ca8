# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan for a boot loader, and its detection."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.podnet.datapath.plugins.module_utils._boot import apply, loaders
from ansible_collections.podnet.datapath.plugins.module_utils._boot.bootloader import Current, Entry
from ansible_collections.podnet.datapath.plugins.module_utils._boot.command_line import canonical
from ansible_collections.podnet.datapath.plugins.module_utils._node.host import Host

words = st.text("abcxyz_019.,:=/@%+~-", min_size=1, max_size=8).filter(
    lambda w: not w.startswith("=") and w != "--"
)
lines = st.lists(words, max_size=6, unique_by=canonical)


@given(lines, lines, st.lists(lines, max_size=3))
def test_the_plan_of_an_applied_plan_is_empty(
    managed: list[str], tokens: list[str], others: list[list[str]]
) -> None:
    def booted(managed: list[str]) -> Current:
        return Current(tuple(managed), tuple(Entry("Linux", (*line, *managed)) for line in others))

    found = apply.plan(booted(managed), tokens, "file")
    assert bool(found) == (managed != tokens)
    assert not apply.plan(booted(tokens), tokens, "file")


def test_entries_without_managed_arguments_are_outdated() -> None:
    current = Current(("iommu=pt",), (Entry("new kernel", ("ro",)), Entry("old", ("ro", "iommu=pt"))))
    (change,) = apply.plan(current, ["iommu=pt"], "file").shown
    assert (change.name, change.before, change.after) == ("new kernel", "ro", "ro iommu=pt")


@pytest.mark.parametrize(
    ("files", "name"),
    [
        ([], "none"),
        (["etc/default/grub"], "none"),
        (["etc/default/grub", "usr/sbin/grub2-mkconfig"], "grub"),
        (["etc/default/grub", "usr/sbin/grub2-mkconfig", "usr/sbin/grubby"], "grubby"),
        (["efi/loader/entries/a.conf"], "systemd-boot"),
        (["boot/efi/loader/entries/a.conf", "etc/default/grub"], "systemd-boot"),
    ],
)
def test_boot_loaders_are_detected_by_their_files(tmp_path: Path, files: list[str], name: str) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch(mode=0o755)
    assert loaders.name(Host(str(tmp_path))) == name


@pytest.mark.parametrize(
    ("started", "name"),
    [
        ("systemd-boot 252.39-1~deb12u1", "systemd-boot"),
        ("GRUB 2.12", "grub"),
        ("rEFInd 0.14.2", "none"),
        ("", "grub"),
    ],
)
def test_the_loader_that_started_the_system_decides(tmp_path: Path, started: str, name: str) -> None:
    for file in ("etc/default/grub", "usr/sbin/grub2-mkconfig", "boot/loader/entries/a.conf"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch(mode=0o755)
    variable = tmp_path / loaders._LOADER_INFO.lstrip("/")
    variable.parent.mkdir(parents=True)
    variable.write_bytes(bytes([6, 0, 0, 0]) + (started + "\0").encode("utf-16-le"))
    assert loaders.name(Host(str(tmp_path))) == name


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("initrd=\\m\\6.1\\initrd root=UUID=1 ro", "systemd-boot"),
        ("root=UUID=1 ro initrd=\\initrd", "systemd-boot"),
        ("BOOT_IMAGE=/vmlinuz root=UUID=1 ro", "grub"),
        ("root=UUID=1 ro", "grub"),
    ],
)
def test_the_command_line_shows_which_loader_started_the_system(tmp_path: Path, line: str, name: str) -> None:
    for file in ("etc/default/grub", "usr/sbin/grub2-mkconfig", "boot/loader/entries/a.conf", "proc/cmdline"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch(mode=0o755)
    (tmp_path / "proc/cmdline").write_text(line)
    assert loaders.name(Host(str(tmp_path))) == name
