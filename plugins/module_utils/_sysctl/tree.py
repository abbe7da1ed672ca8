# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read, write and restore the sysctls of the running kernel."""

from __future__ import annotations

import contextlib
import glob
import os
import re
from collections.abc import Iterable, Iterator, Mapping

from .._core.plan import Change, Problem, reason, suggestion
from .effects import effects
from .keys import name_of, normalize, path_of, same
from .order import order, writes

# Writable keys that change all the time.
_VOLATILE = frozenset({"kernel/ns_last_pid"})


class Tree:
    """The sysctls in /proc/sys, as the calling thread's network namespace shows them."""

    root = "/proc/sys"
    RESTORED = "Every sysctl has its former value."

    def _file(self, path: str) -> str:
        return os.path.join(self.root, path)

    def read(self, path: str) -> str:
        """Return a value; raises ``OSError``."""
        with open(self._file(path), encoding="utf-8", errors="replace") as file:
            return normalize(file.read())

    def write(self, path: str, value: str) -> None:
        """Write a value; raises ``OSError`` if the kernel refuses it."""
        descriptor = os.open(self._file(path), os.O_WRONLY)
        try:
            os.write(descriptor, f"{value}\n".encode())  # The kernel parses each write() separately.
        finally:
            os.close(descriptor)

    def _write_present(self, path: str, value: str) -> None:
        """Write a value unless the key vanished with its interface; raises ``OSError``."""
        try:
            self.write(path, value)
        except FileNotFoundError:  # The kernel also returns it for values such as an unknown qdisc.
            if self.exists(path):
                raise

    def exists(self, path: str) -> bool:
        """Return whether the kernel has this key."""
        return os.path.isfile(self._file(path))

    def writable(self, path: str) -> bool:
        """Return whether this process may write the key."""
        return os.access(self._file(path), os.W_OK)

    def names(self, below: str) -> Iterator[str]:
        """Yield the names of all keys below a directory."""
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
                    + (near or "; if a kernel module provides it, load the module first")
                )
                continue
            try:
                values[path] = self.read(path)
            except OSError as error:
                problems.append(f"sysctls: {name_of(path)} cannot be read: {reason(error)}")
        if problems:
            raise Problem("\n".join(problems))
        return values

    def values(self, paths: Iterable[str]) -> dict[str, str]:
        """Return the values of keys, without those that cannot be read or vanished with their interface."""
        found = {}
        for path in paths:
            with contextlib.suppress(OSError):
                found[path] = self.read(path)
        return found

    def related(self, paths: Iterable[str]) -> list[str]:
        """Return all writable keys that a write of ``paths`` may change.

        The kernel keeps aliases in one directory, and copies values of interfaces within ``conf`` or
        ``neigh``; what it changes elsewhere is in ``effects``.
        """
        patterns = set()
        for path in paths:
            patterns |= {path, *(effect.pattern for effect in effects(path))}
            interface = re.match(r"net/ipv[46]/(conf|neigh)/", path)
            patterns.add(f"{interface.group()}*/*" if interface else f"{os.path.dirname(path)}/*")
        found = {path for pattern in patterns for path in self.matching(pattern)}
        return sorted(path for path in found if path not in _VOLATILE and self.writable(path))

    def predicted(self, planned: Iterable[Change]) -> dict[str, tuple[str, str]]:
        """Return keys that the kernel changes along with ``planned``, with current and predicted values."""
        found = {}
        paths = {path_of(change.name): str(change.after) for change in planned}
        for path, value in paths.items():
            for effect in effects(path):
                after = effect.value_of(value)
                for one, now in self.values(self.matching(effect.pattern)).items():
                    if one not in paths:
                        found[one] = (now, now if after is None else after)
        return found

    def apply(self, planned: Iterable[Change], desired: Mapping[str, str]) -> dict[str, str]:
        """Write the changes, read them back, and return the former value of each key that they may reach.

        A write may change other desired keys, as that of ``default`` those of interfaces, so desired keys are
        written until all have their values.

        Raises ``Problem`` if the kernel refuses a value or reads back another one; then every key has its
        former value.
        """
        due = writes(planned, desired)
        if not due:
            return {}
        former = self.values(self.related({*due, *desired}))
        seen: list[Mapping[str, str]] = []
        while True:
            refused: dict[str, OSError] = {}
            for path in due:
                try:
                    self._write_present(path, desired[path])
                except OSError as error:  # Another write may set it: dirty_ratio sets dirty_bytes to 0.
                    refused[path] = error
            current = self.values(desired)
            due = [path for path in sorted(current, key=order)
                   if not same(path, current[path], desired[path])]  # fmt: skip
            if not due or current in seen or any(path in refused for path in due):
                break
            seen.append(current)
        problems = [
            f"sysctls: the kernel refuses {name_of(path)} = {desired[path]}: {reason(refused[path])}."
            if path in refused
            else f"sysctls: the kernel accepted {name_of(path)} = {desired[path]}, but reads back"
            f" {current[path]!r}: request a value within its limits"
            for path in due
        ]
        if problems:
            raise Problem("\n".join([*problems, self.restore(former)]))
        return former

    def restore(self, former: Mapping[str, str]) -> str:
        """Restore former values of keys that still exist; return a message with the result.

        Repeats as long as it changes something, as one write may change several keys.
        """
        seen: list[Mapping[str, str]] = []
        while True:
            failed = []
            current = self.values(former)
            due = [path for path in sorted(current, key=order) if current[path] != former[path]]
            if not due or current in seen:
                break
            seen.append(current)
            for path in due:
                try:
                    self._write_present(path, former[path])
                except OSError as error:
                    failed.append(f"{name_of(path)} = {former[path]} ({reason(error)})")
        failed = failed or [f"{name_of(path)} = {former[path]}" for path in due]
        return f"Not restored: {', '.join(failed)}." if failed else self.RESTORED
