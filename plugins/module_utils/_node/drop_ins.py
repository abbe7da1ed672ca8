# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of settings as systemd and others read them. Private to this collection.

Source: sysctl.d(5), systemd.unit(5) on drop-ins, systemd.syntax(7).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from .facts import Node


def in_order(node: Node, folders: Iterable[str], more: Iterable[str] = ()) -> list[str]:
    """Return the ``.conf`` files of folders, by name, as they are read; of one name the first folder's.

    ``more`` are files that are yet to be written.
    """
    found: dict[str, str] = {}
    for folder in folders:
        coming = {os.path.basename(path) for path in more if os.path.dirname(path) == folder}
        for name in {*node.names(folder), *coming}:
            if name.endswith(".conf"):
                found.setdefault(name, f"{folder}/{name}")
    return [found[name] for name in sorted(found)]


def options(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield section, name and value of each setting; before the first section it is empty."""
    section = ""
    for line in text.splitlines():
        line = line.strip()
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1]
        elif "=" in line and line[:1] not in ("#", ";"):
            name, dummy, value = line.partition("=")
            yield section, name.strip(), value.strip()
