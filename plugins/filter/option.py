# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: option
short_description: Convert a role's option to its type
version_added: 0.1.0
author: podnet.datapath contributors (@podnet)
description:
  - Converts the value of an option to the type that the argument spec of its role declares.
  - Text, as from C(-e name=value) or an AWX survey, means what the same JSON means. A list of scalars may
    also be text separated by commas.
  - Fails if the value does not have the type.
positional: name
options:
  _input:
    description: The value of the option.
    type: raw
    required: true
  name:
    description: The name of the option.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Continue if packages may be installed
  ansible.builtin.debug:
    msg: Packages may be installed
  when: preflight_install_packages | podnet.datapath.option('preflight_install_packages')
"""

RETURN = r"""
_value:
  description: The converted value.
  type: raw
"""

from typing import Any

from ansible.errors import AnsibleFilterError
from jinja2 import Undefined

from ansible_collections.podnet.datapath.plugins.plugin_utils import options


def option(value: Any, name: str) -> Any:
    """Return the converted value; keep an undefined one, so that C(default) can follow."""
    if isinstance(value, Undefined):
        return value
    spec = options.spec_of(name)
    if spec is None:
        raise AnsibleFilterError(f"option: {name} is not an option of a role")
    converted, problems = options.convert(name, spec, value)
    if problems:
        raise AnsibleFilterError("; ".join(problems))
    return converted


class FilterModule:
    """The filter for Ansible."""

    def filters(self) -> dict[str, Any]:
        """Return the filter by name."""
        return {"option": option}
