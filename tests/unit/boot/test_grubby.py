# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Entries that grubby manages; a shell script stands in for grubby."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._boot import grubby
from tests.unit.boot.boot_system import System

# Implements grubby(8) of Fedora and RHEL over one file per kernel, as Debian does not package grubby.
GRUBBY = r"""#!/bin/sh
root=${0%/usr/sbin/grubby}
[ ! -e "$root/broken" ] || { echo "grubby: no space" >&2; exit 1; }
remove= add= kernel=ALL
for word; do case $word in
    --info=ALL)
        index=0
        for file in "$root"/boot/bls/*; do
            printf 'index=%s\nkernel="/boot/vmlinuz-%s"\nargs="%s"\nroot="UUID=1"\ntitle="Fedora %s"\n' \
                $index "${file##*/}" "$(cat "$file")" "${file##*/}"
            index=$((index + 1))
        done
        printf 'index=%s\nnon linux entry\n' $index ;;
    --remove-args=*) remove=${word#*=} ;;
    --args=*) add=${word#*=} ;;
    --update-kernel=*) kernel=${word#*=} ;;
    *) exit 2 ;;
esac; done
[ ! -e "$root/idle" ] || exit 0
# It changes the first line of this file along with all entries.
if [ $kernel = ALL ] && [ -n "$remove$add" ]; then
    mkdir -p "$root/etc/kernel"
    { head -qn1 "$root/etc/kernel/cmdline" 2>/dev/null | tr -d '\n'; echo " $add"; } >"$root/new"
    mv "$root/new" "$root/etc/kernel/cmdline"
fi
for file in "$root"/boot/bls/*; do
    [ "$kernel" = ALL ] || [ "$kernel" = "/boot/vmlinuz-${file##*/}" ] || continue
    new=
    for token in $(cat "$file"); do
        keep=$token
        for gone in $remove; do [ "$token" = "$gone" ] && keep=; done
        for other in $add; do [ "${token%%=*}" = "${other%%=*}" ] && keep=; done
        [ -z "$keep" ] || new="$new $keep"
    done
    for token in $add; do new="$new $token"; done
    echo $new >"$file"
done
"""


class Fedora(System):
    """A system with grubby and two entries."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        (root / "usr/sbin/grubby").write_text(GRUBBY)
        (root / "usr/sbin/grubby").chmod(0o755)
        (root / "boot/bls").mkdir()
        for version in ("6.1", "6.12"):
            (root / f"boot/bls/{version}").write_text("ro rhgb quiet\n")

    def lines(self) -> list[str]:
        return [file.read_text().strip() for file in sorted((self.root / "boot/bls").iterdir())]


def test_arguments_are_added_and_removed(tmp_path: Path) -> None:
    system = Fedora(tmp_path)
    untouched = system.files()
    predicted = system(["iommu=pt", "nowatchdog"], check=True)
    assert system.files() == untouched
    assert system(["iommu=pt", "nowatchdog"]) == predicted and predicted["bootloader"] == "grubby"
    assert system.lines() == ["ro rhgb quiet iommu=pt nowatchdog"] * 2
    assert not system(["iommu=pt", "nowatchdog"])["changed"]
    system(["iommu=pt"])
    assert system.lines() == ["ro rhgb quiet iommu=pt"] * 2
    system([])
    assert system.files() == untouched


def test_failures_and_ignored_requests_are_reported(tmp_path: Path) -> None:
    system = Fedora(tmp_path)
    (tmp_path / "idle").touch()
    message = system.refused(["iommu=pt"])
    assert "reported success, but the entry 'Fedora 6.1' does not have iommu=pt" in message
    (tmp_path / "idle").unlink()
    (tmp_path / "broken").touch()
    assert "--info=ALL failed with 1:\ngrubby: no space" in system.refused(["iommu=pt"])


def test_a_value_that_grubby_would_replace_is_reported(tmp_path: Path) -> None:
    system = Fedora(tmp_path)
    (tmp_path / "boot/bls/6.1").write_text("ro iommu=strict\n")
    assert "the entry 'Fedora 6.1' has iommu=strict, which this module did not add" in system.refused(
        ["iommu=pt"]
    )


def test_repeated_arguments_of_others_remain(tmp_path: Path) -> None:
    system = Fedora(tmp_path)
    (tmp_path / "boot/bls/6.1").write_text("ro cgroup_enable=memory quiet hugepages=4\n")
    huge = ["hugepagesz=1G", "hugepages=4", "hugepagesz=2M", "hugepages=4"]
    system(["cgroup_enable=cpuset", *huge])
    assert system.lines() == [
        "ro quiet cgroup_enable=memory hugepages=4 cgroup_enable=cpuset " + " ".join(huge),
        "ro rhgb quiet cgroup_enable=cpuset " + " ".join(huge),
    ]
    assert not system(["cgroup_enable=cpuset", *huge])["changed"]
    system([])
    assert system.lines() == ["ro quiet cgroup_enable=memory hugepages=4", "ro rhgb quiet"]


def test_quotes_in_an_entry(tmp_path: Path) -> None:
    system = Fedora(tmp_path)
    (tmp_path / "boot/bls/6.1").write_text('ro dyndbg="file a.c iommu=pt +p" -- iommu=pt\n')
    message = system.refused(["iommu=pt"])
    assert (
        "the entry 'Fedora 6.1' has --, and grubby would append iommu=pt to the arguments of init" in message
    )
    shown = 'index=0\nkernel="/vmlinuz"\nargs="ro dyndbg="file a.c iommu=pt +p" quiet"\ntitle="Fedora"\n'
    (entry,) = grubby.grubby_entries(shown)
    assert entry.tokens == ("ro", 'dyndbg="file a.c iommu=pt +p"', "quiet")


@pytest.mark.parametrize(
    ("text", "made"),
    [
        (None, None),
        ("root=UUID=1  ro\n", "root=UUID=1  ro iommu=pt a=1\n"),
        ("root=UUID=1 ro", "root=UUID=1 ro iommu=pt a=1"),
        ("root=UUID=1 iommu=pt\nquiet\n", "root=UUID=1 iommu=pt iommu=pt a=1\nquiet\n"),
    ],
)
@pytest.mark.parametrize("other", ["", " cgroup_enable=memory"])
def test_the_command_line_of_future_kernels(
    tmp_path: Path, text: str | None, made: str | None, other: str
) -> None:
    """grubby changes it only along with all entries, and loses all lines but the first."""
    system = Fedora(tmp_path)
    (tmp_path / "boot/bls/6.1").write_text(f"ro{other}\n")
    future = tmp_path / "etc/kernel/cmdline"
    future.parent.mkdir()
    if text is not None:
        future.write_text(text)
    system(["iommu=pt", "a=1"])
    assert (future.read_text() if future.exists() else None) == made
    system([])
    assert (future.read_text() if future.exists() else None) == text


def test_an_argument_that_others_set_too_is_removed_once(tmp_path: Path) -> None:
    system = Fedora(tmp_path)
    (tmp_path / "boot/bls/6.1").write_text("ro quiet quiet\n")
    system(["quiet"])
    assert system.lines()[0] == "ro quiet quiet quiet"
    system([])
    assert system.lines()[0] == "ro quiet quiet"
