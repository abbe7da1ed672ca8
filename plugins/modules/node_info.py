#!/usr/bin/python
# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: node_info
short_description: Tell what a node can do, which driver its Pods get, and what stands in the way
version_added: 0.1.0
author: podnet.datapath contributors (@podnet)
description:
  - Reads the facts that the roles of this collection decide upon, in one call, and probes the kernel instead
    of guessing by its version.
  - Chooses the driver for the node's Pods and says why. Lists everything that stands in the way, with its
    remedy.
  - Never changes the node. Kernel features are asked for with requests that the kernel refuses either way.
extends_documentation_fragment: [podnet.datapath.attributes.info]
options:
  driver:
    description:
      - The driver that the Pods' network devices are wanted to have.
      - V(auto) takes netkit where the kernel has it, else meta where it is loaded, installed or can be built,
        else veth.
      - V(meta) is this collection's own driver, for kernels without netkit.
      - A driver asked for by name is never replaced by another. What stands in its way is in RV(problems).
    type: str
    choices: [auto, meta, netkit, veth]
    default: auto
  uplinks:
    description: Interfaces that carry traffic between nodes. A name that the node does not have is a problem.
    type: list
    elements: str
    default: []
  allow_package_install:
    description:
      - Whether the caller is going to install RV(missing_packages).
      - If V(true), the driver is chosen as if they were installed, and they are no problem.
    type: bool
    default: false
  meta_build:
    description:
      - Where the driver meta is built for this node.
      - With V(dkms) on the node itself, which then needs the compiler, DKMS and the kernel's headers.
      - With V(fleet) on one node for all with its kernel. Each then needs nothing, and RV(builder) tells
        which could build.
    type: str
    choices: [dkms, fleet]
    default: dkms
  cilium:
    description:
      - What to do about a Cilium that owns the datapath of the node. With V(refuse) it is a problem.
      - With V(tune) it is none, and RV(driver) is V(none), as no second datapath may be installed either way.
    type: str
    choices: [refuse, tune]
    default: refuse
  signing_certificate:
    description:
      - Certificate that the driver meta is signed for, as a path on the node or as PEM.
      - Asked for where the kernel takes signed modules only. By default that of DKMS, and none with
        O(meta_build=fleet).
    type: str
"""

EXAMPLES = r"""
- name: See what the node can do
  podnet.datapath.node_info:
    uplinks: [ens1f0np0]
  become: true
  register: node

- name: Stop at everything that stands in the way, at once
  ansible.builtin.assert:
    that: node.problems | length == 0
    fail_msg: "{{ node.problems }}"

- name: Pods must have netkit on this node
  podnet.datapath.node_info:
    driver: netkit
  become: true
"""

RETURN = r"""
driver:
  description: The driver for this node's Pods; V(none) where Cilium owns the datapath.
  returned: always
  type: str
  sample: meta
driver_reason:
  description: Why this driver. Begins with C(fallback) where O(driver=auto) had to take veth.
  returned: always
  type: str
  sample: the kernel has no netkit (CONFIG_NETKIT=n); meta, this collection's own driver, is loaded
problems:
  description: What stands in the way, a sentence each, with its remedy. Empty where nothing does.
  returned: always
  type: list
  elements: str
missing_packages:
  description: Packages that would bring what the node lacks for the best driver that it can have.
  returned: always
  type: list
  elements: str
  sample: [dkms, linux-headers-6.1.0-56-amd64]
required_packages:
  description: Those of them that every driver needs, or the one asked for by name.
  returned: always
  type: list
  elements: str
builder:
  description: Whether a module for the running kernel can be built on this node.
  returned: always
  type: dict
  contains:
    possible: {description: "Whether it can, at least with RV(builder.packages).", type: bool}
    missing: {description: What the node lacks for it., type: list, elements: str}
    packages: {description: The packages that bring it., type: list, elements: str}
meta_build:
  description: O(meta_build).
  returned: always
  type: str
root:
  description: Whether the module ran as root. Otherwise some facts are missing.
  returned: always
  type: bool
