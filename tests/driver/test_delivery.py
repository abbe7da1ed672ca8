# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Drivers delivered to a node that has an older one loaded, or that enforces module signatures."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._kernel import signing
from tests.driver.delivery_checks import CHECKS
from tests.support.checkout import DRIVER
from tests.support.lab_node import LabNode, assert_passed
from tests.support.module_build import copy_source, make_signing_key
from tests.support.node_checks import Outcome


@pytest.fixture(scope="module")
def outcomes(
    node: LabNode, module: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Outcome]]:
    """Run all checks in one process on the node; yield their outcomes."""
    folder = tmp_path_factory.mktemp("delivery")
    shutil.copy(module, folder / "old.ko")
    newer = copy_source(node, DRIVER, "newer")
    header = newer.path / "meta.h"
    header.write_text(re.sub(r'(META_VERSION\s+)".+"', r'\1"0.1.1"', header.read_text()))
    done = newer.make()
    assert done.returncode == 0, done.stdout + done.stderr
    shutil.copy(newer.path / "meta.ko", folder / "new.ko")
    shutil.rmtree(newer.path)
    key, certificate = str(folder / "key"), str(folder / "certificate")
    make_signing_key(key, certificate, "signed", serial=0x4CFE)
    (folder / "signed.ko").write_bytes(signing.sign(module.read_bytes(), key, certificate))

    files = [folder / name for name in ("old.ko", "new.ko", "signed.ko")]
    try:
        yield node.run_checks("tests.driver.delivery_checks", files=files, timeout=1800)
    finally:
        # Other tests share the node, and signatures stay enforced until it reboots.
        node.restore()


@pytest.mark.parametrize("check", CHECKS)
def test_on_node(outcomes: dict[str, Outcome], check: str) -> None:
    """Pass a check of delivery_checks.py."""
    assert_passed(outcomes[check])
