#!/usr/bin/python
# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: cilium_info
short_description: Gather the settings that a Cilium agent has in effect, and what its node supports
version_added: 0.1.0
author: podnet.datapath contributors (@podnet)
description:
  - Run it as root on a node. It reads the REST API of the node's agent, its devices and its kernel.
  - With O(expected), waits until the agent has these settings in effect.
  - Cilium 1.15 to 1.20 are supported.
extends_documentation_fragment: [podnet.datapath.attributes.info]
options:
  socket:
    description: Unix socket of the agent's API.
    type: path
    default: /var/run/cilium/cilium.sock
  expected:
    description:
      - Settings to wait for, as in RV(settings).
      - If the agent does not have them after O(timeout), the module fails.
    type: dict
    default: {}
  timeout:
    description: Seconds to wait for the agent's answer and for O(expected).
    type: int
    default: 0
  required:
    description: Whether to fail if the agent does not answer. Otherwise RV(running) is false.
    type: bool
    default: true
"""

EXAMPLES = r"""
- name: Gather the settings of the node's agent
  podnet.datapath.cilium_info:
  become: true
  register: cilium

- name: Show the node's Pods by the kind of their device
  ansible.builtin.debug:
    var: cilium.pods

- name: Wait until the agent uses netkit
  podnet.datapath.cilium_info:
    expected: {device_mode: netkit}
    timeout: 300
  become: true
"""

RETURN = r"""
running:
  description: Whether the agent answers.
  returned: success
  type: bool
error:
  description: Why the agent does not answer.
  returned: when RV(running) is false
  type: str
version:
  description: Release of the agent.
  returned: when RV(running) is true
  type: str
  sample: 1.20.2
state:
  description: State of the agent.
  returned: when RV(running) is true
  type: str
  sample: Ok
settings:
  description: The settings in effect.
  returned: when RV(running) is true
  type: dict
  contains:
    host_routing:
      description: V(bpf), or V(legacy) if packets between Pods and other nodes pass the upper stack.
      type: str
    device_mode:
      description: Kind of the devices of new Pods, V(veth), V(netkit) or V(netkit-l2).
      type: str
    big_tcp:
      description: V(enabled) for both families, V(ipv4), V(ipv6) or V(disabled).
      type: str
    bbr:
      description: Whether the congestion control of Pods is BBR, V(enabled) or V(disabled).
      type: str
  sample: {host_routing: bpf, device_mode: veth, big_tcp: disabled, bbr: disabled}
cluster:
  description: Keys of the ConfigMap C(cilium-config) that must be the same on all nodes, as in effect.
  returned: when RV(running) is true
  type: dict
  sample: {routing-mode: native, kube-proxy-replacement: "true", enable-ipv4: "true", enable-ipv6: "false"}
endpoints:
  description:
    - The Pods of this node that the agent manages, with devices, addresses and states.
    - Agents of Cilium 1.20 report no names.
  returned: when RV(running) is true
  type: list
  elements: dict
pods:
  description: Number of Pods by the kind of their device.
  returned: when RV(running) is true
  type: dict
  sample: {veth: 12}
node:
  description:
    - What the kernel and the devices of Cilium support. C(gso_limit) is the largest GSO packet in bytes that
      all of the devices accept.
  returned: when RV(running) is true
  type: dict
  sample:
    kernel: 6.12.74
    netkit: true
    netkit_scrub: true
    missing_helpers: []
    ipv4_big_tcp: true
    ipv6_big_tcp: true
    gso_limit: 524280
    bbr: true
    fq: true
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.podnet.datapath.plugins.module_utils._cilium import agent, devices
from ansible_collections.podnet.datapath.plugins.module_utils._core.arguments import reject_negative


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "socket": {"type": "path", "default": "/var/run/cilium/cilium.sock"},
            "expected": {"type": "dict", "default": {}},
            "timeout": {"type": "int", "default": 0},
            "required": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    reject_negative(module)
    p = module.params
    try:
        found = agent.wait(p["socket"], p["expected"], p["timeout"])
    except agent.AgentError as error:
        if p["required"] or p["expected"]:
            module.fail_json(msg=str(error))
        module.exit_json(changed=False, running=False, error=str(error))
    endpoints = devices.add_kinds(found["endpoints"], devices.read())
    module.exit_json(
        changed=False,
        running=True,
        **{
            **found,
            "endpoints": endpoints,
            "pods": devices.by_kind(endpoints),
            "node": devices.support(found["devices"]),
        },
    )


if __name__ == "__main__":
    main()
