# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A change is confirmed only if each path that answered before it still answers."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._core.plan import Change, Plan, Problem
from ansible_collections.podnet.datapath.plugins.module_utils._ops import confirm as _checkpoint_confirm
from ansible_collections.podnet.datapath.plugins.module_utils._rollback import checkpoint, journal

POD, PEER = "confirm-pod", "confirm-peer"
PATHS = [
    {"netns": POD, "to": "10.77.0.2", "size": 84},
    {"netns": POD, "to": "10.77.0.2", "size": 1500},
    {"netns": POD, "to": "10.77.0.2", "size": 9000},
    {"netns": POD, "to": "10.77.0.3", "size": 84},
    {"netns": "confirm-none", "to": "10.77.0.2", "size": 84},
]


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def mtu(value: int) -> None:
    ip("-n", POD, "link", "set", "eth0", "mtu", str(value))


def command(words: Sequence[str]) -> tuple[int, str, str]:
    return 0, "", ""


def options(name: str, state: str, reason: str = "") -> dict[str, Any]:
    """Return options of the module checkpoint."""
    return {"name": name, "state": state, "reason": reason, "errors": {}}


def confirm() -> dict[str, Any]:
    return _checkpoint_confirm.run(options("one", "confirmed"), False, command, {}).as_dict()


@pytest.fixture(autouse=True)
def _pods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(journal, "FOLDER", str(tmp_path))
    monkeypatch.setattr(checkpoint, "TIMER", str(tmp_path / "timer"))
    monkeypatch.setattr(checkpoint, "ARMED", str(tmp_path / "armed"))
    for name in (POD, PEER):
        ip("netns", "add", name)
    try:
        ip("-n", POD, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", PEER)
        for number, name in enumerate((POD, PEER), 1):
            ip("-n", name, "addr", "add", f"10.77.0.{number}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
        found = _checkpoint_confirm.read_paths(PATHS)()
        assert found == PATHS[:2]  # The other paths do not answer or do not exist.
        armed = {"by": "192.0.2.1", "time": "then", "timeout": 120, "boot_id": journal.boot_id()}
        journal.append({"checkpoint": "one", "checkpoint_state": "armed", **armed, "paths": found})
        checkpoint.complete("one")
        yield
    finally:
        for name in (POD, PEER):
            ip("netns", "del", name)


def test_change_is_confirmed_if_paths_answer() -> None:
    result = confirm()
    assert result["status"] == "confirmed" and result["paths"] == PATHS[:2]


def test_change_is_not_confirmed_if_full_size_packets_are_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_checkpoint_confirm, "PATIENCE", 0)
    mtu(1300)
    with pytest.raises(Problem, match=f"fails: from {POD} to 10.77.0.2, 1500 bytes: .*too big") as refused:
        confirm()
    assert "84 bytes" not in str(refused.value)
    assert checkpoint.status(journal.read(), "one")["checkpoint_state"] == "armed"


def test_change_is_not_confirmed_if_most_packets_are_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four of five packets are lost at random, as with a broken offload."""
    monkeypatch.setattr(_checkpoint_confirm, "PATIENCE", 5)
    # BPF_LD | BPF_W | BPF_ABS of SKF_AD_RANDOM; TC_ACT_OK above 4/5 of 2^32, else TC_ACT_SHOT
    loses = "4,32 0 0 4294963256,37 0 1 3435973836,6 0 0 0,6 0 0 2"
    tc = ["tc", "-n", PEER]
    subprocess.run([*tc, "qdisc", "add", "dev", "eth0", "clsact"], check=True)
    attach = [*tc, "filter", "add", "dev", "eth0", "ingress", "bpf", "da", "bytecode"]
    subprocess.run([*attach, loses], check=True)
    with pytest.raises(Problem, match=f"fails: from {POD} to 10.77.0.2, 84 bytes: .*% loss"):
        confirm()


@pytest.mark.parametrize("dark", [True, False])
def test_only_port_without_carrier_before_the_change_needs_no_carrier(
    monkeypatch: pytest.MonkeyPatch, dark: bool
) -> None:
    monkeypatch.setattr(_checkpoint_confirm, "PATIENCE", 0)
    ip("link", "add", "uncabled", "type", "veth", "peer", "name", "uncabled1")
    try:
        ip("link", "set", "uncabled", "up")  # Its peer is down, so it has no carrier.
        armed = {"by": "192.0.2.1", "time": "then", "timeout": 120, "boot_id": journal.boot_id()}
        checkpoint.end("one", "confirmed", command)
        journal.append(
            {"checkpoint": "two", "checkpoint_state": "armed", **armed, "no_carrier": ["uncabled"] * dark}
        )
        plan = Plan("nics", [Change("mtu", 1500, 1400, "uncabled")])
        with journal.transaction(plan, checkpoint="two"):
            pass
        checkpoint.complete("two")
        if dark:
            assert (
                _checkpoint_confirm.run(options("two", "confirmed"), False, command, {}).values["status"]
                == "confirmed"
            )
        else:
            with pytest.raises(Problem, match="two is not confirmed: uncabled has no carrier"):
                _checkpoint_confirm.run(options("two", "confirmed"), False, command, {})
    finally:
        ip("link", "del", "uncabled")


def test_path_may_recover_within_patience() -> None:
    mtu(1300)
    back = threading.Timer(3, mtu, (1500,))
    back.start()
    assert confirm()["status"] == "confirmed"
    back.join()


def test_invalid_path_is_refused() -> None:
    with pytest.raises(Problem, match=r"confirm_paths: to: 'pod1' is not an IPv4 or IPv6 address"):
        _checkpoint_confirm.read_paths([{"to": "pod1", "size": 84}])
    with pytest.raises(Problem, match=r"confirm_paths: size: 20 .* is not between 36"):
        _checkpoint_confirm.read_paths([{"to": "192.0.2.1", "size": 20}])
