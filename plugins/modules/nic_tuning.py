#!/usr/bin/python
# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: nic_tuning
short_description: Set MTU, queues, offloads, segment sizes, steering and more of network interfaces
version_added: 0.1.0
author: podnet.datapath contributors (@podnet)
extends_documentation_fragment: [podnet.datapath.confirm]
description:
  - Brings all given network interfaces to the given settings in one call, and reads them back.
  - What a driver does not support, and values above its maximum, are refused before the first change to any
    interface. Where the kernel refuses midway, or makes a value another one, everything is set as it was
    before, and the module fails.
  - Settings that are not given stay.
  - The settings last until the next boot or until the driver is loaded again, unless O(persist) is given.
  - Needs Linux 5.7 and no program on the node; C(ethtool) in particular need not be installed.
  - O(nics[].napi) and O(nics[].steering) are read in C(/sys), so they are there for interfaces of the network
    namespace that C(/sys) was mounted in.
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
        description:
          - Name of the interface.
          - Exactly one of O(nics[].name), O(nics[].driver), O(nics[].pci) and O(nics[].default_route) is
            given.
        type: str
      driver:
        description: Every interface of this driver, virtual functions included, such as V(mlx5_core).
        type: str
      pci:
        description: Every interface of the device at this PCI address, such as V(0000:3b:00.0) or V(3b:00.0).
        type: str
      default_route:
        description: Every interface that carries a default route, of IPv4 or IPv6.
        type: bool
        default: false
      mtu:
        description:
          - MTU in bytes.
          - A lower one is refused where it would take along what the former one does not bring back, IPv6
            addresses below 1280 and the MTU of a VLAN, macvlan or MACsec device on the interface, unless that
            is given one of its own in O(nics). Devices in other network namespaces are not seen.
        type: int
      rings:
        description:
          - Ring sizes in descriptors, C(rx), C(tx), C(rx-mini), C(rx-jumbo), and what belongs to rings
            besides, C(rx-buf-len), C(tcp-data-split), C(hds-thresh), C(cqe-size), C(tx-push), C(rx-push) and
            C(tx-push-buf-len).
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
      pause:
        description: Flow control (pause frames), C(rx), C(tx) and C(autoneg), each on or off.
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
      header_split:
        description:
          - How headers and data get into different pages, as TCP zero-copy needs it.
          - V(striding_off) is the way of the talk, for C(mlx5_core) with the talk's patch. Striding receive
            queues, HW-GRO and LRO are switched off.
          - V(data_split) is upstream's way, the ring parameter C(tcp-data-split). On C(mlx5_core) it brings
            striding receive queues and HW-GRO, without compressed completions and LRO. Refused while an XDP
            program is attached.
          - What contradicts it in the other options is an error that gives the reason.
        type: str
        choices: [striding_off, data_split]
      napi:
        description:
          - C(threaded), whether NAPI runs in kernel threads, C(gro_flush_timeout) in nanoseconds, and
            C(napi_defer_hard_irqs), how many empty polls keep interrupts masked.
        type: dict
        default: {}
      steering:
        description:
          - Which CPUs serve the interface. CPUs are V(local), those of the interface's NUMA node, V(all),
            V(none), or a list such as V(0-3,8).
        type: dict
        suboptions:
          rps:
            description: CPUs that every receive queue hands packets to in software; V(none) switches it off.
            type: str
          xps:
            description: CPUs that the transmit queues are dealt out to.
            type: str
          rfs:
            description:
              - Flows that the receive queues remember together, so that packets go where their reader runs.
                V(0) switches that off.
              - C(net.core.rps_sock_flow_entries) must be at least that.
            type: int
          irqs:
            description:
              - CPUs that the interface's interrupts are dealt out to. Refused while irqbalance runs, which
                would move them.
            type: str
      qdisc:
        description:
          - Queueing discipline without settings, such as V(fq), of the interface or of each of its queues.
          - A present one that somebody set up is not replaced.
        type: str
      limit_to_maximum:
        description:
          - Take the driver's maximum for a number that is above it, instead of failing. RV(nics[].limited)
            tells.
        type: bool
        default: false
      optional:
        description:
          - What is left out where driver or kernel does not support it, instead of failing. Options of this
            interface (C(coalesce), C(gso_ipv4_max_size), C(header_split)) or one setting
            (C(features.rx-gro-hw), C(rings.tx)).
          - RV(nics[].skipped) tells what was left out. Values above a maximum are an error all the same.
        type: list
        elements: str
        default: []
  persist:
    description:
      - Have the same settings made again at every boot and whenever an interface appears, as after a driver's
        reload. It keeps exactly the interfaces of this call, by name; an empty O(nics) takes all of it away.
      - A copy of this module's code in C(/usr/local/lib/podnet) is started by a udev rule and a unit of
        systemd.
      - What a C(.link) file sets comes before and is overwritten. Where networkd gives such an interface
        another MTU, it gets a drop-in; where its file serves other interfaces too, or NetworkManager or
        ifupdown have another MTU, that is a warning.
    type: bool
    default: false
  confirm_timeout:
    description:
      - Seconds within which M(podnet.datapath.checkpoint) has to confirm the changes. Otherwise the node
        takes them back by itself, those to files of O(persist) included. Where it is booted before that, it
        takes them back at boot. V(0) needs no confirmation.
      - Counts where there is something to change; RV(checkpoint) is what to confirm then.
      - While it waits, whoever else wants to change this node is refused.
    type: int
    default: 0
