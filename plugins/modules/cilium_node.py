#!/usr/bin/python
# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: cilium_node
short_description: Change settings of Cilium on one node of a cluster
version_added: 0.1.0
author: podnet.datapath contributors (@podnet)
description:
  - Uses the Kubernetes API directly and requires no Kubernetes client. Run it on the controller.
  - Labels the node, creates a C(CiliumNodeConfig) with only the changed keys for this label, deletes the Pod
    of the node's agent, and waits until its successor and the node are ready.
  - Existing Pods keep their devices, and an agent refuses to start beside Pods with devices of another kind.
    So drain the node first. Pods of DaemonSets, which a drain leaves, are deleted and recreated by this
    module.
  - The change is not confirmed at first. The node's annotation C(podnet.datapath/cilium-pending) has what to
    restore, so that another run can continue or restore it if this one is killed.
  - Settings that are the same on all nodes, such as tunnel or native routing, the replacement of kube-proxy,
    and the IP families, are never changed. If a requested setting requires another value of them, the module
    names Cilium's guide.
  - Refuses a configuration with which the agent would not start.
extends_documentation_fragment:
  - podnet.datapath.attributes
  - podnet.datapath.kubernetes
  - podnet.datapath.kubernetes.cilium
  - podnet.datapath.kubernetes.node
attributes:
  diff_mode:
    description: Returns the settings and keys that change.
options:
  state:
    description:
      - V(present) gives the node the requested O(settings).
      - V(absent) removes the node's own settings, so that those of the cluster apply again.
      - V(confirmed) keeps the last change. Verify it first.
      - V(restored) restores the settings before a change that is not confirmed.
    type: str
    choices: [present, absent, confirmed, restored]
    default: present
  settings:
    description:
      - The requested settings, with O(state=present). V(auto) requests the fastest value that the node
        supports, and keeps the current one if it supports none. V(keep) changes nothing.
      - Any other value is required, so that the module fails before a change if the node does not support it.
    type: dict
    default: {}
    suboptions:
      device_mode:
        description: Kind of the devices of new Pods.
        type: str
        choices: [auto, keep, netkit, netkit-l2, veth]
        default: auto
      host_routing:
        description: Path between Pods and other nodes, V(bpf) past the upper stack or V(legacy) through it.
        type: str
        choices: [auto, keep, bpf, legacy]
        default: auto
      big_tcp:
        description:
          - IP families with packets larger than 64 KiB within the node; V(enabled) for both.
          - From kernel 6.7 on, one family alone has no effect and is refused.
        type: str
        choices: [auto, keep, enabled, ipv4, ipv6, disabled]
        default: auto
      bbr:
        description: BBR as congestion control of the Pods.
        type: str
        choices: [auto, keep, enabled, disabled]
        default: auto
  facts:
    description:
      - Return values of M(podnet.datapath.cilium_info) on the node. Required with O(state=present) and
        O(state=absent).
    type: dict
    default: {}
  accept_conflicts:
    description:
      - Software of the cluster that conflicts with a setting, but does not concern the node's Pods. RV(rows)
        names what was found.
      - V(istio) and V(gke_workload_identity) depend on netfilter, which BPF host routing bypasses. V(kata),
        Kata Containers, cannot use netkit devices.
    type: list
    elements: str
    choices: [istio, kata, gke_workload_identity]
    default: []
  timeout:
    description: Seconds to wait until the restarted agent and the node are ready.
    type: int
    default: 600
"""

EXAMPLES = r"""
- name: Gather the settings of the node's agent
  podnet.datapath.cilium_info:
  become: true
  register: cilium

- name: Show which settings the node supports
  podnet.datapath.cilium_node:
    name: "{{ inventory_hostname }}"
    kubeconfig: ~/.kube/config
    facts: "{{ cilium }}"
  delegate_to: localhost
  check_mode: true

# The node must be drained.
- name: Use netkit on this node
  podnet.datapath.cilium_node:
    name: "{{ inventory_hostname }}"
    kubeconfig: ~/.kube/config
    facts: "{{ cilium }}"
    settings: {device_mode: netkit}
  delegate_to: localhost
  register: changed

