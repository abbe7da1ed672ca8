#!/usr/bin/python
# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: sysctl_info
short_description: Gather sysctls of a node and its Pods
version_added: 0.1.0
author: podnet.datapath contributors (@podnet)
description:
  - Returns sysctls of a node and of its Pods' network namespaces, whether each sysctl is per network
    namespace, its value in a new namespace, and what else sets it.
  - Returns the TCP window scale that the kernel selects for new connections, and the window scales of open
    connections.
extends_documentation_fragment:
  - podnet.datapath.attributes.info
  - podnet.datapath.tuning
requirements:
  - pyroute2 >= 0.7.2 (C(python3-pyroute2) on Debian)
options:
  sysctls:
    description: Sysctl names, in the notation of O(podnet.datapath.sysctl_zc#module:sysctls).
    type: list
    elements: str
    default: [net.core.rmem_max, net.core.optmem_max, net.ipv4.tcp_rmem, net.ipv4.tcp_wmem]
  pods:
    description: Pods whose network namespaces are queried. The default is none.
    type: dict
    suboptions:
      select:
        description: Which namespaces to select, as in O(podnet.datapath.sysctl_zc#module:pods.select).
        type: str
        choices: [managed, all, named]
        default: all
      names:
        description: Names in C(/run/netns) or paths of network namespaces, for O(pods.select=named).
        type: list
        elements: str
        default: []
      except:
        description: Names or paths of namespaces to exclude.
        type: list
        elements: str
        default: []
"""

EXAMPLES = r"""
- name: Gather sysctls and TCP window scales of all Pods
  podnet.datapath.sysctl_info:
    pods: {select: all}
  become: true
  register: tcp

- name: Show the Pods whose new connections do not use a window scale of 12
  ansible.builtin.debug:
    msg: "{{ tcp.windows | selectattr('window_scale', 'ne', 12) | map(attribute='netns') }}"
"""

RETURN = r"""
sysctls:
  description: The sysctls, in the order of O(sysctls).
  returned: success
  type: list
  elements: dict
  contains:
    key: {description: Name of the sysctl., type: str}
    value: {description: Value on the node., type: str}
    scope: {description: "V(namespace) if the sysctl is per network namespace, otherwise V(node).", type: str}
    new_namespace:
      description: Value in a new network namespace; null if the sysctl is not per namespace.
      type: str
    pods: {description: Value in each Pod., type: dict}
    other_writers:
      description:
        - Other sources that set the sysctl to another value, as
          RV(podnet.datapath.sysctl_zc#module:other_writers).
      type: list
      elements: dict
    without_effect:
      description: Why the sysctl has no effect in newer kernels; empty if it has.
      type: str
windows:
  description: TCP window scaling of the node and of each Pod.
  returned: success
  type: list
  elements: dict
  contains:
    netns: {description: Name of the Pod; empty for the node., type: str}
    window_scale:
      description: Window scale that new connections announce; null if window scaling is disabled.
      type: int
    connections:
      description:
        - Open connections, grouped by the window scale that they announce. The scale is null for connections
          that did not negotiate one. The list is null if the kernel cannot list connections.
      type: list
      elements: dict
pods_skipped:
  description: Namespaces that were not queried, as RV(podnet.datapath.sysctl_zc#module:pods_skipped).
  returned: success
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.podnet.datapath.plugins.module_utils._core import plan
from ansible_collections.podnet.datapath.plugins.module_utils._kernel.messages import require_pyroute2
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
        require_pyroute2()
        facts = info.sysctls(module.params["sysctls"], module.params["pods"])
    except (plan.Problem, OSError) as problem:
        module.fail_json(msg=str(problem))
    module.exit_json(changed=False, **facts)


if __name__ == "__main__":
    main()
