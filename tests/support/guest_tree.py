# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Copy packages of this checkout for a guest, which imports them by the same names as here.

In the folder that a guest receives, ``python3 -m tests.driver.nic_checks`` runs that module.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from tests.support.checkout import CHECKOUT

MODULE_UTILS = "plugins/module_utils"
COLLECTION = "ansible_collections/podnet/datapath"


def write(folder: Path, *packages: str, collection: bool = True, files: Iterable[Path] = ()) -> None:
    """Copy the Python files of ``packages`` (``tests/driver``), tests/support and other files into a folder.

    ``collection`` adds the collection's module_utils; ``files`` are put beside the packages.
    """
    for package in ("tests/support", *packages):
        for source in (CHECKOUT / package).rglob("*.py"):
            target = folder / source.relative_to(CHECKOUT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    if collection:
        shutil.copytree(
            CHECKOUT / MODULE_UTILS,
            folder / COLLECTION / MODULE_UTILS,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    for file in files:
        shutil.copy(file, folder)
