# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read, write and restore the sysctls of the running kernel."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Mapping

from .._core.plan import Change, Problem, reason, suggestion
from .keys import name_of, normalize
from .order import changes, patterns, writes


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

    def touched(self, planned: Iterable[Change], desired: Mapping[str, str]) -> dict[str, str]:
        """Return the values of all keys that ``apply`` writes or that the kernel changes with them."""
        written = writes(planned, desired)
        propagated = [path for one in written for pattern in patterns(one) for path in self.matching(pattern)]
        return {path: self.read(path) for path in sorted({*written, *propagated})}

    def apply(self, planned: Iterable[Change], desired: Mapping[str, str]) -> dict[str, str]:
        """Write the changes, read them back, and return the former value of each key touched.

        Raises ``Problem`` if the kernel refuses a value or reads back another one; then every key touched has
        its former value.
        """
        written = writes(planned, desired)
        former = self.touched(planned, desired)
        path = ""
        try:
            for path in written:
                self.write(path, desired[path])
            current = {path: self.read(path) for path in sorted(desired)} if written else {}
        except OSError as error:
            raise Problem(
                f"sysctls: the kernel refuses {name_of(path)} = {desired[path]}: {reason(error)}."
                f" {self.restore(former)}"
            ) from None
        problems = [
            f"sysctls: the kernel accepted {name_of(path)} = {desired[path]}, but reads back {value!r}:"
            " request a value within its limits"
            for path, value in current.items()
            if value != desired[path]
        ]
        if problems:
            raise Problem("\n".join([*problems, self.restore(former)]))
        return former

    def restore(self, former: Mapping[str, str]) -> str:
        """Restore former values; return a message with the result."""
        failed = []
        present = {path: self.read(path) for path in former if self.exists(path)}
        desired = {path: former[path] for path in present}
        for path in writes(changes(present, desired), desired):
            try:
                self.write(path, desired[path])
            except OSError as error:
                failed.append(f"{name_of(path)} = {desired[path]} ({reason(error)})")
        return f"Not restored: {', '.join(failed)}." if failed else self.RESTORED
