# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Wait for what a cluster does in its own time."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Wait until a condition is met."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)
