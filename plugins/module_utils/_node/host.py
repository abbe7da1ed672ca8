# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read files of a node, below a root that tests can choose."""

from __future__ import annotations

import os

from .._core.command import SEARCH_PATH


class Host:
    """The files of a node below ``root``."""

    def __init__(self, root: str = "/") -> None:
        self.root = root

    def path(self, name: str) -> str:
        """Return the path of ``name`` below the root."""
        return os.path.join(self.root, name.lstrip("/"))

    def read(self, name: str) -> str:
        """Return a file's stripped text, empty if it cannot be read."""
        try:
            with open(self.path(name), encoding="utf-8", errors="replace") as file:
                return file.read().strip("\0 \n")
        except OSError:  # Missing, or sysfs returns EINVAL while the device cannot report it.
            return ""

    def number(self, name: str, default: int) -> int:
        """Return a file's decimal number."""
        try:
            return int(self.read(name))
        except ValueError:
            return default

    def names(self, folder: str) -> list[str]:
        """Return the sorted names in a folder."""
        try:
            return sorted(os.listdir(self.path(folder)))
        except OSError:
            return []

    def exists(self, name: str) -> bool:
        """Return whether a path resolves."""
        return os.path.exists(self.path(name))

    def target(self, name: str) -> str:
        """Return the last component of a symlink's target, empty if there is no symlink."""
        path = self.path(name)
        return os.path.basename(os.path.realpath(path)) if os.path.exists(path) else ""

    def tool(self, name: str) -> str:
        """Return the path of a program, empty if it is not installed."""
        for folder in SEARCH_PATH:
            path = self.path(os.path.join(folder, name))
            if os.access(path, os.X_OK):
                return os.path.join(folder, name)
        return ""
