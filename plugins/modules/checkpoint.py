#!/usr/bin/python
# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: checkpoint
short_description: Confirm changes that the node would take back by itself, or have them taken back
version_added: 0.1.0
author: podnet.datapath contributors (@podnet)
description:
  - Changes that may cut a node off are made with O(podnet.datapath.nic_tuning#module:confirm_timeout),
    O(podnet.datapath.bpf_attach#module:confirm_timeout) or
    O(podnet.datapath.revert#module:confirm_timeout). This module confirms them, over a connection that
    proves that the node is still there.
  - A confirmation that comes too late fails, and tells what was taken back.
attributes:
  check_mode:
    description: Can run in check mode, and fails where a run would.
    support: full
  diff_mode:
    description: There is no diff.
    support: none
  idempotent:
    description:
      - A checkpoint can be confirmed once; O(state=reverted) of one that was reverted changes nothing.
    support: partial
options:
  name:
    description:
      - The checkpoint, as O(podnet.datapath.nic_tuning#module:confirm_name) named it, or as the module that
        armed it returned it. The last one if left out.
    type: str
    default: ""
  state:
    description:
      - V(confirmed) keeps the changes.
      - V(reverted) takes them back now.
      - V(status) looks only.
    type: str
    choices: [confirmed, reverted, status]
    required: true
  reason:
    description: Reason for O(state=reverted), recorded in the journal.
    type: str
    default: requested
  errors:
    description:
      - RV(errors) of an earlier V(status). O(state=confirmed) fails where a NIC has counted more since.
      - It also fails where the module that made the change has not come to its end, where a NIC that was
        changed, or whose programs were, has lost its carrier, and where a path of
        O(podnet.datapath.nic_tuning#module:confirm_paths) that answered before the change does not. All of
        it has 15 seconds to come.
    type: dict
    default: {}
seealso:
  - module: podnet.datapath.nic_tuning
  - module: podnet.datapath.bpf_attach
  - module: podnet.datapath.revert
"""

EXAMPLES = r"""
- name: Change the MTU for two minutes
  podnet.datapath.nic_tuning:
    nics:
      - {name: ens1f0np0, mtu: 9000}
    confirm_timeout: 120
  become: true
  register: tuned

- name: Keep it
  podnet.datapath.checkpoint:
    name: "{{ tuned.checkpoint }}"
    state: confirmed
  become: true
  when: tuned is changed
"""

RETURN = r"""
name:
  description: The checkpoint; empty where there never was one.
  returned: success
  type: str
status:
  description: V(armed), V(reverting), V(confirmed), V(reverted), or V(none).
  returned: success
  type: str
by:
  description: From where it was armed.
  returned: success
  type: str
time:
  description: When it was armed.
  returned: success
  type: str
timeout:
  description: The seconds it waits.
  returned: success
  type: int
reverted:
  description: What was taken back.
  returned: success
  type: list
  elements: str
errors:
  description: Bad frames that each changed NIC counted so far; none without a carrier.
  returned: success
  type: dict
  sample: {ens1f0np0: 0}
paths:
  description: What came through before the change, so it has to before O(state=confirmed).
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

from ansible_collections.podnet.datapath.plugins.module_utils._core import plan
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
    p = module.params
    try:
        result = confirm.run(
            p["name"],
            p["state"],
            p["reason"],
            p["errors"],
            module.check_mode,
            module.run_command,
            {"nics": Nics(), "programs": Programs()},
        )
    except (plan.Problem, OSError) as problem:
        module.fail_json(msg=str(problem))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
