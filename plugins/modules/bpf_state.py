#!/usr/bin/python
# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: bpf_state
short_description: Configure Pods, policies and services in the BPF datapath
version_added: 0.1.0
author: podnet.datapath contributors (@podnet)
description:
  - Brings the maps of the BPF programs to the declared state. All changes of a call take effect at once; no
    packet is processed with a mix of former and new configuration.
  - The maps are computed from the declarations of all owners, so a policy applies to the Pods of all owners.
    A call never changes the declarations of other owners.
  - All options are validated before anything is written, and one error lists all problems.
  - Changes are rejected while new programs with new maps are pending confirmation
    (O(podnet.datapath.bpf_attach#module:confirm_timeout)), because a rollback to the former maps would lose
    them.
  - Declarations are stored in C(/run/podnet/datapath) for the lifetime of the maps.
extends_documentation_fragment:
  - podnet.datapath.attributes
  - podnet.datapath.policies
attributes:
  diff_mode:
    description: Returns this owner's declaration before and after, and the map entries of its addresses.
requirements:
  - pyroute2 >= 0.7.2 (C(python3-pyroute2) on Debian)
options:
  pin_path:
    description: Directory in the BPF file system where M(podnet.datapath.bpf_attach) pinned the maps.
    type: path
    default: /sys/fs/bpf/podnet
  owner:
    description: Owner of this declaration. Objects that the owner no longer declares are removed.
    type: str
    default: site
  node:
    description: Name of this node. Policies can refer to a Pod as C(<node>/<name>), for example V(node1/web).
    type: str
    default: ""
  endpoints:
    description: All Pods of this owner on this node.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the Pod. The default is O(endpoints[].device).
        type: str
      addresses:
        description: IPv4 and IPv6 addresses of the Pod. A prefix length is ignored.
        type: list
        elements: str
        required: true
      device:
        description: The host end of the Pod's device.
        type: str
        required: true
      labels:
        description: Labels that policies and services select the Pod by.
        type: dict
        default: {}
      rate:
        description:
          - Maximum rate of the Pod's traffic that leaves the node, for example V(100mbit). The units are
            C(bit), C(kbit), C(mbit) and C(gbit), the range is 1 Mbit/s to 1000 Gbit/s. The default is
            unlimited.
          - Requires the qdisc C(fq), which delays packets until their departure time, on each uplink - the
            devices of default routes and those with an attached program that are not a Pod's.
          - Up to 500 packets of the Pod wait in C(fq), so its limit must be at least 1000. If all Pods with
            a rate together can exceed the limit, the module warns.
        type: str
      masquerade:
        description: Whether packets from the Pod leave the node with the source addresses in O(masquerade).
        type: bool
        default: false
      anti_spoof:
        description:
          - Whether to drop packets whose source address is not one of the Pod's. V(false) also allows source
            addresses that belong to no Pod, for routers and hosts of virtual machines.
        type: bool
        default: true
"""

EXAMPLES = r"""
- name: Configure two Pods, a policy and a service
  podnet.datapath.bpf_state:
    # Pods of this owner that are not listed are removed
    endpoints:
      - {name: web, addresses: [10.31.1.11, "fd31:1::11"], device: pn0123456789ab, labels: {app: web}}
      - {name: db, addresses: [10.31.1.12, "fd31:1::12"], device: pnba9876543210, rate: 1gbit,
         labels: {app: db}}
    policies:
      - name: allow web to db
        pods: {labels: {app: db}}
        ingress:
          - from: [{labels: {app: web}}]
            ports: [{protocol: tcp, port: 5432}]
    services:
      - name: db
        address: 10.96.0.10
        port: 5432
        backends: [{labels: {app: db}}]

- name: Deny one network and allow all other ingress traffic
  podnet.datapath.bpf_state:
    endpoints:
      - {name: web, addresses: [10.31.1.11], device: pn0123456789ab, labels: {app: web}}
    policies:
      - name: deny guests
        pods: {labels: {app: web}}
        ingress:
          - from: [{cidr: 192.168.100.0/24}]
            action: deny
        ingress_default: allow
"""

RETURN = r"""
updated:
  description: Addresses whose map entries were written, of all owners. In check mode, the planned ones.
  returned: success
  type: list
  elements: str
  sample: [10.31.1.11, "fd31:1::11"]
deleted:
  description: Addresses whose map entries were deleted. In check mode, the planned ones.
  returned: success
  type: list
  elements: str
  sample: [10.31.1.13]
differences:
  description: Number of map entries that differed from the declared state, by kind.
  returned: success
  type: dict
  sample: {endpoints: 2, policy: 4}
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.podnet.datapath.plugins.module_utils._core.arguments import reject_negative
from ansible_collections.podnet.datapath.plugins.module_utils._core.plan import Problem
from ansible_collections.podnet.datapath.plugins.module_utils._datapath import arguments
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.apply import Desired, configure
from ansible_collections.podnet.datapath.plugins.module_utils._kernel.bpf import (
    DEFAULT_OWNER,
    DEFAULT_PIN_PATH,
)
from ansible_collections.podnet.datapath.plugins.module_utils._kernel.messages import require_pyroute2


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "pin_path": {"type": "path", "default": DEFAULT_PIN_PATH},
            "owner": {"type": "str", "default": DEFAULT_OWNER},
            "node": {"type": "str", "default": ""},
            "endpoints": arguments.list_of(
                {
                    **arguments.POD,
                    "name": {"type": "str"},
                    "device": {"type": "str", "required": True},
                    "rate": {"type": "str"},
                    "masquerade": {"type": "bool", "default": False},
                    "anti_spoof": {"type": "bool", "default": True},
                },
                required=True,
            ),
            **arguments.POLICIES,
        },
        supports_check_mode=True,
    )
    reject_negative(module)
    p = module.params
    names = ("endpoints", "node", "remote_pods", "policies", "services", "masquerade", "stack_services")
    desired = Desired(p["pin_path"], p["owner"], {name: p[name] for name in names})
    try:
        require_pyroute2()
        result = configure(desired, module.check_mode)
    except (Problem, OSError) as e:
        module.fail_json(msg=str(e))
    result.exit(module)


if __name__ == "__main__":
    main()
