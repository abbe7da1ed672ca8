# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks that run on a node: their registry and the format of their results. Standard library only.

A module of checks prints one JSON object per check: name, failure ("" if it passed) and measurements.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from typing import Any


class Checks(dict[str, Callable[..., Any]]):
    """Checks by name, in the order of their definition."""

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Register a check, as a decorator."""
        self[function.__name__] = function
        return function


def outcome(check: Callable[[], Any]) -> tuple[str, Any]:
    """Run a check; return its failure ("" if it passes) and its measurements."""
    try:
        return "", check()
    except Exception:
        return traceback.format_exc(), None


def report(name: str, failure: str, measured: Any = None, mark: str = "") -> None:
    """Print a result, after ``mark`` where other text shares the output."""
    print(mark + json.dumps({"check": name, "failure": failure, "measured": measured}), flush=True)


def parse(output: str, mark: str = "") -> dict[str, dict[str, Any]]:
    """Return the results in a program's output by check; lines without ``mark`` are ignored."""
    results = (
        json.loads(line.partition(mark)[2] if mark else line) for line in output.splitlines() if mark in line
    )
    return {result["check"]: result for result in results}
