# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options for Pods' network devices."""

from __future__ import annotations


class ModuleDocFragment:
    """Documentation fragment C(podnet.datapath.pod_devices): options that apply to all devices."""

    DOCUMENTATION = r"""
options:
  driver:
    description:
      - Driver of the device pairs.
      - V(auto) selects netkit if the kernel supports it, otherwise meta if its module is loaded or can be
        loaded, otherwise veth. RV(driver_reason) returns the reason.
      - The other values never fall back. The module fails if the node does not support the driver.
      - If the driver of a Pod changes, the Pod gets a new device. Its namespace, addresses and connections
        are preserved.
    type: str
    choices: [auto, meta, netkit, veth]
    default: auto
  trusted_pods:
    description:
      - Whether every container with C(CAP_NET_ADMIN) is trusted with the node's network devices. On veth and
        netkit, such a container can change and delete them (C(IFLA_TARGET_NETNSID)), unless its Pod has its
        own user namespace. On meta it cannot.
      - V(false) makes O(driver=auto) prefer meta to netkit.
    type: bool
    default: true
  mtu:
    description: MTU of both ends in bytes. By default the current MTU is kept.
    type: int
  mode:
    description:
      - V(l3) devices have no MAC addresses and use neither ARP nor neighbour discovery.
      - V(l2) devices have stable MAC addresses. The Pod uses the gateways 169.254.1.1 and fe80::1, for which
        it has permanent neighbour entries. It resolves no other neighbours.
      - With O(driver=veth) the mode is always V(l2).
    type: str
    choices: [l2, l3]
    default: l3
  policy:
    description:
      - Default policy of meta and netkit for packets on an end without a program. veth ignores it and passes
        such packets to the host's upper stack. M(podnet.datapath.pods) therefore sets devices up only after
        it has attached the programs, and M(podnet.datapath.bpf_attach) sets them down before it detaches
        them.
    type: str
    choices: [drop, pass]
    default: drop
  gso_max_size:
    description: Maximum GSO packet size of both ends in bytes. Values above 65536 enable BIG TCP for IPv6.
    type: int
  gro_max_size:
    description: Maximum GRO packet size of both ends in bytes.
    type: int
  gso_ipv4_max_size:
    description: Like O(gso_max_size), for IPv4. Requires Linux 6.3.
    type: int
  gro_ipv4_max_size:
    description: Like O(gro_max_size), for IPv4. Requires Linux 6.3.
    type: int
  ipv4_advmss:
    description:
      - MSS in bytes that the Pods advertise over IPv4. By default the kernel derives it from the MTU.
      - TCP zero-copy needs segments of whole pages. If the MTU is chosen for IPv6, V(4108) with MTU 4168 and
        V(8204) with MTU 8264 give IPv4 segments of whole pages, too.
    type: int
  host_routes:
    description:
      - Routes of the host, usually to Pods of other nodes.
      - Routes that this owner created earlier and that are not listed are removed. Routes that exist already
        are used, but not managed.
      - A route that would change the path to the Ansible controller, as seen in the SSH connection, is
        rejected.
    type: list
    elements: dict
    default: []
    suboptions:
      to:
        description: Destination network.
        type: str
        required: true
      via:
        description: Next hop.
        type: str
      dev:
        description: Outgoing interface.
        type: str
        required: true
"""
