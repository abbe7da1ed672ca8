#!/usr/bin/python
# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: nic_info
short_description: Tell what network interfaces are set to, and what they can be set to
version_added: 0.1.0
author: podnet.datapath contributors (@podnet)
description:
  - Reads everything that M(podnet.datapath.nic_tuning) sets, by the same names, with the limits of the
    driver.
  - Never changes the node.
extends_documentation_fragment: [podnet.datapath.attributes.info]
options:
  nics:
    description: Which interfaces; all of them if left out.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the interface.
        type: str
      driver:
        description: Every interface of this driver.
        type: str
      pci:
        description: Every interface of the device at this PCI address.
        type: str
      default_route:
        description: Every interface that carries a default route.
        type: bool
        default: false
seealso:
  - name: Tuning
    description: What is tuned, to which values, and why.
    link: https://github.com/podnet/datapath/tree/main/docs/tuning.md
"""

EXAMPLES = r"""
- name: What can the NIC do that carries the default route?
  podnet.datapath.nic_info:
    nics: [{default_route: true}]
  register: uplink

- name: Its largest ring and packet
  ansible.builtin.debug:
    msg: "{{ uplink.nics[0].maximum['rings.rx'] | default(0) }}, {{ uplink.nics[0].maximum.gso_max_size }}"
"""

RETURN = r"""
nics:
  description: What is known of each interface.
  returned: success
  type: list
  elements: dict
  contains:
    name: {description: Its name., type: str}
    driver: {description: Its driver; empty where it has none., type: str}
    bus: {description: "Its PCI address, or what the driver says.", type: str}
    default_route: {description: Whether it carries a default route., type: bool}
    settings: {description: "What it is set to, as C(rings.rx) or C(features.rx-gro).", type: dict}
    minimum: {description: Smallest values., type: dict}
    maximum: {description: Largest values., type: dict}
    fixed: {description: Features that cannot be changed., type: list, elements: str}
    requested_on:
      description: Features that are requested on but off, as C([requested on]) of C(ethtool -k).
      type: list
      elements: str
    xdp: {description: Whether an XDP program is attached., type: bool}
    header_split: {description: Ways of splitting headers that it has., type: list, elements: str}
    mtu_sources: {description: "Configuration files that set its MTU, with the MTU.", type: dict}
    persisted: {description: Whether nic_tuning sets it up at every boot., type: bool}
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.podnet.datapath.plugins.module_utils._core import plan
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
        facts = info.nics(module.params["nics"])
    except plan.Problem as problem:
        module.fail_json(msg=str(problem))
    module.exit_json(changed=False, nics=facts)


if __name__ == "__main__":
    main()
