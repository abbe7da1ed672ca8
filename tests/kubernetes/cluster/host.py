# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What machines and nodes in a guest have in common: they run commands and daemons."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

from lablib import common


class Host(ABC):
    """A host of the cluster by its name."""

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def enter(self, *argv: str | Path) -> list[str]:
        """Return the command that runs ``argv`` on the host; ``argv`` may begin with ``NAME=value``."""

    @abstractmethod
    def shell(self) -> list[str]:
        """Return the command that runs its next argument in a shell of the host, in any namespace."""

    def run(self, *argv: str | Path, given: str = "") -> str:
        """Run a command on the host and return its output; raise ``LabError`` if it fails."""
        return common.run(self.enter(*argv), given=given)

    @abstractmethod
    def start(self, name: str, *argv: str | Path) -> None:
        """Start a daemon; ``argv`` may begin with ``NAME=value``. Its output is in ``/var/log/NAME.log``."""

    @abstractmethod
    def stop(self, name: str) -> None:
        """Stop a daemon; not running is no error."""

    @abstractmethod
    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Replace a file of the host atomically, by a rename in its folder."""

    @abstractmethod
    def logs(self, lines: int = 15) -> str:
        """Return the last lines of the log of each daemon."""
