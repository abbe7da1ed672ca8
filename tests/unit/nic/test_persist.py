# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files that apply NIC settings at boot."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._core.plan import Problem
from ansible_collections.podnet.datapath.plugins.module_utils._nic import persist, request

ENTRY = {
    "name": "wire0", "driver": "virtio_net", "mtu": 8264, "features": {"gro": False}, "rings": {},
    "default_route": False, "limit_to_maximum": False, "steering": None, "optional": [],
}  # fmt: skip


def test_settings_are_written_by_name() -> None:
    rendered = json.loads(persist.render_settings([ENTRY]))
    assert rendered == [{"name": "wire0", "mtu": 8264, "features": {"gro": False}}]
    assert request.parse(rendered)[0].settings == request.parse([ENTRY])[0].settings


def test_the_program_contains_its_imports_and_is_reproducible(tmp_path: Path) -> None:
    data = persist.program()
    assert data == persist.program()
    file = tmp_path / "program.pyz"
    file.write_bytes(data)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        main = archive.read("__main__.py").decode()
    # Without this checkout: the program or Python's library has to contain all imports.
    done = subprocess.run(
        [sys.executable, "-P", "-S", "-c", "\n".join(line for line in main.splitlines() if "import" in line)],
        env={"PYTHONPATH": str(file)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_files_are_written_and_removed(tmp_path: Path) -> None:
    desired = persist.desired([ENTRY])
    assert len(desired.differing(persist.read(str(tmp_path)))) == 4
    for folder in ("etc/systemd/system", "etc/udev/rules.d"):
        (tmp_path / folder).mkdir(parents=True)
    persist.write(desired, str(tmp_path))
    assert desired.differing(persist.read(str(tmp_path))) == []
    none = persist.desired([])
    persist.write(none, str(tmp_path))
    assert none.differing(persist.read(str(tmp_path))) == []
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_foreign_unit_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "etc/systemd/system").mkdir(parents=True)
    (tmp_path / "etc/systemd/system/podnet-nic@.service").write_text("[Unit]\n")
    with pytest.raises(Problem, match="was not written by this collection"):
        persist.read(str(tmp_path))


@pytest.mark.parametrize("name", ["wire0", "eth0.100", "br-lan", "bond_1", "a@b"])
def test_rules_match_one_nic(name: str) -> None:
    (line,) = persist.rules([name]).splitlines()[1:]
    assert f'KERNEL=="{name}",' in line and line.endswith(f'"podnet-nic@{name}.service"')


@pytest.mark.parametrize(
    "name",
    ['a",RUN+="/x"', 'a"', "eth*", "e?", "[a]", "a|b", "$env{x}", "%k", "a\\", "a b", "a\nb", "a;b", "é", ""],
)
def test_a_name_with_a_meaning_in_udev_or_systemd_is_refused(name: str) -> None:
    """The kernel permits most of them."""
    with pytest.raises(Problem, match=r"persist: udev rules .* set persist: false"):
        persist.desired([{**ENTRY, "name": name}])


@pytest.mark.parametrize("folder", ["usr/bin", "sbin"])
def test_udev_is_found_without_the_callers_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    with pytest.raises(Problem, match="persist: requires systemd and udev"):
        persist.require_systemd(str(tmp_path))
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / "udevadm").touch(mode=0o755)
    persist.require_systemd(str(tmp_path))
