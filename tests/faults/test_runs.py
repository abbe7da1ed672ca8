# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Interrupted runs of ansible-playbook: the run, or the next one, reports what the node rolled back."""

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

from tests.faults.test_faults import LATE, SOON, expire_timer
from tests.support.faulty_node import NIC, PATIENCE, REMOTE, FaultyNode, programs, same

HERE = Path(__file__).resolve().parent
MARK = "PODNET_TESTED_RUN"  # environment variable that identifies a run's processes


class Run:
    """A run of a playbook that can be killed like a controller."""

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
                # Wide lines, so that messages are not wrapped.
                env={
                    **os.environ,
                    "COLUMNS": "2000",
                    "ANSIBLE_SSH_CONTROL_PATH_DIR": str(log.parent),
                    MARK: str(log),
                },
            )

    @property
    def output(self) -> str:
        return " ".join(self._log.read_text().split())

    def reach(self, text: str) -> None:
        """Wait until the run prints a text."""
        end = time.monotonic() + PATIENCE
        while text not in self.output:
            assert self._process.poll() is None and time.monotonic() < end, self.output
            time.sleep(0.2)

    def end(self) -> int:
        return self._process.wait(PATIENCE)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the run, its workers and their connections, which have separate sessions."""
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
    """Yield the address of a peer behind a switch with an MTU of 1500."""
    inside, switch = ["ip", "netns", "exec", node.lab["namespace"]], tmp_path / "switch.o"
    switch.write_bytes(programs())
    for words in (
        # Otherwise the bridge answers ARP for the peer and receives packets that the switch should drop.
        "sysctl -qw net.ipv4.conf.all.arp_ignore=1",
        # The same MAC address as before, because the node may have it in its neighbour table.
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
    options = {"node_tuning_nics": nics, "node_tuning_confirm_timeout": seconds}
    return Run(node, log, "change.yml", **options, **variables)


def test_mtu_above_path_mtu_is_rolled_back(
    node: FaultyNode, former: dict[str, Any], far: str, tmp_path: Path
) -> None:
    """The node stays reachable by another NIC; packets of full size show the error."""
    run = change(node, tmp_path / "log", 4000, LATE, node_tuning_path=[{"to": far, "size": 4000}])
    assert run.end() != 0
    assert "% loss" in run.output and "The node rolled back wire0: mtu = 1500" in run.output, run.output
    assert same(node.state(), former)


def test_lost_confirm_path_is_rolled_back_although_node_is_reachable(
    node: FaultyNode, former: dict[str, Any], far: str, tmp_path: Path
) -> None:
    """Paths that answered before the change must answer after it; others are ignored."""
    paths = [{"to": far}, {"to": far, "size": 1500}, {"to": "172.31.0.77"}]
    run = change(node, tmp_path / "log", 1300, LATE, node_tuning_confirm_paths=paths)
    assert run.end() != 0
    assert f"a path that worked before the change fails: from the host to {far}, 1500 bytes" in run.output, (
        run.output
    )
    assert "172.31.0.77" not in run.output and "The node rolled back wire0: mtu = 1500" in run.output, (
        run.output
    )
    assert same(node.state(), former)


def test_program_that_cuts_the_connection_is_rolled_back(
    node: FaultyNode, former: dict[str, Any], tmp_path: Path
) -> None:
    named = {"change": f"test-{time.monotonic_ns()}"}
    drop = {"object": f"{REMOTE}/drop.bpf.o", "device": NIC, "seconds": SOON, **named}
    run = Run(node, tmp_path / "log", "program.yml", **drop)
    assert run.end() != 0
    assert f"site/{NIC}-ingress = None" in run.output and f"not confirmed in {SOON} s" in run.output, (
        run.output
    )
    assert same(node.state(), former)


def test_path_lost_during_run_is_rolled_back(
    node: FaultyNode, former: dict[str, Any], tmp_path: Path
) -> None:
    run = change(node, tmp_path / "log", 4000, SOON)
    run.reach("Configure NICs]")
    time.sleep(5)
    node.link("mgmt", False)
    time.sleep(SOON + 30)
    node.link("mgmt", True)
    assert run.end() != 0
    assert same(node.state(), former), run.output
    assert "reverted" in run.output or "rolled back" in run.output or "UNREACHABLE" in run.output, run.output


def test_next_run_reports_rollback_of_killed_run(
    node: FaultyNode, former: dict[str, Any], tmp_path: Path
) -> None:
    run = change(node, tmp_path / "first", 4000, LATE)
    run.reach("rollout : Close the connection]")
    run.kill()
    second = change(node, tmp_path / "second", 3000, LATE)
    assert second.end() != 0 and "is pending confirmation" in second.output, second.output
    expire_timer(node)
    assert same(node.state(), former)

    third = change(node, tmp_path / "third", 3000, LATE)
    assert third.end() == 0, third.output
    assert (
        "this node rolled back a change from" in third.output and f"not confirmed in {LATE} s" in third.output
    )
    assert node.state()["nics"]["wire0"]["mtu"] == 3000
    node.do("revert")
    assert same(node.state(), former)


def test_second_controller_is_refused_while_pending(
    node: FaultyNode, former: dict[str, Any], tmp_path: Path
) -> None:
    first = change(node, tmp_path / "first", 4000, LATE)
    first.reach("rollout : Close the connection]")
    first.signal(
        signal.SIGSTOP
    )  # stop the first run, so that the second reaches the node before its confirmation
    second = change(node, tmp_path / "second", 3000, LATE)
    assert second.end() != 0 and "is pending confirmation" in second.output, second.output
    first.signal(signal.SIGCONT)
    assert first.end() == 0, first.output
    assert node.state()["nics"]["wire0"]["mtu"] == 4000
    node.do("revert")
    assert same(node.state(), former)


def test_power_failure_before_confirmation_is_rolled_back(
    node: FaultyNode, former: dict[str, Any], tmp_path: Path
) -> None:
    run = change(node, tmp_path / "log", 4000, LATE)
    run.reach("rollout : Close the connection]")
    node.cut_power()
    assert run.end() != 0
    assert "The node rolled back wire0: mtu = 1500" in run.output, run.output
    assert "the node booted before the confirmation" in run.output, run.output
    assert same(node.state(), former)


def test_revert_that_loses_the_path_is_rolled_back(
    node: FaultyNode, former: dict[str, Any], tmp_path: Path
) -> None:
    run = change(node, tmp_path / "there", 4000, LATE)
    assert run.end() == 0, run.output
    tuned = node.state()
    assert not same(tuned, former)

    back = Run(node, tmp_path / "back", "../../playbooks/revert.yml", node_tuning_confirm_timeout=SOON)
    back.reach("rollout : Close the connection]")
    node.link("mgmt", False)
    time.sleep(SOON + 30)
    node.link("mgmt", True)
    assert back.end() != 0 and "no fresh connection to the node" in back.output, back.output
    assert "The node rolled back wire0: mtu = 4000" in back.output, back.output
    assert same(node.state(), tuned)

    again = Run(node, tmp_path / "again", "../../playbooks/revert.yml")
    assert again.end() == 0, again.output
    assert same(node.state(), former)
