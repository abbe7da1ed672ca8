#!/usr/bin/python
# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: pods
short_description: Manage Pods with their devices, BPF programs and map entries
version_added: 0.1.0
author: podnet.datapath contributors (@podnet)
description:
  - Brings all Pods of O(owner) on a node to the declared state in one call. It does the work of
    M(podnet.datapath.meta_device), M(podnet.datapath.bpf_attach) and M(podnet.datapath.bpf_state), in an
    order in which no packet of a new Pod passes before its policy is committed.
  - A Pod is created in five steps. The module creates the device with its addresses, but leaves it down,
    writes map entries that deny all traffic, attaches the programs, sets the device up and adds its
    routes, and finally commits O(policies) and O(services). A Pod is removed in the reverse order.
  - All options are validated before the first change. If a change fails later, new Pods stay down. Repeat a
    call that was interrupted.
  - Pods, programs and map entries of other owners are never changed.
  - The programs must be pinned at O(pin_path), for example by M(podnet.datapath.bpf_attach).
extends_documentation_fragment:
  - podnet.datapath.attributes
  - podnet.datapath.pod_devices
  - podnet.datapath.policies
attributes:
  diff_mode:
    description: Returns the devices, attachments and map entries that change, before and after.
requirements:
  - pyroute2 >= 0.7.2 (C(python3-pyroute2) on Debian)
  - libbpf.so.1 (C(libbpf1) on Debian)
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
          - A namespace given by name is created if it does not exist, and removed with the Pod. A path must
            exist.
        type: str
      interface:
        description: Interface name in the Pod.
        type: str
        default: eth0
      host_interface:
        description: Interface name of the host end. By default it is derived from O(pods[].name).
        type: str
      addresses:
        description: IPv4 and IPv6 addresses of the Pod. The default prefix length is C(/32) or C(/128).
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
      labels:
        description: Labels that policies and services select the Pod by.
        type: dict
        default: {}
      rate:
        description:
          - Maximum rate of the Pod's traffic that leaves the node, for example V(100mbit). The default is
            unlimited.
          - Requires the qdisc C(fq) on each uplink, with a limit of 500 packets for each Pod with a rate.
        type: str
      masquerade:
        description: Whether packets from the Pod leave the node with the source addresses in O(masquerade).
        type: bool
        default: false
      anti_spoof:
        description: Whether to drop packets whose source address is not one of the Pod's.
        type: bool
        default: true
  owner:
    description: Owner of the Pods, policies and services. Letters, digits, C(-) and C(_).
    type: str
    default: site
  node:
    description: Name of this node. Policies can refer to a Pod as C(<node>/<name>), for example V(node1/web).
    type: str
    default: ""
  programs_enabled:
    description:
      - Whether the programs are attached to the Pods.
      - With V(false), they are detached, this owner's map entries, policies and services are removed, and all
        packets pass the host's upper stack. O(policy) is then V(pass).
    type: bool
    default: true
  object:
    description:
      - Object file of the programs on this node. Required to attach and to detach them, so always if
        O(programs_enabled=true).
    type: path
  pin_path:
    description: Directory in the BPF file system where the programs and maps are pinned.
    type: path
    default: /sys/fs/bpf/podnet
seealso:
  - module: podnet.datapath.bpf_attach
"""

EXAMPLES = r"""
- name: Create two Pods and allow only HTTP to one of them
  podnet.datapath.pods:
    object: /usr/local/lib/podnet-datapath.o
    # Pods of this owner that are not listed are removed
    pods:
      - name: client
        addresses: [10.31.1.11]
      - name: web
        addresses: [10.31.1.12]
        labels: {app: web}
        rate: 100mbit
    policies:
      - name: web
        pods: {labels: {app: web}}
        ingress:
          - ports: [{port: 80}]

- name: Remove all Pods of an owner
  podnet.datapath.pods:
    owner: lab
    object: /usr/local/lib/podnet-datapath.o
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
    - name: web
      driver: meta
      host_interface: pn5f4dcc3b5aa7
      host_ifindex: 12
      netns: /run/netns/web
      interface: eth0
      addresses: [10.31.1.12/32]
driver_reason:
  description: Why O(driver=auto) selected the driver.
  returned: success
  type: str
  sample: "auto: kernel 6.1.0-56-amd64 has no netkit; meta is available"
changes:
  description: Changes of devices and attachments, in check mode the planned ones.
  returned: success
  type: list
  elements: str
  sample: ["web: create device", "create attachment pods_site/pn5f4dcc3b5aa7-from_pod"]
updated:
  description: Addresses whose map entries were written, of all owners. In check mode, the planned ones.
  returned: success
  type: list
  elements: str
  sample: [10.31.1.12]
deleted:
  description: Addresses whose map entries were deleted. In check mode, the planned ones.
  returned: success
  type: list
  elements: str
  sample: [10.31.1.13]
differences:
  description: Number of map entries that differed from the declared state, by kind.
  returned: success
  type: dict
  sample: {endpoints: 2, policy: 4}
"""


from ansible.module_utils.basic import AnsibleModule

from ansible_collections.podnet.datapath.plugins.module_utils._core.arguments import reject_negative
from ansible_collections.podnet.datapath.plugins.module_utils._core.command import clean
from ansible_collections.podnet.datapath.plugins.module_utils._core.plan import Problem
from ansible_collections.podnet.datapath.plugins.module_utils._datapath import arguments as _policies
from ansible_collections.podnet.datapath.plugins.module_utils._kernel.bpf import (
    DEFAULT_OWNER,
    DEFAULT_PIN_PATH,
)
from ansible_collections.podnet.datapath.plugins.module_utils._kernel.messages import require_pyroute2
from ansible_collections.podnet.datapath.plugins.module_utils._pods import api, arguments


def main() -> None:
    pod = {
        **arguments.POD,
        "labels": {"type": "dict", "default": {}},
        "rate": {"type": "str"},
        "masquerade": {"type": "bool", "default": False},
        "anti_spoof": {"type": "bool", "default": True},
    }
    module = AnsibleModule(
        argument_spec={
            "pods": {"type": "list", "elements": "dict", "required": True, "options": pod},
            "owner": {"type": "str", "default": DEFAULT_OWNER},
            "node": {"type": "str", "default": ""},
            **arguments.DEVICES,
            "programs_enabled": {"type": "bool", "default": True},
            "object": {"type": "path"},
            "pin_path": {"type": "path", "default": DEFAULT_PIN_PATH},
            **_policies.POLICIES,
        },
        required_if=[("programs_enabled", True, ["object"])],
        supports_check_mode=True,
    )
    reject_negative(module)
    options = {**module.params, "object": module.params["object"] or ""}
    pods = [api.PodSpec(**one) for one in options.pop("pods")]
    node = api.NodeSpec(name=options.pop("node"), **options)
    try:
        require_pyroute2()
        result = api.ensure(node, pods, True, clean(module.run_command), module.check_mode)
    except PermissionError as error:
        module.fail_json(
            msg=f"{error}: network devices require root (CAP_NET_ADMIN, CAP_SYS_ADMIN); set become: true"
        )
    except (Problem, OSError) as error:
        module.fail_json(msg=str(error))
    result.exit(module)


if __name__ == "__main__":
    main()
