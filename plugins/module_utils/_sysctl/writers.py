# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who sets sysctls: the file of this collection, and others. Private to this collection.

Sources: sysctl.d(5); tuned.conf(5), tuned-main.conf(5) and plugin_sysctl.py of TuneD; Reinitialize() of
pkg/datapath/loader/base.go of Cilium.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from .._node.drop_ins import in_order, options
from .._node.facts import Node
from .keys import name_of, normal, order

MARKER = "# Written by podnet.datapath.sysctl_zc: changes made here are lost."

# Where files are read from, by their names over all folders; of two of one name the first folder's counts.
FOLDERS = ("/etc/sysctl.d", "/run/sysctl.d", "/usr/local/lib/sysctl.d", "/usr/lib/sysctl.d", "/lib/sysctl.d")
# Not read at boot by systemd, but read last of all by `sysctl --system`.
LAST_FILE = "/etc/sysctl.conf"
# The first folder that has a profile counts.
TUNED_FOLDERS = ("/etc/tuned/profiles", "/etc/tuned", "/usr/lib/tuned/profiles", "/usr/lib/tuned")
# What cilium-agent writes whenever it starts, whatever its options.
CILIUM_AGENT = {
    "net/core/bpf_jit_enable": "1",
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/fib_multipath_use_neigh": "1",
    "kernel/unprivileged_bpf_disabled": "1",
    "kernel/timer_migration": "0",
}


def render(desired: Mapping[str, str]) -> str:
    """Return the text of the drop-in file."""
    lines = [f"{name_of(path)} = {desired[path]}" for path in sorted(desired, key=order)]
    return "\n".join([MARKER, *lines, ""])


@dataclass(frozen=True)
class Writer:
    """Somebody else who sets a key. ``wins``: after our file is read, or there is none of ours."""

    by: str
    file: str
    path: str
    value: str
    wins: bool

    def as_dict(self) -> dict[str, object]:
        """Return it as the modules return it."""
        return {
            "by": self.by,
            "file": self.file,
            "key": name_of(self.path),
            "value": self.value,
            "wins": self.wins,
        }


# sysctl.d


def assignments(text: str) -> Iterator[tuple[str, str]]:
    """Yield path (or pattern) and value of each assignment in a file of sysctl.d."""
    for line in text.splitlines():
        key, separator, value = line.strip().partition("=")
        key = key.strip()
        if not separator or key[:1] in ("#", ";"):
            continue
        key = key[1:] if key.startswith("-") else key  # "-": errors do not matter
        first = next((character for character in key if character in "./"), "/")
        yield (key if first == "/" else key.translate(str.maketrans("./", "/."))), normal(value)


def files(node: Node) -> list[str]:
    """Return the files that set sysctls, in the order of reading."""
    last = os.path.realpath(node.path(LAST_FILE))
    found = [path for path in in_order(node, FOLDERS) if os.path.realpath(node.path(path)) != last]
    return found + [LAST_FILE] * node.exists(LAST_FILE)


def _in_sysctl_d(wanted: Mapping[str, str], own: str, root: str) -> Iterator[Writer]:
    node = Node(root)
    for file in files(node):
        if os.path.realpath(node.path(file)) == os.path.realpath(own):
            continue
        by = "Cilium" if "cilium" in os.path.basename(file) else "sysctl.d"
        wins = not own or file == LAST_FILE or os.path.basename(file) > os.path.basename(own)
        for pattern, value in assignments(node.read(file)):
            for path in fnmatch.filter(wanted, pattern):
                if value != wanted[path]:
                    yield Writer(by, file, path, value, wins)


# TuneD


def _section(node: Node, file: str, section: str) -> dict[str, str]:
    """Return the settings of a section of a file of TuneD."""
    return {name: value for where, name, value in options(node.read(file)) if where == section}


def _profiles(node: Node, names: str, seen: frozenset[str] = frozenset()) -> Iterator[tuple[str, str]]:
    """Yield name and file of TuneD profiles, those that they include before them."""
    for name in names.replace(",", " ").replace(";", " ").split():
        paths = [f"{folder}/{name}/tuned.conf" for folder in TUNED_FOLDERS]
        file = next(filter(node.exists, paths), None)
        if file and name not in seen:
            included = _section(node, file, "main").get("include", "")
            yield from _profiles(node, included, seen | {name})
            yield name, file


def _in_tuned(wanted: Mapping[str, str], own: str, root: str) -> Iterator[Writer]:
    """Yield what TuneD's active profile sets, the last assignment to each key."""
    node = Node(root)
    active = node.read("/etc/tuned/active_profile")
    main = _section(node, "/etc/tuned/tuned-main.conf", "")
    # TuneD reads /etc/sysctl.d and /run/sysctl.d again after its own values, unless told not to.
    again = main.get("reapply_sysctl", "1").lower() in ("1", "true", "yes", "on")
    wins = not (again and os.path.dirname(own) in ("/etc/sysctl.d", "/run/sysctl.d"))
    last: dict[str, Writer] = {}
    for name, file in _profiles(node, active):
        for key, text in _section(node, file, "sysctl").items():
            dummy, value = next(assignments(f"{key}={text}"), ("", ""))
            path = key.translate(str.maketrans("./", "/."))
            if path in wanted:
                last[path] = Writer(f"TuneD profile {name}", file, path, value.strip("\"'"), wins)
    for path, writer in last.items():
        bound = writer.value[:1] if writer.value[:1] in ("<", ">") else ""
        value, now = writer.value[len(bound) :], wanted[path]
        if bound and value.isdecimal() and now.isdecimal():  # ">": only ever raises, "<": only ever lowers
            if (int(value) > int(now)) == (bound == ">") and value != now:
                yield writer
        elif value != now:
            yield writer


# Programs


def _in_cilium(wanted: Mapping[str, str], root: str) -> Iterator[Writer]:
    if Node(root).cilium():
        for path, value in CILIUM_AGENT.items():
            if wanted.get(path, value) != value:
                yield Writer("cilium-agent", "", path, value, True)


# All


def writers(wanted: Mapping[str, str], own: str, root: str = "/") -> list[Writer]:
    """Return who else sets keys in ``wanted`` to other values than those."""
    return [*_in_sysctl_d(wanted, own, root), *_in_tuned(wanted, own, root), *_in_cilium(wanted, root)]


def writer_warnings(found: Iterable[Writer], own: str) -> list[str]:
    """Return a sentence for each assignment that undoes ours."""
    warnings = []
    for writer in found:
        what = f"{name_of(writer.path)} = {writer.value}"
        if not writer.wins or not own:
            continue
        if not writer.file:
            warnings.append(f"{writer.by} sets {what} whenever it starts: ask for that value")
        elif writer.by.startswith("TuneD"):
            warnings.append(
                f"{writer.by} ({writer.file}) sets {what} after {own} was read: set reapply_sysctl = 1 in"
                " /etc/tuned/tuned-main.conf and keep file in /etc/sysctl.d, or change the profile"
            )
        else:
            when = "by `sysctl --system`" if writer.file == LAST_FILE else "at boot"
            warnings.append(f"{writer.file} sets {what} and is read after {own} {when}: remove it there")
    return warnings
