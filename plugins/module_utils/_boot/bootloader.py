# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Interface of a boot loader, its entries, and the file that records managed arguments."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from .._core.command import RunCommand
from .._core.files import DropIn
from .._node.host import Host
from .command_line import canonical

MARKER = "# Written by podnet.datapath.boot_args: changes made here are lost."
RECORD = "/etc/podnet/boot_args"


@dataclass(frozen=True)
class Entry:
    """A boot entry of a kernel, with the arguments that it passes.

    ``kernel`` is its path if known, ``ended`` whether words for init follow the arguments.
    """

    title: str
    tokens: tuple[str, ...]
    kernel: str = ""
    ended: bool = False


@dataclass(frozen=True)
class Current:
    """State of a boot loader: the arguments that this module added, and all kernel entries."""

    managed: tuple[str, ...]
    entries: tuple[Entry, ...]

    def unmanaged(self) -> set[str]:
        """Return the arguments of entries that this module did not add."""
        managed = Counter(map(canonical, self.managed))
        return {token for entry in self.entries for token in Counter(map(canonical, entry.tokens)) - managed}


class Bootloader(Protocol):
    """One boot loader. ``file`` is the path that records the managed arguments."""

    name: str
    file: str

    def __init__(self, node: Host, run: RunCommand) -> None: ...

    @staticmethod
    def detect(node: Host) -> bool:
        """Return whether the node's entries are managed with this boot loader."""

    def read(self) -> Current:
        """Return the managed arguments and the entries; raises ``Problem``."""

    def write(self, tokens: Sequence[str]) -> None:
        """Replace the managed arguments of every entry by ``tokens``.

        Raises ``Problem``; then the boot loader's files are unchanged.
        """


class Record:
    """The file with the managed arguments."""

    def __init__(self, node: Host) -> None:
        self._file = DropIn(node.path(RECORD), MARKER)

    def read(self) -> tuple[str, ...]:
        """Return the managed arguments; raises ``Problem`` if this collection did not write the file."""
        return tuple((self._file.read() or "").replace(MARKER, "", 1).split())

    def write(self, tokens: Sequence[str]) -> None:
        """Record the managed arguments; remove the file if there are none."""
        os.makedirs(os.path.dirname(self._file.path), exist_ok=True)
        self._file.write("\n".join([MARKER, *tokens, ""]) if tokens else None)
