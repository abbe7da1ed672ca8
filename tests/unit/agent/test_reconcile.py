# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reconciliation finds what is left over and what is missing."""

from __future__ import annotations

from pathlib import Path

from ansible_collections.podnet.datapath.plugins.module_utils._agent.attachments import (
    Attachment,
    Attachments,
    name_of,
)
from ansible_collections.podnet.datapath.plugins.module_utils._agent.reconcile import find


def attachment(container: str, complete: bool = True) -> Attachment:
    return Attachment(
        container,
        "eth0",
        "net",
        f"/run/netns/{container}",
        "",
        {"name": "net"},
        {},
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
    live = {one.netns for one in (good, killed, broken)}
    found = find([good, gone, killed, broken], existing, live)
    assert found.stale == (gone, killed)
    assert found.orphans == ("orphan",)
    assert found.incomplete == (broken,)
    assert not find([good], {good.name: True}, live)


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


def test_a_record_that_was_not_written_completely_is_removed(tmp_path: Path) -> None:
    records = Attachments(str(tmp_path))
    records.write(attachment("a"))
    (file,) = tmp_path.iterdir()
    file.rename(tmp_path / f".podnet-{file.name}")
    assert list(Attachments(str(tmp_path))) == []
    assert list(tmp_path.iterdir()) == []
