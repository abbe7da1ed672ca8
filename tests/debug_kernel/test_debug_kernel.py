# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Nothing that the driver does, in order or at random, has the debug kernel complain."""

from __future__ import annotations

import pytest

from tests.debug_kernel.debug_run import MINUTES, SEED, UNFIT, Run
from tests.driver import driver_checks
from tests.support.kernel_log import LEAK, Log, new_reports

# What the report of a planted bug must say.
PLANTED = {
    "use-after-free": "BUG: KASAN: ",
    "leak": LEAK,
    "rcu-usage": "suspicious RCU usage",
    "refcount": "refcount_t: addition on 0",
    "lock-order": "possible circular locking dependency",
}


@pytest.mark.parametrize("bug", PLANTED)
def test_planted_bug_is_reported(baseline: Log, bug: str) -> None:
    """The kernel would have found such a bug of the driver."""
    found = baseline.of(f"plant {bug}")
    assert any(PLANTED[bug] in report.text for report in found), found


@pytest.mark.parametrize("check", [*driver_checks.CHECKS, driver_checks.REMOVAL])
def test_check(driver_run: Run, check: str) -> None:
    """One of driver_checks.py, which says what it is about."""
    if check in UNFIT:
        pytest.skip(UNFIT[check])
    assert not driver_run.checks[check], f"\n{driver_run.checks[check]}"


def test_random_operations(driver_run: Run) -> None:
    """All of them were done, for as long as was asked, and there was traffic."""
    facts = driver_run.operations
    print(f"seed {SEED}: {facts}")
    done, refused = facts["done"], facts["refused"]
    assert isinstance(done, dict) and isinstance(refused, dict)
    assert not facts["said"], f"seed {SEED}: {facts['said']}"
    assert facts["seconds"] >= MINUTES * 60
    assert facts["packets"] > 1000
    tried = [name for name in done if done[name] >= 5 and name != "ask_for_nonsense"]
    never = [name for name in tried if done[name] == refused.get(name, 0)]
    assert not never, f"seed {SEED}: never done, always refused: {never}"


def test_the_kernel_reports_nothing_new(driver_run: Run, baseline: Log) -> None:
    """In the whole boot there is no report that a boot without the driver does not have as well."""
    found = new_reports(driver_run.log, baseline)
    assert not found, f"seed {SEED}\n" + "\n\n".join(f"during {r.during}:\n{r.text}" for r in found)


def test_traffic_without_the_driver_leaks_nothing(baseline: Log) -> None:
    """So no leak of a boot with the driver is excused."""
    assert not [report.text for report in baseline.of("traffic without the driver") if LEAK in report.text]


def test_lockdep_was_on_to_the_end(driver_run: Run, baseline: Log) -> None:
    """It turns itself off with its first report; what comes then would not be seen."""
    for log in (baseline, driver_run.log):
        assert [entry["lockdep"] for entry in log.said if "lockdep" in entry] == ["on"]
