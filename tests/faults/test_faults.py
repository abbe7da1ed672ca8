# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Changes of a NIC that are cut off: the node is as it was or as it is to be, and the journal tells.

On a node of the lab of its own, with systemd, timers and boots. PODNET_COUNT (1) is how often what happens at
a random moment is done, PODNET_SEED with which numbers.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
CHECKOUT = HERE.parents[1]
LAB = CHECKOUT / "roles/lab_node/files/lab.py"
COUNT = int(os.environ.get("PODNET_COUNT") or 1)
SEED = int(os.environ.get("PODNET_SEED") or time.time())
# Emulated, a module takes up to a minute; so long it may also take from arming to the end of the change.
SOON, LATE = 60, 900


class Node:
    """The node, reached as a controller would: each command is a connection of its own."""

    def __init__(self) -> None:
        self.name = "faults"
        self._lab(
            "up", "--name", self.name, "--nodes", "1", "--kernel", os.environ.get("PODNET_KERNEL", "6.1")
        )
        utils = "plugins/module_utils"
        place = "ansible_collections/podnet/datapath"
        tar = ["tar", "-cf", "-", "--exclude=__pycache__", f"--transform=s,^{utils},{place}/{utils},"]
        archive = subprocess.run(
            [*tar, "-C", str(CHECKOUT), utils, "-C", str(HERE), "node_side.py"],
            capture_output=True,
            check=True,
        ).stdout
        self.ssh("rm -rf /root/faults && mkdir -p /root/faults && tar -x -C /root/faults", archive)

    def _lab(self, *words: str, data: bytes | None = None) -> str:
        done = subprocess.run(
            [sys.executable, str(LAB), *words], input=data, capture_output=True, check=False, timeout=1800
        )
        if done.returncode:
            raise ConnectionError((done.stdout + done.stderr).decode()[-2000:])
        return done.stdout.decode()

    def ssh(self, script: str, data: bytes = b"") -> str:
        return self._lab("ssh", "--name", self.name, "node1", "--", script, data=data)

    def do(self, *words: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(
            self.ssh(f"cd /root/faults && python3 node_side.py {' '.join(words)}")
        )
        return found

    def cut(self, script: str) -> None:
        """Run what ends this connection."""
        try:
            self.ssh(script)
        except ConnectionError:
            return

    def wait(self, former_boot: str = "") -> None:
        """Wait until the node answers, and, where that is given, until it is another boot."""
        deadline = time.monotonic() + 900
        while time.monotonic() < deadline:
            try:
                if self.ssh("cat /proc/sys/kernel/random/boot_id").strip() != former_boot:
                    return
            except ConnectionError:
                pass
            time.sleep(5)
        raise AssertionError("the node did not come back")

    def ended(self) -> dict[str, Any]:
        """Return how the node is once nothing waits for a confirmation."""
        deadline = time.monotonic() + 900
        while time.monotonic() < deadline:
            found = self.do("state")
            if found["checkpoint"].get("checkpoint_state") not in ("armed", "reverting"):
                return found
            time.sleep(5)
        raise AssertionError(f"still armed: {found}")


@pytest.fixture(scope="module")
def node() -> Node:
    print(f"PODNET_SEED={SEED}")
    return Node()


@pytest.fixture
def former(node: Node) -> dict[str, Any]:
    """How the node was before the test."""
    return node.ended()


def same(now: dict[str, Any], former: dict[str, Any]) -> bool:
    return (now["mtu"], now["files"]) == (former["mtu"], former["files"])


def test_confirmed_it_stays_and_reverted_it_is_as_before(node: Node, former: dict[str, Any]) -> None:
    made = node.do("change", "4000", str(LATE))
    assert node.do("checkpoint", "confirmed", made["checkpoint"])["status"] == "confirmed"
    now = node.do("state")
    assert now["mtu"] == 4000 and all(now["files"].values())
    assert node.ssh("systemctl is-active podnet-checkpoint.timer || true").strip() == "inactive"
    assert node.do("revert")["changed"]
    assert same(node.do("state"), former) and not node.do("revert")["changed"]


def test_the_controller_dies_before_the_confirmation(node: Node, former: dict[str, Any]) -> None:
    """The node comes back by itself, and says why; a second controller is refused meanwhile."""
    made = node.do("change", "4000", str(LATE))
    refused = node.do("change", "5000", str(LATE))["problem"]
    assert made["checkpoint"] in refused and "waits for its confirmation" in refused
    # The rest of the time passes: systemd counts from boot, so an earlier moment is written and read again.
    node.ssh(
        "sed -i 's/OnBootSec=.*/OnBootSec=1/' /run/systemd/system/podnet-checkpoint.timer"
        " && systemctl daemon-reload && systemctl restart podnet-checkpoint.timer"
    )
    now = node.ended()
    assert same(now, former) and now["checkpoint"]["checkpoint_state"] == "reverted"
    assert (
        "not confirmed in" in now["checkpoint"]["why"]
        and "wire0: mtu = 1500" in now["checkpoint"]["reverted"]
    )
    assert "was reverted" in node.do("checkpoint", "confirmed", made["checkpoint"])["problem"]


def test_the_module_is_killed_at_a_random_moment(node: Node, former: dict[str, Any]) -> None:
    numbers = random.Random(SEED)
    for dummy in range(COUNT):
        node.ssh(
            "cd /root/faults && (timeout -s KILL"
            f" {numbers.uniform(5, 60):.2f} python3 node_side.py change 4000 {SOON} >/dev/null 2>&1 || true)"
        )
        assert same(node.ended(), former)


def test_the_power_fails_at_a_random_moment(node: Node, former: dict[str, Any]) -> None:
    """A reset: what was not on the disk is lost; the next boot takes back what was not confirmed."""
    numbers = random.Random(SEED)
    for dummy in range(COUNT):
        # From before the arming to after the change.
        moment = numbers.uniform(5, 90)
        node.cut(
            f"cd /root/faults && (sleep {moment:.2f}; echo b >/proc/sysrq-trigger) & "
            f"cd /root/faults && python3 node_side.py change 4000 {LATE} >/dev/null; sleep 120"
        )
        node.wait(former["boot"])
        now = node.ended()
        state = now["checkpoint"].get("checkpoint_state")
        assert same(now, former), f"after {moment:.2f} s: {now}"
        if now["checkpoint"] and now["checkpoint"] != former["checkpoint"]:
            assert state == "reverted" and "booted before the confirmation" in now["checkpoint"]["why"]
        former = now


def test_a_full_disk(node: Node, former: dict[str, Any]) -> None:
    """Full before: refused, nothing changed. Full after the arming: the way back has its room."""
    fill = "dd if=/dev/zero of=/var/lib/podnet-datapath/fill bs=64k 2>/dev/null; sync"
    free = "rm -f /var/lib/podnet-datapath/fill"
    node.ssh("mkdir -p /var/lib/podnet-datapath")
    try:
        node.ssh(fill)
        assert "nothing was changed" in node.do("change", "4000", str(LATE))["problem"]
        assert same(node.do("state"), former)
        node.ssh(free)
        made = node.do("change", "4000", str(LATE))
        node.ssh(fill)
        assert node.do("checkpoint", "reverted", made["checkpoint"])["status"] == "reverted"
        assert same(node.do("state"), former)
    finally:
        node.ssh(free)
