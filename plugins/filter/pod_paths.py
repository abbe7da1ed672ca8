# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: pod_paths
short_description: Select paths between Pods for a connectivity check
version_added: 0.1.0
author: podnet.datapath contributors (@podnet)
description:
  - Returns the paths from the first Pod of a node to its second Pod, and to the first Pod of the next node
    that has Pods.
  - So the cost per node does not depend on the number of nodes, and each node is both source and target.
positional: hostvars, node
options:
  _input:
    description: The nodes to check, in the same order on each node.
    type: list
    elements: str
    required: true
  hostvars:
    description:
      - The variables of all hosts. The filter reads C(pods_endpoints) and C(preflight_node); a node whose
        driver is V(none) has no managed Pods.
    type: dict
    required: true
  node:
    description: The node that is the source.
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
  description: The paths, each with C(netns) and C(to). Empty if the node has no managed Pods.
  type: list
  elements: dict
  sample: [{netns: pod1, to: 10.31.1.12}, {netns: pod1, to: 10.31.2.11}]
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.podnet.datapath.plugins.filter.option import option


def _addresses(pods: Sequence[Mapping[str, Any]]) -> list[str]:
    return [str(address).partition("/")[0] for pod in pods for address in pod.get("addresses") or []]


def _pods(host: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    pods: Sequence[Mapping[str, Any]] = option(host.get("pods_endpoints", []), "pods_endpoints")
    return pods


def _has_managed_pods(host: Mapping[str, Any]) -> bool:
    """Return whether a host has Pods that this collection manages."""
    return bool(_pods(host)) and (host.get("preflight_node") or {}).get("driver") != "none"


def pod_paths(hosts: Sequence[str], hostvars: Mapping[str, Any], node: str) -> list[dict[str, str]]:
    """Return the paths. Read only the variables of hosts up to the next one with Pods: each read is slow."""
    if not _has_managed_pods(hostvars[node]):
        return []
    pods = _pods(hostvars[node])
    names = list(hosts)
    start = names.index(node) + 1 if node in names else 0
    following = (hostvars[name] for name in names[start:] + names[: max(start - 1, 0)])
    next_pods: Sequence[Any] = next((_pods(other) for other in following if _has_managed_pods(other)), [])
    source = pods[0].get("netns") or pods[0]["name"]
    return [{"netns": source, "to": to} for to in _addresses([*pods[1:2], *next_pods[:1]])]


class FilterModule:
    """Ansible filter plugin."""

    def filters(self) -> dict[str, Any]:
        """Return the filter by its name."""
        return {"pod_paths": pod_paths}
