#!/usr/bin/python
# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: cilium_overrides
short_description: Replace the overrides of single nodes by values of Cilium's chart
version_added: 0.1.0
author: podnet.datapath contributors (@podnet)
description:
  - Run it on the controller after M(podnet.datapath.cilium_node) gave all nodes the same settings.
  - Returns Helm values with which the cluster's configuration has the same settings.
  - With O(state=absent), removes labels and C(CiliumNodeConfigs) of this collection. No agent restarts. If a
    later restart would change a setting, because the values are not set yet, the module fails and removes
    nothing.
extends_documentation_fragment:
  - podnet.datapath.attributes
  - podnet.datapath.kubernetes
  - podnet.datapath.kubernetes.cilium
options:
  state:
    description:
      - V(queried) changes nothing.
      - V(absent) removes the overrides.
    type: str
    choices: [queried, absent]
    default: queried
  rendered:
    description:
      - Data of the ConfigMap C(cilium-config) as the chart renders it with the new values, to compare with
        the current one.
    type: dict
"""

EXAMPLES = r"""
- name: Write the values for all nodes
  podnet.datapath.cilium_overrides:
    kubeconfig: ~/.kube/config
  delegate_to: localhost
  register: overrides

- name: Remove the overrides after the values are set
  podnet.datapath.cilium_overrides:
    kubeconfig: ~/.kube/config
    state: absent
  delegate_to: localhost
"""

RETURN = r"""
values:
  description: Values for C(helm upgrade --reuse-values).
  returned: success
  type: dict
  sample: {bpf: {datapathMode: netkit, masquerade: true}, enableIPv4BIGTCP: true, enableIPv6BIGTCP: true}
keys:
  description: The same as keys of the ConfigMap C(cilium-config).
  returned: success
  type: dict
nodes:
  description: The overridden keys by node.
  returned: success
  type: dict
problems:
  description: Why RV(values) does not contain the keys of all overrides.
  returned: success
  type: list
  elements: str
differences:
  description: What a restart of the agents would change if the overrides were removed now.
  returned: success
  type: list
  elements: str
rendered_differences:
  description: How O(rendered) differs from the current ConfigMap with RV(keys).
  returned: success
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.podnet.datapath.plugins.module_utils._cilium import arguments, values
from ansible_collections.podnet.datapath.plugins.module_utils._core.plan import Problem


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **arguments.API,
            "state": {"type": "str", "choices": ["queried", "absent"], "default": "queried"},
            "rendered": {"type": "dict"},
        },
        supports_check_mode=True,
    )
    p = module.params
    try:
        api = arguments.cilium_api(module)
        result = values.run(api, p["state"] == "absent", p["rendered"], module.check_mode)
    except Problem as problem:
        module.fail_json(msg=str(problem))
    result.exit(module)


if __name__ == "__main__":
    main()
