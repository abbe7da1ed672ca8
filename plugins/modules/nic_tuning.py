#!/usr/bin/python
# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: nic_tuning
short_description: Set MTU, queues, offloads, packet sizes and steering of network interfaces
version_added: 0.1.0
author: podnet.datapath contributors (@podnet)
description:
  - Brings all listed network interfaces to the requested settings in one call, and verifies them by reading
    back. Settings that are not given are not changed.
  - Unsupported settings and values above the driver's maximum are rejected before anything changes. If the
    kernel later rejects or clamps a value, all settings are restored and the module fails.
  - Settings are lost when the node reboots or the driver is reloaded, unless O(persist) is set.
  - Requires Linux 5.7. No tools are required on the node, not even C(ethtool).
  - O(nics[].napi) and O(nics[].steering) use sysfs. They are available for interfaces in the network
    namespace in which C(/sys) was mounted.
  - With O(confirm_timeout), a rollback also restores the files of O(persist).
extends_documentation_fragment:
  - podnet.datapath.attributes
  - podnet.datapath.confirm
  - podnet.datapath.tuning
attributes:
  check_mode:
    details:
      - Values that the kernel clamps are only detected when they are written.
  diff_mode:
    description: Returns the settings that change, for each interface.
requirements:
  - pyroute2 >= 0.7.2 (C(python3-pyroute2) on Debian)
options:
  nics:
    description: Interfaces and their settings.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description:
          - Name or alternative name of the interface.
          - Each entry requires exactly one of O(nics[].name), O(nics[].driver), O(nics[].pci) and
            O(nics[].default_route).
        type: str
      driver:
        description: All interfaces of this driver, including virtual functions, for example V(mlx5_core).
        type: str
      pci:
        description:
          - All interfaces of the device at this PCI address, for example V(0000:3b:00.0) or V(3b:00.0).
        type: str
      default_route:
        description: All interfaces that carry an IPv4 or IPv6 default route.
        type: bool
        default: false
      mtu:
        description:
          - MTU in bytes. If MTUs depend on each other, as those of a VLAN and its lower device, O(nics) may
            list them in any order.
          - A lower MTU is rejected if a rollback could not undo its effects. Below 1280 bytes, the
            kernel removes IPv6 addresses. It also lowers the MTU of VLAN, macvlan and MACsec devices on
            top of the interface; this is accepted if O(nics) sets the MTU of those devices. Devices in
            other network namespaces are not checked.
        type: int
      rings:
        description:
          - Ring sizes in descriptors, C(rx), C(tx), C(rx-mini) and C(rx-jumbo), and further ring parameters,
            C(rx-buf-len), C(tcp-data-split), C(hds-thresh), C(cqe-size), C(tx-push), C(rx-push) and
            C(tx-push-buf-len).
        type: dict
        default: {}
      channels:
        description: Number of queues, C(combined), C(rx), C(tx) and C(other).
        type: dict
        default: {}
      coalesce:
        description:
          - Interrupt coalescing parameters with their names in ethtool(8), for example C(rx-usecs),
            C(tx-frames) and C(adaptive-rx).
        type: dict
        default: {}
      pause:
        description: Flow control (pause frames), C(rx), C(tx) and C(autoneg), each on or off.
        type: dict
        default: {}
      features:
        description:
          - Offloads to switch on or off, with the names that C(ethtool -k) prints, the short names of ethtool
            (C(gro), C(lro), C(tso) and so on), or the kernel's names (C(rx-gro-hw)).
          - A name that stands for several features, for example C(tso), sets those that are not fixed.
          - Features that the kernel keeps off because they need another one, as C(tso) needs C(tx), count as
            not supported.
        type: dict
        default: {}
      priv_flags:
        description: Private flags of the driver to switch on or off, for example C(rx_striding_rq) of mlx5.
        type: dict
        default: {}
      gso_max_size:
        description:
          - Maximum size in bytes of packets that the stack passes to the interface for segmentation, at most
            the C(tso_max_size) of the driver. Values above 65536 enable BIG TCP.
        type: int
      gro_max_size:
        description: Maximum size in bytes of packets that GRO builds from received segments.
        type: int
      gso_ipv4_max_size:
        description:
          - Like O(nics[].gso_max_size), for IPv4. Requires Linux 6.3.
          - By default the current value is kept, even where the kernel would change it together with an
            O(nics[].gso_max_size) of 65536 or less.
        type: int
      gro_ipv4_max_size:
        description: Like O(nics[].gro_max_size), for IPv4. Requires Linux 6.3.
        type: int
      header_split:
        description:
          - How the NIC places headers and data on different pages, which TCP zero-copy requires.
          - V(striding_off) is the method of the talk, for C(mlx5_core) with the talk's patch. It disables
            striding receive queues, HW-GRO and LRO.
          - V(data_split) is the upstream method, the ring parameter C(tcp-data-split). It disables LRO. On
            C(mlx5_core) it also enables striding receive queues and HW-GRO, and disables compressed
            completions. Rejected while an XDP program is attached.
          - Conflicting values in other options are an error that names the reason.
        type: str
        choices: [striding_off, data_split]
      napi:
        description:
          - C(threaded) selects whether NAPI polls in kernel threads. C(gro_flush_timeout) is the GRO flush
            timeout in nanoseconds. C(napi_defer_hard_irqs) is the number of empty polls for which interrupts
            remain masked.
        type: dict
        default: {}
      steering:
        description:
          - CPUs that process packets of the interface. A set of CPUs is V(local) (the NUMA node of the
            interface), V(all), V(none), or a list such as V(0-3,8).
        type: dict
        suboptions:
          rps:
            description: CPUs for Receive Packet Steering, for every receive queue. V(none) disables RPS.
            type: str
          xps:
            description: CPUs for Transmit Packet Steering. Each transmit queue gets one of them, in turn.
            type: str
          rfs:
            description:
              - Total number of flow table entries for Receive Flow Steering, distributed over the receive
                queues. V(0) disables RFS.
              - The sysctl C(net.core.rps_sock_flow_entries) must be at least this value.
            type: int
          irqs:
            description:
              - CPUs for the interrupts of the interface. Each interrupt gets one of them, in turn. Rejected
                while irqbalance runs, because it would move the interrupts.
            type: str
      qdisc:
        description:
          - Root qdisc of the interface, or of each queue of a multiqueue interface, without parameters. For
            example V(fq).
          - A qdisc that others configured is not replaced.
        type: str
      limit_to_maximum:
        description:
          - Whether to lower values to the driver's maximum instead of failing. RV(nics[].limited) returns the
            lowered values.
        type: bool
        default: false
      optional:
        description:
          - Settings to skip if the driver or the kernel does not support them, instead of failing. Either an
            option of this entry (C(coalesce), C(gso_ipv4_max_size), C(header_split)) or a single setting
            (C(features.rx-gro-hw), C(rings.tx)). RV(nics[].skipped) returns the skipped settings.
          - A feature that the driver keeps on or off is skipped as well, but stays requested.
          - Values above the maximum are an error in any case.
        type: list
        elements: str
        default: []
  persist:
    description:
      - Whether to apply the same settings at every boot and whenever an interface appears, for example after
        a driver reload. Exactly the interfaces of this call are persisted, by name. With an empty O(nics),
        persistence is removed.
      - A udev rule and a systemd unit start a copy of this module's code in C(/usr/local/lib/podnet).
      - The settings override those of C(.link) files, which are applied earlier. If a C(.network) file of
        systemd-networkd sets another MTU or uses that of the DHCP server, the module writes a drop-in for it.
        If the C(.network) file also applies to other interfaces, or if another service sets another MTU,
        the module warns and names the file. It knows NetworkManager, ifupdown, C(ifcfg) files, leases of
        dhclient, and commands in scripts and units.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Set an MTU for two pages of data per packet, enable BIG TCP, disable LRO
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

