# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two nodes as network namespaces, a veth between them, and Pods with devices of any driver.

::

    node1: Pods -- wire0 ======== wire0 -- Pods :node2
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.podnet.datapath.plugins.module_utils._pods import apply, model

NODES = {"node1": ("172.31.0.1", "fd31::1"), "node2": ("172.31.0.2", "fd31::2")}
PROGRAMS = {"from_pod": "pod_egress", "to_pod": "pod_ingress"}  # by hook


@dataclass(frozen=True)
class Pod:
    """A Pod of a node, or with ``programs`` False a host outside of the cluster."""

    node: str
    v4: str
    v6: str
    labels: Mapping[str, str] = field(default_factory=dict)
    programs: bool = True


@dataclass(frozen=True)
class Devices:
    """Driver, mode and sizes (gso_max_size, ...) of the Pods' devices."""

    driver: str = "veth"
    mode: str = "l3"
    sizes: Mapping[str, int] = field(default_factory=dict)


class Nodes:
    """Devices, addresses and routes of the nodes; a test loads and attaches the programs."""

    def __init__(self, namespaces: Any, pods: Mapping[str, Pod], devices: Devices | None = None) -> None:
        self.ns, self.pods, self.devices = namespaces, pods, devices or Devices()
        self.names = {name: namespaces(name) for name in (*NODES, *pods)}
        for name in self.names.values():
            # no DAD: neighbour discovery needs a link-local address that is not tentative
            namespaces.sysctl(name, ipv6__conf__all__accept_dad=0, ipv6__conf__default__accept_dad=0)
        self._connect()
        for node in NODES:
            self._make_pods(node)

    def _connect(self) -> None:
        one, two = (self.names[node] for node in NODES)
        self.ns.ip(one, f"link add wire0 type veth peer name wire0 netns {two}")
        for node, (v4, v6) in NODES.items():
            self.ns.ip(
                self.names[node],
                f"addr add {v4}/30 dev wire0",
                f"addr add {v6}/64 dev wire0 nodad",
                "link set wire0 up",
            )
            self.ns.sysctl(self.names[node], ipv4__ip_forward=1, ipv6__conf__all__forwarding=1)
        for node, other in (tuple(NODES), tuple(reversed(NODES))):
            v4, v6 = NODES[other]
            networks = {
                (f"{pod.v4.rpartition('.')[0]}.0/24", f"{pod.v6.rpartition('::')[0]}::/64")
                for pod in self.pods.values()
                if pod.node == other
            }
            for net4, net6 in networks:
                self.ns.ip(self.names[node], f"route add {net4} via {v4}", f"route add {net6} via {v6}")

    def _make_pods(self, node: str) -> None:
        """Create a node's Pods as the module meta_device does."""
        pods = [
            {
                "name": name,
                "netns": f"/run/netns/{self.names[name]}",
                "interface": "eth0",
                "host_interface": name,
                "addresses": [f"{pod.v4}/32", f"{pod.v6}/128"],
                "driver": self.devices.driver if pod.programs else "veth",
                "mtu": None,
            }
            for name, pod in self.pods.items()
            if pod.node == node
        ]
        options: dict[str, Any] = {
            "pods": pods,
            "driver": self.devices.driver,
            "owner": self.names[node],
            "mtu": None,
            "mode": self.devices.mode,
            "policy": "drop",
            "programs": {},
            "host_routes": [],
            **dict.fromkeys(model.SIZES),
            **self.devices.sizes,
        }
        with self.ns.inside(self.names[node]):
            apply.run(options, False, lambda: "it is not loaded")

    def pods_of(self, node: str) -> list[str]:
        return [name for name, pod in self.pods.items() if pod.node == node and pod.programs]

    def attachments(self, node: str) -> Iterator[Sequence[str]]:
        """Yield program, device and hook of a node's attachments."""
        yield "host_ingress", "wire0", "ingress"
        yield "host_egress", "wire0", "egress"
        for pod in self.pods_of(node):
            for hook, program in PROGRAMS.items():
                yield program, pod, hook
