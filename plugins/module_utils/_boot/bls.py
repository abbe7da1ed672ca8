# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Boot loaders whose entries are kept one by one: those that grubby knows, and systemd-boot.

Private to this collection. Which of an entry's arguments are ours stands in a file of its own.
Sources: grubby(8); the Boot Loader Specification, type #1; kernel-install(8) for /etc/kernel/cmdline.
"""

from __future__ import annotations

import glob
import os
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .._core.command import RunCommand
from .._core.files import DropIn, replace_file
from .._core.plan import Problem
from .._node.facts import Node

MARKER = "# Written by podnet.datapath.boot_args: changes made here are lost."
RECORD = "/etc/podnet/boot_args"
KERNEL_CMDLINE = "/etc/kernel/cmdline"
FOLDERS = ("/boot/loader/entries", "/boot/efi/loader/entries", "/efi/loader/entries")


@dataclass(frozen=True)
class Entry:
    """A kernel that can be booted, and the arguments that it gets then."""

    title: str
    tokens: tuple[str, ...]


@dataclass(frozen=True)
class Current:
    """What a boot loader has: the arguments that this module added, and its entries."""

    own: tuple[str, ...]
    entries: tuple[Entry, ...]


def changed(line: Iterable[str], own: Iterable[str], tokens: Sequence[str]) -> list[str]:
    """Return a command line with ``tokens`` at its end in place of ``own``, each of which goes once."""
    rest = list(line)
    for token in own:
        if token in rest:  # The last one: ours were added at the end.
            rest.reverse()
            rest.remove(token)
            rest.reverse()
    return [*rest, *tokens]


class Record:
    """The file that says which arguments are ours."""

    def __init__(self, node: Node) -> None:
        self._file = DropIn(node.path(RECORD), MARKER)

    def read(self) -> tuple[str, ...]:
        """Return our arguments; raises ``Problem`` where the file is somebody else's."""
        return tuple((self._file.read() or "").replace(MARKER, "", 1).split())

    def write(self, tokens: Sequence[str]) -> None:
        """Note our arguments."""
        os.makedirs(os.path.dirname(self._file.path), exist_ok=True)
        self._file.write("\n".join([MARKER, *tokens, ""]) if tokens else None)


# systemd-boot


def options_of(text: str) -> tuple[str, ...]:
    """Return the arguments in an entry; several lines of options count together."""
    words = [line.split()[1:] for line in text.splitlines() if line.split()[:1] == ["options"]]
    return tuple(word for line in words for word in line)


def with_options(text: str, tokens: Sequence[str]) -> str:
    """Return the text of an entry with other arguments, in one line where the first one was."""
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
    """Entries in files, and the command line that kernel-install gives to kernels to come."""

    name = "systemd-boot"
    file = RECORD

    def __init__(self, node: Node) -> None:
        self._node, self._record = node, Record(node)

    def _files(self) -> dict[str, str]:
        """Return path and text of the entries that boot a kernel."""
        found = {}
        for folder in FOLDERS:
            for path in sorted(glob.glob(os.path.join(self._node.path(folder), "*.conf"))):
                with open(path, encoding="utf-8", errors="replace") as file:
                    text = file.read()
                if any(line.split()[:1] == ["linux"] for line in text.splitlines()):
                    found[path] = text
            if found:
                break
        return found

    def read(self) -> Current:
        """Return our arguments and the entries; raises ``Problem`` where a kernel holds its own."""
        partitions = [self._node.path(folder.replace("/loader/entries", "")) for folder in FOLDERS]
        unified = [path for partition in partitions for path in glob.glob(f"{partition}/EFI/Linux/*.efi")]
        if unified:
            raise Problem(
                f"args: {unified[0]} is a unified kernel image, which holds its own arguments: set them in"
                f" {KERNEL_CMDLINE} and have it built anew"
            )
        entries = [Entry(os.path.basename(path), options_of(text)) for path, text in self._files().items()]
        return Current(self._record.read(), tuple(entries))

    def write(self, tokens: Sequence[str]) -> None:
        """Change every entry and the command line of kernels to come; raises ``Problem``, nothing done."""
        own = self._record.read()
        former = {path: text.encode() for path, text in self._files().items()}
        if not former:
            raise Problem(f"args: there is no entry of a kernel in {' or '.join(FOLDERS)}")
        changes = {
            path: with_options(text.decode(), changed(options_of(text.decode()), own, tokens)).encode()
            for path, text in former.items()
        }
        coming = self._node.path(KERNEL_CMDLINE)
        if os.path.exists(coming):  # Otherwise kernel-install takes the running kernel's, ours among them.
            with open(coming, "rb") as file:
                former[coming] = file.read()
            line = changed(former[coming].decode().split(), own, tokens)
            changes[coming] = (" ".join(line) + "\n").encode()
        done: list[str] = []
        try:
            for path, data in changes.items():
                done.append(path)
                replace_file(path, data)
            self._record.write(tokens)
        except OSError as error:
            for path in done:
                replace_file(path, former[path])
            raise Problem(f"{done[-1]} cannot be written: {error}. Every entry is as it was.") from None


