# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""systemd-boot: entry files of the Boot Loader Specification, and the command line for future kernels.

Sources: the Boot Loader Specification, type #1; kernel-install(8) for /etc/kernel/cmdline.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence

from .._core.command import RunCommand
from .._core.files import bytes_of, read_file, replace_files
from .._core.plan import Problem
from .._node.host import Host
from .bootloader import KERNEL_CMDLINE, RECORD, Current, Entry, Record, Recorded
from .command_line import arguments, edited, missing

_PARTITIONS = ("/boot", "/boot/efi", "/efi")
_FOLDERS = tuple(f"{partition}/loader/entries" for partition in _PARTITIONS)


def start_of_options(line: str) -> int | None:
    """Return where the arguments on a line of an entry begin; an entry may have several such lines."""
    match = re.match(r"\s*options(?:\s+|$)", line)
    return match.end() if match else None


def start_of_cmdline(line: str) -> int | None:
    """Return where the arguments on a line of /etc/kernel/cmdline begin."""
    return None if line.lstrip().startswith("#") else 0


class SystemdBoot:
    """Entry files, and the command line that kernel-install gives to future kernels."""

    name = "systemd-boot"
    file = RECORD

    def __init__(self, node: Host, run: RunCommand) -> None:
        self._node, self._record = node, Record(node)
        self._future = os.path.realpath(node.path(KERNEL_CMDLINE))

    @staticmethod
    def detect(node: Host) -> bool:
        """Return whether a directory with entries exists."""
        return any(node.exists(folder) for folder in _FOLDERS)

    def read(self) -> Current:
        """Return the recorded arguments and the entries."""
        partitions = [self._node.path(partition) for partition in _PARTITIONS]
        unified = [path for partition in partitions for path in glob.glob(f"{partition}/EFI/Linux/*.efi")]
        entries = [
            Entry(os.path.basename(path), tuple(self._arguments(path, text)))
            for path, text in self._files().items()
        ]
        recorded = self._record.read()
        unsupported = unified and (
            f"{unified[0]} is a unified kernel image, which contains its arguments: set them in"
            f" {KERNEL_CMDLINE} and rebuild the image"
        )
        return Current(recorded.managed, tuple(entries), recorded.interrupted, unsupported or "")

    def write(self, tokens: Sequence[str]) -> None:
        """Change every entry and the command line for future kernels; raises ``Problem``."""
        recorded = self._record.read()
        former = self._files()
        if tokens and not {*former} - {self._future}:
            raise Problem(f"args: {' and '.join(_FOLDERS)} contain no kernel entry")
        entries = []
        for path, text in former.items():
            start, prefix = (start_of_cmdline, "") if path == self._future else (start_of_options, "options ")
            managed = recorded.managed_in(path, text, arguments(text, start))
            now = edited(text, start, managed, tokens, prefix)
            _require_effect(path, tokens, arguments(now, start))
            entries.append((path, text, managed, now))
        self._record.write(recorded.replacing(tokens, entries))
        try:
            replace_files({path: bytes_of(now) for path, text, dummy, now in entries if now != text})
        except Problem:
            self._record.write(recorded)
            raise
        self._record.write(Recorded(tuple(tokens)))

    def _arguments(self, path: str, text: str) -> list[str]:
        return arguments(text, start_of_cmdline if path == self._future else start_of_options)

    def _files(self) -> dict[str, str]:
        """Return path and text of all entries that boot a kernel, and of the command line for future ones.

        systemd-boot reads the entries of both the ESP and the XBOOTLDR partition. The same partition may be
        mounted twice.
        """
        found: dict[str, str] = {}
        known = set()
        for folder in _FOLDERS:
            for path in sorted(glob.glob(os.path.join(self._node.path(folder), "*.conf"))):
                text = read_file(path) or ""
                if not text:  # a dangling link, or nothing to boot
                    continue
                status = os.stat(path)
                if (status.st_dev, status.st_ino) in known or not re.search(r"^\s*linux\s", text, re.M):
                    continue
                known.add((status.st_dev, status.st_ino))
                found[os.path.realpath(path)] = text
        # Without this file, kernel-install copies the command line of the running kernel.
        future = read_file(self._future)
        return found if future is None else {**found, self._future: future}


def _require_effect(path: str, tokens: Sequence[str], line: Sequence[str]) -> None:
    """Raise ``Problem`` if arguments would have no effect on a command line."""
    for token, later in missing(tokens, line).items():
        raise Problem(
            f"args: {token}: {later} overrides it in {path}: remove {later} there"
            if later
            else f"args: {token} would be missing in {path}: check the quotes in that file"
        )
