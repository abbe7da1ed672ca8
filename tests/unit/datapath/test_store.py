# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stored declarations."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._core.files import temporary
from ansible_collections.podnet.datapath.plugins.module_utils._datapath import store
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.store import Record, Store


@pytest.mark.parametrize("text", ["", '{"options": {"endpoi', '{"options": {"node": "n"}, "slots": {}}'])
def test_what_a_killed_process_was_writing_is_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr(store, "RUN", str(tmp_path))
    declared = Store("/sys/fs/bpf/podnet")
    Path(declared.folder).mkdir()
    record = Record({"node": "n"}, {"pod": 1})
    declared.write("cni", record)
    Path(temporary(f"{declared.folder}/cni.json")).write_text(text)
    assert declared.read() == {"cni": record}
    declared.write("cni", Record())
    assert declared.read() == {}
