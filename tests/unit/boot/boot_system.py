# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A system with GRUB, as files below a directory, and a run of the module on it."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._boot import apply
from ansible_collections.podnet.datapath.plugins.module_utils._core.plan import Problem

# Generates grub.cfg from settings and kernels as Debian's grub-mkconfig does, without probing disks.
UPDATE_GRUB = r"""#!/bin/sh
set -e
root=${0%/usr/sbin/update-grub}
. "$root/etc/default/grub"
for x in "$root"/etc/default/grub.d/*.cfg; do [ -e "$x" ] && . "$x"; done
[ -z "$FAIL" ] || { echo "error: $FAIL" >&2; exit 1; }
{
    echo '### BEGIN /etc/grub.d/10_linux ###'
    for kernel in "$root"/boot/vmlinuz-*; do
        [ -e "$kernel" ] || continue
        name=${kernel##*/}
        printf "menuentry 'Debian GNU/Linux, with Linux %s' --class debian {\n" "${name#vmlinuz-}"
        printf '\tlinux\t/boot/%s root=UUID=1 ro %s\n}\n' \
            "$name" "$GRUB_CMDLINE_LINUX $GRUB_CMDLINE_LINUX_DEFAULT"
        printf "menuentry 'Debian GNU/Linux, with Linux %s (recovery mode)' {\n" "${name#vmlinuz-}"
        printf '\tlinux\t/boot/%s root=UUID=1 ro single %s\n}\n' "$name" "$GRUB_CMDLINE_LINUX"
    done
    echo '### END /etc/grub.d/10_linux ###'
    echo '### BEGIN /etc/grub.d/30_os-prober ###'
    printf "menuentry 'Another system' {\n\tlinux /boot/vmlinuz root=/dev/sdb1\n}\n"
    echo '### END /etc/grub.d/30_os-prober ###'
} >"$root/boot/grub/grub.cfg.new"
mv "$root/boot/grub/grub.cfg.new" "$root/boot/grub/grub.cfg"
"""


class System:
    """The files of a system below ``root``; a call runs the module."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for folder in ("etc/default/grub.d", "boot/grub", "usr/sbin", "proc/sys/kernel/random", "run"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        self.drop_in = root / "etc/default/grub.d/zz-podnet.cfg"
        self.config = root / "boot/grub/grub.cfg"
        self.cmdline = root / "proc/cmdline"
        (root / "boot/vmlinuz-6.1.0-56-amd64").touch()
        (root / "boot/vmlinuz-6.12.1-amd64").touch()
        (root / "usr/sbin/update-grub").write_text(UPDATE_GRUB)
        (root / "usr/sbin/update-grub").chmod(0o755)
        (root / "proc/sys/kernel/random/boot_id").write_text("b00t\n")
        self.default("")
        self.command([str(root / "usr/sbin/update-grub")])
        self.boot()

    def default(self, text: str) -> None:
        settings = 'GRUB_CMDLINE_LINUX_DEFAULT="quiet"\nGRUB_CMDLINE_LINUX="audit=0"\n' + text
        (self.root / "etc/default/grub").write_text(settings)

    def boot(self) -> None:
        """Boot the first entry."""
        line = next(line for line in self.config.read_text().splitlines() if "vmlinuz" in line)
        self.cmdline.write_text(f"BOOT_IMAGE={line.split(None, 1)[1]}\n")
        (self.root / "run/podnet/boot_args").unlink(missing_ok=True)

    def command(self, words: Sequence[str]) -> tuple[int, str, str]:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    def __call__(
        self, args: object, check: bool = False, state: str = "present", risk: bool = False
    ) -> dict[str, Any]:
        params = {"args": args, "state": state, "acknowledge_risk": risk}
        result = apply.run(params, check, self.command, str(self.root))
        self.warnings = result.warnings
        return result.as_dict()

    def files(self) -> dict[str, bytes]:
        return {str(p): p.read_bytes() for p in self.root.rglob("*") if p.is_file()}

    def refused(self, args: object) -> str:
        before = self.files()
        with pytest.raises(Problem) as raised:
            self(args)
        assert self.files() == before
        return str(raised.value)


def facts(result: dict[str, Any]) -> tuple[bool, bool, list[str], list[str]]:
    return result["changed"], result["reboot_required"], result["missing"], result["stale"]


def fill(folder: Path, free: int) -> Path:
    """Fill a file system, except for ``free`` bytes; return the file to delete."""
    padding = folder / "padding"
    with contextlib.suppress(OSError), open(padding, "wb", buffering=0) as file:
        while file.write(bytes(4096)) == 4096:
            pass
    os.truncate(padding, max(padding.stat().st_size // 4096 * 4096 - free, 0))
    return padding
