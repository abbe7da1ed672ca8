# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs of ansible-playbook that are cut off: each says what the node took back, or the next one does."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.test_faults import LATE, SOON, pass_the_time
from tests.support.faulty_node import NIC, PATIENCE, REMOTE, FaultyNode, programs, same

HERE = Path(__file__).resolve().parent
MARK = "PODNET_TESTED_RUN"  # in the environment of a run's processes, to find them by


class Run:
    """A run of a playbook, as a controller that can be killed."""

    def __init__(self, node: FaultyNode, log: Path, playbook: str, **variables: Any) -> None:
        self._log = log
        with log.open("w") as output:
            self._process = subprocess.Popen(
                [
                    *("ansible-playbook", "-i", node.lab["inventory"], "-e", json.dumps(variables)),
                    str(HERE / playbook),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # Lines of their own length, so that what is told can be found.
                env={
                    **os.environ,
                    "COLUMNS": "2000",
                    "ANSIBLE_SSH_CONTROL_PATH_DIR": str(log.parent),
                    MARK: str(log),
                },
            )

    @property
    def said(self) -> str:
        return " ".join(self._log.read_text().split())

    def reach(self, text: str) -> None:
        """Wait until the run says this."""
        end = time.monotonic() + PATIENCE
        while text not in self.said:
            assert self._process.poll() is None and time.monotonic() < end, self.said
            time.sleep(0.2)

    def end(self) -> int:
        return self._process.wait(PATIENCE)

    def signal(self, number: signal.Signals) -> None:
        """Tell it, its workers and their connections, which have sessions of their own."""
        mark = f"{MARK}={self._log}".encode()
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (process / "environ").read_bytes().split(b"\0"):
                    os.kill(int(process.name), number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self._process.wait()


@pytest.fixture
def far(node: FaultyNode, tmp_path: Path) -> Iterator[str]:
    """A peer behind a switch whose MTU is 1500."""
    inside, switch = ["ip", "netns", "exec", node.lab["namespace"]], tmp_path / "switch.o"
    switch.write_bytes(programs())
    for words in (
        # Or the bridge answers for its neighbour, and gets what the switch was to drop.
        "sysctl -qw net.ipv4.conf.all.arp_ignore=1",
        # The node may still know the address of the one before.
        "ip link add far mtu 9000 address 02:00:ac:1f:00:02 type veth peer name port mtu 9000",
        "ip link set port master wire up",
        "ip addr add 172.31.0.2/30 dev far",
        "ip link set far up",
        "tc qdisc add dev far clsact",
        f"tc filter add dev far ingress bpf da obj {switch} sec classifier",
    ):
        subprocess.run([*inside, *words.split()], check=True)
    yield "172.31.0.2"
    subprocess.run([*inside, "ip", "link", "del", "far"], check=True)


def change(node: FaultyNode, log: Path, mtu: int, seconds: int, **variables: Any) -> Run:
    nics = [{"name": "wire0", "mtu": mtu}]
    wishes = {"node_tuning_nics": nics, "node_tuning_confirm_timeout": seconds}
    return Run(node, log, "change.yml", **wishes, **variables)


def test_an_mtu_that_the_path_does_not_bear(
    node: FaultyNode, former: dict[str, Any], far: str, tmp_path: Path
) -> None:
    """The node can be reached, over another NIC: the packets of full size tell."""
    run = change(node, tmp_path / "log", 4000, LATE, node_tuning_path=[{"to": far, "size": 4000}])
    assert run.end() != 0
    assert "% lost" in run.said and "The node took back wire0: mtu = 1500" in run.said, run.said
    assert same(node.state(), former)


def test_pods_are_cut_off_and_the_node_is_not(
    node: FaultyNode, former: dict[str, Any], far: str, tmp_path: Path
) -> None:
    """What answered before the change has to answer after it; what never did is not missed."""
    paths = [{"to": far}, {"to": far, "size": 1500}, {"to": "172.31.0.77"}]
    run = change(node, tmp_path / "log", 1300, LATE, node_tuning_confirm_paths=paths)
    assert run.end() != 0
    assert f"there were answers before the change, now from the host to {far}, 1500 bytes" in run.said, (
        run.said
    )
    assert "172.31.0.77" not in run.said and "The node took back wire0: mtu = 1500" in run.said, run.said
    assert same(node.state(), former)


def test_a_program_that_cuts_the_run_off(node: FaultyNode, former: dict[str, Any], tmp_path: Path) -> None:
    named = {"change": f"test-{time.monotonic_ns()}"}
    drop = {"object": f"{REMOTE}/drop.bpf.o", "device": NIC, "seconds": SOON, **named}
    run = Run(node, tmp_path / "log", "program.yml", **drop)
    assert run.end() != 0
    assert f"site/{NIC}-ingress = None" in run.said and f"not confirmed in {SOON} s" in run.said, run.said
    assert same(node.state(), former)


def test_the_path_is_lost_while_the_run_changes_the_nic(
    node: FaultyNode, former: dict[str, Any], tmp_path: Path
) -> None:
    run = change(node, tmp_path / "log", 4000, SOON)
    run.reach("Set up NICs]")
    time.sleep(5)
    node.link("mgmt", False)
    time.sleep(SOON + 30)
    node.link("mgmt", True)
    assert run.end() != 0
    assert same(node.state(), former), run.said
    assert "reverted" in run.said or "took back" in run.said or "UNREACHABLE" in run.said, run.said


def test_the_controller_is_killed_and_the_next_one_is_told(
    node: FaultyNode, former: dict[str, Any], tmp_path: Path
) -> None:
    run = change(node, tmp_path / "first", 4000, LATE)
    run.reach("rollout : Close the connection]")
    run.kill()
    second = change(node, tmp_path / "second", 3000, LATE)
    assert second.end() != 0 and "is pending confirmation" in second.said, second.said
    pass_the_time(node)
    assert same(node.state(), former)

    third = change(node, tmp_path / "third", 3000, LATE)
    assert third.end() == 0, third.said
    assert "was taken back by this node" in third.said and f"not confirmed in {LATE} s" in third.said
    assert node.state()["nics"]["wire0"]["mtu"] == 3000
    node.do("revert")
    assert same(node.state(), former)


def test_of_two_controllers_at_once_one_is_refused(
    node: FaultyNode, former: dict[str, Any], tmp_path: Path
) -> None:
    first = change(node, tmp_path / "first", 4000, LATE)
    first.reach("rollout : Close the connection]")
    first.signal(signal.SIGSTOP)  # A slow one, so that the other is at the node meanwhile.
    second = change(node, tmp_path / "second", 3000, LATE)
    assert second.end() != 0 and "is pending confirmation" in second.said, second.said
    first.signal(signal.SIGCONT)
    assert first.end() == 0, first.said
    assert node.state()["nics"]["wire0"]["mtu"] == 4000
    node.do("revert")
    assert same(node.state(), former)


def test_the_power_fails_before_the_run_has_confirmed(
    node: FaultyNode, former: dict[str, Any], tmp_path: Path
) -> None:
    run = change(node, tmp_path / "log", 4000, LATE)
    run.reach("rollout : Close the connection]")
    node.cut_power()
    assert run.end() != 0
    assert "The node took back wire0: mtu = 1500" in run.said, run.said
    assert "the node booted before the confirmation" in run.said, run.said
    assert same(node.state(), former)


def test_the_path_is_lost_once_revert_yml_has_put_the_nic_back(
    node: FaultyNode, former: dict[str, Any], tmp_path: Path
) -> None:
    run = change(node, tmp_path / "there", 4000, LATE)
    assert run.end() == 0, run.said
    tuned = node.state()
    assert not same(tuned, former)

    back = Run(node, tmp_path / "back", "../../playbooks/revert.yml", node_tuning_confirm_timeout=SOON)
    back.reach("rollout : Close the connection]")
    node.link("mgmt", False)
    time.sleep(SOON + 30)
    node.link("mgmt", True)
    assert back.end() != 0 and "no fresh connection to the node" in back.said, back.said
    assert "The node took back wire0: mtu = 4000" in back.said, back.said
    assert same(node.state(), tuned)

    again = Run(node, tmp_path / "again", "../../playbooks/revert.yml")
    assert again.end() == 0, again.said
    assert same(node.state(), former)
