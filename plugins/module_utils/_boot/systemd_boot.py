# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""systemd-boot: entry files of the Boot Loader Specification, and the command line for future kernels.

Sources: the Boot Loader Specification, type #1; kernel-install(8) for /etc/kernel/cmdline.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence

from .._core.command import RunCommand
from .._core.files import replace_file
from .._core.plan import Problem
from .._node.host import Host
from .bootloader import RECORD, Current, Entry, Record, replaced

KERNEL_CMDLINE = "/etc/kernel/cmdline"

_PARTITIONS = ("/boot", "/boot/efi", "/efi")
_FOLDERS = tuple(f"{partition}/loader/entries" for partition in _PARTITIONS)


def read_options(text: str) -> tuple[str, ...]:
    """Return the arguments in an entry, which may have several ``options`` lines."""
    words = [line.split()[1:] for line in text.splitlines() if line.split()[:1] == ["options"]]
    return tuple(word for line in words for word in line)


def with_options(text: str, tokens: Sequence[str]) -> str:
    """Return the text of an entry with one ``options`` line, in place of the first one."""
    lines = []
    written = False
    for line in text.splitlines():
        if line.split()[:1] != ["options"]:
            lines.append(line)
        elif not written:
            lines.append(" ".join(["options", *tokens]))
            written = True
    if not written and tokens:
        lines.append(" ".join(["options", *tokens]))
    return "\n".join([*lines, ""])


class SystemdBoot:
    """Entry files, and the command line that kernel-install gives to future kernels."""

    name = "systemd-boot"
    file = RECORD

    def __init__(self, node: Host, run: RunCommand) -> None:
        self._node, self._record = node, Record(node)

    @staticmethod
    def detect(node: Host) -> bool:
        """Return whether a directory with entries exists."""
        return any(node.exists(folder) for folder in _FOLDERS)

    def read(self) -> Current:
        """Return the recorded arguments and the entries; raises ``Problem`` for unified kernel images."""
        partitions = [self._node.path(partition) for partition in _PARTITIONS]
        unified = [path for partition in partitions for path in glob.glob(f"{partition}/EFI/Linux/*.efi")]
        if unified:
            raise Problem(
                f"args: {unified[0]} is a unified kernel image, which contains its arguments: set them in"
                f" {KERNEL_CMDLINE} and rebuild the image"
            )
        entries = [Entry(os.path.basename(path), read_options(text)) for path, text in self._files().items()]
        return Current(self._record.read(), tuple(entries))

    def write(self, tokens: Sequence[str]) -> None:
        """Change every entry and the command line for future kernels; raises ``Problem``."""
        managed = self._record.read()
        former = {path: text.encode() for path, text in self._files().items()}
        if not former:
            raise Problem(f"args: {' and '.join(_FOLDERS)} contain no kernel entry")
        changes = {
            path: with_options(text.decode(), replaced(read_options(text.decode()), managed, tokens)).encode()
            for path, text in former.items()
        }
        future = self._node.path(KERNEL_CMDLINE)
        # Without this file, kernel-install copies the command line of the running kernel.
        if os.path.exists(future):
            with open(future, "rb") as file:
                former[future] = file.read()
            line = replaced(former[future].decode().split(), managed, tokens)
            changes[future] = (" ".join(line) + "\n").encode()
        done: list[str] = []
        try:
            for path, data in changes.items():
                done.append(path)
                replace_file(path, data)
            self._record.write(tokens)
        except OSError as error:
            for path in done:
                replace_file(path, former[path])
            raise Problem(f"{done[-1]} cannot be written: {error}. Every entry was restored.") from None

    def _files(self) -> dict[str, str]:
        """Return path and text of the entries that boot a kernel, from the first directory that has any."""
        found = {}
        for folder in _FOLDERS:
            for path in sorted(glob.glob(os.path.join(self._node.path(folder), "*.conf"))):
                with open(path, encoding="utf-8", errors="replace") as file:
                    text = file.read()
                if any(line.split()[:1] == ["linux"] for line in text.splitlines()):
                    found[path] = text
            if found:
                break
        return found
