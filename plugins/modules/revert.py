#!/usr/bin/python
# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: revert
short_description: Put back what this collection changed on a node, as its journal has it
version_added: 0.1.0
extends_documentation_fragment: [podnet.datapath.confirm]
author: podnet.datapath contributors (@podnet)
description:
  - M(podnet.datapath.sysctl_zc), M(podnet.datapath.nic_tuning), M(podnet.datapath.boot_args) and
    M(podnet.datapath.bpf_attach) write what they change, and what it was before, into
    C(/var/lib/podnet-datapath/journal.jsonl). This module gives every sysctl, NIC setting, boot argument and
    file in it its former value, or takes the file away, and programs with their pins, too.
  - What is as it was already is left so. What is neither as it was nor as this collection left it has been
    changed by somebody else, is left alone, and is a warning.
  - Pods that ended and NICs that are gone need nothing.
  - With nothing left to put back, the journal is put away as C(journal-<time>.jsonl).
attributes:
  check_mode:
    description: Can run in check mode and tells what would be put back.
    support: full
  diff_mode:
    description: Shows what is put back.
    support: full
  idempotent:
    description: Running it twice changes nothing the second time.
    support: full
options:
  subsystems:
    description: What is put back.
    type: list
    elements: str
    choices: [programs, nics, boot_args, sysctls]
    default: [programs, nics, boot_args, sysctls]
  force:
    description: Whether what somebody else changed since is put back, too.
    type: bool
    default: false
  confirm_timeout:
    description:
      - Seconds within which M(podnet.datapath.checkpoint) has to confirm that NICs were put back. Otherwise
        the node takes that back by itself, and is as this collection left it. V(0) needs no confirmation.
      - For O(subsystems=[nics]) alone. Counts where there is something to put back; RV(checkpoint) is what to
        confirm then.
    type: int
    default: 0
seealso:
  - module: podnet.datapath.checkpoint
"""

EXAMPLES = r"""
- name: Look what would be put back
  podnet.datapath.revert:
  become: true
  check_mode: true
  diff: true

- name: Give NICs their former settings, now and at the next boot
  podnet.datapath.revert:
    subsystems: [nics]
    confirm_timeout: 120
  become: true
  register: put_back

- name: Keep that, over a connection that shows that the node is still there
  podnet.datapath.checkpoint:
    name: "{{ put_back.checkpoint }}"
    state: confirmed
  become: true
  when: put_back.checkpoint | length > 0
"""

RETURN = r"""
changes:
  description: What was, or in check mode would be, put back.
  returned: success
  type: list
  elements: dict
  contains:
    subsystem: {description: One of O(subsystems)., type: str}
    scope:
      description: NIC, network namespace or pin folder that the setting belongs to; empty for the node.
      type: str
    name: {description: "The setting, or the path of the file.", type: str}
    before: {description: What it was until now., type: raw}
    after: {description: What it is again., type: raw}
drift:
  description: What was left alone, as somebody else changed it.
  returned: success
  type: list
  elements: dict
  contains:
    subsystem: {description: As in RV(changes)., type: str}
    scope: {description: As in RV(changes)., type: str}
    name: {description: As in RV(changes)., type: str}
    current: {description: "Current value; for files, the SHA-256 of the content.", type: raw}
    applied: {description: Value that this collection applied., type: raw}
    original: {description: Value before this collection changed it., type: raw}
archived:
  description: Where the journal lies now that nothing is left to put back; empty otherwise.
  returned: success
  type: str
checkpoint:
  description: The name of what is to be confirmed, empty where nothing is.
  returned: success
  type: str
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.podnet.datapath.plugins.module_utils._core import plan
from ansible_collections.podnet.datapath.plugins.module_utils._ops import confirm, revert_node


def main() -> None:
    subsystems = list(revert_node.SUBSYSTEMS)
    module = AnsibleModule(
        argument_spec={
            "subsystems": {"type": "list", "elements": "str", "choices": subsystems, "default": subsystems},
            "force": {"type": "bool", "default": False},
            **confirm.ARGUMENTS,
        },
        supports_check_mode=True,
    )
    p = module.params
    try:
        confirmation = confirm.confirmation(p)
        result = revert_node.run(
            p["subsystems"], p["force"], module.check_mode, module.run_command, confirmation
        )
    except (plan.Problem, OSError) as problem:
        module.fail_json(msg=str(problem))
    module.exit_json(**result.as_dict())


if __name__ == "__main__":
    main()
