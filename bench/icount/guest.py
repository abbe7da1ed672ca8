# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Results of a guest: each is a line of JSON on its console."""

from __future__ import annotations

import ctypes
import json
import sys
import traceback
from collections.abc import Callable
from typing import Any

_MARK = "ICOUNT "
_RB_POWER_OFF = 0x4321FEDC


def print_result(kind: str, **values: Any) -> None:
    print(_MARK + json.dumps({"kind": kind, **values}), flush=True)


def results(console: str) -> list[dict[str, Any]]:
    """Return the results on a console."""
    return [json.loads(line.partition(_MARK)[2]) for line in console.splitlines() if _MARK in line]


def run_as_init(main: Callable[[], None]) -> None:
    """Run a guest's program, print its error as a result, and power off."""
    try:
        main()
    except BaseException as error:
        print_result("failed", rung="", error=str(error), trace=traceback.format_exc())
    sys.stdout.flush()
    ctypes.CDLL(None).reboot(_RB_POWER_OFF)
