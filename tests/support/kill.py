# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Kill a change at a given moment."""

from __future__ import annotations

import os
import signal
import time
import traceback
from collections.abc import Callable


def killed_after(seconds: float, change: Callable[[], object]) -> bool:
    """Make a change in a child process and kill it after a time; return whether it was finished."""
    child = os.fork()
    if not child:
        try:
            change()
            os._exit(0)
        finally:  # The child must never continue with the tests.
            traceback.print_exc()
            os._exit(1)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            assert not status, "the change failed"
            return True
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False
