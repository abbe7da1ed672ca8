# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Interface of a boot loader, its entries, and the file that records managed arguments."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from .._core.command import RunCommand
from .._core.files import DropIn, digest
from .._core.plan import Problem, reason
from .._node.host import Host
from .command_line import canonical, missing

MARKER = "# Written by podnet.datapath.boot_args: changes made here are lost."
RECORD = "/etc/podnet/boot_args"
# The command line that kernel-install(8) gives to future kernels.
KERNEL_CMDLINE = "/etc/kernel/cmdline"


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
    """State of a boot loader: the arguments that this module added, and all kernel entries.

    ``interrupted``: a change did not end, so entries may have its arguments or the former ones; ``managed``
    has those of the change, or the former ones if it removes all. ``unsupported`` is why arguments cannot
    be added, empty if they can.
    """

    managed: tuple[str, ...]
    entries: tuple[Entry, ...]
    interrupted: bool = False
    unsupported: str = ""

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


@dataclass(frozen=True)
class Recorded:
    """Contents of the record: the managed arguments and, while they are replaced, the ``coming`` ones.

    ``states`` has the managed arguments of each entry, by the digest of its text, before and after the
    replacement; ``future`` is the command line of future kernels with ``tokens``, if a program changes it.
    """

    tokens: tuple[str, ...] = ()
    coming: tuple[str, ...] | None = None
    states: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)
    future: str | None = None

    @property
    def interrupted(self) -> bool:
        """Return whether a replacement did not end."""
        return self.coming is not None

    @property
    def managed(self) -> tuple[str, ...]:
        """Return the arguments for ``Current.managed``."""
        return self.coming or self.tokens

    def managed_in(self, entry: str, text: str, line: Sequence[str]) -> Sequence[str]:
        """Return the managed arguments of an entry with this text and command line."""
        known = self.states.get(entry, {}).get(str(digest(text)))
        if known is not None:
            return known
        return self.coming if self.coming and not missing(self.coming, line) else self.tokens

    def replacing(
        self,
        tokens: Sequence[str],
        entries: Iterable[tuple[str, str, Sequence[str], str]],
        future: str | None = None,
    ) -> Recorded:
        """Return the contents while ``tokens`` replace the managed arguments.

        ``entries`` has name, text, managed arguments and new text of each entry.
        """
        states = {
            name: {str(digest(after)): list(tokens), str(digest(before)): list(managed)}
            for name, before, managed, after in entries
        }
        return Recorded(self.tokens, tuple(tokens), states, future)


class Record:
    """The file with the managed arguments.

    It names a replacement before the first entry changes, so that another run can complete or revert one
    that was killed.
    """

    _COMING = "# Interrupted: "

    def __init__(self, node: Host) -> None:
        self._file = DropIn(node.path(RECORD), MARKER)

    def read(self) -> Recorded:
        """Return the contents; raises ``Problem`` if this collection did not write the file."""
        tokens: list[str] = []
        raw: dict[str, Any] = {}
        for line in (self._file.read() or "").splitlines():
            if line.startswith(self._COMING):
                raw = json.loads(line[len(self._COMING) :])
            elif not line.startswith("#"):
                tokens += line.split()
        coming = tuple(raw["coming"]) if raw else None
        return Recorded(tuple(tokens), coming, raw.get("states", {}), raw.get("future"))

    def write(self, recorded: Recorded) -> None:
        """Replace the contents; remove the file if there are none. Raises ``Problem``."""
        lines = list(recorded.tokens)
        if recorded.coming is not None:
            raw = {"coming": recorded.coming, "states": recorded.states, "future": recorded.future}
            lines.append(self._COMING + json.dumps(raw))
        try:
            os.makedirs(os.path.dirname(self._file.path), exist_ok=True)
            self._file.write("\n".join([MARKER, *lines, ""]) if lines else None)
        except OSError as error:
            raise Problem(f"{RECORD} cannot be written: {reason(error)}") from None