# grubby


def grubby_entries(text: str) -> list[Entry]:
    """Return the entries that ``grubby --info=ALL`` prints."""
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
    """What grubby knows: GRUB with entries by the specification, and zipl."""

    name = "grubby"
    file = RECORD

    def __init__(self, node: Node, run: RunCommand) -> None:
        self._run, self._record = run, Record(node)
        self._tool = node.path(node.tool("grubby"))

    def _grubby(self, *words: str) -> str:
        code, out, err = self._run([self._tool, *words])
        if code:
            lines = (out + err).strip().splitlines()[-8:]
            raise Problem("\n".join([f"{self._tool} {' '.join(words)} failed with {code}:", *lines]))
        return out

    def read(self) -> Current:
        """Return our arguments and the entries."""
        return Current(self._record.read(), tuple(grubby_entries(self._grubby("--info=ALL"))))

    def write(self, tokens: Sequence[str]) -> None:
        """Have grubby change every entry, and look whether it did; raises ``Problem``, all as before."""
        former = self.read()
        if not former.entries:
            raise Problem(f"args: {self._tool} --info=ALL shows no kernel")
        self._refuse_loss(former, tokens)
        try:
            self._change(former.own, tokens)
            self._check(tokens)
            self._record.write(tokens)
        except (OSError, Problem) as problem:
            self._change(tokens, former.own)
            raise Problem(f"{problem}\nEvery entry is as it was.") from None

    def _change(self, own: Sequence[str], tokens: Sequence[str]) -> None:
        going = [token for token in own if token not in tokens]
        words = [f"--remove-args={' '.join(going)}"] if going else []
        words += [f"--args={' '.join(tokens)}"] if tokens else []
        if words:
            self._grubby("--update-kernel=ALL", *words)

    def _refuse_loss(self, former: Current, tokens: Sequence[str]) -> None:
        """Refuse what grubby would do silently: it replaces another value of the same argument."""
        names = {token.partition("=")[0]: token for token in tokens if "=" in token}
        problems = []
        for entry in former.entries:
            for token in entry.tokens:
                name = token.partition("=")[0]
                if name in names and token != names[name] and token not in former.own:
                    problems.append(
                        f"args: {names[name]}: the entry {entry.title!r} has {token} from elsewhere, which"
                        f" grubby would replace: remove that first (grubby --update-kernel=ALL"
                        f" --remove-args={token})"
                    )
        if problems:
            raise Problem("\n".join(problems))

    def _check(self, tokens: Sequence[str]) -> None:
        for entry in self.read().entries:
            lost = [token for token in tokens if token not in entry.tokens]
            if lost:
                raise Problem(
                    f"args: grubby reported success, but the entry {entry.title!r} lacks {' '.join(lost)}"
                )
