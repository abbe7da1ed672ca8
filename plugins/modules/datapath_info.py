#!/usr/bin/python
# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: datapath_info
short_description: Gather information about the BPF datapath
version_added: 0.1.0
author: podnet.datapath contributors (@podnet)
description:
  - Returns the programs, the Pods with their counters and the effective policy of each address, the services
    with their backends, and the fill level of the maps.
  - Reads the BPF maps themselves, not the declarations.
extends_documentation_fragment: [podnet.datapath.attributes.info]
options:
  pin_path:
    description: Directory in the BPF file system where M(podnet.datapath.bpf_attach) pinned the maps.
    type: path
    default: /sys/fs/bpf/podnet
"""

EXAMPLES = r"""
- name: Gather information about the datapath
  podnet.datapath.datapath_info:
  register: datapath

- name: Check that no Pod of this node sent packets with a foreign source address
  ansible.builtin.assert:
    that: >-
      datapath.pods | map(attribute='packets.egress') | selectattr('DROP_INVALID_SOURCE_IP', 'defined')
      | length == 0
"""

RETURN = r"""
programs:
  description: The pinned programs.
  returned: success
  type: list
  elements: dict
  sample: [{name: pod_egress, id: 12, tag: 0123456789abcdef}]
socket_lb:
  description:
    - The cgroup whose sockets translate services, see O(podnet.datapath.bpf_attach#module:socket_lb).
    - Empty if there is none.
  returned: success
  type: str
  sample: /sys/fs/cgroup
layout:
  description: Layout number of the maps.
  returned: success
  type: int
generation:
  description: Generation number of the configuration. Every change of the maps increments it.
  returned: success
  type: int
pods:
  description:
    - The Pods of this node with labels, rate in bit/s, host ports, packet counters by direction and reason,
      and effective policy by address.
  returned: success
  type: list
  elements: dict
  sample:
    - name: web
      owner: site
      device: pn0123456789ab
      slot: 1
      labels: {app: web}
      rate: 0
      host_ports: [{address: "", port: 80, protocol: tcp, target: 8080}]
      packets: {egress: {LOCAL: 10}, ingress: {INBOUND: 12, DROP_POLICY_INGRESS: 1}}
      policy:
        10.31.1.11:
          ingress:
            default: deny
            rules: [{peers: [Pod front], action: deny, allow: [tcp 80]}]
packets:
  description: Packet counters by reason, for packets that belong to no Pod.
  returned: success
  type: dict
  sample: {STACK_NO_ENDPOINT: 3}
connections:
  description: Number of entries in the connection tracking map, and its capacity.
  returned: success
  type: dict
  sample: {entries: 12, max: 262144}
services:
  description: The services. C(share) is a backend's share of new connections in percent, 0 if it drains.
  returned: success
  type: list
  elements: dict
  sample:
    - name: web
      address: 10.96.0.10
      port: 80
      protocol: tcp
      backends: [{address: 10.31.1.11, port: 8080, share: 100.0}]
maps:
  description: Number of entries of each map, in both buffers, and its capacity.
  returned: success
  type: dict
  sample: {policy: {entries: 24, max: 65536}}
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.podnet.datapath.plugins.module_utils._core.plan import Problem
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.info import gather
from ansible_collections.podnet.datapath.plugins.module_utils._kernel.bpf import DEFAULT_PIN_PATH


def main() -> None:
    module = AnsibleModule(
        argument_spec={"pin_path": {"type": "path", "default": DEFAULT_PIN_PATH}},
        supports_check_mode=True,
    )
    try:
        state = gather(module.params["pin_path"])
    except (Problem, OSError) as e:
        module.fail_json(msg=str(e))
    module.exit_json(changed=False, **state)


if __name__ == "__main__":
    main()
