# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read drop-in files in the order and format of systemd.

Source: sysctl.d(5), systemd.unit(5) on drop-ins, systemd.syntax(7).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from .host import Host


def in_order(node: Host, folders: Iterable[str], more: Iterable[str] = ()) -> list[str]:
    """Return the ``.conf`` files of directories in the order of reading, which is that of their names.

    A file hides files of the same name in later directories. ``more`` are files that do not exist yet.
    """
    found: dict[str, str] = {}
    for folder in folders:
        coming = {os.path.basename(path) for path in more if os.path.dirname(path) == folder}
        for name in {*node.names(folder), *coming}:
            if name.endswith(".conf"):
                found.setdefault(name, f"{folder}/{name}")
    return [found[name] for name in sorted(found)]


def options(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield section, name and value of each setting; the section is empty before the first one."""
    section = ""
    for line in text.splitlines():
        line = line.strip()
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1]
        elif "=" in line and line[:1] not in ("#", ";"):
            name, dummy, value = line.partition("=")
            yield section, name.strip(), value.strip()
