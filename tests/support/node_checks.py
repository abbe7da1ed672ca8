# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks that run on a node: their registry and the format of their results. Standard library only.

A module of checks prints one JSON object per check: name, failure ("" if it passed), measurements, and the
reason of a skip ("" if it ran).
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any


class Skipped(Exception):
    """The node lacks something that a check needs; the message names it."""


@dataclass
class Outcome:
    """Result of a check."""

    failure: str = ""
    measured: Any = None
    skipped: str = ""


class Checks(dict[str, Callable[..., Any]]):
    """Checks by name, in the order of their definition."""

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Register a check, as a decorator."""
        self[function.__name__] = function
        return function


def run(check: Callable[[], Any]) -> Outcome:
    """Run a check and return its outcome."""
    try:
        return Outcome(measured=check())
    except Skipped as skipped:
        return Outcome(skipped=str(skipped))
    except Exception:
        return Outcome(failure=traceback.format_exc())


def report(name: str, outcome: Outcome, mark: str = "") -> None:
    """Print an outcome, after ``mark`` where other text shares the output."""
    print(mark + json.dumps({"check": name, **asdict(outcome)}), flush=True)


def parse(output: str, mark: str = "") -> dict[str, Outcome]:
    """Return the outcomes in a program's output by check; lines without ``mark`` are ignored."""
    lines = (line.partition(mark)[2] if mark else line for line in output.splitlines() if mark in line)
    results = map(json.loads, lines)
    return {result.pop("check"): Outcome(**result) for result in results}
