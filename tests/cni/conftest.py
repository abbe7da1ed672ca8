# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds of the CNI plugin."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cni.plugin import Build, build_impatient, build_release, build_sanitized


@pytest.fixture(scope="session", autouse=True)
def _root() -> None:
    if os.geteuid() != 0:
        pytest.fail("tests/cni need root, because the plugin talks only to root; run make test-cni")


@pytest.fixture(scope="session")
def release(tmp_path_factory: pytest.TempPathFactory) -> Build:
    return build_release(tmp_path_factory.mktemp("release"))


@pytest.fixture(scope="session")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Build:
    return build_sanitized(tmp_path_factory.mktemp("sanitized"))


@pytest.fixture(scope="session")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Build:
    return build_impatient(tmp_path_factory.mktemp("impatient"))


@pytest.fixture(params=["release", "sanitized"])
def plugin(request: pytest.FixtureRequest) -> Build:
    """Return each build of the plugin."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of the agent's socket."""
    return tmp_path / "agent.sock"
