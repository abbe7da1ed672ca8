#!/usr/bin/python
# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: meta_device
short_description: Manage Pod network devices (meta, netkit or veth)
version_added: 0.1.0
author: podnet.datapath contributors (@podnet)
description:
  - Brings all Pod devices of O(owner) on a node to the declared state in one call. Missing devices are
    created, devices that differ are changed, and Pods of this owner that are not listed are removed.
  - A Pod is a network namespace that contains one end of a device pair. The other end stays in the host's
    namespace.
  - In the Pod's namespace, the module sets the loopback device up, assigns the addresses, and creates default
    routes through the device. On the host, it creates a route to each address.
  - All options are validated before the first change, and one error lists all problems. If a change fails,
    the former state is restored.
  - Warns if Pods and uplinks disagree on packet sizes. This is the case if a Pod's MTU exceeds that of an
    uplink or of a default route, or if BIG TCP is in use and the GSO and GRO limits differ. Uplinks are the
    interfaces of O(host_routes) or, if there are none, those of the default routes.
  - Devices that this module did not create are never changed. It identifies its own devices by the alias
    C(podnet:<owner>/<name>) of the host end.
extends_documentation_fragment:
  - podnet.datapath.attributes
  - podnet.datapath.pod_devices
attributes:
  diff_mode:
    description: Returns the changed settings of each Pod, and the changed namespaces and host routes.
requirements:
  - pyroute2 >= 0.7.2 (C(python3-pyroute2) on Debian)
options:
  pods:
    description: All Pods of O(owner) on this node. V([]) removes all of them.
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
          - Network namespace of the Pod, as a name or an absolute path. The default is O(pods[].name).
          - A name refers to C(/run/netns/<name>). The module creates the namespace if it does not exist. It
            removes a namespace that it created together with the Pod.
          - A path must exist, for example C(/proc/4711/ns/net). It is never removed.
          - A namespace can contain only one Pod, because its default routes use the Pod's device.
        type: str
      interface:
        description: Interface name in the Pod.
        type: str
        default: eth0
      host_interface:
        description:
          - Interface name of the host end.
          - The default is C(pn) and 12 hexadecimal digits derived from O(pods[].name).
        type: str
      addresses:
        description:
          - IPv4 and IPv6 addresses of the Pod. The default prefix length is C(/32) or C(/128).
          - The addresses are usable immediately, without duplicate address detection.
        type: list
        elements: str
        default: []
      driver:
        description: Driver of this Pod. The default is O(driver).
        type: str
        choices: [auto, meta, netkit, veth]
      mtu:
        description: MTU of this Pod in bytes. The default is O(mtu).
        type: int
  owner:
    description:
      - Owner of the Pods. Pods and addresses of other owners are not changed.
      - Letters, digits, C(-) and C(_).
    type: str
    default: site
  up:
    description:
      - Whether the devices are up. V(false) keeps both ends down, without routes.
      - On veth, which has no O(policy), create the devices with V(false), attach their programs with
        M(podnet.datapath.bpf_attach), and call this module again. So no packet passes before the programs
        check it. M(podnet.datapath.pods) does all of this in one call.
    type: bool
    default: true
  programs:
    description:
      - Pinned BPF programs for meta devices. The programs are attached at device creation, before any packet
        can pass.
      - Use M(podnet.datapath.bpf_attach) to attach programs to netkit and veth.
      - A program that is not given is left unchanged. An empty string detaches it.
    type: dict
    suboptions:
      from_pod:
        description: Path of the pinned program that sees packets from the Pod.
        type: str
      to_pod:
        description: Path of the pinned program that sees packets from the host to the Pod.
        type: str
"""

EXAMPLES = r"""
- name: Create two Pods with the best driver that the node supports
  podnet.datapath.meta_device:
    mtu: 8264
    # Pods of this owner that are not listed are removed
    pods:
      - name: pod1
        addresses: [10.31.1.11/32, "fd31:1::11/128"]
      - name: pod2
        addresses: [10.31.1.12/32, "fd31:1::12/128"]
    host_routes:
      - {to: 10.31.2.0/24, via: 172.31.0.2, dev: wire0}
  register: result

- name: Create a meta device with programs attached from the first packet on
  podnet.datapath.meta_device:
    driver: meta
    programs:
      from_pod: /sys/fs/bpf/podnet/progs/pod_egress
      to_pod: /sys/fs/bpf/podnet/progs/pod_ingress
    pods:
      - name: web
        addresses: [10.31.1.20]

- name: Create a veth device that stays closed until its programs are attached
  podnet.datapath.meta_device:
    driver: veth
    up: false
    pods: &pods
      - {name: web, host_interface: web0, addresses: [10.31.1.20]}

- name: Attach the programs
  podnet.datapath.bpf_attach:
    object: /usr/local/lib/podnet-datapath.o
    attachments:
      - {program: pod_egress, device: web0, hook: from_pod}
      - {program: pod_ingress, device: web0, hook: to_pod}

- name: Set the device up
  podnet.datapath.meta_device:
    driver: veth
    pods: *pods

- name: Create a device in an existing namespace
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
  description: The Pods after this call, in the order of O(pods). In check mode, the planned state.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Name of the Pod.
      type: str
    driver:
      description: Driver of the device pair.
      type: str
    host_interface:
      description: Interface name of the host end.
      type: str
    host_ifindex:
      description: Interface index of the host end. In check mode, 0 if the device does not exist yet.
      type: int
    netns:
      description: Path of the network namespace.
      type: str
    interface:
      description: Interface name in the Pod.
      type: str
    addresses:
      description: Addresses with prefix length, in canonical form.
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
  description: Why O(driver=auto) selected the driver.
  returned: success
  type: str
  sample: "auto: kernel 6.1.0-56-amd64 has no netkit; meta is available"
changes:
  description: The changes in order, in check mode the planned ones.
  returned: success
  type: list
  elements: str
  sample: ["create namespace /run/netns/pod1", "pod1: create device"]
"""


from ansible.module_utils.basic import AnsibleModule

from ansible_collections.podnet.datapath.plugins.module_utils._core.arguments import reject_negative
from ansible_collections.podnet.datapath.plugins.module_utils._core.command import clean
from ansible_collections.podnet.datapath.plugins.module_utils._core.plan import Problem
from ansible_collections.podnet.datapath.plugins.module_utils._kernel.messages import require_pyroute2
from ansible_collections.podnet.datapath.plugins.module_utils._pods import apply, arguments, drivers
from ansible_collections.podnet.datapath.plugins.module_utils._rollback import journal


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "pods": {"type": "list", "elements": "dict", "required": True, "options": arguments.POD},
            "owner": {"type": "str", "default": "site"},
            "up": {"type": "bool", "default": True},
            **arguments.DEVICES,
            "programs": {"type": "dict", "options": {"from_pod": {"type": "str"}, "to_pod": {"type": "str"}}},
        },
        supports_check_mode=True,
    )
    reject_negative(module)
    try:
        require_pyroute2()
        if not module.check_mode:
            journal.refuse_pending()
        result = apply.run(
            module.params,
            module.check_mode,
            lambda: drivers.load_meta(clean(module.run_command), module.check_mode),
        )
    except PermissionError as error:
        module.fail_json(
            msg=f"{error}: network devices require root (CAP_NET_ADMIN, CAP_SYS_ADMIN); set become: true"
        )
    except (Problem, OSError) as error:
        module.fail_json(msg=str(error))
    result.exit(module)


if __name__ == "__main__":
    main()
