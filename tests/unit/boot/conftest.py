# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A small boot partition."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def small_boot(tmp_path: Path) -> Iterator[Path]:
    """Yield a directory whose boot partition has 64 KiB; requires root."""
    boot = tmp_path / "boot"
    boot.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", boot], check=False).returncode:
        pytest.skip("requires root")
    yield tmp_path
    subprocess.run(["umount", boot], check=True)
