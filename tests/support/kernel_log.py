# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Parse the log of a debug kernel into reports."""

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
# A report's identity besides its headline: the source line.
PLACE = re.compile(r"^\S+\.[ch]:\d+ .*")
LEAK = "unreferenced object"
STAMP = re.compile(r"^(?:<\d>)?\[ *\d+\.\d+\](?:\[[^]]*\])? ?")
TEST_MODULE = re.compile(r"\[(?:meta|inject|plant)\]")
MARK = "podnet: "  # begins the lines of inside.py, followed by JSON


@dataclass
class Report:
    """A report of the kernel, and the phase of inside.py that it belongs to."""

    during: str
    lines: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    @property
    def identity(self) -> tuple[str, ...]:
        """Return the lines that are the same in every boot, without addresses and process IDs."""
        headline = re.sub(r"0x[0-9a-f]+|\b(?:PID|UID|CPU)\b:? ?#?\d+", "N", self.lines[0])
        return (headline, *(line for line in self.lines[1:] if PLACE.match(line)))

    @property
    def of_test_module(self) -> bool:
        """Return whether the report names a function of meta, inject or plant."""
        return bool(TEST_MODULE.search(self.text))


@dataclass
class Log:
    """The log of a boot: reports, and the messages of inside.py."""

    reports: list[Report] = field(default_factory=list)
    messages: list[dict[str, str]] = field(default_factory=list)

    def of(self, during: str) -> list[Report]:
        return [report for report in self.reports if report.during == during]


def parse(lines: Iterable[str]) -> Log:
    """Split a log into reports; a report ends at the next one or at a message of inside.py."""
    log = Log()
    during, report = "boot", None
    for raw in lines:
        line = STAMP.sub("", raw.rstrip("\n"))
        if line.startswith(MARK):
            report = None
            message = json.loads(line.removeprefix(MARK))
            log.messages.append(message)
            during = message.get("begin", during)
        elif HEADLINE.search(line) and not (report and LEAK in report.lines[0] and line[:1] == " "):
            report = Report(during, [line])
            log.reports.append(report)
        elif report:
            report.lines.append(line)
    return log


def new_reports(log: Log, baseline: Log) -> list[Report]:
    """Return the reports that do not occur in a boot without the test modules.

    Reports of a test module and leaks are always new: a leak does not name its module.
    """
    known = {report.identity for report in baseline.reports if not report.of_test_module}
    return [
        report
        for report in log.reports
        if report.of_test_module or LEAK in report.lines[0] or report.identity not in known
    ]
