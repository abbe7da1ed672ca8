# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""cyclonus, which probes the connections of all Pods under generated NetworkPolicies."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path

from lablib import common

from tests.kubernetes.cluster import build, cache, e2e
from tests.kubernetes.cluster.node import AnyNode

PROGRAM = "cyclonus"
PACKAGE, VERSION = "github.com/mattfenwick/cyclonus/cmd/cyclonus", "0.5.6"
# The image of its Pods: agnhostImage in pkg/connectivity/probe/pod.go
IMAGE = "registry.k8s.io/e2e-test-images/agnhost:2.43"


def layer() -> Path:
    """Return the layer with the program."""
    recipe = f"{VERSION} {inspect.getsource(_build)}"
    return cache.layer(f"cyclonus-{VERSION}", recipe, _build)


def _build(target: Path) -> None:
    (target / build.BIN).mkdir(parents=True)
    with build.toolchain() as go, common.step(f"cyclonus {VERSION}", 180):
        go.install(f"{PACKAGE}@v{VERSION}", target / build.BIN)


def tag_image(nodes: Sequence[AnyNode]) -> None:
    """Give the image of the end-to-end suite the name that cyclonus uses."""
    for node in nodes:
        node.run("ctr", "-n", "k8s.io", "images", "tag", "--force", e2e.IMAGE, IMAGE)
