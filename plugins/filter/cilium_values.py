# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: cilium_values
short_description: Return Helm values for Cilium that all nodes support
version_added: 0.1.0
author: podnet.datapath contributors (@podnet)
description:
  - Accepts the return values of M(podnet.datapath.node_info) for each node of a cluster.
  - Cilium uses one set of values for all nodes, so a feature is enabled only if every node supports it.
  - The names of the values are those of Cilium 1.16 and later.
options:
  _input:
    description: The nodes' facts.
    type: list
    elements: dict
    required: true
"""

EXAMPLES = r"""
- name: Show the values
  ansible.builtin.debug:
    msg: "{{ [preflight_node] | podnet.datapath.cilium_values | to_nice_yaml }}"
"""

RETURN = r"""
_value:
  description: The values, for C(helm upgrade --values).
  type: dict
  sample:
    routingMode: native
    kubeProxyReplacement: true
    bpf: {masquerade: true, hostLegacyRouting: false, datapathMode: netkit}
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError

BIG_TCP = 65536  # bytes; GSO packets above this size are BIG TCP


def _version(node: Mapping[str, Any]) -> tuple[int, int]:
    """Return major and minor version of the node's kernel; (0, 0) if the release cannot be parsed."""
    match = re.match(r"(\d+)\.(\d+)", node["kernel"]["release"])
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _max_gso_size(node: Mapping[str, Any]) -> int:
    """Return the smallest gso_max_size of the NICs with a default route, else of all hardware NICs."""
    nics = [nic for nic in node["nics"] if nic["default_route"]] or [
        nic for nic in node["nics"] if nic["driver"]
    ]
    return min((int(nic.get("gso_max_size", 0)) for nic in nics), default=0)


def _values(nodes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the values that all nodes support."""
    oldest = min(_version(node) for node in nodes)
    big = all(_max_gso_size(node) > BIG_TCP for node in nodes)
    result: dict[str, Any] = {"routingMode": "native", "kubeProxyReplacement": True}
    missing = {name for node in nodes for name in node["kernel"]["bpf_helpers_missing"]}
    routing = {"bpf_redirect_neigh", "bpf_redirect_peer"}  # BPF host routing
    result["bpf"] = {"masquerade": True, "hostLegacyRouting": bool(missing & routing)}
    # Cilium checks the version, so a backport does not help.
    netkit = all(node["kernel"]["netkit"] for node in nodes) and oldest >= (6, 8)
    result["bpf"]["datapathMode"] = "netkit" if netkit else "veth"
    result["enableIPv6BIGTCP"] = big
    result["enableIPv4BIGTCP"] = big and all(
        all(nic.get("gso_ipv4") for nic in node["nics"]) for node in nodes
    )
    # EDT pacing needs Linux 5.1. BBR in Pods needs timestamps that are kept between network namespaces.
    result["bandwidthManager"] = {"enabled": oldest >= (5, 1), "bbr": "bpf_skb_set_tstamp" not in missing}
    return result


def cilium_values(nodes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the values; raise AnsibleFilterError for missing or invalid facts."""
    if not nodes:
        raise AnsibleFilterError("cilium_values: the list of nodes is empty")
    try:
        return _values(nodes)
    except (KeyError, TypeError) as error:
        raise AnsibleFilterError(
            f"cilium_values: the input does not consist of facts of node_info: {error!r}"
        ) from error


class FilterModule:
    """The filter for Ansible."""

    def filters(self) -> dict[str, Any]:
        """Return the filter by name."""
        return {"cilium_values": cilium_values}
