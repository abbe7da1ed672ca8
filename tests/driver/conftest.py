# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The driver in a node of the lab. PODNET_KERNEL (6.1, 6.12 or 7.3) chooses the kernel.

The module is built in the node's image on this machine, which takes seconds; in the emulated node it would
be a minute. A missing prerequisite is an error, never a skip.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from driver_lab import DRIVER, HERE, Build, Node, build_modules, compile_programs, copied, find_node, run

PROGRAMS = HERE.parents[1] / "roles/bpf_datapath/files"


@pytest.fixture(scope="session")
def node() -> Node:
    return find_node(os.environ.get("PODNET_KERNEL", "6.1"))


@pytest.fixture
def build(node: Node) -> Iterator[Build]:
    """A fresh copy of the driver's source."""
    made = copied(node, DRIVER, "driver-test")
    yield made
    shutil.rmtree(made.path)


@pytest.fixture(scope="session")
def module(node: Node, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """meta.ko for the node, built without a warning; inject.ko, for checks, lies beside it."""
    folder = tmp_path_factory.mktemp("module")
    build_modules(node, folder, {"meta": DRIVER, "inject": HERE / "inject"})
    return folder / "meta.ko"


@pytest.fixture(scope="session")
def datapath_object(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The collection's own programs."""
    folder = tmp_path_factory.mktemp("datapath")
    run("make", "-s", "-C", str(PROGRAMS), f"OUT={folder}")
    return folder / "datapath.o"


@pytest.fixture(scope="session")
def results(node: Node, module: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What went wrong on the node by check, "" where nothing did; all checks are one process there."""
    folder = tmp_path_factory.mktemp("checks")
    inject = module.with_name("inject.ko")
    for file in (module, inject, *HERE.glob("driver_*.py")):
        shutil.copy(file, folder)
    compile_programs(folder)
    archive = tmp_path_factory.mktemp("archive") / "checks.tar"
    run("tar", "-C", str(folder), "-cf", str(archive), ".")
    command = "mkdir -p checks && cd checks && tar -x && exec python3 driver_checks.py meta.ko driver.bpf.o"
    with archive.open("rb") as data:
        output = node.ssh(command, stdin=data, timeout=1200)
    found = [json.loads(line) for line in output.splitlines()]
    return {result["check"]: result["failure"] for result in found}
