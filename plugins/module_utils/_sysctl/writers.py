# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Render this collection's sysctl.d file, and find other files and programs that set the same keys.

Sources: sysctl.d(5); ufw-framework(8); tuned.conf(5), tuned-main.conf(5) and plugin_sysctl.py of TuneD;
Reinitialize() of pkg/datapath/loader/base.go of Cilium.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from .._node.coexistence import cilium
from .._node.drop_ins import in_order, options
from .._node.host import Host
from .effects import conflicts
from .keys import name_of, normalize
from .order import order

MARKER = "# Written by podnet.datapath.sysctl_zc: changes made here are lost."

# Files are read in the order of their names; a file hides those of the same name in later directories.
FOLDERS = ("/etc/sysctl.d", "/run/sysctl.d", "/usr/local/lib/sysctl.d", "/usr/lib/sysctl.d", "/lib/sysctl.d")
# systemd does not read it at boot; `sysctl --system` reads it last.
LAST_FILE = "/etc/sysctl.conf"
# TuneD uses a profile of the first directory that has it.
TUNED_FOLDERS = ("/etc/tuned/profiles", "/etc/tuned", "/usr/lib/tuned/profiles", "/usr/lib/tuned")
# cilium-agent writes these at every start, with any options.
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
    """A file or program that sets a key. ``wins``: it overrides this collection's file, if there is one.

    ``affects`` is the desired key that this changes, the same one or another.
    """

    by: str
    file: str
    path: str
    value: str
    wins: bool
    affects: str

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
    """Yield path (or pattern) and value of each assignment in a sysctl.d file."""
    for line in text.splitlines():
        key, separator, value = line.strip().partition("=")
        key = key.strip()
        if not separator or key[:1] in ("#", ";"):
            continue
        key = key[1:] if key.startswith("-") else key  # "-": errors are ignored
        yield _path(key), normalize(value)


def exclusions(text: str) -> set[str]:
    """Return the paths that a sysctl.d file excludes from patterns, by a name after "-" without a value."""
    names = (line.strip() for line in text.splitlines())
    return {_path(name[1:].strip()) for name in names if name.startswith("-") and "=" not in name}


def _path(key: str) -> str:
    first = next((character for character in key if character in "./"), "/")
    return key if first == "/" else key.translate(str.maketrans("./", "/."))


def files(node: Host) -> list[str]:
    """Return the sysctl.d files in the order in which they are read."""
    last = os.path.realpath(node.path(LAST_FILE))
    found = [path for path in in_order(node, FOLDERS) if os.path.realpath(node.path(path)) != last]
    return found + [LAST_FILE] * node.exists(LAST_FILE)


def _in_sysctl_d(desired: Mapping[str, str], drop_in: str, root: str) -> Iterator[Writer]:
    node = Host(root)
    excluded = {path for file in files(node) for path in exclusions(node.read(file))}
    for file in files(node):
        if os.path.realpath(node.path(file)) == os.path.realpath(drop_in):
            continue
        by = "Cilium" if "cilium" in os.path.basename(file) else "sysctl.d"
        wins = not drop_in or file == LAST_FILE or os.path.basename(file) > os.path.basename(drop_in)
        for pattern, value in assignments(node.read(file)):
            for path, affected in conflicts(pattern, value, desired):
                if path == pattern or path not in excluded:
                    yield Writer(by, file, path, value, wins, affected)


def _in_ufw(desired: Mapping[str, str], root: str) -> Iterator[Writer]:
    """Yield what ufw sets whenever it starts."""
    node = Host(root)
    if not re.search(r"^\s*ENABLED\s*=\s*[\"']?yes", node.read("/etc/ufw/ufw.conf"), re.MULTILINE | re.I):
        return
    found = re.findall(
        r"^\s*IPT_SYSCTL\s*=\s*[\"']?([^\s\"'#]+)", node.read("/etc/default/ufw"), re.MULTILINE
    )
    file = found[-1] if found else "/etc/ufw/sysctl.conf"
    for pattern, value in assignments(node.read(file)):
        for path, affected in conflicts(pattern, value, desired):
            yield Writer("ufw", file, path, value, True, affected)


