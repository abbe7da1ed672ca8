# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Drivers that were built elsewhere: where an older one is loaded, and where only signed ones may be."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from driver_lab import DRIVER, HERE, Node, copied, lab, run

from ansible_collections.podnet.datapath.plugins.module_utils._kernel import signing

CHECKS = re.findall(r"^@check\ndef (\w+)", (HERE / "delivery_checks.py").read_text(), re.MULTILINE)
UTILS = "plugins/module_utils"


@pytest.fixture(scope="module")
def outcomes(node: Node, module: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What went wrong on the node by check, "" where nothing did; all checks are one process there."""
    folder = tmp_path_factory.mktemp("delivery")
    shutil.copy(module, folder / "old.ko")
    newer = copied(node, DRIVER, "newer")
    header = newer.path / "meta.h"
    header.write_text(re.sub(r'(META_VERSION\s+)".+"', r'\1"0.1.1"', header.read_text()))
    done = newer.make()
    assert done.returncode == 0, done.stdout + done.stderr
    shutil.copy(newer.path / "meta.ko", folder / "new.ko")
    shutil.rmtree(newer.path)
    key, certificate = str(folder / "key"), str(folder / "certificate")
    new = (
        "openssl",
        "req",
        "-new",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=signed",
    )
    run(*new, "-set_serial", "0x4cfe", "-keyout", key, "-out", certificate)
    (folder / "signed.ko").write_bytes(signing.sign(module.read_bytes(), key, certificate))

    archive = folder / "checks.tar"
    place = "ansible_collections/podnet/datapath"
    run(
        *("tar", "-cf", str(archive), "--exclude=__pycache__"),
        *(f"--transform=s,^{UTILS},{place}/{UTILS},", "-C", str(HERE.parents[1]), UTILS),
        *("-C", str(HERE), "delivery_checks.py", "-C", str(folder), "old.ko", "new.ko", "signed.ko"),
    )
    command = "mkdir -p delivery && cd delivery && tar -x && exec python3 delivery_checks.py"
    try:
        with archive.open("rb") as data:
            output = node.ssh(command, stdin=data, timeout=1800)
        yield {one["check"]: one["failure"] for one in map(json.loads, output.splitlines())}
    finally:
        # The node is others' too, and signatures stay enforced until it boots.
        lab("restore", "--name", node.lab, "booted")


@pytest.mark.parametrize("check", CHECKS)
def test_on_node(outcomes: dict[str, str], check: str) -> None:
    """One of delivery_checks.py, which says what it is about."""
    assert not outcomes[check], f"\n{outcomes[check]}"
