# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of the driver's tests. PODNET_KERNEL (6.1, 6.12 or 7.3) selects the node's kernel.

Modules are built on the controller in the root of the node's image: in the emulated node a build takes a
minute. A missing prerequisite is an error, never a skip.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.checkout import DRIVER, PROGRAMS, SUPPORT
from tests.support.lab_node import LabNode, driver_node, run
from tests.support.module_build import Build, build_modules, compile_driver_programs, copy_source
from tests.support.node_checks import Outcome


@pytest.fixture(scope="session")
def node() -> LabNode:
    return driver_node(os.environ.get("PODNET_KERNEL", "6.1"))


@pytest.fixture
def build(node: LabNode) -> Iterator[Build]:
    """Yield a fresh copy of the driver's source."""
    made = copy_source(node, DRIVER, "driver-test")
    yield made
    shutil.rmtree(made.path)


@pytest.fixture(scope="session")
def module(node: LabNode, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return meta.ko for the node, built without warnings; inject.ko is beside it."""
    folder = tmp_path_factory.mktemp("module")
    build_modules(node, folder, {"meta": DRIVER, "inject": SUPPORT / "inject"})
    return folder / "meta.ko"


@pytest.fixture(scope="session")
def datapath_object(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the collection's compiled programs."""
    folder = tmp_path_factory.mktemp("datapath")
    run("make", "-s", "-C", str(PROGRAMS), f"OUT={folder}")
    return folder / "datapath.o"


@pytest.fixture(scope="session")
def results(node: LabNode, module: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """Run all checks of the driver in one process on the node; return their outcomes."""
    folder = tmp_path_factory.mktemp("programs")
    compile_driver_programs(folder)
    files = (module, module.with_name("inject.ko"), folder / "driver.bpf.o")
    return node.run_checks("tests.driver.driver_checks", "meta.ko", "driver.bpf.o", files=files)
