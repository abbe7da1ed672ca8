#!/usr/bin/python
# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: kube_node
short_description: Cordon, drain and uncordon a Kubernetes node
version_added: 0.1.0
author: podnet.datapath contributors (@podnet)
description:
  - Speaks to the Kubernetes API itself and needs no Kubernetes client. Run it on the controller.
  - Pods leave by eviction, so disruption budgets are respected. Pods of a DaemonSet and mirror Pods stay.
  - A node that this module cordoned has the annotation C(podnet.datapath/cordoned-by) with the owner. Only
    such a node is ever uncordoned, so a node that somebody else cordoned stays as it is.
  - Where a drain fails, the node stays cordoned.
attributes:
  check_mode:
    description: Tells what it would do.
    support: full
  diff_mode:
    description: Shows the node's schedulability and the Pods to be evicted.
    support: full
  idempotent:
    description: Running it twice changes nothing.
    support: full
options:
  name:
    description: Name of the node in Kubernetes.
    type: str
    required: true
  state:
    description:
      - V(cordoned) takes no new Pods.
      - V(drained) is cordoned and has only Pods of DaemonSets and mirror Pods.
      - V(uncordoned) takes new Pods again, if O(owner) had cordoned it.
    type: str
    required: true
    choices: [cordoned, drained, uncordoned]
  owner:
    description: On whose behalf the node is cordoned.
    type: str
    default: site
  kubeconfig:
    description:
      - Path of a kubeconfig with a token or a client certificate. JSON needs nothing, YAML needs PyYAML.
      - Without it, this has to run in a Pod, whose service account it takes.
    type: path
  context:
    description: Context of the kubeconfig, if not its current one.
    type: str
  force:
    description: Evict Pods that no controller would make again.
    type: bool
    default: false
  delete_emptydir_data:
    description: Evict Pods that have an emptyDir, whose data is lost.
    type: bool
    default: false
  grace_period:
    description: Seconds that a Pod has to end. By default its own.
    type: int
  timeout:
    description: Seconds until all Pods must have left.
    type: int
    default: 600
  max_cordoned:
    description:
      - Refuse to cordon the node where so many others are cordoned by this module, for whatever owner.
      - They count until they are uncordoned, also those that an earlier roll-out left because it failed.
      - V(0) is no cap.
    type: int
    default: 0
"""

EXAMPLES = r"""
- name: Move the Pods away
  podnet.datapath.kube_node:
    name: "{{ inventory_hostname }}"
    state: drained
    kubeconfig: ~/.kube/config
    max_cordoned: 3
  delegate_to: localhost

- name: Let them come back
  podnet.datapath.kube_node:
    name: "{{ inventory_hostname }}"
    state: uncordoned
    kubeconfig: ~/.kube/config
  delegate_to: localhost
"""

RETURN = r"""
cordoned:
  description: Whether the node is cordoned now, or in check mode would be.
  returned: success
  type: bool
was_cordoned:
  description: Whether it was cordoned before.
  returned: success
  type: bool
evicted:
  description: The Pods that were evicted, or would be.
  returned: success
  type: list
  elements: str
  sample: [default/web-7d9c]
note:
  description: What an operator should know, such as that somebody else had cordoned the node.
  returned: success
  type: str
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.podnet.datapath.plugins.module_utils._ops import kubernetes

STATES = {"cordoned": kubernetes.cordon, "drained": kubernetes.drain, "uncordoned": kubernetes.uncordon}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "required": True, "choices": sorted(STATES)},
            "owner": {"type": "str", "default": "site"},
            "kubeconfig": {"type": "path"},
            "context": {"type": "str"},
            "force": {"type": "bool", "default": False},
            "delete_emptydir_data": {"type": "bool", "default": False},
            "grace_period": {"type": "int"},
            "timeout": {"type": "int", "default": 600},
            "max_cordoned": {"type": "int", "default": 0},
        },
        supports_check_mode=True,
    )
    p = module.params
    want = kubernetes.Desired(
        p["name"],
        p["owner"],
        p["force"],
        p["delete_emptydir_data"],
        p["grace_period"],
        p["timeout"],
        p["max_cordoned"],
    )
    try:
        api = kubernetes.Api(kubernetes.access(p["kubeconfig"], p["context"]))
        before = bool(api.node(want.name)["spec"].get("unschedulable"))
        outcome = STATES[p["state"]](api, want, module.check_mode)
    except kubernetes.KubernetesError as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=outcome.changed,
        cordoned=outcome.cordoned,
        was_cordoned=before,
        evicted=outcome.evicted,
        note=outcome.note,
        diff={
            "before": f"cordoned: {str(before).lower()}\n"
            + "".join(f"pod: {pod}\n" for pod in outcome.evicted),
            "after": f"cordoned: {str(outcome.cordoned).lower()}\n",
        },
    )


if __name__ == "__main__":
    main()
