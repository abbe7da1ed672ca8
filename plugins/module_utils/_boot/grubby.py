# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""grubby: GRUB with Boot Loader Specification entries, and zipl.

grubby changes the command line of future kernels only along with all entries, and adds arguments of entries
to it. So it is set separately.

Sources: grubby(8), kernel-install(8).
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Sequence

from .._core.command import RunCommand
from .._core.files import bytes_of, read_file, replace_file
from .._core.plan import Problem, reason
from .._node.host import Host
from .bootloader import KERNEL_CMDLINE, RECORD, Current, Entry, Record, Recorded
from .command_line import END, edited, is_repeated, missing, replaced, words


def grubby_entries(text: str) -> list[Entry]:
    """Return the entries in the output of ``grubby --info=ALL``."""
    entries = []
    values: dict[str, str] = {}
    for line in [*text.splitlines(), "index="]:
        name, separator, value = line.partition("=")
        if name == "index" and "kernel" in values:
            title, kernel = values.get("title") or values["kernel"], values["kernel"]
            args = values.get("args", "")
            entries.append(Entry(title, tuple(words(args)), kernel, END in args.split()))
        if name == "index":
            values = {}
        if separator:
            # grubby puts quotes around a value; quotes within it belong to an argument.
            quoted = len(value) > 1 and value[0] == value[-1] == '"'
            values[name] = value[1:-1].replace('\\"', '"') if quoted else value
    return entries


class Grubby:
    """The boot loaders that grubby edits."""

    name = "grubby"
    file = RECORD

    def __init__(self, node: Host, run: RunCommand) -> None:
        self._run, self._record = run, Record(node)
        self._tool = node.path(node.tool("grubby"))
        self._future = os.path.realpath(node.path(KERNEL_CMDLINE))

    @staticmethod
    def detect(node: Host) -> bool:
        """Return whether grubby is installed."""
        return bool(node.tool("grubby"))

    def read(self) -> Current:
        """Return the recorded arguments and the entries that grubby lists."""
        recorded = self._record.read()
        return Current(recorded.managed, tuple(self._entries()), recorded.interrupted)

    def write(self, tokens: Sequence[str]) -> None:
        """Change every entry with grubby and read the entries again; raises ``Problem``."""
        recorded, former = self._record.read(), self._entries()
        if not former:
            raise Problem(f"args: {self._tool} --info=ALL lists no kernel")
        names = [f"{entry.kernel} {entry.title}" for entry in former]
        texts = [" ".join(entry.tokens) for entry in former]
        managed = [recorded.managed_in(*one) for one in zip(names, texts, (e.tokens for e in former))]
        _refuse_overwrite(former, managed, tokens)
        desired = [replaced(entry.tokens, own, tokens) for entry, own in zip(former, managed)]
        states = zip(names, texts, managed, map(" ".join, desired))
        future = recorded.future if recorded.interrupted else read_file(self._future)
        coming = None if future is None else _with_arguments(future, recorded.tokens, tokens)
        self._record.write(recorded.replacing(tokens, states, future))
        try:
            self._update(former, desired)
            self._check(tokens)
            self._write_future(coming)
        except Problem as problem:
            message = f"{problem}\nEvery entry was restored."
            try:
                self._update(self._entries(), [entry.tokens for entry in former])
                self._write_future(future)
                self._record.write(recorded)
            except Problem as other:
                message = f"{problem}\nThe entries were not restored: {other}"
            raise Problem(message) from None
        self._record.write(Recorded(tuple(tokens)))

    def _write_future(self, text: str | None) -> None:
        """Set the command line of future kernels; raises ``Problem``."""
        try:
            if text is None:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._future)
            elif read_file(self._future) != text:
                replace_file(self._future, bytes_of(text))
        except OSError as error:
            raise Problem(f"{self._future} cannot be written: {reason(error)}") from None

    def _entries(self) -> list[Entry]:
        return grubby_entries(self._grubby("--info=ALL"))

    def _grubby(self, *words: str) -> str:
        code, out, err = self._run([self._tool, *words])
        if code:
            lines = (out + err).strip().splitlines()[-8:]
            raise Problem("\n".join([f"{self._tool} {' '.join(words)} failed with {code}:", *lines]))
        return out

    def _update(self, entries: Sequence[Entry], desired: Sequence[Sequence[str]]) -> None:
        """Change entries to ``desired`` arguments; raises ``Problem``.

        ``--args`` replaces all occurrences of an argument by those it lists, so it lists the occurrences that
        remain as well. Entries in which these differ are changed separately. grubby overlooks an occurrence
        beside an equal one, so ``--remove-args`` lists repeated ones too, each as often as it occurs.
        """
        names = set()
        for entry, line in zip(entries, desired):
            before, after = Counter(entry.tokens), Counter(line)
            names |= {_key(word) for word in (before - after) + (after - before)}
        calls: dict[str, Counter[str]] = {}
        kernels: dict[str, list[str]] = {}
        for entry, line in zip(entries, desired):
            args = " ".join(word for word in line if _key(word) in names)
            counts = Counter(word for word in entry.tokens if _key(word) in names)
            removed = {word: count for word, count in counts.items() if count > 1 or word not in line}
            calls[args] = calls.get(args, Counter()) | Counter(removed)
            kernels.setdefault(args, []).append(entry.kernel)
        for args, gone in calls.items():
            options = [f"--remove-args={' '.join(gone.elements())}"] if gone else []
            options += [f"--args={args}"] if args else []
            for kernel in ["ALL"] if len(calls) == 1 else dict.fromkeys(kernels[args]):
                if options:
                    self._grubby(f"--update-kernel={kernel}", *options)

    def _check(self, tokens: Sequence[str]) -> None:
        """Raise ``Problem`` if an entry does not have all ``tokens``."""
        for entry in self._entries():
            absent = missing(tokens, entry.tokens)
            if absent:
                raise Problem(
                    f"args: grubby reported success, but the entry {entry.title!r} does not have"
                    f" {' '.join(absent)}"
                )


def _with_arguments(text: str, managed: Sequence[str], tokens: Sequence[str]) -> str:
    """Return the command line of future kernels with other managed arguments; grubby reads its first line."""
    line, newline, others = text.partition("\n")
    kept = edited(line, lambda dummy: 0, managed, [])
    return " ".join(filter(None, [kept, *tokens])) + newline + others


def _key(word: str) -> str:
    """Return the name in an argument as grubby compares it."""
    return word.partition("=")[0]


def _refuse_overwrite(
    former: Sequence[Entry], managed: Sequence[Sequence[str]], tokens: Sequence[str]
) -> None:
    """Raise ``Problem`` if grubby would replace another value of an argument, or add one without effect.

    ``managed`` has the managed arguments of each entry.
    """
    names = {_key(token): token for token in tokens if not is_repeated(token)}
    problems = [
        f"args: the entry {entry.title!r} has {END}, and grubby would append {' '.join(tokens)} to the"
        f" arguments of init that follow it: remove {END} first"
        f" (grubby --update-kernel=ALL --remove-args={END})"
        for entry in former
        if entry.ended and tokens
    ]
    for entry, own in zip(former, managed):
        for token in entry.tokens:
            wanted = names.get(_key(token), token)
            if token != wanted and token not in own:
                problems.append(
                    f"args: {wanted}: the entry {entry.title!r} has {token}, which this module did not"
                    f" add and grubby would replace: remove it first (grubby --update-kernel=ALL"
                    f" --remove-args={token})"
                )
    if problems:
        raise Problem("\n".join(problems))
