# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# The action plugin of the same name implements this module on the controller.

from __future__ import annotations

DOCUMENTATION = r"""
module: validate_options
short_description: Validate the options of this collection's roles
version_added: 0.1.0
author: podnet.datapath contributors (@podnet)
description:
  - Validates all variables of the host that are options of this collection's roles and playbooks, suboptions
    included, against the argument specs. The playbooks do so before any other task.
  - Text, as from C(-e name=value) or an AWX survey, means what the same JSON means. A list of scalars may
    also be text separated by commas.
  - A variable that starts with the name of a role and resembles one of its options is an error. Other unknown
    variables with such a name cause a warning.
  - A value whose template uses a result of a later task, such as C(preflight_node), is validated by the role
    that uses it.
  - Runs on the controller and needs no connection to the host.
options:
  role:
    description: Role whose required options must be set. By default, no option is required.
    type: str
  playbook:
    description: Playbook with options of its own, which are validated as well, such as V(awx).
    type: str
extends_documentation_fragment: [podnet.datapath.attributes]
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  idempotent:
    support: full
"""

EXAMPLES = r"""
- name: Validate the options of all roles
  podnet.datapath.validate_options:
  any_errors_fatal: true
"""

RETURN = r"""
problems:
  description: All problems, each with the option, the value and the remedy.
  returned: always
  type: list
  elements: str
  sample: ["pods_driver: 'metta' is not one of auto, meta, netkit, veth; did you mean meta?"]
"""
