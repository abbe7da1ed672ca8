# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of the tests on a Kubernetes: PODNET_KUBERNETES selects its release, PODNET_CNI the CNI.

PODNET_PROXY is the mode of kube-proxy.

PODNET_NODES selects the kernel of nodes in guests, and PODNET_DRIVER the driver of their Pods; without it,
the nodes are machines on the running kernel.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.kubernetes.cluster.cilium_lab import CiliumLabCluster
from tests.kubernetes.cluster.cluster import PROXY_MODES, AnyCluster, Cluster, checkout_name
from tests.kubernetes.cluster.lab_cluster import LabCluster

if os.environ.get("PODNET_CNI") != "cilium":
    # `make test-cilium` runs them on a real Cilium.
    collect_ignore = ["test_cilium.py", "test_cilium_finish.py", "test_cilium_values.py"]


@pytest.fixture(scope="session")
def kubernetes() -> Iterator[AnyCluster]:
    """Yield a cluster of two nodes."""
    kernel = os.environ.get("PODNET_NODES")
    network = os.environ.get("PODNET_CNI", "podnet")
    if kernel:
        driver = os.environ.get("PODNET_DRIVER", "meta")
        guests = CiliumLabCluster(kernel) if network == "cilium" else LabCluster(kernel, driver)
        try:
            guests.up()
            yield guests
        finally:
            guests.down()
        return
    cluster = Cluster(checkout_name("test"))
    try:
        cluster.up(network, proxy=os.environ.get("PODNET_PROXY", PROXY_MODES[0]))
        yield cluster
    finally:
        cluster.down()
