# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: preflight_rows
short_description: Return the rows of a node's preflight report
version_added: 0.1.0
author: podnet.datapath contributors (@podnet)
description:
  - Formats the return values of M(podnet.datapath.node_info) for operators.
options:
  _input:
    description: The node's facts.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show the report of this node
  ansible.builtin.debug:
    msg: "{{ preflight_node | podnet.datapath.preflight_rows }}"
"""

RETURN = r"""
_value:
  description: The rows by name, in order.
  type: dict
  sample: {kernel: 6.1.0-56-amd64, driver: meta}
"""

from collections.abc import Iterable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError


def _join(items: Iterable[str]) -> str:
    return ", ".join(items) or "none"


def _nic(nic: Mapping[str, Any]) -> str:
    """Return a NIC with its driver, settings and limits as text."""
    parts = [nic["driver"] or "virtual", f"MTU {nic['mtu']}"]
    if nic["speed"] > 0:
        parts.append(f"{nic['speed']} Mbit/s")
    if not nic["carrier"]:
        parts.append("no carrier")
    if nic.get("gso_max_size"):
        parts.append(f"GSO up to {nic['gso_max_size']}")
    if nic.get("rings"):
        parts.append("rings up to " + "/".join(f"{value}" for value in nic["rings"].values()))
    if nic.get("header_split"):
        parts.append(f"header split {', '.join(nic['header_split'])}")
    return f"{nic['name']}: {', '.join(parts)}"


def _module_signing(security: Mapping[str, Any]) -> str:
    """Return the kernel's requirements for modules as text."""
    parts = [f"Secure Boot {'on' if security['secure_boot'] else 'off'}", f"lockdown {security['lockdown']}"]
    if security["signature_required"]:
        parts.append("modules must be signed")
        parts.append(f"key {'enrolled' if security['key_enrolled'] else 'not enrolled'}")
    return ", ".join(parts)


def _rows(node: Mapping[str, Any]) -> dict[str, str]:
    """Return the rows of the report."""
    kernel, coexistence = node["kernel"], node["coexistence"]
    virtual_functions = [
        f"{nic['name']} {nic['virtual_functions']}" for nic in node["nics"] if nic["virtual_functions"]
    ]
    netkit = f"yes ({_join(kernel['netkit_attributes'])})" if kernel["netkit"] else "no"
    return {
        "kernel": f"{kernel['release']} ({node['distribution']['name'] or 'unknown distribution'})",
        "driver": f"{node['driver']}: {node['driver_reason']}",
        "Pod isolation": node["pod_isolation"] or "none",
        "netkit": netkit,
        "meta": "loaded" if node["meta"]["loaded"] else "installed" if node["meta"]["available"] else "no",
        "headers": "yes" if kernel["headers"] else "no",
        "NICs": "; ".join(map(_nic, node["nics"])) or "none",
        "module signing": _module_signing(node["security"]),
        "bootloader": node["bootloader"],
        "VFIO": _join(node["vfio"]),
        "SR-IOV": _join(virtual_functions),
        "virtual machines": _join(coexistence["vm_runtimes"]),
        "CNI": _join(f"{cni['name']} ({', '.join(cni['plugins'])})" for cni in coexistence["cni"]),
        "Cilium": _join(node["cilium"]),
        "IPsec policies": _join(node["ipsec_policies"]),
        "other tuning tools": _join(coexistence["tuners"]),
        "problems": "; ".join(node["problems"]) or "none",
    }


def preflight_rows(node: Mapping[str, Any]) -> dict[str, str]:
    """Return the rows; raise AnsibleFilterError for invalid facts."""
    try:
        return _rows(node)
    except (KeyError, TypeError) as error:
        raise AnsibleFilterError(
            f"preflight_rows: the input does not consist of facts of node_info: {error!r}"
        ) from error


class FilterModule:
    """The filter for Ansible."""

    def filters(self) -> dict[str, Any]:
        """Return the filter by name."""
        return {"preflight_rows": preflight_rows}
