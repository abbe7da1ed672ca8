#!/usr/bin/python
# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: cilium_probe
short_description: Verify by effect that settings of Cilium apply to two Pods of a node
version_added: 0.1.0
author: podnet.datapath contributors (@podnet)
description:
  - Run it as root on the node. It enters the network namespaces of the Pods and needs nothing in their
    images.
  - Compares the kind of the Pods' devices, their GSO sizes and congestion control with O(expected), transfers
    data from one Pod to the other, observes the largest packet, and sends echo requests to O(peers) while it
    reads the counters of the node's upper stack.
extends_documentation_fragment: [podnet.datapath.attributes.info]
options:
  pods:
    description:
      - Two Pods of this node, each by one of its addresses or as C(namespace/name).
      - Agents of Cilium 1.20 report no names.
    type: list
    elements: str
    required: true
  expected:
    description: Settings to compare with, as in RV(podnet.datapath.cilium_info#module:settings).
    type: dict
    default: {}
  peers:
    description:
      - Addresses of other nodes. With V(host_routing=bpf) in O(expected), the upper stack must not forward
        the packets to them. Lost replies do not matter.
    type: list
    elements: str
    default: []
  bytes:
    description: Number of bytes to transfer.
    type: int
    default: 33554432
  socket:
    description: Unix socket of the agent's API.
    type: path
    default: /var/run/cilium/cilium.sock
  timeout:
    description: Seconds to wait until the Pods are ready for the agent.
    type: int
    default: 60
"""

EXAMPLES = r"""
- name: Verify the settings of the node
  podnet.datapath.cilium_probe:
    pods: "{{ probe.addresses }}"
    expected: {device_mode: netkit, host_routing: bpf, big_tcp: enabled, bbr: enabled}
    peers: [172.31.0.2]
  become: true
"""

RETURN = r"""
kinds:
  description: Kinds of the Pods' devices.
  returned: success
  type: dict
gso_max_size:
  description: C(gso_max_size) of the device in the first Pod in bytes, which applies to IPv6.
  returned: success
  type: int
gso_ipv4_max_size:
  description: C(gso_ipv4_max_size) of the device in the first Pod in bytes; 0 if the kernel lacks it.
  returned: success
  type: int
congestion_control:
  description: Congestion control of the first Pod.
  returned: success
  type: str
streams:
  description: The transfers by address, with the largest packet in bytes.
  returned: success
  type: list
  elements: dict
sent:
  description: Number of echo requests to O(peers).
  returned: success
  type: int
received:
  description: Number of replies.
  returned: success
  type: int
forwarded:
  description: Number of packets that the upper stack forwarded meanwhile.
  returned: success
  type: int
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.podnet.datapath.plugins.module_utils._cilium import verify
from ansible_collections.podnet.datapath.plugins.module_utils._core.arguments import reject_negative
from ansible_collections.podnet.datapath.plugins.module_utils._core.plan import Problem
from ansible_collections.podnet.datapath.plugins.module_utils._kernel.messages import require_pyroute2


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "pods": {"type": "list", "elements": "str", "required": True},
            "expected": {"type": "dict", "default": {}},
            "peers": {"type": "list", "elements": "str", "default": []},
            "bytes": {"type": "int", "default": 33554432},
            "socket": {"type": "path", "default": "/var/run/cilium/cilium.sock"},
            "timeout": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    reject_negative(module)
    p = module.params
    if len(p["pods"]) != 2:
        module.fail_json(msg=f"pods: {len(p['pods'])} Pods are given; name two Pods of this node")
    try:
        require_pyroute2()
        pods = verify.wait(p["socket"], p["pods"], p["timeout"])
        found = verify.measure(pods, p["peers"], p["bytes"])
    except Problem as problem:
        module.fail_json(msg=str(problem))
    problems = verify.problems(found, p["expected"])
    if problems:
        module.fail_json(msg="; ".join(problems), **found)
    module.exit_json(changed=False, **found)


if __name__ == "__main__":
    main()
