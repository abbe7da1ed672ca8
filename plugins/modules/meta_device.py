#!/usr/bin/python
# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: meta_device
short_description: Give a node's Pods their network devices (meta, netkit or veth)
version_added: 0.1.0
author: podnet.datapath contributors (@podnet)
description:
  - Brings all devices of O(owner) on a node to the declared state in one call. What is missing is made, what
    differs is changed, and Pods of this owner that are not listed are removed.
  - A Pod is a network namespace that holds one end of a pair of devices. The other end stays with the host.
  - In the namespace, the module sets the loopback device up, assigns the addresses and lets the default
    routes lead through the device. On the host, it lets a route lead to each address.
  - Everything is checked before the first change, and all problems are reported together. If a change fails,
    the former state is restored.
  - Warns where Pods do not agree with the way out of the node on the size of packets. The way out is the
    interfaces of O(host_routes), without any those of the default routes. They disagree where Pods have a
    larger MTU than these, or than a default route has for itself, or where BIG TCP is in use and its sizes
    differ.
  - Devices that this module did not make are never touched. It knows its own by the alias of the host's end,
    C(podnet:<owner>/<name>).
requirements:
  - pyroute2 >= 0.7.2 (Debian has it as C(python3-pyroute2))
attributes:
  check_mode:
    description: Changes nothing and reports what would change.
    support: full
  diff_mode:
    description: Shows the Pods that change, the namespaces and the host's routes before and after.
    support: full
  idempotent:
    description: A second call with the same options changes nothing.
    support: full
options:
  pods:
    description:
      - All Pods that O(owner) has on this node.
      - An empty list removes all of them.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the Pod, unique on the node. Letters, digits, C(-), C(_) and C(.).
        type: str
        required: true
      netns:
        description:
          - Network namespace of the Pod, by name or by absolute path. The default is O(pods[].name).
          - A name stands for C(/run/netns/<name>). The namespace is made if it is missing, and one that was
            made here is removed with the Pod.
          - A path must exist, for example C(/proc/4711/ns/net). It is never removed.
          - A namespace holds one Pod, since its default routes lead through the Pod's device.
        type: str
      interface:
        description: Name of the device in the Pod.
        type: str
        default: eth0
      host_interface:
        description:
          - Name of the host's end.
          - The default is C(pn) and 12 hexadecimal digits that follow from O(pods[].name).
        type: str
      addresses:
        description:
          - Addresses of the Pod, IPv4 and IPv6. Without a prefix length it is V(/32) or V(/128).
          - They are usable at once, without duplicate address detection.
        type: list
        elements: str
        default: []
      driver:
        description: The Pod's driver, if it is not O(driver).
        type: str
        choices: [auto, meta, netkit, veth]
      mtu:
        description: The Pod's MTU in bytes, if it is not O(mtu).
        type: int
  driver:
    description:
      - Kind of the pairs.
      - V(auto) takes netkit where the kernel has it, else meta where its module is loaded or can be, else
        veth. RV(driver_reason) says why.
      - Any other value never falls back. Where the node cannot make such devices, the module fails.
      - A Pod whose driver changes gets a new device. Its namespace, its addresses and its connections stay.
    type: str
    choices: [auto, meta, netkit, veth]
    default: auto
  owner:
    description:
      - Whose Pods these are. Pods of other owners are left alone, and so are their addresses.
      - Letters, digits, C(-) and C(_).
    type: str
    default: site
  mtu:
    description: MTU of both ends in bytes. If omitted, the MTU is left as it is.
    type: int
  mode:
    description:
      - V(l3) pairs have neither MAC addresses nor ARP or neighbour discovery.
      - V(l2) pairs have stable MAC addresses. The Pod sends to the gateways 169.254.1.1 and fe80::1, whose
        MAC address is known as a permanent neighbour.
      - O(driver=veth) is always V(l2).
    type: str
    choices: [l2, l3]
    default: l3
  policy:
    description:
      - What meta and netkit do with the packets of an end that has no program. veth passes them to the host's
        upper stack.
    type: str
    choices: [drop, pass]
    default: drop
  gso_max_size:
    description:
      - Largest packet that is segmented late, in bytes, at both ends. Beyond 65536 this is BIG TCP (IPv6).
    type: int
  gro_max_size:
    description: Largest packet that receiving aggregates to, in bytes, at both ends.
    type: int
  gso_ipv4_max_size:
    description: O(gso_max_size) for IPv4 (Linux 6.3).
    type: int
  gro_ipv4_max_size:
    description: O(gro_max_size) for IPv4 (Linux 6.3).
    type: int
  ipv4_advmss:
    description:
      - MSS in bytes that the Pods advertise over IPv4. If omitted, it follows from the MTU.
      - With an MTU whose IPv6 packets carry whole pages, V(4108) for 4168 and V(8204) for 8264 has IPv4's
        carry whole pages too, as TCP zero-copy needs it.
    type: int
  programs:
    description:
      - Pinned BPF programs for meta devices, which get them as they are made, before a packet can pass.
      - Programs of netkit and veth are attached by M(podnet.datapath.bpf_attach).
      - A program that is left out stays as it is. The empty string takes it off.
    type: dict
    suboptions:
      from_pod:
        description: Pin of the program that sees what a Pod sends.
        type: str
      to_pod:
        description: Pin of the program that sees what the host sends to a Pod.
        type: str
  host_routes:
    description:
      - Routes of the host, usually to the Pods of other nodes.
      - A route that this owner made earlier and that is not listed is removed. A route that is there already
        is used as it is.
      - One that would take the way to the address from where Ansible came, by SSH, is refused.
    type: list
    elements: dict
    default: []
    suboptions:
      to:
        description: Destination network.
        type: str
        required: true
      via:
        description: Next hop.
        type: str
      dev:
        description: Interface of the host.
        type: str
        required: true
