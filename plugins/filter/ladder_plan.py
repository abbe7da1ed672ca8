# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: ladder_plan
short_description: Plan the objects and runs of a benchmark
version_added: 0.1.0
author: podnet.datapath contributors (@podnet)
description:
  - For the client and the server of a benchmark, returns the Pods, routes, program attachments, endpoints
    and netservers that the rungs require, and the rungs for M(podnet.datapath.netperf_ladder).
  - The rungs C(host) and C(pods) use existing objects, the addresses of the uplinks and the first declared
    Pods of the nodes. For C(veth_stack) and C(veth_bpf), additional Pods are created.
positional: rungs
options:
  _input:
    description:
      - The client, then the server. Each has C(name), C(uplink), C(addresses) (the global addresses of the
        uplink with prefix length), and C(pods) as for M(podnet.datapath.meta_device).
    type: list
    elements: dict
    required: true
  rungs:
    description: The rungs in the order of the ladder, out of C(host), C(veth_stack), C(veth_bpf) and C(pods).
    type: list
    elements: str
    required: true
  families:
    description: C(ipv4), C(ipv6), or both.
    type: list
    elements: str
    default: [ipv4]
  local:
    description: Also measure between two Pods on the client.
    type: bool
    default: true
  net4:
    description: First two octets of the IPv4 addresses of the additional Pods.
    type: str
    default: "198.18"
  net6:
    description: First three groups of the IPv6 addresses of the additional Pods.
    type: str
    default: "2001:2:0"
"""

EXAMPLES = r"""
- name: Show the Pods that the benchmark creates on the server
  ansible.builtin.debug:
    msg: "{{ ([client, server] | podnet.datapath.ladder_plan(['host', 'veth_stack'])).nodes.node2.pods }}"
  vars:
    client: {name: node1, uplink: wire0, addresses: [172.31.0.1/30], pods: []}
    server: {name: node2, uplink: wire0, addresses: [172.31.0.2/30], pods: []}
"""

RETURN = r"""
_value:
  description:
    - C(rungs) to measure on the client, and C(nodes), which maps each node's name to C(pods), C(host_routes),
      C(attachments), C(endpoints) and C(servers).
  type: dict
"""

from dataclasses import dataclass, field
from ipaddress import ip_interface
from typing import Any

from ansible.errors import AnsibleFilterError

VERSIONS = {"ipv4": 4, "ipv6": 6}
RUNGS = ("host", "veth_stack", "veth_bpf", "pods")
# Host part of the address of a rung's first Pod on each node; a second Pod has the next number.
FIRST_POD = {"veth_stack": 11, "veth_bpf": 21}


@dataclass
class Node:
    """A node and the objects that the benchmark creates on it."""

    name: str
    index: int
    uplink: str
    addresses: list[str]
    declared_pods: list[dict[str, Any]]
    pods: list[dict[str, Any]] = field(default_factory=list)
    host_routes: list[dict[str, Any]] = field(default_factory=list)
    attachments: list[dict[str, Any]] = field(default_factory=list)
    endpoints: list[dict[str, Any]] = field(default_factory=list)
    servers: list[dict[str, Any]] = field(default_factory=list)

    def wire_address(self, family: str) -> str:
        """Return the first address of a family on the uplink."""
        found = _address(self.addresses, family)
        if not found:
            raise AnsibleFilterError(
                f"ladder_plan: {self.name} has no global {family} address on its uplink '{self.uplink}';"
                " set benchmark_uplink to the NIC that connects the nodes"
            )
        return found

    def to_create(self) -> dict[str, Any]:
        """Return the objects to create on this node."""
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


def _add_pod(node: Node, rung: str, position: int, net4: str, net6: str) -> None:
    """Add a Pod of a rung to the objects that the benchmark creates on a node."""
    number = FIRST_POD[rung] + position
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


def _endpoint(node: Node, rung: str, position: int, family: str) -> tuple[str | None, str] | None:
    """Return network namespace and address of one end of a rung, or None if the node lacks such a Pod."""
    if rung == "host":
        return None, node.wire_address(family)
    pods = node.declared_pods if rung == "pods" else [pod for pod in node.pods if pod["rung"] == rung]
    if position >= len(pods):
        return None
    pod = pods[position]
    address = _address(pod.get("addresses") or [], family)
    return (pod.get("netns") or pod["name"], address) if address else None


def _check(nodes: list[dict[str, Any]], rungs: list[str], families: list[str]) -> None:
    """Raise AnsibleFilterError unless there are two nodes and only known rungs and families."""
    if len(nodes) != 2 or nodes[0]["name"] == nodes[1]["name"]:
        raise AnsibleFilterError(
            "ladder_plan: pass two different nodes, a client and a server, instead of"
            f" '{', '.join(node['name'] for node in nodes)}'"
        )
    for kind, given, known in (("rung", rungs, RUNGS), ("family", families, tuple(VERSIONS))):
        unknown = [name for name in given if name not in known]
        if unknown or not given:
            raise AnsibleFilterError(
                f"ladder_plan: {kind} '{unknown[0] if unknown else ''}' must be one of {', '.join(known)}"
            )


def ladder_plan(
    nodes: list[dict[str, Any]],
    rungs: list[str],
    families: list[str] | None = None,
    local: bool = True,
    net4: str = "198.18",
    net6: str = "2001:2:0",
) -> dict[str, Any]:
    """Return the objects to create on the client and the server, and the rungs to measure.

    Raises AnsibleFilterError that names the node and the missing address or Pod.
    """
    families = families or ["ipv4"]
    _check(nodes, rungs, families)
    client, server = (
        Node(node["name"], index, node["uplink"], list(node["addresses"]), list(node["pods"]))
        for index, node in enumerate(nodes)
    )
    for rung in (rung for rung in rungs if rung in FIRST_POD):
        _add_pod(client, rung, 0, net4, net6)
        _add_pod(server, rung, 0, net4, net6)
        if local:
            _add_pod(client, rung, 1, net4, net6)
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
    return {"rungs": plan, "nodes": {node.name: node.to_create() for node in (client, server)}}


def _group(group: str, client: Node, server: Node, rungs: list[str], family: str) -> list[dict[str, Any]]:
    """Return the rungs between two nodes, or within one, and add their netservers to ``server``."""
    local = client is server
    plan = []
    for rung in rungs:
        start = _endpoint(client, rung, 0, family)
        end = _endpoint(server, rung, int(local), family)
        if local and (rung == "host" or not start or not end):
            continue
        if not start or not end:
            raise AnsibleFilterError(
                f"ladder_plan: rung '{rung}' needs a Pod with an {family} address on"
                f" {server.name if start else client.name};"
                " declare one in pods_endpoints, or remove the rung from benchmark_rungs"
            )
        (from_netns, _source), (to_netns, target) = start, end
        server.servers.append({"netns": to_netns, "address": target})
        # netperf_ladder names a rung without a name after the driver of its device.
        name = None if rung == "pods" else rung
        plan.append({"group": f"{group}-{family}", "name": name, "netns": from_netns, "target": target})
    return plan


class FilterModule:
    """Ansible filter plugin."""

    def filters(self) -> dict[str, Any]:
        """Return the filter by its name."""
        return {"ladder_plan": ladder_plan}
