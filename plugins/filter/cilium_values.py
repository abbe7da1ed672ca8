# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: cilium_values
short_description: Give the Helm values of Cilium that fit what the nodes can do
version_added: 0.1.0
author: podnet.datapath contributors (@podnet)
description:
  - Takes what M(podnet.datapath.node_info) returned for each node of a cluster.
  - A value is given only if every node can have it, as Cilium has one set of values for all.
  - Their names are those of Cilium 1.16 and later.
options:
  _input:
    description: The facts of the nodes.
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
  description: The values, as C(helm upgrade --values) takes them.
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

BIG_TCP = 65536  # Larger packets than this are BIG TCP.


def _version(node: Mapping[str, Any]) -> tuple[int, int]:
    match = re.match(r"(\d+)\.(\d+)", node["kernel"]["release"])
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _largest(node: Mapping[str, Any]) -> int:
    """Return the largest packet that all NICs segment which carry a default route, or all with hardware."""
    nics = [nic for nic in node["nics"] if nic["default_route"]] or [
        nic for nic in node["nics"] if nic["driver"]
    ]
    return min((int(nic.get("gso_max_size", 0)) for nic in nics), default=0)


def values(nodes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the values that all nodes can have."""
    oldest = min(_version(node) for node in nodes)
    big = all(_largest(node) > BIG_TCP for node in nodes)
    found: dict[str, Any] = {"routingMode": "native", "kubeProxyReplacement": True}
    missing = {name for node in nodes for name in node["kernel"]["bpf_helpers_missing"]}
    routing = {"bpf_redirect_neigh", "bpf_redirect_peer"}  # by BPF instead of the host's stack
    found["bpf"] = {"masquerade": True, "hostLegacyRouting": bool(missing & routing)}
    # Cilium asks for this version, whatever was backported.
    netkit = all(node["kernel"]["netkit"] for node in nodes) and oldest >= (6, 8)
    found["bpf"]["datapathMode"] = "netkit" if netkit else "veth"
    found["enableIPv6BIGTCP"] = big
    found["enableIPv4BIGTCP"] = big and all(
        all(nic.get("gso_ipv4") for nic in node["nics"]) for node in nodes
    )
    # Departure times are of Linux 5.1; for BBR in Pods they have to survive the change of namespace.
    found["bandwidthManager"] = {"enabled": oldest >= (5, 1), "bbr": "bpf_skb_set_tstamp" not in missing}
    return found


def cilium_values(nodes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the values, or say that these are no facts."""
    if not nodes:
        raise AnsibleFilterError("cilium_values: there is no node to read facts of")
    try:
        return values(nodes)
    except (KeyError, TypeError) as error:
        raise AnsibleFilterError(f"cilium_values: these are no facts of node_info: {error!r}") from error


class FilterModule:
    """The filter for Ansible."""

    def filters(self) -> dict[str, Any]:
        """Return it by name."""
        return {"cilium_values": cilium_values}