- name: Wait until the settings are in effect
  podnet.datapath.cilium_info:
    expected: "{{ changed.expected }}"
    timeout: 300
  become: true

- name: Confirm the change
  podnet.datapath.cilium_node:
    name: "{{ inventory_hostname }}"
    kubeconfig: ~/.kube/config
    state: confirmed
  delegate_to: localhost
"""

RETURN = r"""
rows:
  description: The node's state of each setting.
  returned: with O(state=present) and O(state=absent)
  type: list
  elements: dict
  contains:
    setting:
      description: Name of the setting.
      type: str
    state:
      description: V(enabled), V(available), V(prerequisite missing) or V(unsupported).
      type: str
    current:
      description: The value in effect.
      type: str
    requested:
      description: The requested value.
      type: str
    scope:
      description: What a change requires, V(agent restart) or V(new Pods).
      type: str
    reason:
      description: The missing prerequisite, as the agent names it.
      type: str
keys:
  description: The overridden keys of the ConfigMap C(cilium-config), with their values.
  returned: with O(state=present) and O(state=absent)
  type: dict
  sample: {datapath-mode: netkit}
expected:
  description: The settings that the agent has in effect after the change.
  returned: with O(state=present), O(state=absent) and O(state=restored)
  type: dict
changes:
  description:
    - What changes, names of settings, V(override) for the node's keys, V(confirmation) for an earlier change
      that is not confirmed.
  returned: with O(state=present) and O(state=absent)
  type: list
  elements: str
restart:
  description: Whether the change requires a restart of the agent, and therefore a drain.
  returned: with O(state=present), O(state=absent) and O(state=restored)
  type: bool
recreated:
  description: The Pods of DaemonSets that were recreated.
  returned: with O(state=present), O(state=absent) and O(state=restored)
  type: list
  elements: str
pending:
  description: Whether the node has a change that is not confirmed.
  returned: success
  type: bool
peers:
  description: Internal addresses of the other nodes.
  returned: with O(state=present) and O(state=absent)
  type: list
  elements: str
config:
  description: The configuration of the node's agent without the override.
  returned: with O(state=present) and O(state=absent)
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.podnet.datapath.plugins.module_utils._cilium import apply, arguments
from ansible_collections.podnet.datapath.plugins.module_utils._core.plan import Problem


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **arguments.API,
            **arguments.NODE,
            "state": {
                "type": "str",
                "choices": ["present", "absent", "confirmed", "restored"],
                "default": "present",
            },
            "settings": {
                "type": "dict",
                "default": {},
                "options": {
                    "device_mode": {
                        "type": "str",
                        "choices": ["auto", "keep", "netkit", "netkit-l2", "veth"],
                        "default": "auto",
                    },
                    "host_routing": {
                        "type": "str",
                        "choices": ["auto", "keep", "bpf", "legacy"],
                        "default": "auto",
                    },
                    "big_tcp": {
                        "type": "str",
                        "choices": ["auto", "keep", "enabled", "ipv4", "ipv6", "disabled"],
                        "default": "auto",
                    },
                    "bbr": {
                        "type": "str",
                        "choices": ["auto", "keep", "enabled", "disabled"],
                        "default": "auto",
                    },
                },
            },
            "facts": {"type": "dict", "default": {}},
            "accept_conflicts": {
                "type": "list",
                "elements": "str",
                "choices": ["istio", "kata", "gke_workload_identity"],
                "default": [],
            },
            "timeout": {"type": "int", "default": 600},
        },
        supports_check_mode=True,
    )
    p = module.params
    desired = apply.Desired(
        p["name"], p["state"], p["settings"], p["accept_conflicts"], p["facts"], p["timeout"]
    )
    try:
        result = apply.run(arguments.cilium_api(module), desired, module.check_mode)
    except Problem as problem:
        module.fail_json(msg=str(problem))
    result.exit(module)


if __name__ == "__main__":
    main()
