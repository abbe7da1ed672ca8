# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A node with a container runtime and this collection's CNI plugin, without Kubernetes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from lablib import common

from tests.kubernetes.cluster import cache, cgroups, podnet
from tests.kubernetes.cluster.cluster import add_addresses, checkout_name
from tests.kubernetes.cluster.node import Node

# Where Debian's packages install and configure CNI plugins
BIN_DIR = "/usr/lib/cni"


@contextlib.contextmanager
def booted(name: str, layers: Sequence[Path]) -> Iterator[Node]:
    """Yield a node with an uplink; remove it afterwards."""
    name = checkout_name(name)
    group, folder = f"podnet-kube-{name}", cache.folder() / "clusters" / name
    node = Node(1, folder, f"podnet-{name}", group)
    try:
        _remove(node, folder, group)
        folder.mkdir(parents=True)
        cgroups.create(node.group)
        common.run(["ip", "netns", "add", node.netns])
        lines = [
            "link set lo up",
            "link add eth0 type veth peer name wire",
            *add_addresses("eth0", node.addresses),
        ]
        common.run(
            ["ip", "-n", node.netns, "-batch", "-"],
            given="\n".join([*lines, "link set eth0 up", "link set wire up"]),
        )
        forwarding = ("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        common.run(["nsenter", f"--net=/run/netns/{node.netns}", "sysctl", "-qw", *forwarding])
        node.boot(layers)
        yield node
    finally:
        _remove(node, folder, group)


def install(node: Node) -> None:
    """Install the agent and the network configuration."""
    podnet.copy_parts([node], BIN_DIR)
    podnet.present(node, bin_dir=BIN_DIR, pod_cidrs=node.pod_cidrs)


def fetch(node: Node, address: str, port: int, path: str) -> str:
    """Return the response of a web server that may not have started yet."""
    host = f"[{address}]" if ":" in address else address
    retry = ("--retry", "10", "--retry-connrefused", "--retry-delay", "1")
    return node.run("curl", "-sSm5", *retry, f"http://{host}:{port}/{path}")


def leftovers(node: Node) -> list[str]:
    """Return the devices, records and addresses of containers."""
    script = r"""
        ip -o link show | sed -n 's/^[0-9]*: \(pn[^@:]*\).*/device \1/p'
        ls /var/lib/podnet-datapath/agent/attachments | sed 's/^/record /'
        ls /var/lib/cni/networks/podnet | sed -n 's/^[0-9a-f]*[.:_].*/address &/p'
    """
    return node.run("sh", "-c", script).splitlines()


def _remove(node: Node, folder: Path, group: str) -> None:
    cgroups.remove(group)
    if Path("/run/netns", node.netns).exists():
        common.run(["ip", "netns", "delete", node.netns])
    if folder.exists():
        common.remove_tree(folder)
