# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Unconfirmed program changes: rollback restores the former programs, maps and attachments."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._core import lock
from ansible_collections.podnet.datapath.plugins.module_utils._core.plan import Problem
from ansible_collections.podnet.datapath.plugins.module_utils._datapath import verify
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.store import Store
from ansible_collections.podnet.datapath.plugins.module_utils._kernel import libbpf
from ansible_collections.podnet.datapath.plugins.module_utils._programs import attach, backup, pins
from ansible_collections.podnet.datapath.plugins.module_utils._programs import revert as _revert_programs
from ansible_collections.podnet.datapath.plugins.module_utils._programs.plan import ProgramPlan, pin_name
from ansible_collections.podnet.datapath.plugins.module_utils._programs.resolve import Request
from ansible_collections.podnet.datapath.plugins.module_utils._rollback import (
    arm,
    checkpoint,
    journal,
    revert,
)
from ansible_collections.podnet.datapath.plugins.module_utils._rollback.net_changes import net_changes
from tests.netns.bpf_node import Node
from tests.support.cgroup import cgroup

OTHER = ("metrics.h", r"return TC_ACT_UNSPEC", "return TC_ACT_OK")
OLDER = ("endpoints.h", r"__u16 slot;(?=[^}]*}[^}]*struct pod {)", "__u32 once; __u16 slot;")
SMALLER = ("endpoints.h", "ENDPOINTS_MAX 131072", "ENDPOINTS_MAX 2")


