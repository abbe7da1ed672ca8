# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reports in the log of a debug kernel, and those that also occur without the driver."""

from __future__ import annotations

import pytest

from tests.support.kernel_log import new_reports, parse

# Logged by User-Mode Linux 6.1 without the driver, at the first fork.
OWN = """\
[    0.760000] =============================
[    0.760000] WARNING: suspicious RCU usage
[    0.760000] 6.1.192 #3 Not tainted
[    0.760000] -----------------------------
[    0.760000] lib/maple_tree.c:816 suspicious rcu_dereference_check() usage!
[    0.760000] no locks held by {comm}/{pid}.
[    0.760000]  [<6002e06e>] ? fork_handler+0x5e/0x150{module}
"""
BOOT = """\
[    0.000000] Linux version 6.1.192
[    2.000000] kmemleak: Kernel memory leak detector initialized (mem pool available: 63892)
[    2.100000] podnet: {"begin": "checks"}
[    2.200000] IPv6: ADDRCONF(NETDEV_CHANGE): wire: link becomes ready
"""
LEAK = """\
[   34.120000] unreferenced object 0x78758e40 (size 64):
[   34.120000]   comm "insmod", pid 37, jiffies 4294939808
[   34.120000]     00 00 00 00 42 55 47 3a 6b 6b 6b 6b 6b 6b 6b 6b  ....BUG:kkkkkkkk
"""


def own(comm: str = "init", pid: int = 23, module: str = "") -> str:
    return OWN.format(comm=comm, pid=pid, module=module)


def found(driver: str, baseline: str) -> list[str]:
    return [r.lines[0] for r in new_reports(parse(driver.splitlines()), parse(baseline.splitlines()))]


def test_a_boot_without_report_has_none() -> None:
    assert not parse(BOOT.splitlines()).reports


def test_the_same_report_of_another_process_is_excused() -> None:
    assert not found(own("python3", 99), own())


@pytest.mark.parametrize(
    ("driver", "baseline"),
    [
        (own(), ""),
        (own().replace("maple_tree.c:816", "maple_tree.c:817"), own()),
        (own(module=" [meta]"), own()),
        (own(module=" [meta]"), own(module=" [meta]")),
    ],
)
def test_any_other_report_is_new(driver: str, baseline: str) -> None:
    assert found(driver, baseline) == ["WARNING: suspicious RCU usage"]


def test_leak_is_never_excused_and_its_dump_is_not_parsed() -> None:
    assert found(LEAK, LEAK) == ["unreferenced object 0x78758e40 (size 64):"]


@pytest.mark.parametrize(
    "line",
    [
        "BUG: KASAN: slab-use-after-free in meta_xmit+0x10/0x20 [meta]",
        "BUG: sleeping function called from invalid context at net/core/dev.c:1",
        "WARNING: CPU: 0 PID: 9 at net/core/dev.c:10912 unregister_netdevice_many+0x1/0x2",
        "refcount_t: underflow; use-after-free.",
        "unregister_netdevice: waiting for eth0 to become free. Usage count = 2",
        "ref_tracker: leaked reference.",
        "UBSAN: shift-out-of-bounds in net/core/filter.c:1:2",
        "ODEBUG: free active (active state 0) object type: timer_list hint: 0x0",
        "list_del corruption. prev->next should be 0, but was 1",
        "INFO: task ip:40 blocked for more than 122 seconds.",
        "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
        "p1: hw csum failure",
        "Kernel panic - not syncing: corrupted stack end detected inside scheduler",
    ],
)
def test_kernel_complaint_becomes_a_report_with_its_time(line: str) -> None:
    log = parse([*BOOT.splitlines(), f"[    3.000000] {line}"])
    assert [(report.during, report.lines) for report in log.reports] == [("checks", [line])]
