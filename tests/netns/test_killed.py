# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Changes, and ways back, whose process is killed at a random moment: everything is as it was at the end.

PODNET_COUNT (10) is how often, PODNET_SEED with which numbers. What systemd does, the timer and the boot,
is the part of tests/faults; here the way back is called.
"""

from __future__ import annotations

import os
import random
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._kernel import ethtool
from ansible_collections.podnet.datapath.plugins.module_utils._nic import apply, persist, revert, settings
from ansible_collections.podnet.datapath.plugins.module_utils._ops import revert_node
from ansible_collections.podnet.datapath.plugins.module_utils._programs import attach
from ansible_collections.podnet.datapath.plugins.module_utils._programs import revert as _revert_programs
from ansible_collections.podnet.datapath.plugins.module_utils._rollback import arm as _checkpoint_arm
from ansible_collections.podnet.datapath.plugins.module_utils._rollback import checkpoint, journal
from ansible_collections.podnet.datapath.plugins.module_utils._rollback.net_changes import net_changes
from tests.netns.bpf_node import Node

COUNT = int(os.environ.get("PODNET_COUNT") or 10)
SUBSYSTEMS = {"nics": revert.Nics(), "programs": _revert_programs.Programs()}


def command(words: Sequence[str]) -> tuple[int, str, str]:
    """Be udevadm and systemctl, which are nothing for a namespace."""
    return 0, "", ""


def arm(confirmation: _checkpoint_arm.Confirmation, rollback: object, command: object) -> str:
    """Write what arming writes into the journal; timer and units need a node."""
    name = f"{time.monotonic_ns()}"
    about = {"by": "here", "time": "now", "timeout": confirmation.seconds, "boot_id": journal.boot_id()}
    journal.append({"checkpoint": name, "checkpoint_state": "armed", **about})
    return name


@pytest.fixture
def place(node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    monkeypatch.setattr(journal, "FOLDER", str(tmp_path / "journal"))
    monkeypatch.setattr(checkpoint, "TIMER", str(tmp_path / "timer"))
    monkeypatch.setattr(checkpoint, "ARMED", str(tmp_path / "armed"))
    monkeypatch.setattr(_checkpoint_arm, "arm", arm)
    # This machine may have neither; ``command`` stands for them.
    monkeypatch.setattr(persist, "check", lambda root: None)
    (tmp_path / "root").mkdir()
    return node


def state(place: Node, root: Path) -> list[Any]:
    with place.ns.inside(place.name):
        nic = settings.read(ethtool.Ethtool(), "left").values
    files = {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    return [place.everything(), nic, files]


def killed_after(seconds: float, place: Node, change: Callable[[], object]) -> bool:
    """Make a change in a process of its own, and kill it; tell whether it was done before."""
    child = os.fork()
    if not child:
        try:
            with place.ns.inside(place.name):
                change()
            os._exit(0)
        finally:  # Whatever happens, no second process goes on with the tests.
            traceback.print_exc()
            os._exit(1)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            assert not status, "the change failed"
            return True
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def rollback() -> None:
    checkpoint.expire(command, SUBSYSTEMS)


@pytest.mark.parametrize("kind", ["nic", "nic, put back", "first program", "another program"])
def test_killed_at_random_moments(place: Node, build: Any, tmp_path: Path, kind: str) -> None:
    root, numbers = tmp_path / "root", random.Random(os.environ.get("PODNET_SEED"))
    wish = attach.Wish("host_ingress", "left", "ingress", "clsact")
    wire = [{"name": "left", "mtu": 4000, "features": {"tso": False}, "gso_max_size": 30000}]
    other = build(("metrics.h", r"return TC_ACT_UNSPEC", "return TC_ACT_OK"))
    if kind == "another program":
        place.attach("host_ingress left ingress clsact")
    if kind == "nic, put back":
        with place.ns.inside(place.name):
            apply.run(wire, True, False, command, str(root))
    known = net_changes(journal.read())

    def change() -> None:
        if kind == "nic":
            apply.run(wire, True, False, command, str(root), _checkpoint_arm.Confirmation(30))
            return
        if kind == "nic, put back":
            revert_node.run(["nics"], False, False, command, _checkpoint_arm.Confirmation(30))
            return
        guard = _revert_programs.Journalled(_checkpoint_arm.Confirmation(30), command).guard
        attach.present(place.pins, other, {}, [wish], guard=guard)

    former = state(place, root)
    begun = time.monotonic()
    assert killed_after(60, place, change), "the change alone failed"
    long = time.monotonic() - begun
    assert state(place, root) != former
    ended = 0
    for number in range(COUNT):
        # The way back is killed as well, and begun again.
        killed_after(numbers.uniform(0, 1.2 * long), place, rollback)
        with place.ns.inside(place.name):
            rollback()
        assert state(place, root) == former, f"{kind}, {number}, of {long:.3f} s"
        assert net_changes(journal.read()) == known or kind == "another program"
        ended += killed_after(numbers.uniform(0, 1.2 * long), place, change)
    with place.ns.inside(place.name):
        rollback()
    assert state(place, root) == former
    print(f"{kind}: {COUNT} of {COUNT} as before, {ended} of them had been done in time")
