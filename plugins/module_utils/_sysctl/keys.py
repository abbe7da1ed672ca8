# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names and values of sysctls.

A key is stored as its path below /proc/sys (``net/ipv4/conf/eth0.100/forwarding``) and shown as in
sysctl.d(5) (``net.ipv4.conf.eth0/100.forwarding``).

Sources: sysctl.d(5), sysctl(8).
"""

from __future__ import annotations

from collections.abc import Mapping

from .._core.plan import Problem


def path_of(key: str) -> str:
    """Return a key's path below /proc/sys: dots separate, unless the first separator is a slash.

    Raises ``ValueError`` for an invalid name.
    """
    separators = [character for character in key if character in "./"]
    path = key.translate(str.maketrans("./", "/.")) if separators[:1] == ["."] else key
    parts = path.split("/")
    if len(parts) < 2 or any(part in ("", ".", "..") or not part.isprintable() for part in parts):
        raise ValueError(key)
    if any(character.isspace() or character in "=*?[]#;" for character in path):
        raise ValueError(key)
    return path


def name_of(path: str) -> str:
    """Return the name of a path below /proc/sys, as in sysctl.d(5)."""
    return path.translate(str.maketrans("./", "/."))


def normalize(value: str) -> str:
    """Return a value with single spaces, for comparison."""
    return " ".join(value.split())


def parse(sysctls: Mapping[str, object], option: str = "sysctls") -> dict[str, str]:
    """Return the values requested in ``option`` by path; raises ``Problem`` with all errors."""
    values: dict[str, str] = {}
    spelled: dict[str, str] = {}
    problems = []
    for key, value in sysctls.items():
        try:
            path = path_of(key)
        except ValueError:
            problems.append(f"{option}: {key!r} is not a valid sysctl name: use the form net.ipv4.ip_forward")
            continue
        if isinstance(value, bool):
            value = int(value)
        if not isinstance(value, (int, str)) or "\n" in str(value).strip():
            problems.append(f"{option}: {key}: {value!r} is neither a number nor one line of text")
            continue
        text = normalize(str(value))
        if values.setdefault(path, text) != text:
            problems.append(
                f"{option}: {key}: {text} and {spelled[path]}: {values[path]} are the same key: remove one"
            )
        spelled.setdefault(path, key)
    if problems:
        raise Problem("\n".join(problems))
    return values
