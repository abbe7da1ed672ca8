# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reconciliation finds what is left over and what is missing."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

from ansible_collections.podnet.datapath.plugins.module_utils._agent.attachments import (
    Attachment,
    Attachments,
    name_of,
)
from ansible_collections.podnet.datapath.plugins.module_utils._agent.commands import Commands
from ansible_collections.podnet.datapath.plugins.module_utils._agent.config import Config
from ansible_collections.podnet.datapath.plugins.module_utils._agent.reconcile import find, run
from ansible_collections.podnet.datapath.plugins.module_utils._agent.worker import Worker
from ansible_collections.podnet.datapath.plugins.module_utils._kernel.netns import identity
from ansible_collections.podnet.datapath.plugins.module_utils._pods.api import PodSpec


def attachment(container: str, complete: bool = True) -> Attachment:
    return Attachment(
        container,
        "eth0",
        "net",
        f"/run/netns/{container}",
        "",
        {"name": "net"},
        {},
        "boot/4:1",
        result={"ips": []} if complete else {},
    )


def test_each_kind_of_difference_is_found() -> None:
    good, gone, killed, broken = (
        attachment("good"),
        attachment("gone"),
        attachment("killed", complete=False),
        attachment("broken"),
    )
    existing = {good.name: True, broken.name: False, gone.name: True, "orphan": True}
    live = {one.name for one in (good, killed, broken)}
    found = find([good, gone, killed, broken], existing, live)
    assert found.stale == (gone, killed)
    assert found.orphans == ("orphan",)
    assert found.incomplete == (broken,)
    assert not find([good], {good.name: True}, live)
    assert not find([], {"damaged": True}, (), {"damaged"})


def test_records_survive_a_restart_and_damaged_ones_are_ignored(tmp_path: Path) -> None:
    records = Attachments(str(tmp_path / "records"))
    records.write(attachment("a"))
    records.write(attachment("b"))
    records.delete(name_of("b", "eth0"))
    records.delete(name_of("b", "eth0"))
    (tmp_path / "records" / "x.json").write_text("{")
    (tmp_path / "records" / "y.json").write_text('{"container": "c"}')
    found = list(Attachments(str(tmp_path / "records")))
    assert [one.container for one in found] == ["a"] and found[0].name == attachment("a").name


def test_a_pod_whose_record_cannot_be_read_is_kept(tmp_path: Path) -> None:
    records = Attachments(str(tmp_path))
    records.write(attachment("a"))
    (file,) = tmp_path.iterdir()
    # of a newer agent
    file.write_text(json.dumps({**json.loads(file.read_text()), "new": 1}))
    assert [one.container for one in Attachments(str(tmp_path))] == ["a"]
    (tmp_path / "x.json").write_text("{")
    records = Attachments(str(tmp_path))
    assert records.unreadable == {"x"}
    records.delete("x")
    assert not records.unreadable and not (tmp_path / "x.json").exists()


class Pods:
    """Stands in for the worker; ``meanwhile`` is called once after the Pods were read."""

    def __init__(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        self.found: dict[str, bool] = {}
        self.removed: list[str] = []
        self._meanwhile = [meanwhile]

    def existing(self) -> dict[str, bool]:
        found = dict(self.found)
        if self._meanwhile:
            self._meanwhile.pop()()
        return found

    def remove(self, names: Sequence[str]) -> None:
        self.removed += names

    def repair(self, pod: PodSpec) -> None:
        raise AssertionError(f"{pod.name} is created again")


def commands_of(pods: Pods, records: Attachments) -> Commands:
    return Commands(Config("n", "datapath.o"), cast(Worker, pods), records, None)


def test_a_pod_that_is_added_during_reconciliation_is_not_replaced(tmp_path: Path) -> None:
    records = Attachments(str(tmp_path))
    netns = "/proc/self/ns/net"
    new = replace(attachment("new"), netns=netns, namespace=identity(netns))

    def finish_add() -> None:
        records.write(new)
        pods.found[new.name] = True

    pods = Pods(finish_add)
    found = run(commands_of(pods, records), cast(Worker, pods), records)
    assert found.incomplete == (new,)
    assert pods.removed == []


def test_an_add_that_has_finished_meanwhile_is_not_released(tmp_path: Path) -> None:
    records, pods = Attachments(str(tmp_path)), Pods()
    running = attachment("a", complete=False)
    records.write(attachment("a"))
    commands_of(pods, records).release(running)
    commands_of(pods, records).remove_orphan(running.name)
    assert pods.removed == [] and records.get(running.name)


def test_the_path_of_another_namespace_is_not_the_pods(tmp_path: Path) -> None:
    """The path may be of a process, as that of `ctr run --cni`, and its ID is used again after a boot."""
    records, pods = Attachments(str(tmp_path)), Pods()
    records.write(replace(attachment("a"), netns="/proc/self/ns/net"))
    found = run(commands_of(pods, records), cast(Worker, pods), records)
    assert len(found.stale) == 1 and not found.incomplete
    assert len(records) == 0


def test_a_record_that_was_not_written_completely_is_removed(tmp_path: Path) -> None:
    records = Attachments(str(tmp_path))
    records.write(attachment("a"))
    (file,) = tmp_path.iterdir()
    file.rename(tmp_path / f".podnet-{file.name}")
    found = Attachments(str(tmp_path))  # also in other processes, while the agent writes
    assert list(found) == [] and len(list(tmp_path.iterdir())) == 1
    found.remove_unfinished()
    assert list(tmp_path.iterdir()) == []
