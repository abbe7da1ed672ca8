# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Warnings are stored by source, and a file that cannot be written is tried again."""

from __future__ import annotations

from pathlib import Path

from ansible_collections.podnet.datapath.plugins.module_utils._agent.warning_file import Warnings


def test_warnings_of_all_sources_are_stored(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    warnings = Warnings(str(folder / "warnings"))
    warnings.set("nodes", ["a"])  # the folder is missing
    folder.mkdir()
    warnings.set("policies", ["b", "c"])
    warnings.set("nodes", ["a"])
    assert sorted((folder / "warnings").read_text().split()) == ["a", "b", "c"]
    warnings.set("policies", [])
    assert (folder / "warnings").read_text() == "a\n"