# TuneD


def _section(node: Host, file: str, section: str) -> dict[str, str]:
    """Return the settings in a section of a TuneD file."""
    return {name: value for where, name, value in options(node.read(file)) if where == section}


def _profiles(node: Host, names: str, seen: frozenset[str] = frozenset()) -> Iterator[tuple[str, str]]:
    """Yield name and file of TuneD profiles, included profiles first."""
    for name in names.replace(",", " ").replace(";", " ").split():
        paths = [f"{folder}/{name}/tuned.conf" for folder in TUNED_FOLDERS]
        file = next(filter(node.exists, paths), None)
        if file and name not in seen:
            included = _section(node, file, "main").get("include", "")
            yield from _profiles(node, included, seen | {name})
            yield name, file


def _in_tuned(desired: Mapping[str, str], drop_in: str, root: str) -> Iterator[Writer]:
    """Yield the last assignment to each key in TuneD's active profile."""
    node = Host(root)
    active = node.read("/etc/tuned/active_profile")
    main = _section(node, "/etc/tuned/tuned-main.conf", "")
    # By default TuneD applies /etc/sysctl.d and /run/sysctl.d again after its drop_in values.
    reapplied = main.get("reapply_sysctl", "1").lower() in ("1", "true", "yes", "on")
    wins = not (reapplied and os.path.dirname(drop_in) in ("/etc/sysctl.d", "/run/sysctl.d"))
    last: dict[str, Writer] = {}
    for name, file in _profiles(node, active):
        for key, text in _section(node, file, "sysctl").items():
            dummy, value = next(assignments(f"{key}={text}"), ("", ""))
            path = key.translate(str.maketrans("./", "/."))
            last[path] = Writer(f"TuneD profile {name}", file, path, value.strip("\"'"), wins, path)
    for path, writer in last.items():
        bound = writer.value[:1] if writer.value[:1] in ("<", ">") else ""
        value, now = writer.value[len(bound) :], desired.get(path, "")
        if bound and value.isdecimal() and now.isdecimal():  # ">": a minimum, "<": a maximum
            if (int(value) > int(now)) == (bound == ">") and value != now:
                yield writer
            continue
        for dummy, affected in conflicts(path, value, desired):
            yield replace(writer, affects=affected)


# Programs


def _in_cilium(desired: Mapping[str, str], root: str) -> Iterator[Writer]:
    if cilium(Host(root)):
        for path, value in CILIUM_AGENT.items():
            for dummy, affected in conflicts(path, value, desired):
                yield Writer("cilium-agent", "", path, value, True, affected)


# All


def writers(desired: Mapping[str, str], drop_in: str, root: str = "/") -> list[Writer]:
    """Return the writers that set keys of ``desired`` to other values."""
    return [
        *_in_sysctl_d(desired, drop_in, root),
        *_in_ufw(desired, root),
        *_in_tuned(desired, drop_in, root),
        *_in_cilium(desired, root),
    ]


def writer_warnings(found: Iterable[Writer], drop_in: str) -> list[str]:
    """Return a warning for each assignment that overrides this collection's."""
    warnings = []
    for writer in found:
        what = f"{name_of(writer.path)} = {writer.value}"
        if writer.affects != writer.path:
            what += f", which changes {name_of(writer.affects)},"
        if not writer.wins or not drop_in:
            continue
        if not writer.file:
            warnings.append(f"{writer.by} sets {what} at every start: request that value")
        elif writer.by == "ufw":
            warnings.append(f"{writer.file} sets {what} whenever ufw starts: remove it there")
        elif writer.by.startswith("TuneD"):
            warnings.append(
                f"{writer.by} ({writer.file}) sets {what} after {drop_in} is read: set reapply_sysctl = 1 in"
                " /etc/tuned/tuned-main.conf and keep file in /etc/sysctl.d, or change the profile"
            )
        else:
            when = "by `sysctl --system`" if writer.file == LAST_FILE else "at boot"
            warnings.append(f"{writer.file} sets {what} and is read after {drop_in} {when}: remove it there")
    return warnings
