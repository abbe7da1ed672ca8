#!/usr/bin/python
# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: cilium_probe_pods
short_description: Create or remove two Pods on a node, to verify its settings
version_added: 0.1.0
author: podnet.datapath contributors (@podnet)
description:
  - Uses the Kubernetes API directly. Run it on the controller, and M(podnet.datapath.cilium_probe) on the
    node.
  - The Pods also start on a cordoned node. They sleep, run as user 65534 without capabilities, and end after
    an hour at the latest.
extends_documentation_fragment:
  - podnet.datapath.attributes
  - podnet.datapath.kubernetes
  - podnet.datapath.kubernetes.cilium
  - podnet.datapath.kubernetes.node
options:
  state:
    description: Whether the Pods run.
    type: str
    choices: [present, absent]
    default: present
  pod_namespace:
    description: Namespace of the Pods. By default O(namespace).
    type: str
  image:
    description: Image of the Pods. By default that of the node's agent, which needs not be pulled.
    type: str
  command:
    description: Command of the Pods, which must not end within the duration of the verification.
    type: list
    elements: str
    default: [sleep, "3600"]
  timeout:
    description: Seconds to wait until the Pods run or have terminated.
    type: int
    default: 120
"""

EXAMPLES = r"""
- name: Create the Pods
  podnet.datapath.cilium_probe_pods:
    name: "{{ inventory_hostname }}"
    kubeconfig: ~/.kube/config
  delegate_to: localhost
  register: probe
"""

RETURN = r"""
pods:
  description: Namespaces and names of the Pods.
  returned: success
  type: list
  elements: str
  sample: [kube-system/podnet-probe-0123456789ab-1, kube-system/podnet-probe-0123456789ab-2]
addresses:
  description: Addresses of the Pods in the same order; empty in check mode.
  returned: success
  type: list
  elements: str
  sample: [10.0.0.12, 10.0.0.13]
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.podnet.datapath.plugins.module_utils._cilium import arguments, probe_pods
from ansible_collections.podnet.datapath.plugins.module_utils._core.plan import Problem


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **arguments.API,
            **arguments.NODE,
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "pod_namespace": {"type": "str"},
            "image": {"type": "str"},
            "command": {"type": "list", "elements": "str", "default": ["sleep", "3600"]},
            "timeout": {"type": "int", "default": 120},
        },
        supports_check_mode=True,
    )
    p = module.params
    desired = probe_pods.Desired(
        p["name"],
        p["state"],
        p["pod_namespace"] or p["namespace"],
        p["image"] or "",
        p["command"],
        p["timeout"],
    )
    try:
        result = probe_pods.run(arguments.cilium_api(module), desired, module.check_mode)
    except Problem as problem:
        module.fail_json(msg=str(problem))
    result.exit(module)


if __name__ == "__main__":
    main()
