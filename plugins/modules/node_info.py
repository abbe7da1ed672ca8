#!/usr/bin/python
# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: node_info
short_description: Gather node capabilities, and select the driver for Pod devices
version_added: 0.1.0
author: podnet.datapath contributors (@podnet)
description:
  - Returns the facts on which the roles of this collection base their decisions, in one call. Capabilities
    are probed, not derived from kernel versions. The probes are requests that the kernel rejects in any case.
  - Selects the driver for the node's Pods and returns the reason. Lists all problems with their remedies.
extends_documentation_fragment: [podnet.datapath.attributes.info]
options:
  driver:
    description:
      - Requested driver for Pod devices.
      - V(auto) selects netkit if the kernel supports it, otherwise meta if it is loaded, installed or can be
        built, otherwise veth.
      - With O(trusted_pods=false), V(auto) prefers meta to netkit.
      - V(meta) is the driver of this collection, for kernels without netkit.
      - The other values never fall back. RV(problems) lists what is missing for the requested driver.
    type: str
    choices: [auto, meta, netkit, veth]
    default: auto
  uplinks:
    description: Interfaces that carry traffic between nodes. An interface that does not exist is a problem.
    type: list
    elements: str
    default: []
  nics:
    description:
      - NICs that M(podnet.datapath.nic_tuning) will configure. An entry that matches no NIC is a problem.
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
  allow_package_install:
    description:
      - Whether the caller will install RV(missing_packages).
      - If V(true), the driver is selected as if the packages were installed, and RV(problems) omits them,
        except in check mode the libraries, without which the other modules cannot plan their changes.
    type: bool
    default: false
  meta_build:
    description:
      - Where the meta driver is built for this node.
      - V(dkms) builds on the node itself. This requires a compiler, DKMS and the kernel headers.
      - V(fleet) builds on one node for all nodes with the same kernel, which then need none of these.
        RV(builder) returns whether this node can build.
    type: str
    choices: [dkms, fleet]
    default: dkms
  cilium:
    description:
      - How to treat a node whose datapath Cilium manages. V(refuse) reports a problem.
      - V(tune) reports none and returns V(none) as RV(driver), because no second datapath may be installed.
    type: str
    choices: [refuse, tune]
    default: refuse
  trusted_pods:
    description:
      - Whether every container with C(CAP_NET_ADMIN) is trusted with the node's network devices.
      - On veth and netkit, such a container can change and delete them, because the kernel accepts
        C(IFLA_TARGET_NETNSID) for the namespace of the pair's other end. On meta it cannot. The capability
        must be in the host's user namespace, so a Pod in its own user namespace (C(hostUsers) is V(false))
        cannot either.
      - The default is V(true), because Kubernetes grants no container this capability by default, and its
        Pod Security Standard Baseline forbids it.
      - V(false) makes O(driver=auto) prefer meta, and warns if another driver is selected.
    type: bool
    default: true
  signing_certificate:
    description:
      - Certificate whose key signs the meta driver, as a path on the node or as PEM.
      - Used if the kernel requires signed modules, to check whether the certificate is enrolled. The default
        is the certificate of DKMS, or none with O(meta_build=fleet).
    type: str
"""

EXAMPLES = r"""
- name: Gather the capabilities of the node
  podnet.datapath.node_info:
    uplinks: [ens1f0np0]
  become: true
  register: node

- name: Fail if the node has problems
  ansible.builtin.assert:
    that: node.problems | length == 0
    fail_msg: "{{ node.problems }}"

- name: Check that the node supports netkit
  podnet.datapath.node_info:
    driver: netkit
  become: true
"""

RETURN = r"""
driver:
  description: Driver for this node's Pods, or V(none) if Cilium manages the datapath.
  returned: always
  type: str
  sample: meta
driver_reason:
  description: Why the driver was selected. Begins with C(fallback) if O(driver=auto) falls back to veth.
  returned: always
  type: str
  sample: the kernel has no netkit (CONFIG_NETKIT=n); the meta driver is loaded
pod_isolation:
  description: Which containers can change the node's network devices with the selected driver.
  returned: always
  type: str
  sample: no container can address the node's devices
problems:
  description: Problems that prevent the use of this node, each with its remedy.
  returned: always
  type: list
  elements: str
missing_packages:
  description: Packages that are missing for the best driver that this node can run.
  returned: always
  type: list
  elements: str
  sample: [dkms, linux-headers-6.1.0-56-amd64]
required_packages:
  description: The subset of RV(missing_packages) that every driver requires, or that O(driver) requires.
  returned: always
  type: list
  elements: str
builder:
  description: Whether this node can build a module for its running kernel.
  returned: always
  type: dict
  contains:
    possible:
      description: Whether the node can build, possibly after installing RV(builder.packages).
      type: bool
    missing: {description: Missing build requirements., type: list, elements: str}
    packages: {description: Packages that provide them., type: list, elements: str}
