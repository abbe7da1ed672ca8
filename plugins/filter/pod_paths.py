# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: pod_paths
short_description: Say which paths of a node's Pods to try
version_added: 0.1.0
author: podnet.datapath contributors (@podnet)
description:
  - The first Pod of the node reaches its neighbour on it, and the first Pod of the next node that has Pods.
  - So the work of a node stays the same however many nodes there are, and every node sends and answers.
positional: hostvars, node
options:
  _input:
    description: The nodes in question, in an order that all of them share.
    type: list
    elements: str
    required: true
  hostvars:
    description:
      - The variables of all hosts. The filter reads C(pods_endpoints), and C(preflight_node), as a node whose
        driver is V(none) has no managed Pods.
    type: dict
    required: true
  node:
    description: The node that sends.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Send packets as large as the Pods' MTU
  podnet.datapath.path_probe:
    probes: "{{ groups['all'] | podnet.datapath.pod_paths(hostvars, inventory_hostname) }}"
"""

RETURN = r"""
_value:
  description: The paths, each with C(netns) and C(to); none where the node has no Pods on a datapath of ours.
  type: list
  elements: dict
  sample: [{netns: pod1, to: 10.31.1.12}, {netns: pod1, to: 10.31.2.11}]
"""

from collections.abc import Mapping, Sequence
from typing import Any


def _addresses(pods: Sequence[Mapping[str, Any]]) -> list[str]:
    return [str(address).partition("/")[0] for pod in pods for address in pod.get("addresses") or []]


def _reachable(host: Mapping[str, Any]) -> bool:
    """Tell whether a host has Pods on a datapath of ours."""
    return bool(host.get("pods_endpoints")) and (host.get("preflight_node") or {}).get("driver") != "none"


def pod_paths(hosts: Sequence[str], hostvars: Mapping[str, Any], node: str) -> list[dict[str, str]]:
    """Return the paths; reads the variables of as few hosts as it takes to find the next one with Pods."""
    if not _reachable(hostvars[node]):
        return []
    pods = hostvars[node]["pods_endpoints"]
    names = list(hosts)
    start = names.index(node) + 1 if node in names else 0
    following = (hostvars[name] for name in names[start:] + names[: max(start - 1, 0)])
    elsewhere: Sequence[Any] = next((other["pods_endpoints"] for other in following if _reachable(other)), [])
    sender = pods[0].get("netns") or pods[0]["name"]
    return [{"netns": sender, "to": to} for to in _addresses([*pods[1:2], *elsewhere[:1]])]


class FilterModule:
    """The filter for Ansible."""

    def filters(self) -> dict[str, Any]:
        """Return it by name."""
        return {"pod_paths": pod_paths}
