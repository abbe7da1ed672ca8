# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""grubby: GRUB with Boot Loader Specification entries, and zipl.

Source: grubby(8).
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from .._core.command import RunCommand
from .._core.plan import Problem
from .._node.host import Host
from .bootloader import RECORD, Current, Entry, Record


def grubby_entries(text: str) -> list[Entry]:
    """Return the entries in the output of ``grubby --info=ALL``."""
    entries = []
    values: dict[str, str] = {}
    for line in [*text.splitlines(), "index="]:
        name, separator, value = line.partition("=")
        if name == "index" and "kernel" in values:
            tokens = values.get("args", "").split()
            entries.append(Entry(values.get("title") or values["kernel"], tuple(tokens)))
        if name == "index":
            values = {}
        if separator:
            try:
                values[name] = " ".join(shlex.split(value))
            except ValueError:
                values[name] = value.strip('"')
    return entries


class Grubby:
    """The boot loaders that grubby edits."""

    name = "grubby"
    file = RECORD

    def __init__(self, node: Host, run: RunCommand) -> None:
        self._run, self._record = run, Record(node)
        self._tool = node.path(node.tool("grubby"))

    @staticmethod
    def detect(node: Host) -> bool:
        """Return whether grubby is installed."""
        return bool(node.tool("grubby"))

    def read(self) -> Current:
        """Return the recorded arguments and the entries that grubby lists."""
        return Current(self._record.read(), tuple(grubby_entries(self._grubby("--info=ALL"))))

    def write(self, tokens: Sequence[str]) -> None:
        """Change every entry with grubby and read the entries again; raises ``Problem``."""
        former = self.read()
        if not former.entries:
            raise Problem(f"args: {self._tool} --info=ALL lists no kernel")
        _refuse_overwrite(former, tokens)
        try:
            self._replace(former.managed, tokens)
            self._check(tokens)
            self._record.write(tokens)
        except (OSError, Problem) as problem:
            self._replace(tokens, former.managed)
            raise Problem(f"{problem}\nEvery entry was restored.") from None

    def _grubby(self, *words: str) -> str:
        code, out, err = self._run([self._tool, *words])
        if code:
            lines = (out + err).strip().splitlines()[-8:]
            raise Problem("\n".join([f"{self._tool} {' '.join(words)} failed with {code}:", *lines]))
        return out

    def _replace(self, managed: Sequence[str], tokens: Sequence[str]) -> None:
        removed = [token for token in managed if token not in tokens]
        words = [f"--remove-args={' '.join(removed)}"] if removed else []
        words += [f"--args={' '.join(tokens)}"] if tokens else []
        if words:
            self._grubby("--update-kernel=ALL", *words)

    def _check(self, tokens: Sequence[str]) -> None:
        """Raise ``Problem`` if an entry does not have all ``tokens``."""
        for entry in self.read().entries:
            absent = [token for token in tokens if token not in entry.tokens]
            if absent:
                raise Problem(
                    f"args: grubby reported success, but the entry {entry.title!r} does not have"
                    f" {' '.join(absent)}"
                )


def _refuse_overwrite(former: Current, tokens: Sequence[str]) -> None:
    """Raise ``Problem`` if grubby would silently replace another value of an argument."""
    names = {token.partition("=")[0]: token for token in tokens if "=" in token}
    problems = []
    for entry in former.entries:
        for token in entry.tokens:
            name = token.partition("=")[0]
            if name in names and token != names[name] and token not in former.managed:
                problems.append(
                    f"args: {names[name]}: the entry {entry.title!r} has {token}, which this module did not"
                    f" add and grubby would replace: remove it first (grubby --update-kernel=ALL"
                    f" --remove-args={token})"
                )
    if problems:
        raise Problem("\n".join(problems))
