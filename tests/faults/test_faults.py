# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Interrupted changes: the node has its former or the new settings, and the journal says which and why.

The tests run on a lab node with systemd, timers and reboots. PODNET_COUNT (1) is the number of repetitions of
tests with random moments, PODNET_SEED their seed.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import time
from typing import Any

import pytest

from tests.support.faulty_node import NIC, REMOTE, FaultyNode, Unreachable, same

COUNT = int(os.environ.get("PODNET_COUNT") or 1)
# Seconds until an unconfirmed change is rolled back. On an emulated node the change takes up to a minute.
SOON, LATE = 30, 900

NICS = {
    "mtu": {"name": NIC, "mtu": 1300},
    "flag": {"name": NIC, "features": {"tso": False, "gro": False}},
    "qdisc": {"name": NIC, "qdisc": "fq"},
}
DROP = ("program", f"{REMOTE}/drop.bpf.o", NIC)


def nic(name: str, seconds: int) -> tuple[str, str, str]:
    return "nic", json.dumps(NICS[name]), str(seconds)


def expire_timer(node: FaultyNode) -> None:
    """Expire the rollback timer: systemd counts from boot, so an earlier moment is written and reloaded."""
    node.ssh(
        "sed -i 's/OnBootSec=.*/OnBootSec=1/' /run/systemd/system/podnet-checkpoint.timer"
        " && systemctl daemon-reload && systemctl restart podnet-checkpoint.timer"
    )


def test_confirmed_change_stays_and_revert_restores(node: FaultyNode, former: dict[str, Any]) -> None:
    made = node.do(*nic("mtu", LATE))
    assert node.do("checkpoint", "confirmed", made["checkpoint"])["status"] == "confirmed"
    now = node.state()
    assert now["nics"][NIC]["mtu"] == 1300 and all(now["files"].values())
    assert node.ssh("systemctl is-active podnet-checkpoint.timer || true").strip() == "inactive"
    assert node.do("revert")["changed"]
    assert same(node.state(), former) and not node.do("revert")["changed"]


def test_change_without_confirmation_is_rolled_back(node: FaultyNode, former: dict[str, Any]) -> None:
    """The node rolls back by itself and reports the reason; a second controller is refused while pending."""
    made = node.do(*nic("mtu", LATE))
    for change in (nic("mtu", LATE), nic("qdisc", LATE), (*DROP, str(LATE))):
        refused = node.do(*change)["problem"]
        assert made["checkpoint"] in refused and "is pending confirmation" in refused
    expire_timer(node)
    now = node.state()
    assert same(now, former) and now["checkpoint"]["checkpoint_state"] == "reverted"
    assert "not confirmed in" in now["checkpoint"]["reason"]
    assert f"{NIC}: mtu = 1500" in now["checkpoint"]["reverted"]
    assert "was reverted" in node.do("checkpoint", "confirmed", made["checkpoint"])["problem"]


def test_program_that_drops_all_packets_is_rolled_back(node: FaultyNode, former: dict[str, Any]) -> None:
    """The program cuts the controller's connection; the node detaches it and is reachable again."""
    with node.doing(*DROP, str(SOON)) as running:
        running.communicate()
    now = node.state()
    assert same(now, former) and now["checkpoint"]["checkpoint_state"] == "reverted"
    assert now["checkpoint"]["checkpoint"] != former["checkpoint"].get("checkpoint")
    assert any("mgmt0-ingress = None" in line for line in now["checkpoint"]["reverted"])


def test_unconfirmed_program_is_replaced_by_confirmed_one(node: FaultyNode, former: dict[str, Any]) -> None:
    """An unconfirmed change rolls back to the program that was confirmed before."""
    wire = ("program", f"{REMOTE}/drop.bpf.o", "wire0")
    made = node.do(*wire, str(LATE))
    node.do("checkpoint", "confirmed", made["checkpoint"])
    confirmed = node.state()
    assert confirmed["programs"]["wire0"]
    with node.doing(*DROP, str(SOON)) as running:
        running.communicate()
    assert same(node.state(), confirmed)
    node.do("revert")
    assert same(node.state(), former)


@pytest.mark.parametrize("kind", NICS)
def test_change_that_loses_the_path_is_rolled_back(
    node: FaultyNode, former: dict[str, Any], kind: str
) -> None:
    with node.doing(*nic(kind, SOON)):
        time.sleep(3)
        node.link("mgmt", False)
        time.sleep(SOON)
    node.link("mgmt", True)
    assert same(node.state(), former)


