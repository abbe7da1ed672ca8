#!/usr/bin/python
# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: sysctl_info
short_description: Tell what sysctls are, on a node and in its Pods, and who sets them
version_added: 0.1.0
author: podnet.datapath contributors (@podnet)
description:
  - Reads sysctls of a node and of its Pods' network namespaces, and tells which of them each namespace has
    for itself, what a new one begins with, and who sets them.
  - Tells which TCP window scale the kernel picks there for new connections, and what open ones announce.
  - Never changes the node.
extends_documentation_fragment: [podnet.datapath.attributes.info]
options:
  sysctls:
    description: Keys, written as for M(podnet.datapath.sysctl_zc).
    type: list
    elements: str
    default: [net.core.rmem_max, net.core.optmem_max, net.ipv4.tcp_rmem, net.ipv4.tcp_wmem]
  pods:
    description: Which Pods' network namespaces to look into; none if left out.
    type: dict
    suboptions:
      select:
        description: As O(podnet.datapath.sysctl_zc#module:pods.select).
        type: str
        choices: [managed, all, named]
        default: all
      names:
        description: Names in C(/run/netns), or paths of network namespaces, for O(pods.select=named).
        type: list
        elements: str
        default: []
      except:
        description: Names or paths that are left alone.
        type: list
        elements: str
        default: []
seealso:
  - name: Tuning
    description: What is tuned, to which values, and why.
    link: https://github.com/podnet/datapath/tree/main/docs/tuning.md
"""

EXAMPLES = r"""
- name: Which Pods still have a small window?
  podnet.datapath.sysctl_info:
    pods: {select: all}
  become: true
  register: tcp

- name: Name them
  ansible.builtin.debug:
    msg: "{{ tcp.windows | selectattr('window_scale', 'ne', 12) | map(attribute='netns') }}"
"""

RETURN = r"""
sysctls:
  description: What is known of each key, in the order given.
  returned: success
  type: list
  elements: dict
  contains:
    key: {description: The key., type: str}
    value: {description: Its value on the node., type: str}
    scope: {description: "V(namespace) if each network namespace has its own, else V(node).", type: str}
    new_namespace: {description: What a network namespace made now begins with., type: str}
    pods: {description: Its value in each Pod., type: dict}
    other_writers:
      description: Who sets it to another value, as RV(podnet.datapath.sysctl_zc#module:other_writers).
      type: list
      elements: dict
    without_effect: {description: "Why it does nothing in newer kernels, if so.", type: str}
windows:
  description: The TCP windows of the node, whose name is empty, and of each Pod.
  returned: success
  type: list
  elements: dict
  contains:
    netns: {description: The Pod., type: str}
    window_scale: {description: What new connections announce; none if scaling is off., type: int}
    connections:
      description: Open connections by the scale they announce, none for those that agreed on none.
      type: list
      elements: dict
pods_skipped:
  description: As RV(podnet.datapath.sysctl_zc#module:pods_skipped).
  returned: success
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.podnet.datapath.plugins.module_utils._core import plan
from ansible_collections.podnet.datapath.plugins.module_utils._sysctl import info


def main() -> None:
    sysctls = ["net.core.rmem_max", "net.core.optmem_max", "net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem"]
    pods = {
        "select": {"type": "str", "choices": ["managed", "all", "named"], "default": "all"},
        "names": {"type": "list", "elements": "str", "default": []},
        "except": {"type": "list", "elements": "str", "default": []},
    }
    module = AnsibleModule(
        argument_spec={
            "sysctls": {"type": "list", "elements": "str", "default": sysctls},
            "pods": {"type": "dict", "options": pods},
        },
        supports_check_mode=True,
    )
    try:
        facts = info.sysctls(module.params["sysctls"], module.params["pods"])
    except plan.Problem as problem:
        module.fail_json(msg=str(problem))
    module.exit_json(changed=False, **facts)


if __name__ == "__main__":
    main()