kernel:
  description: The running kernel.
  returned: always
  type: dict
  contains:
    release: {description: Release as C(uname -r) prints it., type: str, sample: 6.1.0-56-amd64}
    version: {description: Version as C(uname -v) prints it., type: str}
    flavour: {description: Flavour named in the release; empty if none., type: str, sample: cloud-amd64}
    architecture: {description: Machine as C(uname -m) prints it., type: str, sample: x86_64}
    boot_id: {description: Changes with every boot., type: str}
    cmdline: {description: The kernel's command line., type: str}
    config: {description: Build options that matter here; empty where the kernel does not tell., type: dict}
    headers: {description: Whether modules can be built for the running kernel., type: bool}
    headers_package: {description: The package that brings the headers; empty where unknown., type: str}
    btf: {description: Whether the kernel has BTF., type: bool}
    bpf_helpers_missing:
      description: Helpers that the programs call and this kernel does not have.
      type: list
      elements: str
    bpf_fs: {description: "Whether a BPF file system is mounted on /sys/fs/bpf.", type: bool}
    netkit: {description: "Whether the kernel makes links of the kind netkit, by its own answer.", type: bool}
    netkit_attributes:
      description: "Which of V(scrub) and V(headroom) its netkit knows, by the kernel's own answer."
      type: list
      elements: str
    veth: {description: Whether the kernel has veth., type: bool}
    upcoming:
      description:
        - Installed kernels newer than the running one that have no driver meta, each with its C(release), and
          C(headers) that tells whether it can be built for.
      type: list
      elements: dict
distribution:
  description: C(id), C(version), C(name), and C(family), which is V(debian), V(redhat) or empty.
  returned: always
  type: dict
tools:
  description: Paths of C(dkms), C(gcc), C(make) and C(modprobe); empty where missing.
  returned: always
  type: dict
libraries:
  description: Versions of C(pyroute2), for the Python that ran this, and C(libbpf); empty where missing.
  returned: always
  type: dict
  sample: {libbpf: '1.1', pyroute2: 0.7.2}
meta:
  description: The kernel module of the driver meta.
  returned: always
  type: dict
  contains:
    loaded: {description: Whether it is loaded., type: bool}
    available: {description: Whether it is installed for the running kernel., type: bool}
    version: {description: "Version of the loaded one, else of the installed one.", type: str}
    srcversion: {description: Checksum of the source that it was built from., type: str}
    devices:
      description:
        - The devices of the kind meta in the host's namespace, each with C(name), C(alias), and its
          C(primary), C(policy), C(peer_policy), C(mode), C(scrub), C(peer_scrub), C(headroom), C(tailroom),
          C(prog_id), C(peer_prog_id), C(prog_tag) and C(peer_prog_tag), as far as it shows them.
      type: list
      elements: dict
      sample:
        - {name: pn5f4dcc3b5aa7, alias: podnet:site/pod1, primary: true, policy: drop, mode: l3, prog_id: 31}
security:
  description: What the kernel asks of modules.
  returned: always
  type: dict
  contains:
    secure_boot: {description: Whether the firmware booted with Secure Boot., type: bool}
    lockdown: {description: "V(none), V(integrity) or V(confidentiality).", type: str}
    signature_required: {description: Whether unsigned modules are refused., type: bool}
    certificate: {description: "The certificate, where signatures are required.", type: str}
    key_enrolled: {description: "Whether the firmware knows it; null where none is required.", type: bool}
bootloader:
  description: What writes the boot arguments, V(grubby), V(grub), V(systemd-boot) or V(none).
  returned: always
  type: str
nics:
  description: Interfaces with hardware behind them, those in O(uplinks), and those with a default route.
  returned: always
  type: list
  elements: dict
  contains:
    name: {description: Name of the interface., type: str}
    driver: {description: Its kernel driver; empty without hardware., type: str}
    mac: {description: Its MAC address., type: str}
    mtu: {description: MTU in bytes., type: int}
    speed: {description: Speed in Mbit/s; -1 where unknown., type: int}
    carrier: {description: Whether the link is up., type: bool}
    pci: {description: Its PCI address; empty where it is on no PCI bus., type: str}
    default_route: {description: "Whether a default route, IPv4 or IPv6, leaves by it.", type: bool}
    virtual_functions: {description: SR-IOV functions made of it., type: int}
    gso_max_size: {description: Largest packet that it segments itself., type: int}
    gso_ipv4: {description: Whether there is a limit of its own for IPv4 (BIG TCP)., type: bool}
    header_split: {description: Ways of splitting headers that it has now., type: list, elements: str}
    rings: {description: Largest rings that it can have; empty where it has none to set., type: dict}
vfio:
  description: PCI addresses of the devices that VFIO has taken.
  returned: always
  type: list
  elements: str
cilium:
  description: Traces of a Cilium that owns the datapath of this node.
  returned: always
  type: list
  elements: str
coexistence:
  description: Other software that configures the node's network.
  returned: always
  type: dict
  contains:
    cni:
      description: The CNI configurations, in their order, with C(file), C(name) and C(plugins).
      type: list
      elements: dict
    vm_runtimes: {description: Runtimes of virtual machines., type: list, elements: str}
    tuners: {description: Programs and files that set sysctls or NICs as well., type: list, elements: str}
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.podnet.datapath.plugins.module_utils._core import plan
from ansible_collections.podnet.datapath.plugins.module_utils._nic import info
from ansible_collections.podnet.datapath.plugins.module_utils._node import coexistence, readiness
from ansible_collections.podnet.datapath.plugins.module_utils._node import facts as _node


def abilities(name: str) -> dict[str, Any]:
    """Return what a NIC can do; what it does not tell is empty."""
    try:
        (nic,) = info.nics([{"name": name}])
    except plan.Problem:
        return {"gso_max_size": 0, "gso_ipv4": False, "header_split": [], "rings": {}}
    return {
        "gso_max_size": int(nic["maximum"].get("gso_max_size", 0)),
        "gso_ipv4": "gso_ipv4_max_size" in nic["settings"],
        "header_split": nic["header_split"],
        "rings": {
            key.split(".")[1]: value for key, value in nic["maximum"].items() if key.startswith("rings.")
        },
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "driver": {"type": "str", "choices": ["auto", "meta", "netkit", "veth"], "default": "auto"},
            "uplinks": {"type": "list", "elements": "str", "default": []},
            "allow_package_install": {"type": "bool", "default": False},
            "meta_build": {"type": "str", "choices": ["dkms", "fleet"], "default": "dkms"},
            "cilium": {"type": "str", "choices": ["refuse", "tune"], "default": "refuse"},
            "signing_certificate": {"type": "str"},
        },
        supports_check_mode=True,
    )
    wanted = module.params["driver"]
    delivered = module.params["meta_build"] == "fleet"
    requirements = readiness.Requirements(
        tuple(module.params["uplinks"]),
        module.params["allow_package_install"],
        delivered,
        module.params["cilium"] == "tune",
    )
    certificate = module.params["signing_certificate"] or ("" if delivered else None)
    node = _node.Node()
    facts = node.facts(requirements.uplinks, certificate)
    driver, reason = readiness.choose_driver(facts, wanted, requirements.allow_package_install, delivered)
    lacking, required = readiness.missing_packages(facts, wanted, delivered)
    if facts["cilium"] and requirements.beside_cilium:
        driver, reason = "none", f"Cilium owns the datapath ({', '.join(facts['cilium'])})"
        lacking = required = readiness.packages_of_libraries(facts)
    if wanted == "auto" and driver == "veth":
        module.warn(reason)
    if driver == "meta":
        for warning in readiness.upcoming_warnings(facts, delivered):
            module.warn(warning)
    module.exit_json(
        changed=False,
        driver=driver,
        driver_reason=reason,
        problems=readiness.problems(facts, wanted, requirements),
        missing_packages=lacking,
        required_packages=required,
        builder=readiness.builder(facts),
        meta_build=module.params["meta_build"],
        coexistence=coexistence.neighbours(node),
        **{**facts, "nics": [{**nic, **abilities(nic["name"])} for nic in facts["nics"]]},
    )


if __name__ == "__main__":
    main()