@pytest.fixture
def unconfirmed(node: Node, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Return a function that attaches under a checkpoint, rolls back, and returns the journal's changes."""
    monkeypatch.setattr(journal, "FOLDER", str(tmp_path))

    def run(*attachments: str, break_it: Callable[[], object] = lambda: None, **args: Any) -> list[str]:
        number = len(journal.read())
        with node.ns.inside(node.name):
            backup.back_up(node.pins)
        node.attach(*attachments, **args)
        break_it()
        folded = net_changes(journal.read()[number:])
        with node.ns.inside(node.name):
            for programs, plan in revert.plans(folded, {"programs": _revert_programs.Programs()}, force=True):
                with journal.transaction(plan):
                    revert.apply(plan, programs, lambda words: (0, "", ""))
        return sorted(key.name for key in folded.settings)

    return run


def test_first_attachment_is_rolled_back(node: Node, unconfirmed: Any) -> None:
    before = node.everything()
    assert unconfirmed("host_ingress left ingress clsact") == ["progs", "site/left-ingress"]
    assert node.everything() == before and not os.path.exists(node.pins)


def test_programs_of_sockets_are_rolled_back(node: Node, unconfirmed: Any) -> None:
    """A former attachment to a cgroup is restored, a new one removed."""
    with cgroup("rollback") as group:
        wanted = {"socket_lb": "required", "cgroup_path": group}
        before = node.everything()
        unconfirmed("host_ingress left ingress", **wanted)
        assert node.everything() == before and not os.path.exists(node.pins)
        node.attach(**wanted)
        info = node.module("datapath_info")
        changed = unconfirmed(**wanted, rodata={"reason_max": 2})
        assert f"site/{pin_name(group, 'connect4')}" in changed
        assert node.module("datapath_info") == info
        assert not node.attach(**wanted)["changed"]
        unconfirmed()
        assert node.module("datapath_info")["socket_lb"] == group
        assert not node.attach(**wanted)["changed"]


def test_run_killed_after_pinning_maps_is_rolled_back(node: Node, unconfirmed: Any) -> None:
    before = node.everything()

    def undo_the_rest() -> None:
        node.ns.run(node.name, "tc", "qdisc", "del", "dev", "left", "clsact")
        for folder in ("links", "progs"):
            shutil.rmtree(os.path.join(node.pins, folder))

    unconfirmed("host_ingress left ingress clsact", break_it=undo_the_rest)
    assert node.everything() == before and not os.path.exists(node.pins)


@pytest.mark.parametrize(("kind", "edit"), [("clsact", OTHER), ("tcx", OTHER), ("clsact", SMALLER)])
def test_replaced_program_is_rolled_back(
    node: Node,
    unconfirmed: Any,
    build: Any,
    kind: str,
    edit: tuple[str, str, str],
) -> None:
    """Maps of another layout and attachments of other owners are rolled back as well."""
    state = {"endpoints": [{"device": "left", "addresses": ["10.31.1.11"]}]}
    node.attach(f"host_ingress left ingress {kind}")
    node.attach("pod_egress right from_pod", owner="pods")
    node.module("bpf_state", **state)
    before = node.everything()
    changed = unconfirmed(f"host_ingress left ingress {kind}", object=build(edit))
    assert changed == ["pods/right-from_pod", "progs", "site/left-ingress"]
    assert node.everything() == before
    assert not node.module("bpf_state", **state)["changed"]


def test_unknown_maps_of_older_version_are_restored(
    node: Node, unconfirmed: Any, build: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The maps keep their entries; nothing is computed for them."""
    node.attach("host_ingress left ingress clsact")
    node.module("bpf_state", endpoints=[{"device": "left", "addresses": ["10.31.1.11"]}])
    (declared,) = Path(Store(node.pins).folder).glob("*.json")
    text = declared.read_text()
    node.attach(state="absent")
    with monkeypatch.context() as older:
        older.setattr(verify, "check", lambda obj: None)
        node.attach("host_ingress left ingress clsact", object=build(OLDER))
    declared.parent.mkdir(exist_ok=True)
    declared.write_text(text)  # as written by the older version
    dump = ("bpftool", "map", "dump", "pinned", f"{node.pins}/maps/endpoints4")
    before = node.everything(), node.ns.run(node.name, *dump)
    assert "progs" in unconfirmed("host_ingress left ingress clsact")
    assert (node.everything(), node.ns.run(node.name, *dump)) == before


def test_state_is_refused_while_replaced_maps_are_unconfirmed(
    node: Node, build: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "FOLDER", str(tmp_path))
    state = {"endpoints": [{"device": "left", "addresses": ["10.31.1.11"]}]}
    node.attach("host_ingress left ingress clsact")
    with node.ns.inside(node.name):
        backup.back_up(node.pins)
    armed = {"checkpoint": "one", "checkpoint_state": "armed"}
    journal.append(armed)
    assert node.module("bpf_state", **state)["changed"]  # these maps were not replaced
    journal.append({**armed, "checkpoint_state": "confirmed"})
    node.attach("host_ingress left ingress clsact", object=build(SMALLER))
    journal.append(armed)
    assert not node.module("bpf_state", **state)["changed"]
    message = node.module("bpf_state", endpoints=[], fails=True)["msg"]
    assert "are pending confirmation" in message
    # The run was killed before it removed the backup.
    journal.append({**armed, "checkpoint_state": "confirmed"})
    assert node.module("bpf_state", endpoints=[])["changed"]


def test_change_by_another_run_after_planning_is_detected(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run cannot change them, a process without the lock of the programs may."""
    monkeypatch.setattr(journal, "FOLDER", str(tmp_path))
    recorder = _revert_programs.CheckpointRecorder(arm.Confirmation(), lambda words: (0, "", ""))
    node.attach("host_ingress left ingress clsact")
    desired = attach.Desired(node.pins, [Request("pod_ingress", "left", "ingress")])

    class Late:
        """Another run attaches a program after this one has planned."""

        def transaction(self, plan: ProgramPlan) -> contextlib.AbstractContextManager[None]:
            node.attach("host_ingress right ingress clsact")
            return recorder.transaction(plan)

    with (
        node.ns.inside(node.name),
        libbpf.BpfObject(node.object, {}) as programs,
        pytest.raises(Problem, match=r"left-ingress changed while"),
    ):
        attach.install(desired, programs, recorder=Late())
    assert "host_ingress" in node.filters("right", "ingress")


def test_a_rollback_waits_for_a_process_that_attaches_programs(node: Node, unconfirmed: Any) -> None:
    """It would attach the programs that the rollback replaces."""
    held, done = threading.Event(), list[str]()

    def attach_slowly() -> None:
        with pins.locked(node.pins):
            held.set()
            time.sleep(1)
            done.append("attached")

    def begin() -> None:
        other.start()
        assert held.wait(10)

    other = threading.Thread(target=attach_slowly)
    before = node.everything()
    unconfirmed("host_ingress left ingress clsact", break_it=begin)
    assert done == ["attached"] and node.everything() == before
    other.join()


def test_a_failed_change_is_rolled_back_at_once(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call that fails holds the lock of the programs, which its rollback needs as well."""
    before = node.everything()
    monkeypatch.setattr(journal, "FOLDER", str(tmp_path))
    monkeypatch.setattr(lock, "TIMEOUT", 1)

    def arm_without_systemd(*_arguments: object) -> str:
        journal.append({"checkpoint": "one", "checkpoint_state": "armed", "time": "", "by": ""})
        return "one"

    class Failing(attach.Installation):
        def apply(self) -> None:
            super().apply()
            raise Problem("the last step fails")

    monkeypatch.setattr(arm, "arm", arm_without_systemd)
    monkeypatch.setattr(attach, "Installation", Failing)
    recorder = _revert_programs.CheckpointRecorder(arm.Confirmation(60), lambda words: (0, "", ""))
    desired = attach.Desired(node.pins, [Request("host_ingress", "left", "ingress", "clsact")])
    with node.ns.inside(node.name), pytest.raises(Problem, match=r"\Athe last step fails\Z"):
        attach.present(desired, node.object, {}, recorder=recorder)
    assert node.everything() == before
    assert checkpoint.status(journal.read())["checkpoint_state"] == "reverted"


def test_added_and_removed_attachments_are_rolled_back(node: Node, unconfirmed: Any) -> None:
    node.attach("host_ingress left ingress clsact")
    before = node.everything()
    unconfirmed("host_ingress right ingress clsact", "pod_ingress left egress clsact")
    after = node.everything()
    assert "host_ingress" in node.filters("left", "ingress") and after[1:5] == before[1:5]
    assert not node.attach("host_ingress left ingress clsact")["changed"]


def test_run_killed_before_pinning_is_rolled_back(node: Node, unconfirmed: Any) -> None:
    def killed() -> None:
        os.unlink(f"{node.pins}/links/site/left-ingress")

    before = node.everything()
    unconfirmed("host_ingress left ingress clsact", break_it=killed)
    assert node.everything() == before


def test_run_killed_before_its_filter_is_rolled_back(node: Node, unconfirmed: Any) -> None:
    def killed() -> None:
        node.ns.run(node.name, "tc", "filter", "del", "dev", "left", "ingress")
        os.unlink(f"{node.pins}/links/site/left-ingress")

    before = node.everything()
    unconfirmed("host_ingress left ingress clsact", break_it=killed)
    assert node.everything() == before


def test_confirmed_attachment_is_reverted(node: Node, unconfirmed: Any) -> None:
    """The module revert removes it and its journal."""
    before = node.everything()
    node.attach("host_ingress left ingress clsact")
    made = node._run_module("revert", {}, netns=node.name)
    assert {change["subsystem"] for change in made["changes"]} == {"programs"} and made["archived"]
    assert node.everything() == before
    # Others removed the attachment: nothing is restored, and the journal is removed.
    node.attach("host_ingress left ingress clsact")
    node.attach(state="absent")
    assert node._run_module("revert", {"subsystems": ["nics"]}, netns=node.name)["archived"]
