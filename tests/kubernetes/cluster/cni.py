# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What all CNIs of a cluster share, and the one of the reference plugins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.kubernetes.cluster.node import Node

if TYPE_CHECKING:
    from tests.kubernetes.cluster.cluster import Cluster

Json = dict[str, Any]


@dataclass(frozen=True)
class Cni:
    """A CNI: a function that installs it on all nodes before kubelet starts.

    ``layers`` returns layers for the machines' roots that only this CNI needs, and ``proxy`` is whether the
    nodes run kube-proxy.
    """

    install: Callable[[Cluster], None]
    layers: Callable[[], list[Path]] = list
    proxy: bool = True


def host_local(node: Node) -> Json:
    """Return the IPAM of a plugin for the node's ranges."""
    return {
        "type": "host-local",
        "ranges": [[{"subnet": cidr}] for cidr in node.pod_cidrs],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
    }


def conflist(name: str, *plugins: Json) -> Json:
    """Return a configuration of the versions 1.0.0 and 1.1.0."""
    return {"cniVersion": "1.0.0", "cniVersions": ["1.0.0", "1.1.0"], "name": name, "plugins": plugins}


def add_routes(nodes: Sequence[Node]) -> None:
    """Add the routes to the Pods of all other nodes."""
    for node in nodes:
        for other in nodes:
            for cidr, address in other.routes() if other is not node else ():
                node.run("ip", "route", "replace", cidr, "via", address)


def install_ptp(cluster: Cluster) -> None:
    """Install the reference plugins ptp, portmap and bandwidth, which Debian packages."""
    add_routes(cluster.nodes)
    for node in cluster.nodes:
        plugins = [
            {"type": "ptp", "ipMasq": False, "ipam": host_local(node)},
            {"type": "portmap", "capabilities": {"portMappings": True}},
            {"type": "bandwidth", "capabilities": {"bandwidth": True}},
        ]
        node.set_conflist("10-ptp.conflist", conflist("ptp", *plugins))
