# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files keep mode, owner and extended attributes when they are replaced."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._core import files
from ansible_collections.podnet.datapath.plugins.module_utils._core.plan import Problem


def state(path: Path) -> tuple[int, int, int, bytes]:
    found = path.stat()
    return stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, os.getxattr(path, "user.podnet")


def test_a_published_file_is_replaced_atomically(tmp_path: Path) -> None:
    path = tmp_path / "podnet.prom"
    for text in (b"a 1\n", b"a 2\n"):
        files.publish_file(str(path), text)
        assert path.read_bytes() == text and stat.S_IMODE(path.stat().st_mode) == 0o644
    assert os.listdir(tmp_path) == ["podnet.prom"]


@pytest.mark.parametrize("name", ["podnet.prom", ".podnet-podnet.prom"])
def test_publishing_follows_no_symbolic_link(tmp_path: Path, name: str) -> None:
    """A user that may write to the directory links the file, or the temporary one, to another file."""
    target, folder = tmp_path / "target", tmp_path / "folder"
    target.write_text("kept")
    folder.mkdir(mode=0o1777)
    (folder / name).symlink_to(target)
    if name == "podnet.prom":
        with pytest.raises(Problem, match="is not a regular file: remove it"):
            files.publish_file(str(folder / "podnet.prom"), b"new")
    else:
        files.publish_file(str(folder / "podnet.prom"), b"new")
    assert target.read_text() == "kept" and target.stat().st_mode & 0o777 == 0o644


def test_publishing_needs_a_protected_directory(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(Problem, match="any user can replace files here"):
        files.publish_file(str(tmp_path / "podnet.prom"), b"new")
    with pytest.raises(Problem, match="create this directory"):
        files.publish_file(str(tmp_path / "absent" / "podnet.prom"), b"new")


@pytest.fixture
def private(tmp_path: Path) -> Path:
    """Return a file with a mode, an owner and an attribute of its own."""
    path = tmp_path / "private"
    path.write_text("before")
    if os.geteuid() == 0:
        os.chown(path, 1, 2)
    path.chmod(0o640)
    try:
        os.setxattr(path, "user.podnet", b"kept")
    except OSError:
        pytest.skip("this file system has no extended attributes")
    return path


def test_a_replaced_file_keeps_its_metadata(private: Path) -> None:
    before = state(private)
    files.replace_file(str(private), b"after")
    assert private.read_text() == "after" and state(private) == before


def test_a_removed_file_gets_its_metadata_back(private: Path) -> None:
    before, kept = state(private), files.metadata(str(private))
    assert kept
    recorded = files.Metadata.from_dict(json.loads(json.dumps(kept.as_dict())))
    private.unlink()
    files.replace_file(str(private), b"again", like=recorded)
    assert state(private) == before


def test_a_new_file_is_readable_by_all(tmp_path: Path) -> None:
    path = tmp_path / "new"
    files.replace_file(str(path), b"")
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert files.metadata(str(tmp_path / "absent")) is None
