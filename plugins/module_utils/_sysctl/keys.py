# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sysctls: names, the plan for a batch of them, and the kernel's side.

Private to this collection. A key is kept as its path below /proc/sys (``net/ipv4/conf/eth0.100/forwarding``)
and shown as sysctl.d(5) writes it (``net.ipv4.conf.eth0/100.forwarding``).

Sources: sysctl.d(5), sysctl(8), Documentation/networking/ip-sysctl.rst; inet_forward_change() of
net/ipv4/devinet.c; addrconf_fixup_forwarding() of net/ipv6/addrconf.c.
"""

from __future__ import annotations

import fnmatch
import glob
import os
from collections.abc import Iterable, Iterator, Mapping

from .._core.plan import Change, Problem, reason, suggestion

IP_FORWARD, FORWARDING4 = "net/ipv4/ip_forward", "net/ipv4/conf/all/forwarding"
FORWARDING6 = "net/ipv6/conf/all/forwarding"

# What writing one key changes besides: the kernel passes it on to every interface.
_REACH = {
    IP_FORWARD: (FORWARDING4, "net/ipv4/conf/*/forwarding", "net/ipv4/conf/all/accept_redirects"),
    FORWARDING4: (IP_FORWARD, "net/ipv4/conf/*/forwarding", "net/ipv4/conf/all/accept_redirects"),
    FORWARDING6: ("net/ipv6/conf/*/forwarding",),
    "net/ipv6/conf/all/disable_ipv6": ("net/ipv6/conf/*/disable_ipv6",),
}


# Names and values


def path_of(key: str) -> str:
    """Return a key's path below /proc/sys: dots separate, unless the first separator is a slash.

    Raises ``ValueError`` for what cannot be a key.
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
    """Return the usual name of a path below /proc/sys."""
    return path.translate(str.maketrans("./", "/."))


def normal(value: str) -> str:
    """Return a value with single blanks, as values are compared."""
    return " ".join(value.split())


def parse(sysctls: Mapping[str, object], option: str = "sysctls") -> dict[str, str]:
    """Return the values asked for in ``option`` by path.

    Raises ``Problem`` with every key or value that cannot be.
    """
    values: dict[str, str] = {}
    spelled: dict[str, str] = {}
    problems = []
    for key, value in sysctls.items():
        try:
            path = path_of(key)
        except ValueError:
            problems.append(f"{option}: {key!r} is no name of a sysctl: write it as net.ipv4.ip_forward")
            continue
        if isinstance(value, bool):
            value = int(value)
        if not isinstance(value, (int, str)) or "\n" in str(value).strip():
            problems.append(f"{option}: {key}: {value!r} is neither a number nor one line of text")
            continue
        text = normal(str(value))
        if values.setdefault(path, text) != text:
            problems.append(
                f"{option}: {key}: {text} and {spelled[path]}: {values[path]} are the same key: keep one"
            )
        spelled.setdefault(path, key)
    if problems:
        raise Problem("\n".join(problems))
    return values


def order(path: str) -> tuple[int, str]:
    """Sort keys so that a key that the kernel passes on to others comes before these.

    And accept_ra before all: forwarding takes the routes of router advertisements where it is not 2 by then.
    """
    for rank, part in enumerate(("/accept_ra", IP_FORWARD, "/conf/all/", "/conf/default/")):
        if path.endswith(part) if not rank else part in path:
            return rank, path
    return 4, path


# The plan


def plan(current: Mapping[str, str], desired: Mapping[str, str]) -> list[Change]:
    """Return what is to be written, in the order of writing."""
    return [
        Change(name_of(path), normal(current[path]), desired[path])
        for path in sorted(desired, key=order)
        if normal(current[path]) != desired[path]
    ]


def steps(changes: Iterable[Change], desired: Mapping[str, str]) -> list[str]:
    """Return the paths to write, in order: the changed ones, and those that a change would pass over.

    With ip_forward switched on, an interface that is to stay without forwarding has to be written again.
    """
    changed = {path_of(change.name) for change in changes}
    reached: list[str] = []
    found = []
    for path in sorted(desired, key=order):
        if path in changed or any(fnmatch.fnmatchcase(path, pattern) for pattern in reached):
            found.append(path)
            reached += _REACH.get(path, ())
    return found


