# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What operators should know while the agent works: a file that ``podnet-datapath status`` prints."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Sequence

from .._core.files import replace_file


class Warnings:
    """Current warnings by source, stored in a file with a line for each."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._found: dict[str, list[str]] = {}
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)

    def set(self, source: str, lines: Sequence[str]) -> None:
        """Replace the warnings of a source; a full disk must not end the thread that warns."""
        with self._lock:
            if self._found.get(source, []) == list(lines):
                return
            found = {**self._found, source: list(lines)}
            text = "".join(f"{line}\n" for one in found.values() for line in one)
            with contextlib.suppress(OSError):
                replace_file(self._path, text.encode(), 0o600)
                self._found = found
