#!/usr/bin/python
# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: kube_node
short_description: Cordon, drain or uncordon a Kubernetes node
version_added: 0.1.0
author: podnet.datapath contributors (@podnet)
description:
  - Uses the Kubernetes API directly and requires no Kubernetes client. Run it on the controller.
  - Pods are removed with the Eviction API, which respects PodDisruptionBudgets. DaemonSet Pods and mirror
    Pods stay.
  - If a PodDisruptionBudget refuses an eviction, it is requested again until O(timeout). The error then
    names the Pods and their budgets. Set O(disable_eviction) to proceed regardless of budgets.
  - Nodes that this module cordons get the annotation C(podnet.datapath/cordoned-by) with the owner. Only
    nodes with this annotation are uncordoned; nodes that were cordoned by other means stay cordoned.
  - If a drain fails, the node stays cordoned.
extends_documentation_fragment:
  - podnet.datapath.attributes
  - podnet.datapath.kubernetes
  - podnet.datapath.kubernetes.node
attributes:
  diff_mode:
    description: Returns whether the node is cordoned, and the Pods to evict.
options:
  state:
    description:
      - V(cordoned) marks the node as unschedulable.
      - V(drained) cordons the node and evicts all Pods except DaemonSet Pods and mirror Pods.
      - V(uncordoned) marks the node as schedulable if O(owner) cordoned it.
    type: str
    required: true
    choices: [cordoned, drained, uncordoned]
  owner:
    description: Owner of the cordon, stored in the annotation.
    type: str
    default: site
  force:
    description: Whether to evict Pods without a controller, which are not recreated.
    type: bool
    default: false
  delete_emptydir_data:
    description: Whether to evict Pods that use emptyDir volumes. Their data is deleted.
    type: bool
    default: false
  grace_period:
    description: Seconds that each Pod has to terminate. The default is the grace period of the Pod.
    type: int
  timeout:
    description: Seconds to wait until all evicted Pods have terminated.
    type: int
    default: 600
  pod_selector:
    description:
      - Label selector of the Pods to evict, for example V(app=web) or V(app!=db). Other Pods stay and do not
        fail the drain. By default, all Pods are evicted.
    type: str
    default: ""
  disable_eviction:
    description:
      - Delete the Pods instead of evicting them. This ignores PodDisruptionBudgets and can make an
        application unavailable.
    type: bool
    default: false
  skip_wait_for_delete_timeout:
    description:
      - Do not wait for a Pod that should have terminated more than this number of seconds ago, for example
        because its kubelet does not run. V(0) waits for all Pods.
    type: int
    default: 0
  max_cordoned:
    description:
      - Maximum number of nodes that this module may have cordoned at the same time, for any owner. If other
        nodes reach the maximum already, the node is not cordoned and the module fails.
      - Nodes that an earlier, failed rollout left cordoned count until they are uncordoned.
      - V(0) means no limit.
    type: int
    default: 0
"""

EXAMPLES = r"""
- name: Drain the node
  podnet.datapath.kube_node:
    name: "{{ inventory_hostname }}"
    state: drained
    kubeconfig: ~/.kube/config
    max_cordoned: 3
  delegate_to: localhost

- name: Drain only some Pods, and give up after five minutes if a PodDisruptionBudget refuses an eviction
  podnet.datapath.kube_node:
    name: "{{ inventory_hostname }}"
    state: drained
    kubeconfig: ~/.kube/config
    pod_selector: tier notin (storage)
    timeout: 300
  delegate_to: localhost

- name: Drain the node regardless of PodDisruptionBudgets
  podnet.datapath.kube_node:
    name: "{{ inventory_hostname }}"
    state: drained
    kubeconfig: ~/.kube/config
    disable_eviction: true
  delegate_to: localhost

- name: Uncordon the node
  podnet.datapath.kube_node:
    name: "{{ inventory_hostname }}"
    state: uncordoned
    kubeconfig: ~/.kube/config
  delegate_to: localhost
"""

RETURN = r"""
cordoned:
  description: Whether the node is cordoned after this call. In check mode, the planned state.
  returned: success
  type: bool
was_cordoned:
  description: Whether the node was cordoned before this call.
  returned: success
  type: bool
evicted:
  description: The evicted Pods, or deleted ones with O(disable_eviction). In check mode, the planned ones.
  returned: success
  type: list
  elements: str
  sample: [default/web-7d9c]
note:
  description: A note for the operator, for example that the node was already cordoned by other means.
  returned: success
  type: str
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.podnet.datapath.plugins.module_utils._core.plan import Problem
from ansible_collections.podnet.datapath.plugins.module_utils._ops import arguments, drain


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **arguments.API,
            **arguments.NODE,
            "state": {"type": "str", "required": True, "choices": ["cordoned", "drained", "uncordoned"]},
            "owner": {"type": "str", "default": "site"},
            "force": {"type": "bool", "default": False},
            "delete_emptydir_data": {"type": "bool", "default": False},
            "grace_period": {"type": "int"},
            "timeout": {"type": "int", "default": 600},
            "max_cordoned": {"type": "int", "default": 0},
            "pod_selector": {"type": "str", "default": ""},
            "disable_eviction": {"type": "bool", "default": False},
            "skip_wait_for_delete_timeout": {"type": "int", "default": 0},
        },
        supports_check_mode=True,
    )
    p = module.params
    desired = drain.Desired(
        name=p["name"],
        state=p["state"],
        owner=p["owner"],
        force=p["force"],
        delete_emptydir_data=p["delete_emptydir_data"],
        grace_period=p["grace_period"],
        timeout=p["timeout"],
        max_cordoned=p["max_cordoned"],
        pod_selector=p["pod_selector"],
        disable_eviction=p["disable_eviction"],
        skip_wait_for_delete_timeout=p["skip_wait_for_delete_timeout"],
    )
    try:
        result = drain.run(arguments.kubernetes_api(module), desired, module.check_mode)
    except Problem as problem:
        module.fail_json(msg=str(problem))
    result.exit(module)


if __name__ == "__main__":
    main()
