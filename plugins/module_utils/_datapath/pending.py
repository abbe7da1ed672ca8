# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reject changes of maps that are pending confirmation."""

from __future__ import annotations

import os

from .._core.plan import Problem
from .._kernel import bpf
from .._rollback import journal


def backup_path(pin_path: str) -> str:
    """Return the directory with the former programs and maps while new ones are pending confirmation."""
    return pin_path.rstrip("/") + "~"


def require_confirmed(pin_path: str) -> None:
    """Raise ``Problem`` if the maps are new and pending confirmation, or if the journal cannot be read.

    A rollback to the former maps would lose declarations for the new ones.
    """
    if not journal.pending(journal.read()):  # A killed confirmation may have left a backup.
        return
    ids = []
    for folder in (pin_path, backup_path(pin_path)):
        try:
            with bpf.closing(bpf.obj_get(os.path.join(folder, "maps", "layout"))) as fd:
                ids.append(bpf.map_info(fd).id)
        except FileNotFoundError:
            return
    if ids[0] != ids[1]:
        raise Problem(
            f"pin_path: the new programs and maps at '{pin_path}' are pending confirmation; repeat this after"
            " they are confirmed or rolled back"
        )
