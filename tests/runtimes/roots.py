# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Debian roots with the container runtimes of their suites."""

from __future__ import annotations

import inspect
from pathlib import Path

from lablib import common, debian

from tests.kubernetes.cluster import cache, root

# The release of containerd or podman by Debian's suite
PACKAGES = {
    "sid": root.PACKAGES,  # containerd 2
    "trixie": root.PACKAGES,  # containerd 1.7
    "bookworm": (  # podman 4
        *("bpftool", "busybox-static", "containernetworking-plugins", "curl", "iproute2", "iptables"),
        *("iputils-ping", "libbpf1", "podman", "procps", "python3", "python3-pyroute2", "runc", "tini"),
    ),
}


def layer(suite: str) -> Path:
    """Return the layer with the root of a suite."""
    if suite == root.SUITE:
        return root.layer()
    recipe = f"{PACKAGES[suite]} {inspect.getsource(_build)}"
    return cache.layer(f"root-{suite}", recipe, lambda work: _build(suite, work))


def _build(suite: str, target: Path) -> None:
    with common.step(f"Debian root of {suite}", 80):
        debian.make_root(target, suite, PACKAGES[suite], variant="minbase")
