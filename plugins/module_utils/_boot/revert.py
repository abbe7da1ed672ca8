# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read and restore the managed kernel arguments for a rollback."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .._core.command import RunCommand
from .._core.plan import Value
from .._node.host import Host
from .._rollback.net_changes import Key
from .._rollback.revert import GONE, Now, Subsystem
from .apply import bootloader


class BootArgs(Subsystem):
    """The managed arguments in the boot loader's entries, as one value."""

    def __init__(self, command: RunCommand) -> None:
        self._loader = bootloader(Host("/"), command)

    def read(self, keys: Iterable[Key]) -> dict[Key, Now]:
        """Return the current arguments."""
        if self._loader is None:
            return dict.fromkeys(keys, GONE)
        return dict.fromkeys(keys, " ".join(self._loader.read().managed) or None)

    def write(self, desired: Mapping[Key, Value]) -> None:
        """Set the original arguments; raises ``Problem``."""
        for value in desired.values():
            if self._loader:
                self._loader.write(str(value or "").split())
