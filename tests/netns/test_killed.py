# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Changes and rollbacks that are killed at a random moment end in the former state.

PODNET_COUNT (10) is the number of repetitions, PODNET_SEED their seed. The tests call the rollback directly;
tests/faults covers its start by a timer and at boot.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._kernel import ethtool
from ansible_collections.podnet.datapath.plugins.module_utils._nic import apply, device, persist, revert
from ansible_collections.podnet.datapath.plugins.module_utils._ops import revert_node
from ansible_collections.podnet.datapath.plugins.module_utils._programs import attach
from ansible_collections.podnet.datapath.plugins.module_utils._programs import revert as _revert_programs
from ansible_collections.podnet.datapath.plugins.module_utils._programs.resolve import Request
from ansible_collections.podnet.datapath.plugins.module_utils._rollback import arm as _checkpoint_arm
from ansible_collections.podnet.datapath.plugins.module_utils._rollback import checkpoint, journal
from ansible_collections.podnet.datapath.plugins.module_utils._rollback.net_changes import net_changes
from tests.netns.bpf_node import Node
from tests.support.kill import killed_after

COUNT = int(os.environ.get("PODNET_COUNT") or 10)
SUBSYSTEMS = {"nics": revert.Nics(), "programs": _revert_programs.Programs()}


def command(words: Sequence[str]) -> tuple[int, str, str]:
    """Stand in for udevadm and systemctl, which do not know the namespace."""
    return 0, "", ""


def arm(confirmation: _checkpoint_arm.Confirmation, rollback: object, command: object) -> str:
    """Write the journal entry of an armed checkpoint; timer and units need a node."""
    name = f"{time.monotonic_ns()}"
    about = {"by": "here", "time": "now", "timeout": confirmation.seconds, "boot_id": journal.boot_id()}
    journal.append({"checkpoint": name, "checkpoint_state": "armed", **about})
    return name


@pytest.fixture
def node(node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    monkeypatch.setattr(journal, "FOLDER", str(tmp_path / "journal"))
    monkeypatch.setattr(checkpoint, "TIMER", str(tmp_path / "timer"))
    monkeypatch.setattr(checkpoint, "ARMED", str(tmp_path / "armed"))
    monkeypatch.setattr(_checkpoint_arm, "arm", arm)
    # This machine may lack systemd and udev; ``command`` stands in for them.
    monkeypatch.setattr(persist, "require_systemd", lambda root: None)
    (tmp_path / "root").mkdir()
    return node


def state(node: Node, root: Path) -> list[Any]:
    with node.ns.inside(node.name):
        nic = device.read(ethtool.Ethtool(), "left").values
    files = {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    return [node.everything(), nic, files]


def killed_in(node: Node, seconds: float, change: Callable[[], object]) -> bool:
    """Do as ``killed_after`` in the namespace of a node."""

    def inside() -> None:
        with node.ns.inside(node.name):
            change()

    return killed_after(seconds, inside)


def rollback() -> None:
    checkpoint.expire(command, SUBSYSTEMS)


@pytest.mark.parametrize("kind", ["nic", "nic, reverted", "first program", "another program"])
def test_change_killed_at_random_moment_is_rolled_back(
    node: Node, build: Any, tmp_path: Path, kind: str
) -> None:
    root, numbers = tmp_path / "root", random.Random(os.environ.get("PODNET_SEED"))
    attachment = Request("host_ingress", "left", "ingress", "clsact")
    wire = [{"name": "left", "mtu": 4000, "features": {"tso": False}, "gso_max_size": 30000}]
    other = build(("metrics.h", r"return TC_ACT_UNSPEC", "return TC_ACT_OK"))
    if kind == "another program":
        node.attach("host_ingress left ingress clsact")
    if kind == "nic, reverted":
        with node.ns.inside(node.name):
            apply.run(wire, True, False, command, str(root))
    known = net_changes(journal.read())

    def change() -> None:
        if kind == "nic":
            apply.run(wire, True, False, command, str(root), _checkpoint_arm.Confirmation(30))
            return
        if kind == "nic, reverted":
            revert_node.run(["nics"], False, False, command, _checkpoint_arm.Confirmation(30))
            return
        recorder = _revert_programs.CheckpointRecorder(_checkpoint_arm.Confirmation(30), command)
        attach.present(attach.Desired(node.pins, [attachment]), other, {}, recorder=recorder)

    former = state(node, root)
    start = time.monotonic()
    assert killed_in(node, 60, change), "the change alone failed"
    duration = time.monotonic() - start
    assert state(node, root) != former
    ended = 0
    for number in range(COUNT):
        # The rollback is killed as well, and run again.
        killed_in(node, numbers.uniform(0, 1.2 * duration), rollback)
        with node.ns.inside(node.name):
            rollback()
        assert state(node, root) == former, f"{kind}, {number}, of {duration:.3f} s"
        assert net_changes(journal.read()) == known or kind == "another program"
        ended += killed_in(node, numbers.uniform(0, 1.2 * duration), change)
    with node.ns.inside(node.name):
        rollback()
    assert state(node, root) == former
    print(f"{kind}: {COUNT} of {COUNT} restored, {ended} changes were finished before the kill")
