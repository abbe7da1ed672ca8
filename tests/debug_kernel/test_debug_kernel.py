# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The debug kernel reports no bug of the driver, in its checks and under random operations."""

from __future__ import annotations

import pytest

from tests.debug_kernel.debug_run import EXCLUDED, MINUTES, SEED, Run
from tests.driver import driver_checks
from tests.support.kernel_log import LEAK, Log, new_reports

# Text that the report of a planted bug must contain.
PLANTED = {
    "use-after-free": "BUG: KASAN: ",
    "leak": LEAK,
    "rcu-usage": "suspicious RCU usage",
    "refcount": "refcount_t: addition on 0",
    "lock-order": "possible circular locking dependency",
}


@pytest.mark.parametrize("bug", PLANTED)
def test_planted_bug_is_reported(baseline: Log, bug: str) -> None:
    """The kernel detects bugs of this kind."""
    found = baseline.of(f"plant {bug}")
    assert any(PLANTED[bug] in report.text for report in found), found


@pytest.mark.parametrize("check", [*driver_checks.CHECKS, driver_checks.REMOVAL])
def test_check(driver_run: Run, check: str) -> None:
    """Pass a check of driver_checks.py."""
    if check in EXCLUDED:
        pytest.skip(EXCLUDED[check])
    assert not driver_run.checks[check], f"\n{driver_run.checks[check]}"


def test_random_operations_cause_no_complaint(driver_run: Run) -> None:
    """Random operations run for the requested time, under traffic, and each kind succeeds at least once."""
    facts = driver_run.operations
    print(f"seed {SEED}: {facts}")
    done, refused = facts["done"], facts["refused"]
    assert isinstance(done, dict) and isinstance(refused, dict)
    assert not facts["complaints"], f"seed {SEED}: {facts['complaints']}"
    assert facts["seconds"] >= MINUTES * 60
    assert facts["packets"] > 1000
    tried = [name for name in done if done[name] >= 5 and name != "send_invalid_requests"]
    never = [name for name in tried if done[name] == refused.get(name, 0)]
    assert not never, f"seed {SEED}: always refused: {never}"


def test_driver_causes_no_kernel_report(driver_run: Run, baseline: Log) -> None:
    """Every report of the boot also occurs in the boot without the driver."""
    found = new_reports(driver_run.log, baseline)
    assert not found, f"seed {SEED}\n" + "\n\n".join(f"during {r.during}:\n{r.text}" for r in found)


def test_traffic_without_the_driver_leaks_nothing(baseline: Log) -> None:
    """The baseline has no leak, so every leak of a boot with the driver counts."""
    assert not [report.text for report in baseline.of("traffic without the driver") if LEAK in report.text]


def test_lockdep_stays_on(driver_run: Run, baseline: Log) -> None:
    """lockdep turns itself off at its first report; later bugs would be missed."""
    for log in (baseline, driver_run.log):
        assert [entry["lockdep"] for entry in log.messages if "lockdep" in entry] == ["on"]
