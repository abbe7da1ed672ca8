#!/usr/bin/python
# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: nic_tuning
short_description: Set MTU, queues, coalescing, offloads and segment sizes of network interfaces
version_added: 0.1.0
author: podnet.datapath contributors (@podnet)
description:
  - Brings all given network interfaces to the given settings in one call, and reads them back.
  - What a driver does not support, and values above its maximum, are refused before the first change to any
    interface. Where the kernel refuses midway, or makes a value another one, everything is set as it was
    before, and the module fails.
  - Settings that are not given stay.
  - The settings last until the next boot or until the driver is loaded again.
  - Needs Linux 5.7 and no program on the node; C(ethtool) in particular need not be installed.
attributes:
  check_mode:
    description: Can run in check mode and tells what would change. What the kernel clamps, only a run shows.
    support: full
  diff_mode:
    description: Shows the settings that change, an interface at a time.
    support: full
  idempotent:
    description: Running it twice changes nothing the second time.
    support: full
options:
  nics:
    description: The interfaces and their settings.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the interface.
        type: str
        required: true
      mtu:
        description: MTU in bytes.
        type: int
      rings:
        description: Ring sizes in descriptors, C(rx), C(tx), C(rx-mini), C(rx-jumbo).
        type: dict
        default: {}
      channels:
        description: Numbers of queues, C(combined), C(rx), C(tx), C(other).
        type: dict
        default: {}
      coalesce:
        description:
          - Interrupt coalescing by the names of ethtool(8), such as C(rx-usecs), C(tx-frames) and
            C(adaptive-rx).
        type: dict
        default: {}
      features:
        description:
          - Offloads to switch on or off, by the names that C(ethtool -k) prints, by its short names (C(gro),
            C(lro), C(tso) and so on) or by the kernel's (C(rx-gro-hw)).
          - A name that stands for several features, such as C(tso), sets those of them that can be changed.
        type: dict
        default: {}
      priv_flags:
        description: The driver's private flags to switch on or off, such as C(rx_striding_rq) of mlx5.
        type: dict
        default: {}
      gso_max_size:
        description:
          - Bytes in the largest packet that the stack hands to the interface to be segmented, C(tso_max_size)
            of the driver at most. More than 65536 is BIG TCP.
        type: int
      gro_max_size:
        description: Bytes in the largest packet that the stack merges received segments into.
        type: int
      gso_ipv4_max_size:
        description:
          - As O(nics[].gso_max_size), for IPv4. Needs Linux 6.3.
          - If it is not given it stays, also where O(nics[].gso_max_size) is 65536 or less, with which the
            kernel alone would change it.
        type: int
      gro_ipv4_max_size:
        description: As O(nics[].gro_max_size), for IPv4. Needs Linux 6.3.
        type: int
      optional:
        description:
          - What is left out where driver or kernel does not support it, instead of failing. Options of this
            interface (C(coalesce), C(gso_ipv4_max_size)) or one setting (C(features.rx-gro-hw),
            C(rings.tx)).
          - RV(nics[].skipped) tells what was left out. Values above a maximum are an error all the same.
        type: list
        elements: str
        default: []
seealso:
  - name: Tuning
    description: What is tuned, to which values, and why.
    link: https://github.com/podnet/datapath/tree/main/docs/tuning.md
"""

EXAMPLES = r"""
- name: Two pages of data in each packet, BIG TCP, no LRO
  podnet.datapath.nic_tuning:
    nics:
      - name: ens1f0np0
        mtu: 8264
        rings: {rx: 8192, tx: 8192}
        coalesce: {adaptive-rx: true}
        features: {gro: true, lro: false}
        gso_max_size: 185000
        gro_max_size: 185000
  become: true

- name: Header and data split as in the talk, where the driver knows the flag
  podnet.datapath.nic_tuning:
    nics:
      - name: ens1f0np0
        priv_flags: {rx_striding_rq: false}
        features: {rx-gro-hw: false}
        optional: [priv_flags.rx_striding_rq, features.rx-gro-hw]
  become: true
"""

RETURN = r"""
nics:
  description: A result for each interface, in the order given.
  returned: success
  type: list
  elements: dict
  contains:
    name: {description: Name of the interface., type: str}
    driver: {description: Its driver; empty where it has none., type: str}
    changes:
      description: What was, or in check mode would be, set, each with C(name), C(before) and C(after).
      type: list
      elements: dict
    skipped: {description: "What O(nics[].optional) left out, with the reason.", type: dict}
  sample:
    - name: ens1f0np0
      driver: mlx5_core
      changes:
        - {name: mtu, before: 1500, after: 8264}
      skipped: {features.rx-gro-hw: is fixed off, so it cannot be on}
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.podnet.datapath.plugins.module_utils import _nic, _plan


def main() -> None:
    groups = ("rings", "channels", "coalesce", "features", "priv_flags")
    sizes = ("gso_max_size", "gro_max_size", "gso_ipv4_max_size", "gro_ipv4_max_size")
    nic = {
        "name": {"type": "str", "required": True},
        "mtu": {"type": "int"},
        **{group: {"type": "dict", "default": {}} for group in groups},
        **{size: {"type": "int"} for size in sizes},
        "optional": {"type": "list", "elements": "str", "default": []},
    }
    module = AnsibleModule(
        argument_spec={"nics": {"type": "list", "elements": "dict", "required": True, "options": nic}},
        supports_check_mode=True,
    )
    try:
        result = _nic.run(module.params["nics"], module.check_mode)
    except _plan.Problem as problem:
        module.fail_json(msg=str(problem))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
