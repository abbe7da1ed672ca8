# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Record the object that the pinned programs were loaded from.

The verifier takes about a second to load all programs. With this record, an unchanged object is not loaded
again. It is a file beside the stored declarations, so a reboot removes it together with the programs. New
programs have other IDs, so a record of programs that others have replaced is ignored.
"""

from __future__ import annotations

import contextlib
import json
import os
from typing import Any

from .._core import lock
from .._core.files import replace_file
from .._datapath.store import Store
from .pins import Pins


def _path(pins: Pins) -> str:
    return os.path.join(Store(pins.path).folder, "object")


def _ids(pins: Pins) -> dict[str, Any]:
    return {name: info.id for name, info in pins.programs.items()}


def read(pins: Pins) -> str:
    """Return the digest of the object that all pinned programs were loaded from, empty if it is unknown."""
    try:
        with open(_path(pins), encoding="utf-8") as file:
            recorded = json.load(file)
        return str(recorded["object"]) if recorded["programs"] == _ids(pins) else ""
    except (OSError, ValueError, LookupError, TypeError):
        return ""


def write(pins: Pins, digest: str) -> None:
    """Record the object's digest with the IDs of the pinned programs."""
    text = json.dumps({"object": digest, "programs": _ids(pins)})
    # Without a record, the next run loads the programs again.
    with contextlib.suppress(OSError):
        lock.private_folder(Store(pins.path).folder)
        replace_file(_path(pins), text.encode(), 0o600, sync=False)