def test_change_without_carrier_is_not_confirmed(node: FaultyNode, former: dict[str, Any]) -> None:
    """A NIC without carrier prevents the confirmation, although another NIC carries the connection."""
    made = node.do("nic", json.dumps({**NICS["flag"], "name": "wire0"}), str(LATE))
    try:
        node.link("wire", False)
        refused = node.do("checkpoint", "confirmed", made["checkpoint"])["problem"]
        assert "wire0 has no carrier" in refused
        assert node.do("checkpoint", "reverted", made["checkpoint"])["status"] == "reverted"
    finally:
        node.link("wire", True)
    assert same(node.state(), former)


def test_interruption_at_random_moment_is_rolled_back(
    node: FaultyNode, former: dict[str, Any], numbers: random.Random
) -> None:
    """The module is killed, the cable is pulled, or a program drops all packets; COUNT times."""
    for number in range(1, COUNT + 1):
        fault, kind = numbers.choice(("killed", "cable", "program")), numbers.choice([*NICS, "program"])
        seconds, moment = numbers.randint(5, SOON), numbers.uniform(0, 15)
        words = (*DROP, str(seconds)) if fault == "program" or kind == "program" else nic(kind, seconds)
        if fault == "program":
            with node.doing(*words) as running:
                running.communicate()
        elif fault == "cable":
            with node.doing(*words):
                time.sleep(moment)
                node.link("mgmt", False)
                time.sleep(numbers.uniform(0, seconds))
            node.link("mgmt", True)
        else:
            script = node.command(*words).replace("exec ", f"exec timeout -s KILL {moment:.2f} ")
            with contextlib.suppress(
                Unreachable
            ):  # the program cut the connection before its module was killed
                node.ssh(f"({script}) >/dev/null 2>&1 || true")
        now = node.state()
        what = f"{fault}, {words[0]} {words[1]}, {seconds} s, at {moment:.1f} s"
        assert same(now, former), f"{number}: {what}: {now}"
        reason = now["checkpoint"]["reason"] if now["checkpoint"] != former["checkpoint"] else "not started"
        print(f"interruption {number}: {what}: restored; {reason}", flush=True)
        former = now


def test_power_failure_at_random_moment_is_rolled_back_at_boot(
    node: FaultyNode, former: dict[str, Any], numbers: random.Random
) -> None:
    """The next boot rolls back unconfirmed changes before the network starts."""
    for number in range(1, COUNT + 1):
        kind, moment = numbers.choice([*NICS, "program"]), numbers.uniform(0, 20)
        with node.doing(*((*DROP, str(LATE)) if kind == "program" else nic(kind, LATE))):
            time.sleep(moment)
            node.cut_power()
        now = node.state()
        assert now["boot"] != former["boot"]
        assert same(now, former), f"{number}: {kind}, {moment:.2f} s: {now}"
        reason = "not started"
        if now["checkpoint"] != former["checkpoint"]:
            reason = now["checkpoint"]["reason"]
            assert "booted before the confirmation" in reason
        print(f"power cut {number}: {kind}, {moment:.1f} s: restored; {reason}", flush=True)
        former = now


def test_confirmed_change_survives_power_failure(node: FaultyNode, former: dict[str, Any]) -> None:
    made = node.do(*nic("mtu", LATE))
    node.do("checkpoint", "confirmed", made["checkpoint"])
    node.cut_power()
    now = node.state()
    assert now["nics"][NIC]["mtu"] == 1300 and now["checkpoint"]["checkpoint_state"] == "confirmed"
    node.do("revert")
    assert same(node.state(), former)


def test_full_disk_refuses_changes_but_not_rollback(node: FaultyNode, former: dict[str, Any]) -> None:
    """With a full disk a change is refused; a checkpoint that is armed before has reserved its space."""
    folder = "/var/lib/podnet-datapath"
    most = f"fallocate -l $(($(stat -f -c '%f * %S' {folder}) - 16 * 1024 * 1024)) {folder}/most"
    fill = f"{most}; dd if=/dev/zero of={folder}/rest bs=64k 2>/dev/null; sync"
    free = f"rm -f {folder}/most {folder}/rest"
    node.ssh(f"mkdir -p {folder}")
    try:
        node.ssh(fill)
        for change in (nic("mtu", LATE), (*DROP, str(LATE))):
            assert "nothing was changed" in node.do(*change)["problem"]
        assert same(node.state(), former)
        node.ssh(free)
        made = node.do(*nic("mtu", LATE))
        node.ssh(fill)
        assert node.do("checkpoint", "reverted", made["checkpoint"])["status"] == "reverted"
        assert same(node.state(), former)
    finally:
        node.ssh(free)
