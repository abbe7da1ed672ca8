# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Boot a guest once from a node's image; it runs one command as its init and writes nothing to the image.

The command's files are on a disk that is a tar archive, unpacked to /run; its output is on the console.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from lablib import image, machine, qemu, recipe

SECTOR = 512


def make_disk(folder: Path, disk: Path) -> Path:
    """Write a folder's files to a disk; return it."""
    subprocess.run(["tar", "-C", str(folder), "-cf", str(disk), "."], check=True)
    with disk.open("r+b") as stream:
        stream.truncate(-(-disk.stat().st_size // SECTOR) * SECTOR)
    return disk


def boot(
    base: image.Image,
    disk: Path,
    command: str,
    arguments: Sequence[str],
    seconds: float,
) -> str:
    """Run a shell command (one line, no double quotes) in the guest; return the console's text."""
    start = f"mount -t tmpfs tmpfs /run && tar -C /run -xf /dev/vdb && cd /run && {command}"
    grub = (recipe.OVERLAY / "etc/default/grub").read_text()
    append = f'root=/dev/vda1 rw {recipe.kernel_command_line(grub)} init=/bin/sh -- -c "{start}"'
    direct = [
        "-kernel",
        str(base.root / "vmlinuz"),
        "-initrd",
        str(base.root / "initrd.img"),
        "-append",
        append,
    ]
    return emulate(base, disk, [*direct, *arguments], seconds)


def emulate(
    base: image.Image,
    disk: Path,
    arguments: Sequence[str],
    seconds: float,
    loader: bool = False,
) -> str:
    """Run a guest with the image's disk and another one until it powers off; return the console's text.

    With ``loader`` the firmware boots from the other disk.
    """
    emulator = qemu.ensure_emulator()
    log = disk.with_suffix(".log")
    argv = [
        *emulator.system,
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-cpu", machine.TCG_CPU, "-m", "1024"),
        *("-drive", f"if=none,id=disk,file={base.disk},format=raw,snapshot=on"),
        *("-device", "virtio-blk-pci,drive=disk"),
        *("-drive", f"if=none,id=data,file={disk},format=raw,readonly=on"),
        *("-device", f"virtio-blk-pci,drive=data{',bootindex=0' if loader else ''}"),
        *("-chardev", f"file,id=console,path={log}", "-serial", "chardev:console"),
        *arguments,
    ]
    try:
        subprocess.run(argv, env={**os.environ, **dict(emulator.env)}, check=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        print(f"the guest did not end in {seconds:.0f} s", file=sys.stderr)
    return log.read_text(errors="replace")
