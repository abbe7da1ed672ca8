# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Python that runs what stays on a node."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._core import bundle
from ansible_collections.podnet.datapath.plugins.module_utils._datapath import command as _datapath_command


def python(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_the_distributions_own_python_runs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of a virtual environment, which may run the module, goes with it."""
    own = python(tmp_path / "python3", f'exec {sys.executable} "$@"')
    monkeypatch.setattr(bundle, "_SYSTEM_PYTHON", own)
    assert bundle.interpreter() == own != sys.executable


@pytest.mark.parametrize("present", [False, True])
def test_not_one_that_is_missing_or_too_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, present: bool
) -> None:
    own = str(tmp_path / "python3")
    if present:
        # As RHEL 8's 3.6 does it: the comparison is its own.
        code = "import sys; sys.version_info = (3, 6, 8); exec(sys.argv[1])"
        python(Path(own), f"exec {sys.executable} -c '{code}' \"$2\"")
    monkeypatch.setattr(bundle, "_SYSTEM_PYTHON", own)
    assert bundle.interpreter() == sys.executable


def test_the_command_has_all_the_code_that_it_needs(tmp_path: Path) -> None:
    """Where there is no collection, as on a node."""
    command = tmp_path / "podnet-datapath"
    command.write_bytes(_datapath_command.program())
    done = subprocess.run(
        [sys.executable, "-I", command, "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "drops" in done.stdout, done.stderr