"""

EXAMPLES = r"""
- name: Two Pods, on the best driver that the node has
  podnet.datapath.meta_device:
    mtu: 8264
    # a Pod of this owner that is not listed is removed
    pods:
      - name: pod1
        addresses: [10.31.1.11/32, "fd31:1::11/128"]
      - name: pod2
        addresses: [10.31.1.12/32, "fd31:1::12/128"]
    host_routes:
      - {to: 10.31.2.0/24, via: 172.31.0.2, dev: wire0}
  register: result

- name: A Pod on meta, whose programs are there before its first packet
  podnet.datapath.meta_device:
    driver: meta
    programs:
      from_pod: /sys/fs/bpf/podnet/progs/pod_egress
      to_pod: /sys/fs/bpf/podnet/progs/pod_ingress
    pods:
      - name: web
        addresses: [10.31.1.20]

- name: A device for a namespace that something else made
  podnet.datapath.meta_device:
    owner: runtime
    pods:
      - name: db
        netns: /proc/4711/ns/net
        interface: net0
        addresses: [10.31.1.30]

- name: Remove all Pods of an owner
  podnet.datapath.meta_device:
    owner: runtime
    pods: []
"""

RETURN = r"""
pods:
  description: The Pods as they are now, in the order of O(pods).
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Name of the Pod.
      type: str
    driver:
      description: Kind of its pair.
      type: str
    host_interface:
      description: Name of the host's end.
      type: str
    host_ifindex:
      description: Index of the host's end; 0 in check mode where it is yet to be made.
      type: int
    netns:
      description: Path of its namespace.
      type: str
    interface:
      description: Name of the end in the Pod.
      type: str
    addresses:
      description: Addresses with prefix lengths, in canonical form.
      type: list
      elements: str
  sample:
    - name: pod1
      driver: meta
      host_interface: pn5f4dcc3b5aa7
      host_ifindex: 12
      netns: /run/netns/pod1
      interface: eth0
      addresses: [10.31.1.11/32, "fd31:1::11/128"]
driver_reason:
  description: Why O(driver=auto) became the driver that the Pods have.
  returned: success
  type: str
  sample: "auto: kernel 6.1.0-56-amd64 has no netkit; meta is there"
changes:
  description: What was, or would be, changed, in order.
  returned: success
  type: list
  elements: str
  sample: ["make namespace /run/netns/pod1", "pod1: make device"]
"""

import importlib.util

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

from ansible_collections.podnet.datapath.plugins.module_utils._core.plan import Problem
from ansible_collections.podnet.datapath.plugins.module_utils._pods import apply, model
from ansible_collections.podnet.datapath.plugins.module_utils._pods import change as _pods_change
from ansible_collections.podnet.datapath.plugins.module_utils._rollback import journal


def _load_meta(module: AnsibleModule) -> str:
    """Load the kernel module meta, in check mode only try whether it could be; return what is in the way."""
    modprobe = module.get_bin_path("modprobe", opt_dirs=["/sbin", "/usr/sbin"])
    if modprobe is None:
        return "there is no modprobe: install kmod"
    command = [modprobe, *(["--dry-run"] if module.check_mode else []), "meta"]
    code, _out, error = module.run_command(command)
    return "" if code == 0 else error.strip() or f"modprobe ended with {code}"


def main() -> None:
    pods = {
        "name": {"type": "str", "required": True},
        "netns": {"type": "str"},
        "interface": {"type": "str", "default": "eth0"},
        "host_interface": {"type": "str"},
        "addresses": {"type": "list", "elements": "str", "default": []},
        "driver": {"type": "str", "choices": ["auto", "meta", "netkit", "veth"]},
        "mtu": {"type": "int"},
    }
    routes = {
        "to": {"type": "str", "required": True},
        "via": {"type": "str"},
        "dev": {"type": "str", "required": True},
    }
    module = AnsibleModule(
        argument_spec={
            "pods": {"type": "list", "elements": "dict", "required": True, "options": pods},
            "driver": {"type": "str", "choices": ["auto", "meta", "netkit", "veth"], "default": "auto"},
            "owner": {"type": "str", "default": "site"},
            "mtu": {"type": "int"},
            "mode": {"type": "str", "choices": ["l2", "l3"], "default": "l3"},
            "policy": {"type": "str", "choices": ["drop", "pass"], "default": "drop"},
            **{size: {"type": "int"} for size in model.SIZES},
            "ipv4_advmss": {"type": "int"},
            "programs": {"type": "dict", "options": {"from_pod": {"type": "str"}, "to_pod": {"type": "str"}}},
            "host_routes": {"type": "list", "elements": "dict", "default": [], "options": routes},
        },
        supports_check_mode=True,
    )
    if importlib.util.find_spec("pyroute2") is None:
        module.fail_json(msg=missing_required_lib("pyroute2", url="https://docs.pyroute2.org"))
    try:
        if not module.check_mode:
            journal.refuse_pending()
        outcome = apply.run(module.params, module.check_mode, lambda: _load_meta(module))
    except PermissionError as error:
        module.fail_json(
            msg=f"{error}: network devices need root (CAP_NET_ADMIN, CAP_SYS_ADMIN): set become: true"
        )
    except (apply.OptionError, _pods_change.ApplyError, Problem, OSError) as error:
        module.fail_json(msg=str(error))
    for warning in outcome.warnings:
        module.warn(warning)
    module.exit_json(
        changed=bool(outcome.changes),
        pods=outcome.pods,
        driver_reason=outcome.driver_reason,
        changes=[str(change) for change in outcome.changes],
        diff=outcome.diff,
    )


if __name__ == "__main__":
    main()
