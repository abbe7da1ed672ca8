# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The node of these tests. It stays for the next run; `lab.py down --name faults` removes it."""

from __future__ import annotations

import os
import random
import time
from typing import Any

import pytest

from tests.support.faulty_node import FaultyNode


@pytest.fixture(scope="session")
def node() -> FaultyNode:
    name = os.environ.get("PODNET_LAB", "faults")
    return FaultyNode(name, "--nodes", "1", "--kernel", os.environ.get("PODNET_KERNEL", "6.1"), "--durable")


@pytest.fixture
def former(node: FaultyNode) -> dict[str, Any]:
    """Return the node's state before the test."""
    return node.state()


@pytest.fixture(scope="session")
def numbers() -> random.Random:
    seed = int(os.environ.get("PODNET_SEED") or time.time())
    print(f"PODNET_SEED={seed}")
    return random.Random(seed)