# The kernel


class Tree:
    """The sysctls of the running kernel, as this process's network namespace sees them."""

    root = "/proc/sys"
    RESTORED = "Every sysctl has its former value."

    def _file(self, path: str) -> str:
        return os.path.join(self.root, path)

    def read(self, path: str) -> str:
        """Return a value; raises ``OSError``."""
        with open(self._file(path), encoding="utf-8", errors="replace") as file:
            return normal(file.read())

    def write(self, path: str, value: str) -> None:
        """Write a value; raises ``OSError``, which is how the kernel refuses one."""
        descriptor = os.open(self._file(path), os.O_WRONLY)
        try:
            os.write(descriptor, f"{value}\n".encode())  # One write: each is a new value to the kernel.
        finally:
            os.close(descriptor)

    def exists(self, path: str) -> bool:
        """Tell whether the kernel has this key."""
        return os.path.isfile(self._file(path))

    def writable(self, path: str) -> bool:
        """Tell whether this process may write it."""
        return os.access(self._file(path), os.W_OK)

    def names(self, below: str) -> Iterator[str]:
        """Yield the names of all keys below a folder."""
        for folder, folders, names in os.walk(self._file(below)):
            folders.sort()
            for name in sorted(names):
                yield name_of(os.path.relpath(os.path.join(folder, name), self.root))

    def matching(self, pattern: str) -> list[str]:
        """Return the paths of all keys that match a pattern."""
        return [os.path.relpath(path, self.root) for path in glob.glob(self._file(pattern))]

    def current(self, paths: Iterable[str]) -> dict[str, str]:
        """Return the values of keys.

        Raises ``Problem`` with every key that is unknown or cannot be read.
        """
        values = {}
        problems = []
        for path in sorted(paths):
            if not self.exists(path):
                top = path.split("/")[0]
                near = suggestion(name_of(path), self.names(top if os.path.isdir(self._file(top)) else ""))
                problems.append(
                    f"sysctls: this kernel has no {name_of(path)}"
                    + (near or "; if a kernel module brings it, load that first")
                )
                continue
            try:
                values[path] = self.read(path)
            except OSError as error:
                problems.append(f"sysctls: {name_of(path)} cannot be read: {reason(error)}")
        if problems:
            raise Problem("\n".join(problems))
        return values

    def touched(self, changes: Iterable[Change], desired: Mapping[str, str]) -> dict[str, str]:
        """Return the values of what ``apply`` writes, and of what the kernel changes along with it."""
        written = steps(changes, desired)
        reached = [
            path for one in written for pattern in _REACH.get(one, ()) for path in self.matching(pattern)
        ]
        return {path: self.read(path) for path in sorted({*written, *reached})}

    def apply(self, changes: Iterable[Change], desired: Mapping[str, str]) -> dict[str, str]:
        """Write the changes, read them back, and return what everything touched was before.

        Raises ``Problem`` where the kernel refuses a value or keeps another; what was written before,
        and what that changed besides, has its former value then.
        """
        written = steps(changes, desired)
        former = self.touched(changes, desired)
        path = ""
        try:
            for path in written:
                self.write(path, desired[path])
            kept = {path: self.read(path) for path in sorted(desired)} if written else {}
        except OSError as error:
            raise Problem(
                f"sysctls: the kernel refuses {name_of(path)} = {desired[path]}: {reason(error)}."
                f" {self.restore(former)}"
            ) from None
        clamped = [
            f"sysctls: the kernel accepted {name_of(path)} = {desired[path]}, but made it {value!r}:"
            " ask for a value within its limits"
            for path, value in kept.items()
            if value != desired[path]
        ]
        if clamped:
            raise Problem("\n".join([*clamped, self.restore(former)]))
        return former

    def restore(self, former: Mapping[str, str]) -> str:
        """Bring keys back to their former values; return a sentence on how that went."""
        failed = []
        present = {path: self.read(path) for path in former if self.exists(path)}
        wanted = {path: former[path] for path in present}
        for path in steps(plan(present, wanted), wanted):
            try:
                self.write(path, wanted[path])
            except OSError as error:
                failed.append(f"{name_of(path)} = {wanted[path]} ({reason(error)})")
        return f"Not put back: {', '.join(failed)}." if failed else self.RESTORED
