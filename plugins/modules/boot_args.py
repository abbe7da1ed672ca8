#!/usr/bin/python
# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: boot_args
short_description: Manage kernel command line arguments
version_added: 0.1.0
author: podnet.datapath contributors (@podnet)
description:
  - Adds arguments to every boot entry of this system's kernels, and reports whether the running kernel has
    them. Never reboots.
  - On GRUB as Debian configures it, the module appends the arguments to C(GRUB_CMDLINE_LINUX) in
    C(/etc/default/grub.d/zz-podnet.cfg) and regenerates C(grub.cfg). Where C(grubby) is installed (Fedora,
    RHEL), C(grubby) updates every entry. For systemd-boot, the module adds a line to every entry file in
    C(/boot), C(/boot/efi) and C(/efi), and to C(/etc/kernel/cmdline) if it exists. With C(grubby) and
    systemd-boot, C(/etc/podnet/boot_args) records the added arguments.
  - If the EFI variable C(LoaderInfo) names the boot loader that started the node, the module manages that
    one, otherwise the one whose files it finds.
  - Arguments are compared as the kernel does. C(-) and C(_) are equal in names, and words within quotes or
    after C(--) are no arguments.
  - Arguments from other sources are preserved.
  - If a command fails, or an entry afterwards lacks an argument or overrides it with a later value, the
    module restores the former state and fails.
extends_documentation_fragment:
  - podnet.datapath.attributes
  - podnet.datapath.tuning
options:
  args:
    description:
      - All arguments that this module manages. Arguments that an earlier call added and that are not listed
        are removed.
      - Either a dictionary, with null for an argument without a value, or a list of strings.
      - Arguments may contain letters, digits, and the characters C(_.,:=/@%+~-). C(--) is rejected.
      - Arguments that may occur several times, such as C(console) and C(hugepages), keep number and order.
      - An empty value is the same as O(state=absent) and does not require a boot loader.
    type: raw
    default: {}
  acknowledge_risk:
    description:
      - Allow arguments that weaken protection, namely C(iommu=off), C(intel_iommu=off), C(amd_iommu=off) and
        C(init_on_alloc=0). The module then warns about the consequences of each.
      - Arguments that disable the IOMMU are rejected in any case while a device is bound to a VFIO driver or
        has virtual functions, as both need an IOMMU.
    type: bool
    default: false
  state:
    description: V(absent) removes all arguments that this module added.
    type: str
    choices: [present, absent]
    default: present
"""

EXAMPLES = r"""
- name: Use pass-through DMA for the host's own drivers
  podnet.datapath.boot_args:
    args:
      iommu: pt
  become: true
  register: boot

- name: Reboot if the running kernel lacks an argument
  ansible.builtin.reboot:
  become: true
  when: boot.reboot_required

- name: Set the arguments of the talk, without DMA protection and memory initialization
  podnet.datapath.boot_args:
    args: [iommu=off, init_on_alloc=0, init_on_free=0]
    acknowledge_risk: true
  become: true

- name: Remove all arguments that this module added
  podnet.datapath.boot_args:
    state: absent
  become: true
"""

RETURN = r"""
reboot_required:
  description: Whether RV(missing) or RV(stale) lists an argument, so that a reboot is required.
  returned: success
  type: bool
missing:
  description: Requested arguments that the running kernel does not have, or that a later value overrides.
  returned: success
  type: list
  elements: str
  sample: [iommu=pt]
stale:
  description: Arguments that were removed since the last boot and that the running kernel still has.
  returned: success
  type: list
  elements: str
args:
  description: The requested arguments as on the command line.
  returned: success
  type: list
  elements: str
  sample: [iommu=pt]
changes:
  description: The changes, in check mode the planned ones, each with C(name), C(before) and C(after).
  returned: success
  type: list
  elements: dict
bootloader:
  description: The boot loader, V(grub), V(grubby), V(systemd-boot) or V(none).
  returned: success
  type: str
boot_id:
  description: The kernel's boot ID. It changes with every boot.
  returned: success
  type: str
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.podnet.datapath.plugins.module_utils._boot import apply
from ansible_collections.podnet.datapath.plugins.module_utils._core import plan


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "args": {"type": "raw", "default": {}},
            "acknowledge_risk": {"type": "bool", "default": False},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        supports_check_mode=True,
    )
    try:
        result = apply.run(module.params, module.check_mode, module.run_command)
    except plan.Problem as problem:
        module.fail_json(msg=str(problem))
    result.exit(module)


if __name__ == "__main__":
    main()