meta_build:
  description: The value of O(meta_build).
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
    release: {description: Kernel release (C(uname -r))., type: str, sample: 6.1.0-56-amd64}
    version: {description: Kernel version (C(uname -v))., type: str}
    flavour: {description: Flavour in the release; empty if none., type: str, sample: cloud-amd64}
    architecture: {description: Machine type (C(uname -m))., type: str, sample: x86_64}
    boot_id: {description: The kernel's boot ID. It changes with every boot., type: str}
    cmdline: {description: The kernel command line., type: str}
    config: {description: Relevant build options; empty if the configuration is unavailable., type: dict}
    headers: {description: Whether the headers of the running kernel are installed., type: bool}
    headers_package: {description: Package that provides the headers; empty if unknown., type: str}
    btf: {description: Whether the kernel provides BTF., type: bool}
    bpf_helpers_missing:
      description: BPF helpers that the programs call and that this kernel does not support.
      type: list
      elements: str
    bpf_fs: {description: "Whether a BPF file system is mounted at C(/sys/fs/bpf).", type: bool}
    netkit: {description: "Whether the kernel supports netkit devices, as probed.", type: bool}
    netkit_attributes:
      description: "The netkit attributes V(scrub) and V(headroom) that the kernel supports, as probed."
      type: list
      elements: str
    veth: {description: Whether the kernel supports veth devices., type: bool}
    upcoming:
      description:
        - Installed kernels that are newer than the running one and lack the meta driver, each with its
          C(release) and whether its C(headers) are installed.
      type: list
      elements: dict
distribution:
  description: C(id), C(version), C(name), and C(family), which is V(debian), V(redhat) or empty.
  returned: always
  type: dict
tools:
  description: Paths of C(dkms), C(gcc), C(make) and C(modprobe); empty if not installed.
  returned: always
  type: dict
libraries:
  description:
    - Versions of C(pyroute2), for the Python interpreter of this module, and C(libbpf); empty if not
      installed.
  returned: always
  type: dict
  sample: {libbpf: '1.1', pyroute2: 0.7.2}
python:
  description:
    - C(executable), the Python interpreter of this module, and C(packaged), whether it imports libraries of
      the distribution's packages. A virtual environment does not.
  returned: always
  type: dict
  sample: {executable: /usr/bin/python3, packaged: true}
meta:
  description: The kernel module of the meta driver.
  returned: always
  type: dict
  contains:
    loaded: {description: Whether the module is loaded., type: bool}
    available: {description: Whether the module is installed for the running kernel., type: bool}
    version: {description: "Version of the loaded module, otherwise of the installed module.", type: str}
    srcversion: {description: The C(srcversion) of that module., type: str}
    devices:
      description:
        - The meta devices in the host's namespace, each with C(name), C(alias), and C(primary), C(policy),
          C(peer_policy), C(mode), C(scrub), C(peer_scrub), C(headroom), C(tailroom), C(prog_id),
          C(peer_prog_id), C(prog_tag) and C(peer_prog_tag) as far as the device reports them.
      type: list
      elements: dict
      sample:
        - {name: pn5f4dcc3b5aa7, alias: podnet:site/pod1, primary: true, policy: drop, mode: l3, prog_id: 31}
security:
  description: The kernel's requirements for modules.
  returned: always
  type: dict
  contains:
    secure_boot: {description: Whether Secure Boot is enabled., type: bool}
    lockdown: {description: "Lockdown mode, V(none), V(integrity) or V(confidentiality).", type: str}
    signature_required: {description: Whether the kernel rejects unsigned modules., type: bool}
    certificate: {description: "The certificate, if signatures are required.", type: str}
    key_enrolled:
      description: Whether the certificate is enrolled in the firmware; null if no signature is required.
      type: bool
bootloader:
  description: The tool that manages kernel arguments, V(grubby), V(grub), V(systemd-boot) or V(none).
  returned: always
  type: str
nics:
  description: Hardware interfaces, the interfaces in O(uplinks), and interfaces with a default route.
  returned: always
  type: list
  elements: dict
  contains:
    name: {description: Name of the interface., type: str}
    driver: {description: Name of the kernel driver; empty for interfaces without hardware., type: str}
    mac: {description: MAC address., type: str}
    mtu: {description: MTU in bytes., type: int}
    speed: {description: Speed in Mbit/s; -1 if unknown., type: int}
    carrier: {description: Whether the interface has a carrier., type: bool}
    pci: {description: PCI address; empty if the interface is not on a PCI bus., type: str}
    default_route:
      description: Whether the interface carries an IPv4 or IPv6 default route; null without pyroute2.
      type: bool
    ethernet: {description: Whether packets of the interface have an Ethernet header., type: bool}
    virtual_functions: {description: Number of SR-IOV virtual functions., type: int}
    gso_max_size: {description: Maximum of the interface's C(gso_max_size) in bytes., type: int}
    gso_ipv4: {description: Whether the interface has separate limits for IPv4 BIG TCP., type: bool}
    header_split:
      description: Values of O(podnet.datapath.nic_tuning#module:nics[].header_split) that are supported now.
      type: list
      elements: str
    rings: {description: Maximum ring sizes; empty if they cannot be set., type: dict}
vfio:
  description: PCI addresses of the devices that are bound to the vfio-pci driver.
  returned: always
  type: list
  elements: str
cilium:
  description: Evidence that Cilium manages the datapath of this node; empty if there is none.
  returned: always
  type: list
  elements: str
ipsec_policies:
  description:
    - IPsec policies (C(ip xfrm policy)) that apply to routed packets, and blocking defaults. The programs
      would forward Pods' packets without them, so they are a problem.
  returned: always
  type: list
  elements: str
  sample: [out 10.0.0.0/8 to 10.1.0.0/16]
coexistence:
  description: Other software that configures the node's network.
  returned: always
  type: dict
  contains:
    cni:
      description: CNI configurations in their order of precedence, each with C(file), C(name) and C(plugins).
      type: list
      elements: dict
    vm_runtimes: {description: Virtual machine runtimes., type: list, elements: str}
    tuners: {description: Programs and files that set sysctls or NIC settings., type: list, elements: str}
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.podnet.datapath.plugins.module_utils._boot import loaders
from ansible_collections.podnet.datapath.plugins.module_utils._core import plan
from ansible_collections.podnet.datapath.plugins.module_utils._kernel import messages
from ansible_collections.podnet.datapath.plugins.module_utils._nic import info
from ansible_collections.podnet.datapath.plugins.module_utils._node import bpf_helpers, coexistence, readiness
from ansible_collections.podnet.datapath.plugins.module_utils._node import facts as _node


def nic_capabilities(name: str) -> dict[str, Any]:
    """Return the capabilities of a NIC; empty values if it does not report them."""
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


def nic_problems(entries: list[dict[str, Any]]) -> list[str]:
    """Return an error for each entry that matches no NIC; none without pyroute2, another problem."""
    try:
        if entries:
            info.nics(entries)
    except messages.MissingLibrary:
        return []
    except plan.Problem as problem:
        return str(problem).splitlines()
    return []


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "driver": {"type": "str", "choices": ["auto", "meta", "netkit", "veth"], "default": "auto"},
            "uplinks": {"type": "list", "elements": "str", "default": []},
            "nics": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "name": {"type": "str"},
                    "driver": {"type": "str"},
                    "pci": {"type": "str"},
                    "default_route": {"type": "bool", "default": False},
                },
            },
            "allow_package_install": {"type": "bool", "default": False},
            "meta_build": {"type": "str", "choices": ["dkms", "fleet"], "default": "dkms"},
            "cilium": {"type": "str", "choices": ["refuse", "tune"], "default": "refuse"},
            "trusted_pods": {"type": "bool", "default": True},
            "signing_certificate": {"type": "str"},
        },
        supports_check_mode=True,
    )
    requested = module.params["driver"]
    delivered = module.params["meta_build"] == "fleet"
    requirements = readiness.Requirements(
        tuple(module.params["uplinks"]),
        module.params["allow_package_install"],
        delivered,
        module.params["cilium"] == "tune",
        module.params["trusted_pods"],
        module.check_mode,
    )
    certificate = module.params["signing_certificate"] or ("" if delivered else None)
    node = _node.Node()
    facts = node.facts(requirements.uplinks, certificate, bpf_helpers.missing())
    trusted = requirements.trusted_pods
    driver, reason = readiness.choose_driver(
        facts, requested, requirements.allow_package_install, delivered, trusted
    )
    missing, required = readiness.missing_packages(facts, requested, delivered, trusted)
    if facts["cilium"] and requirements.beside_cilium:
        driver, reason = "none", f"Cilium owns the datapath ({', '.join(facts['cilium'])})"
        missing = required = readiness.packages_of_libraries(facts)
    if requested == "auto" and driver == "veth":
        module.warn(reason)
    if driver in ("netkit", "veth") and not trusted:
        module.warn(readiness.pod_isolation(driver))
    if driver == "meta":
        for warning in readiness.upcoming_warnings(facts, delivered):
            module.warn(warning)
    module.exit_json(
        changed=False,
        driver=driver,
        driver_reason=reason,
        pod_isolation=readiness.pod_isolation(driver),
        problems=readiness.problems(facts, requested, requirements) + nic_problems(module.params["nics"]),
        missing_packages=missing,
        required_packages=required,
        builder=readiness.builder(facts),
        meta_build=module.params["meta_build"],
        bootloader=loaders.name(node),
        coexistence=coexistence.other_software(node),
        **{**facts, "nics": [{**nic, **nic_capabilities(nic["name"])} for nic in facts["nics"]]},
    )


if __name__ == "__main__":
    main()
