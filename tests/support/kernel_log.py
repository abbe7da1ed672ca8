# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads the log of a kernel that checks itself: what it complained of, and when."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

# The first line of a report.
HEADLINE = re.compile(
    r"WARNING|BUG|Oops|general protection|Kernel panic|unregister_netdevice: waiting|refcount_t|ref_tracker|"
    r"UBSAN|ODEBUG|unreferenced object|hw csum failure|corruption|blocked for more|stall|lockup|"
    r"[Ss]egfault|scheduling while atomic|Kernel mode fault|DEBUG_LOCKS_WARN_ON"
)
# What tells one report from another beside its headline: the line of the source.
PLACE = re.compile(r"^\S+\.[ch]:\d+ .*")
LEAK = "unreferenced object"
STAMP = re.compile(r"^(?:<\d>)?\[ *\d+\.\d+\](?:\[[^]]*\])? ?")
OURS = re.compile(r"\[(?:meta|inject|plant)\]")
MARK = "podnet: "  # inside.py's lines begin so, with JSON behind


@dataclass
class Report:
    """A complaint of the kernel: its lines, and what was going on."""

    during: str
    lines: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    @property
    def identity(self) -> tuple[str, ...]:
        """Return what is the same in every boot: neither addresses nor process ids."""
        headline = re.sub(r"0x[0-9a-f]+|\b(?:PID|UID|CPU)\b:? ?#?\d+", "N", self.lines[0])
        return (headline, *(line for line in self.lines[1:] if PLACE.match(line)))

    @property
    def ours(self) -> bool:
        """Tell whether a module of the tests is among the functions."""
        return bool(OURS.search(self.text))


@dataclass
class Log:
    """The log of a boot: reports, and what inside.py said."""

    reports: list[Report] = field(default_factory=list)
    said: list[dict[str, str]] = field(default_factory=list)

    def of(self, during: str) -> list[Report]:
        return [report for report in self.reports if report.during == during]


def parse(lines: Iterable[str]) -> Log:
    """Sort a log's lines into reports; a report lasts until the next one begins or inside.py speaks."""
    log = Log()
    during, report = "boot", None
    for raw in lines:
        line = STAMP.sub("", raw.rstrip("\n"))
        if line.startswith(MARK):
            report = None
            said = json.loads(line.removeprefix(MARK))
            log.said.append(said)
            during = said.get("begin", during)
        elif HEADLINE.search(line) and not (report and LEAK in report.lines[0] and line[:1] == " "):
            report = Report(during, [line])
            log.reports.append(report)
        elif report:
            report.lines.append(line)
    return log


def new_reports(log: Log, baseline: Log) -> list[Report]:
    """Return the reports that a boot without our modules does not have.

    One with a function of ours is always new, and so is a leak: nothing in it says whose it is.
    """
    known = {report.identity for report in baseline.reports if not report.ours}
    return [
        report
        for report in log.reports
        if report.ours or LEAK in report.lines[0] or report.identity not in known
    ]