- name: Split headers and data as in the talk, on all NICs of the driver
  podnet.datapath.nic_tuning:
    nics:
      - driver: mlx5_core
        header_split: striding_off
  become: true

- name: Steer the default route's NIC to the CPUs of its NUMA node, now and at boot
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
  description: Result for each interface, in the order of O(nics).
  returned: success
  type: list
  elements: dict
  contains:
    name: {description: Name of the interface., type: str}
    driver: {description: Name of the driver; empty if unknown., type: str}
    changes:
      description: The changes, in check mode the planned ones, each with C(name), C(before) and C(after).
      type: list
      elements: dict
    skipped:
      description: Settings skipped due to O(nics[].optional), each with the reason.
      type: dict
    limited:
      description: Settings lowered due to O(nics[].limit_to_maximum), each with the new value.
      type: dict
  sample:
    - name: ens1f0np0
      driver: mlx5_core
      changes:
        - {name: mtu, before: 1500, after: 8264}
      skipped: {features.rx-gro-hw: is fixed off and cannot be set to on}
      limited: {}
rolled_back:
  description: Earlier changes that the node rolled back and that no run has reported yet. Also a warning.
  returned: success
  type: str
checkpoint:
  description: Name of the checkpoint to confirm; empty if none was created.
  returned: success
  type: str
files:
  description: Files of O(persist) that were written or removed. In check mode, the planned ones.
  returned: success
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.podnet.datapath.plugins.module_utils._core import command, plan
from ansible_collections.podnet.datapath.plugins.module_utils._core.arguments import reject_negative
from ansible_collections.podnet.datapath.plugins.module_utils._kernel.messages import require_pyroute2
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
            "options": {
                **{option: {"type": "str"} for option in ("rps", "xps", "irqs")},
                "rfs": {"type": "int"},
            },
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
    reject_negative(module)
    try:
        require_pyroute2()
        result = apply.run(
            module.params["nics"],
            module.params["persist"],
            module.check_mode,
            command.clean(module.run_command),
            confirmation=confirm.confirmation(module.params),
        )
    except (plan.Problem, OSError) as problem:
        module.fail_json(msg=str(problem))
    result.exit(module)


if __name__ == "__main__":
    main()
