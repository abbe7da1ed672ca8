#!/usr/bin/python
# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: revert
short_description: Restore the settings that a node had before this collection changed them
version_added: 0.1.0
author: podnet.datapath contributors (@podnet)
description:
  - M(podnet.datapath.sysctl_zc), M(podnet.datapath.nic_tuning), M(podnet.datapath.boot_args) and
    M(podnet.datapath.bpf_attach) record every change with its former value in the journal
    C(/var/lib/podnet-datapath/journal.jsonl). This module restores the former values of all recorded sysctls,
    NIC settings, boot arguments, files, and BPF programs with their pins. Files that did not exist before are
    removed.
  - Settings that already have their former value are skipped. Settings that others changed after the last run
    of this collection are left unchanged, with a warning.
  - Pods and NICs that no longer exist are skipped.
  - When nothing remains to restore, the journal is archived as C(journal-<time>.jsonl).
  - O(confirm_timeout) requires O(subsystems=[nics]). If the change is not confirmed, the node restores the
    settings of this collection.
extends_documentation_fragment:
  - podnet.datapath.attributes
  - podnet.datapath.confirm
requirements:
  - pyroute2 >= 0.7.2 (C(python3-pyroute2) on Debian)
options:
  subsystems:
    description: Subsystems to restore.
    type: list
    elements: str
    choices: [programs, nics, boot_args, sysctls]
    default: [programs, nics, boot_args, sysctls]
  force:
    description: Whether to restore settings even if others have changed them since.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Show what would be restored
  podnet.datapath.revert:
  become: true
  check_mode: true
  diff: true

- name: Restore the former NIC settings, and roll back unless confirmed within two minutes
  podnet.datapath.revert:
    subsystems: [nics]
    confirm_timeout: 120
  become: true
  register: reverted

- name: Close the connection, so that the next task opens a new one
  ansible.builtin.meta: reset_connection

- name: Confirm the restored NIC settings
  podnet.datapath.checkpoint:
    name: "{{ reverted.checkpoint }}"
    state: confirmed
  become: true
  when: reverted.checkpoint | length > 0
"""

RETURN = r"""
changes:
  description: The restored settings, in check mode the planned ones.
  returned: success
  type: list
  elements: dict
  contains:
    subsystem: {description: One of O(subsystems)., type: str}
    scope:
      description: NIC, network namespace or pin directory of the setting; empty for the node.
      type: str
    name: {description: "Name of the setting, or path of the file.", type: str}
    before: {description: Value before this call., type: raw}
    after: {description: Restored value., type: raw}
drift:
  description: Settings that others changed and that were left unchanged.
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
  description: Path of the archived journal; empty if it was not archived.
  returned: success
  type: str
checkpoint:
  description: Name of the checkpoint to confirm; empty if none was created.
  returned: success
  type: str
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.podnet.datapath.plugins.module_utils._core import command, plan
from ansible_collections.podnet.datapath.plugins.module_utils._core.arguments import reject_negative
from ansible_collections.podnet.datapath.plugins.module_utils._kernel.messages import require_pyroute2
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
    reject_negative(module)
    p = module.params
    try:
        require_pyroute2()
        confirmation = confirm.confirmation(p)
        result = revert_node.run(
            p["subsystems"], p["force"], module.check_mode, command.clean(module.run_command), confirmation
        )
    except (plan.Problem, OSError) as problem:
        module.fail_json(msg=str(problem))
    result.exit(module)


if __name__ == "__main__":
    main()
