# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs that stay on a node, and the interpreter that runs them."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._core import bundle
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.command import program


def python(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_the_interpreter_of_the_distribution_is_preferred(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The module may run in a virtual environment that is removed later."""
    own = python(tmp_path / "python3", f'exec {sys.executable} "$@"')
    monkeypatch.setattr(bundle, "_SYSTEM_PYTHON", own)
    assert bundle.interpreter() == own != sys.executable


@pytest.mark.parametrize("present", [False, True])
def test_a_missing_or_old_interpreter_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, present: bool
) -> None:
    own = str(tmp_path / "python3")
    if present:
        # Python 3.6, as on RHEL 8.
        code = "import sys; sys.version_info = (3, 6, 8); exec(sys.argv[1])"
        python(Path(own), f"exec {sys.executable} -c '{code}' \"$2\"")
    monkeypatch.setattr(bundle, "_SYSTEM_PYTHON", own)
    assert bundle.interpreter() == sys.executable


def test_the_command_contains_its_imports(tmp_path: Path) -> None:
    """It runs without the collection, as on a node."""
    command = tmp_path / "podnet-datapath"
    command.write_bytes(program())
    done = subprocess.run(
        [sys.executable, "-I", command, "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "drops" in done.stdout, done.stderr


def test_an_archive_with_bytecode_has_the_same_sources(tmp_path: Path) -> None:
    code = f"from {bundle.PACKAGE}._core import lock\nprint(lock.__spec__.origin)"
    plain = bundle.archive(code)
    compiled = bundle.with_bytecode(plain, sys.executable)
    assert compiled != plain == bundle.sources_of(compiled) == bundle.sources_of(plain)
    assert bundle.sources_of(b"text") == b"text"
    (tmp_path / "compiled.pyz").write_bytes(compiled)
    # Bytecode of another version is ignored.
    magic = importlib.util.MAGIC_NUMBER
    (tmp_path / "other.pyz").write_bytes(
        compiled.replace(magic, bytes(byte ^ 1 for byte in magic[:2]) + magic[2:])
    )
    for name, suffix in (("compiled", ".pyc"), ("other", ".py")):
        words = [sys.executable, "-I", tmp_path / f"{name}.pyz"]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        assert done.stdout.strip().endswith(suffix)
