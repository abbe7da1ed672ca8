#!/usr/bin/python
# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: datapath_info
short_description: Tell what the BPF programs do on this node
version_added: 0.2.0
author: podnet.datapath contributors (@podnet)
description:
  - Returns the programs, the Pods with their counters and the policy as it was resolved for each address,
    the services with their backends, and how full the maps are. Reads the maps themselves.
extends_documentation_fragment: [podnet.datapath.attributes.info]
options:
  pin_path:
    description: Folder in the BPF file system where M(podnet.datapath.bpf_attach) pinned the programs' maps.
    type: path
    default: /sys/fs/bpf/podnet
"""

EXAMPLES = r"""
- name: Ask the programs
  podnet.datapath.datapath_info:
  register: datapath

- name: No Pod of this node sends from other addresses than its own
  ansible.builtin.assert:
    that: >-
      datapath.pods | map(attribute='packets.egress') | selectattr('DROP_INVALID_SOURCE_IP', 'defined')
      | length == 0
"""

RETURN = r"""
programs:
  description: The programs that are pinned.
  returned: success
  type: list
  elements: dict
  sample: [{name: pod_egress, id: 12, tag: 0123456789abcdef}]
layout:
  description: Number of the maps' layout.
  returned: success
  type: int
generation:
  description: How often the maps changed; its lowest bit is the bank that holds.
  returned: success
  type: int
pods:
  description: The Pods of this node with labels, rate (bit/s), packets by direction and reason, and policy.
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
      packets: {egress: {LOCAL: 10}, ingress: {INBOUND: 12, DROP_POLICY_INGRESS: 1}}
      policy:
        10.31.1.11:
          ingress:
            default: deny
            rules: [{peers: [Pod front], action: deny, allow: [tcp 80]}]
packets:
  description: Packets by reason that are no Pod's.
  returned: success
  type: dict
  sample: {STACK_NO_ENDPOINT: 3}
connections:
  description: How many connections the programs know, and have room for.
  returned: success
  type: dict
  sample: {entries: 12, max: 131072}
services:
  description: The services, each backend with its share of new connections in percent.
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
  description: How many entries maps have (of both banks), and have room for.
  returned: success
  type: dict
  sample: {policy: {entries: 24, max: 65536}}
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.podnet.datapath.plugins.module_utils._datapath.info import gather
from ansible_collections.podnet.datapath.plugins.module_utils._kernel.bpf import DEFAULT_PIN_PATH, BpfError


def main() -> None:
    module = AnsibleModule(
        argument_spec={"pin_path": {"type": "path", "default": DEFAULT_PIN_PATH}},
        supports_check_mode=True,
    )
    try:
        found = gather(module.params["pin_path"])
    except (BpfError, OSError) as e:
        module.fail_json(msg=str(e))
    module.exit_json(changed=False, **found)


if __name__ == "__main__":
    main()
