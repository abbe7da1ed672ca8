#!/usr/bin/python
# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: nic_info
short_description: Gather settings and limits of network interfaces
version_added: 0.1.0
author: podnet.datapath contributors (@podnet)
description:
  - Returns all settings that M(podnet.datapath.nic_tuning) can change, under the same names, with the limits
    of the driver.
extends_documentation_fragment:
  - podnet.datapath.attributes.info
  - podnet.datapath.tuning
requirements:
  - pyroute2 >= 0.7.2 (C(python3-pyroute2) on Debian)
options:
  nics:
    description: Interfaces to query. The default is all interfaces.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the interface.
        type: str
      driver:
        description: All interfaces of this driver.
        type: str
      pci:
        description: All interfaces of the device at this PCI address.
        type: str
      default_route:
        description: All interfaces that carry a default route.
        type: bool
        default: false
"""

EXAMPLES = r"""
- name: Gather settings of the NIC that carries the default route
  podnet.datapath.nic_info:
    nics: [{default_route: true}]
  register: uplink

- name: Show its maximum ring and packet sizes
  ansible.builtin.debug:
    msg: "{{ uplink.nics[0].maximum['rings.rx'] | default(0) }}, {{ uplink.nics[0].maximum.gso_max_size }}"
"""

RETURN = r"""
nics:
  description: The selected interfaces.
  returned: success
  type: list
  elements: dict
  contains:
    name: {description: Name of the interface., type: str}
    driver: {description: Name of the driver; empty if unknown., type: str}
    bus: {description: "PCI address, or the bus information that the driver reports.", type: str}
    default_route: {description: Whether the interface carries a default route., type: bool}
    settings: {description: "Current settings, for example C(rings.rx) or C(features.rx-gro).", type: dict}
    minimum: {description: Minimum value of each setting that has one., type: dict}
    maximum: {description: Maximum value of each setting that has one., type: dict}
    fixed: {description: Features that cannot be changed., type: list, elements: str}
    requested_on:
      description: Features that are requested on but off, C([requested on]) in C(ethtool -k).
      type: list
      elements: str
    xdp: {description: Whether an XDP program is attached., type: bool}
    header_split:
      description: Values of O(podnet.datapath.nic_tuning#module:nics[].header_split) that are supported now.
      type: list
      elements: str
    mtu_sources: {description: "Configuration files that set the MTU, each with its value.", type: dict}
    persisted:
      description: Whether M(podnet.datapath.nic_tuning) configures the interface at every boot.
      type: bool
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.podnet.datapath.plugins.module_utils._core import plan
from ansible_collections.podnet.datapath.plugins.module_utils._kernel.messages import require_pyroute2
from ansible_collections.podnet.datapath.plugins.module_utils._nic import info


def main() -> None:
    nic = {
        **{selector: {"type": "str"} for selector in ("name", "driver", "pci")},
        "default_route": {"type": "bool", "default": False},
    }
    module = AnsibleModule(
        argument_spec={"nics": {"type": "list", "elements": "dict", "default": [], "options": nic}},
        supports_check_mode=True,
    )
    try:
        require_pyroute2()
        facts = info.nics(module.params["nics"])
    except plan.Problem as problem:
        module.fail_json(msg=str(problem))
    module.exit_json(changed=False, nics=facts)


if __name__ == "__main__":
    main()