seealso:
  - module: podnet.datapath.checkpoint
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
        gso_ipv4_max_size: 185000
        gro_ipv4_max_size: 185000
  become: true

- name: Header and data split as in the talk, on every NIC of the driver
  podnet.datapath.nic_tuning:
    nics:
      - driver: mlx5_core
        header_split: striding_off
  become: true

- name: The NIC that carries the default route, served by the CPUs next to it, at the next boot as well
  podnet.datapath.nic_tuning:
    nics:
      - default_route: true
        steering: {xps: local, irqs: local}
        napi: {threaded: true, gro_flush_timeout: 20000, napi_defer_hard_irqs: 2}
        qdisc: fq
    persist: true
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
    limited: {description: "What O(nics[].limit_to_maximum) lowered, and to what.", type: dict}
  sample:
    - name: ens1f0np0
      driver: mlx5_core
      changes:
        - {name: mtu, before: 1500, after: 8264}
      skipped: {features.rx-gro-hw: is fixed off, so it cannot be on}
      limited: {}
rolled_back:
  description: What the node took back by itself before, if no run was told of it yet; a warning, too.
  returned: success
  type: str
checkpoint:
  description: The name of what is to be confirmed, empty where nothing is.
  returned: success
  type: str
files:
  description: Files of O(persist) that were, or in check mode would be, written or removed.
  returned: success
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.podnet.datapath.plugins.module_utils._core import plan
from ansible_collections.podnet.datapath.plugins.module_utils._nic import apply
from ansible_collections.podnet.datapath.plugins.module_utils._ops import confirm


def main() -> None:
    groups = ("rings", "channels", "coalesce", "pause", "features", "priv_flags", "napi")
    sizes = ("gso_max_size", "gro_max_size", "gso_ipv4_max_size", "gro_ipv4_max_size")
    nic = {
        **{selector: {"type": "str"} for selector in ("name", "driver", "pci")},
        "default_route": {"type": "bool", "default": False},
        "mtu": {"type": "int"},
        **{group: {"type": "dict", "default": {}} for group in groups},
        **{size: {"type": "int"} for size in sizes},
        "header_split": {"type": "str", "choices": ["striding_off", "data_split"]},
        "steering": {
            "type": "dict",
            "options": {**{way: {"type": "str"} for way in ("rps", "xps", "irqs")}, "rfs": {"type": "int"}},
        },
        "qdisc": {"type": "str"},
        "limit_to_maximum": {"type": "bool", "default": False},
        "optional": {"type": "list", "elements": "str", "default": []},
    }
    module = AnsibleModule(
        argument_spec={
            "nics": {"type": "list", "elements": "dict", "required": True, "options": nic},
            "persist": {"type": "bool", "default": False},
            **confirm.ARGUMENTS,
        },
        supports_check_mode=True,
    )
    try:
        result = apply.run(
            module.params["nics"],
            module.params["persist"],
            module.check_mode,
            module.run_command,
            confirmation=confirm.confirmation(module.params),
        )
    except plan.Problem as problem:
        module.fail_json(msg=str(problem))
    module.exit_json(**result.as_dict())


if __name__ == "__main__":
    main()
