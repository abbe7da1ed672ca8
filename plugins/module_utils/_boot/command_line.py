# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Words of a kernel command line, and edits of files that contain one.

The kernel separates words at whitespace outside of double quotes, and passes the words after ``--`` to init.
``-`` and ``_`` are equal in names.

Sources: next_arg() of lib/cmdline.c, parameq() and parse_args() of kernel/params.c;
Documentation/admin-guide/kernel-parameters.rst, dracut.cmdline(7), kernel-command-line(7) of systemd.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

END = "--"  # ends the kernel's arguments

_WORD = re.compile(r'(?:[^\s"]|"[^"]*(?:"|$))+')
# Arguments that may occur several times; each occurrence has an effect.
_REPEATED = frozenset(
    [
        "acpi", "acpi_osi", "cgroup_disable", "cgroup_enable", "cgroup_no_v1", "console", "crashkernel",
        "dyndbg", "earlycon", "efi", "ether", "hugepages", "hugepagesz", "initcall_blacklist", "initrd",
        "mce", "md", "memmap", "modprobe.blacklist", "parport", "pci", "reserve_mem", "tsc", "video",
        "virtio_mmio.device",
        "bond", "bridge", "ifname", "ip", "nameserver", "team", "vlan",
        "luks.key", "luks.name", "luks.options", "luks.uuid",
        "systemd.mask", "systemd.mount_extra", "systemd.set_credential", "systemd.setenv",
        "systemd.swap_extra", "systemd.wants",
    ]
)  # fmt: skip
_REPEATED_PREFIXES = ("ivrs_", "rd.")

# Returns where the arguments on a line begin, ``None`` for a line without arguments.
StartOf = Callable[[str], "int | None"]


@dataclass(frozen=True)
class Word:
    """A word of a file's command line, with the number of its line and its position there."""

    text: str
    line: int
    start: int
    end: int


def words(line: str) -> list[str]:
    """Return the kernel's arguments on a command line."""
    return _before_end(_WORD.findall(line))


def _before_end(found: Sequence[str]) -> list[str]:
    plain = [word.replace('"', "") for word in found]
    return list(found[: plain.index(END)] if END in plain else found)


def name_of(word: str) -> str:
    """Return the name in an argument, in the spelling with underscores."""
    return word.replace('"', "").partition("=")[0].replace("-", "_")


def canonical(word: str) -> str:
    """Return an argument in the spelling that is equal for equal arguments."""
    dummy, separator, value = word.replace('"', "").partition("=")
    return name_of(word) + separator + value


def is_repeated(word: str) -> bool:
    """Return whether several occurrences of an argument have an effect each."""
    name = name_of(word)
    return name in _REPEATED or name.startswith(_REPEATED_PREFIXES)


def missing(tokens: Sequence[str], line: Sequence[str]) -> dict[str, str]:
    """Return the ``tokens`` without effect among the arguments ``line``.

    The value is the later argument that overrides the token, empty if the token is not there.
    """
    present = Counter(map(canonical, line))
    requested = Counter(map(canonical, tokens))
    last = {name_of(word): word for word in line}
    found = {}
    for token in tokens:
        key = canonical(token)
        if present[key] < (requested[key] if is_repeated(token) else 1):
            found[token] = ""
        elif not is_repeated(token) and canonical(last[name_of(token)]) not in requested:
            found[token] = last[name_of(token)]
    return found


def replaced(line: Iterable[str], managed: Iterable[str], tokens: Sequence[str]) -> list[str]:
    """Return arguments without one occurrence of each managed one, and with ``tokens`` appended."""
    remaining = list(line)
    for token in managed:
        if token in remaining:  # The last occurrence, as this collection appends its arguments.
            remaining.reverse()
            remaining.remove(token)
            remaining.reverse()
    return [*remaining, *tokens]


# Files


def scan(lines: Sequence[str], start_of: StartOf) -> Iterator[Word]:
    """Yield all words on the lines with arguments, those after ``--`` included."""
    for number, line in enumerate(lines):
        start = start_of(line)
        for match in _WORD.finditer(line, start) if start is not None else ():
            yield Word(match.group(), number, match.start(), match.end())


def arguments(text: str, start_of: StartOf) -> list[str]:
    """Return the kernel's arguments in a file."""
    return _before_end([word.text for word in scan(text.split("\n"), start_of)])


def edited(
    text: str, start_of: StartOf, managed: Iterable[str], tokens: Sequence[str], prefix: str = ""
) -> str:
    """Return a file without its managed arguments, and with a line of ``tokens`` after ``prefix``.

    Every other line keeps its bytes, so that the edit can be undone. The line of ``tokens`` follows the last
    line with arguments, or precedes the one with ``--``.
    """
    lines = text.split("\n")
    for token in reversed(list(managed)):
        _remove(lines, start_of, token)
    if not tokens:
        return "\n".join(lines)
    ends = [word.line for word in scan(lines, start_of) if word.text.replace('"', "") == END]
    active = [number for number, line in enumerate(lines) if line and start_of(line) is not None]
    last = active[-1] + 1 if active else len(lines) - (not lines[-1])
    lines.insert(ends[0] if ends else last, prefix + " ".join(tokens))
    return "\n".join(lines)


def _remove(lines: list[str], start_of: StartOf, token: str) -> None:
    """Remove the last occurrence of ``token``, and its line if that has no other argument."""
    found = [word for word in scan(lines, start_of) if word.text == token]
    if not found:
        return
    word = found[-1]
    line, start = lines[word.line], start_of(lines[word.line]) or 0
    if not (line[start : word.start] + line[word.end :]).strip():
        del lines[word.line]
    elif word.start > start:
        lines[word.line] = line[: word.start - 1] + line[word.end :]
    else:
        lines[word.line] = line[: word.start] + line[word.end + 1 :]
