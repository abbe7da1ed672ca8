# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: ladder_plan
short_description: Plan what a benchmark needs on its two nodes
version_added: 0.1.0
author: podnet.datapath contributors (@podnet)
description:
  - Takes the client and the server of a benchmark and gives, for each, the Pods, routes, attachments,
    endpoint entries and netservers that the rungs need, and the rungs for M(podnet.datapath.netperf_ladder).
  - The rungs C(host) and C(pods) use what is there already, the uplinks' own addresses and the first Pods
    that are declared for the nodes. C(veth_stack) and C(veth_bpf) get Pods of their own.
positional: rungs
options:
  _input:
    description:
      - The client, then the server. Each has a C(name), its C(uplink), the global C(addresses) of the uplink
        with prefix length, and its C(pods) as M(podnet.datapath.meta_device) takes them.
    type: list
    elements: dict
    required: true
  rungs:
    description: The rungs in the order of the ladder, of C(host), C(veth_stack), C(veth_bpf) and C(pods).
    type: list
    elements: str
    required: true
  families:
    description: C(ipv4), C(ipv6), or both.
    type: list
    elements: str
    default: [ipv4]
  local:
    description: Measure within the client's node as well.
    type: bool
    default: true
  net4:
    description: First two numbers of the IPv4 addresses of the benchmark's own Pods.
    type: str
    default: "198.18"
  net6:
    description: First three groups of the IPv6 addresses of the benchmark's own Pods.
    type: str
    default: "2001:2:0"
"""

EXAMPLES = r"""
- name: What the benchmark makes on the server
  ansible.builtin.debug:
    msg: "{{ ([client, server] | podnet.datapath.ladder_plan(['host', 'veth_stack'])).nodes.node2.pods }}"
  vars:
    client: {name: node1, uplink: wire0, addresses: [172.31.0.1/30], pods: []}
    server: {name: node2, uplink: wire0, addresses: [172.31.0.2/30], pods: []}
"""

RETURN = r"""
_value:
  description:
    - C(rungs) for the client, and C(nodes), which has C(pods), C(host_routes), C(attachments), C(endpoints)
      and C(servers) by the name of the node.
  type: dict
"""

from dataclasses import dataclass, field
from ipaddress import ip_interface
from typing import Any

from ansible.errors import AnsibleFilterError

VERSIONS = {"ipv4": 4, "ipv6": 6}
RUNGS = ("host", "veth_stack", "veth_bpf", "pods")
# The numbers of the first of the benchmark's own Pods of a rung; the second has the next one.
NUMBERS = {"veth_stack": 11, "veth_bpf": 21}


@dataclass
class Node:
    """A node and what the benchmark makes on it."""

    name: str
    index: int
    uplink: str
    addresses: list[str]
    own_pods: list[dict[str, Any]]
    pods: list[dict[str, Any]] = field(default_factory=list)
    host_routes: list[dict[str, Any]] = field(default_factory=list)
    attachments: list[dict[str, Any]] = field(default_factory=list)
    endpoints: list[dict[str, Any]] = field(default_factory=list)
    servers: list[dict[str, Any]] = field(default_factory=list)

    def wire_address(self, family: str) -> str:
        """Return the uplink's first address of a family."""
        found = _address(self.addresses, family)
        if not found:
            raise AnsibleFilterError(
                f"ladder_plan: {self.name} has no global {family} address on its uplink '{self.uplink}';"
                " set benchmark_uplink to the device that the other node is reached by"
            )
        return found

    def made(self) -> dict[str, Any]:
        """Return what is to be made on this node."""
        return {
            "pods": [{key: pod[key] for key in pod if key != "rung"} for pod in self.pods],
            "host_routes": self.host_routes if self.pods else [],
            "attachments": self.attachments,
            "endpoints": self.endpoints,
            "servers": self.servers,
        }


def _address(addresses: list[str], family: str) -> str | None:
    """Return the first address of a family, without its prefix length."""
    for text in addresses:
        address = ip_interface(text)
        if address.version == VERSIONS[family]:
            return str(address.ip)
    return None


