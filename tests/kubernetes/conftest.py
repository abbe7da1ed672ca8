# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of the tests on a Kubernetes: PODNET_KUBERNETES selects its release, PODNET_CNI the CNI."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.kubernetes.cluster.cluster import Cluster, checkout_name


@pytest.fixture(scope="session")
def kubernetes() -> Iterator[Cluster]:
    """Yield a cluster of two nodes."""
    cluster = Cluster(checkout_name("test"))
    try:
        cluster.up(os.environ.get("PODNET_CNI", "podnet"))
        yield cluster
    finally:
        cluster.down()
