# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Debian root of the cluster's machines.

Kubernetes 1.36 requires containerd 2, which only Debian's newest suite has.
"""

from __future__ import annotations

from pathlib import Path

from lablib import common, debian

from tests.kubernetes.cluster import cache

SUITE = "sid"
PACKAGES = (
    *("busybox-static", "containerd", "containernetworking-plugins", "crun", "etcd-server", "tini"),
    # kubelet, kube-proxy and portmap
    *("conntrack", "ethtool", "iproute2", "iptables", "kmod", "mount", "nftables", "procps", "util-linux"),
    # the agent and its programs
    *("bpftool", "libbpf1", "python3", "python3-pyroute2"),
    # tests
    *("curl", "iputils-ping", "netcat-openbsd", "netperf", "tcpdump"),
)


def layer() -> Path:
    """Return the layer with the root."""
    return cache.layer("root", Path(__file__).read_text(), _build)


def _build(target: Path) -> None:
    with common.step("Debian root with containerd", 30):
        debian.make_root(target, SUITE, PACKAGES, variant="minbase")
