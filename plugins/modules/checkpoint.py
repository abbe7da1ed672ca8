#!/usr/bin/python
# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: checkpoint
short_description: Confirm, revert or query a pending checkpoint
version_added: 0.1.0
author: podnet.datapath contributors (@podnet)
description:
  - O(podnet.datapath.nic_tuning#module:confirm_timeout), O(podnet.datapath.bpf_attach#module:confirm_timeout)
    and O(podnet.datapath.revert#module:confirm_timeout) make changes under a checkpoint. The node rolls them
    back unless this module confirms the checkpoint in time.
  - Run O(state=confirmed) over a new connection, because only that proves that the node is still reachable.
  - Confirming after the timeout fails. The message lists the changes that the node rolled back.
extends_documentation_fragment:
  - podnet.datapath.attributes
attributes:
  check_mode:
    description: Can run in check mode, and fails if a run would fail.
  diff_mode:
    description: Returns no differences.
    support: none
  idempotent:
    support: partial
    details:
      - A checkpoint can be confirmed only once. Reverting a reverted checkpoint changes nothing.
requirements:
  - pyroute2 >= 0.7.2 (C(python3-pyroute2) on Debian)
options:
  name:
    description:
      - Name of the checkpoint, as given by O(podnet.datapath.nic_tuning#module:confirm_name) or as returned
        by the module that created the checkpoint.
      - The default is the most recent checkpoint.
    type: str
    default: ""
  state:
    description:
      - V(confirmed) keeps the changes.
      - V(reverted) rolls them back now.
      - V(status) only queries the checkpoint.
    type: str
    choices: [confirmed, reverted, status]
    required: true
  reason:
    description: Reason for O(state=reverted), recorded in the journal.
    type: str
    default: requested
  errors:
    description:
      - RV(errors) of an earlier call with O(state=status). O(state=confirmed) fails if an error counter of a
        NIC has increased since.
      - O(state=confirmed) also fails if the module that made the change has not completed, if an affected NIC
        has lost its carrier, or if a path in RV(paths) no longer answers. Affected NICs are those whose
        settings or programs changed. The module waits up to 15 seconds for these conditions to clear.
    type: dict
    default: {}
seealso:
  - module: podnet.datapath.nic_tuning
  - module: podnet.datapath.bpf_attach
  - module: podnet.datapath.revert
"""

EXAMPLES = r"""
- name: Change the MTU, and roll back unless confirmed within two minutes
  podnet.datapath.nic_tuning:
    nics:
      - {name: ens1f0np0, mtu: 9000}
    confirm_timeout: 120
  become: true
  register: tuned

- name: Close the connection, so that the next task opens a new one
  ansible.builtin.meta: reset_connection

- name: Confirm the change
  podnet.datapath.checkpoint:
    name: "{{ tuned.checkpoint }}"
    state: confirmed
  become: true
  when: tuned is changed
"""

RETURN = r"""
name:
  description: Name of the checkpoint; empty if there is none.
  returned: success
  type: str
status:
  description: Status of the checkpoint, V(armed), V(reverting), V(confirmed), V(reverted) or V(none).
  returned: success
  type: str
by:
  description: Address of the client that created the checkpoint, or V(this node).
  returned: success
  type: str
time:
  description: Time at which the checkpoint was created.
  returned: success
  type: str
timeout:
  description: Seconds from creation to automatic rollback.
  returned: success
  type: int
reverted:
  description: The changes that were rolled back.
  returned: success
  type: list
  elements: str
errors:
  description: Error count of each changed NIC; null for a NIC without carrier.
  returned: success
  type: dict
  sample: {ens1f0np0: 0}
paths:
  description: Paths that answered before the change and must answer again for O(state=confirmed).
  returned: success
  type: list
  elements: dict
  sample: [{netns: pod1, to: 10.31.2.11, size: 1500}]
reason:
  description: Why the checkpoint was reverted; empty otherwise.
  returned: success
  type: str
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.podnet.datapath.plugins.module_utils._core import command, plan
from ansible_collections.podnet.datapath.plugins.module_utils._core.arguments import reject_negative
from ansible_collections.podnet.datapath.plugins.module_utils._kernel.messages import require_pyroute2
from ansible_collections.podnet.datapath.plugins.module_utils._nic.revert import Nics
from ansible_collections.podnet.datapath.plugins.module_utils._ops import confirm
from ansible_collections.podnet.datapath.plugins.module_utils._programs.revert import Programs


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "default": ""},
            "state": {"type": "str", "choices": ["confirmed", "reverted", "status"], "required": True},
            "reason": {"type": "str", "default": "requested"},
            "errors": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    reject_negative(module)
    try:
        if module.params["state"] == "reverted":
            require_pyroute2()
        result = confirm.run(
            module.params,
            module.check_mode,
            command.clean(module.run_command),
            {"nics": Nics(), "programs": Programs()},
        )
    except (plan.Problem, OSError) as problem:
        module.fail_json(msg=str(problem))
    result.exit(module)


if __name__ == "__main__":
    main()