def _make_pod(node: Node, rung: str, position: int, net4: str, net6: str) -> None:
    """Add one of the benchmark's own Pods to a node."""
    number = NUMBERS[rung] + position
    device = f"pnbench{number}"
    addresses = [f"{net4}.{node.index}.{number}", f"{net6}:{node.index}::{number}"]
    node.pods.append(
        {
            "name": f"benchmark-{rung.replace('_', '-')}-{position + 1}",
            "rung": rung,
            "driver": "veth",
            "host_interface": device,
            "addresses": [f"{addresses[0]}/32", f"{addresses[1]}/128"],
        }
    )
    if rung == "veth_bpf":
        node.attachments += [
            {"program": "pod_egress", "device": device, "hook": "from_pod"},
            {"program": "pod_ingress", "device": device, "hook": "to_pod"},
        ]
        node.endpoints.append({"addresses": addresses, "device": device})


def _end(node: Node, rung: str, position: int, family: str) -> tuple[str | None, str] | None:
    """Return namespace and address of one end of a rung, None where the node has no such Pod."""
    if rung == "host":
        return None, node.wire_address(family)
    pods = node.own_pods if rung == "pods" else [pod for pod in node.pods if pod["rung"] == rung]
    if position >= len(pods):
        return None
    pod = pods[position]
    address = _address(pod.get("addresses") or [], family)
    return (pod.get("netns") or pod["name"], address) if address else None


def _check(nodes: list[dict[str, Any]], rungs: list[str], families: list[str]) -> None:
    if len(nodes) != 2 or nodes[0]["name"] == nodes[1]["name"]:
        raise AnsibleFilterError(
            "ladder_plan: a benchmark takes two different nodes, a client and a server; these are"
            f" {', '.join(node['name'] for node in nodes) or 'none'}"
        )
    for what, given, known in (("rung", rungs, RUNGS), ("family", families, tuple(VERSIONS))):
        unknown = [name for name in given if name not in known]
        if unknown or not given:
            raise AnsibleFilterError(
                f"ladder_plan: {what} '{unknown[0] if unknown else ''}' is none of {', '.join(known)}"
            )


def ladder_plan(
    nodes: list[dict[str, Any]],
    rungs: list[str],
    families: list[str] | None = None,
    local: bool = True,
    net4: str = "198.18",
    net6: str = "2001:2:0",
) -> dict[str, Any]:
    """Return what to make on the client and the server, and the rungs to measure.

    Raises AnsibleFilterError naming what is missing on which node.
    """
    families = families or ["ipv4"]
    _check(nodes, rungs, families)
    client, server = (
        Node(node["name"], index, node["uplink"], list(node["addresses"]), list(node["pods"]))
        for index, node in enumerate(nodes)
    )
    for rung in (rung for rung in rungs if rung in NUMBERS):
        _make_pod(client, rung, 0, net4, net6)
        _make_pod(server, rung, 0, net4, net6)
        if local:
            _make_pod(client, rung, 1, net4, net6)
    plan = []
    for family in families:
        pool = f"{net4}.%d.0/24" if family == "ipv4" else f"{net6}:%d::/64"
        for node, other in ((client, server), (server, client)):
            node.host_routes.append(
                {"to": pool % other.index, "via": other.wire_address(family), "dev": node.uplink}
            )
        plan += _group("wire", client, server, rungs, family)
        if local:
            plan += _group("local", client, client, rungs, family)
    return {"rungs": plan, "nodes": {node.name: node.made() for node in (client, server)}}


def _group(group: str, client: Node, server: Node, rungs: list[str], family: str) -> list[dict[str, Any]]:
    """Return the rungs from one node to the other, or within one, and add their servers."""
    local = client is server
    plan = []
    for rung in rungs:
        start = _end(client, rung, 0, family)
        end = _end(server, rung, int(local), family)
        if local and (rung == "host" or not start or not end):
            continue
        if not start or not end:
            raise AnsibleFilterError(
                f"ladder_plan: the rung '{rung}' needs a Pod with an {family} address on"
                f" {server.name if start else client.name};"
                " declare one in 'pods_endpoints', or leave the rung out of benchmark_rungs"
            )
        (from_netns, _own), (to_netns, target) = start, end
        server.servers.append({"netns": to_netns, "address": target})
        # the rung of the site's Pods is called after the driver that they turn out to have
        name = None if rung == "pods" else rung
        plan.append({"group": f"{group}-{family}", "name": name, "netns": from_netns, "target": target})
    return plan


class FilterModule:
    """The filter for Ansible."""

    def filters(self) -> dict[str, Any]:
        """Return it by name."""
        return {"ladder_plan": ladder_plan}
