#!/usr/bin/python
# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: boot_args
short_description: Add arguments to the kernel's command line
version_added: 0.1.0
author: podnet.datapath contributors (@podnet)
description:
  - Adds arguments to every boot entry of this system's kernels, and tells whether the running kernel has
    them. Never reboots.
  - For GRUB as Debian sets it up, the arguments are appended to C(GRUB_CMDLINE_LINUX) in
    C(/etc/default/grub.d/zz-podnet.cfg), and C(grub.cfg) is written anew. Where grubby is (Fedora, RHEL), it
    changes every entry. Entries of systemd-boot are changed in their files, and C(/etc/kernel/cmdline) with
    them where it exists. What was added stands in C(/etc/podnet/boot_args) then. Arguments of others stay.
  - Fails, with everything as it was, where such a program fails, or where an entry lacks an argument
    afterwards or has another value after it.
attributes:
  check_mode:
    description: Can run in check mode and tells what would change.
    support: full
  diff_mode:
    description: Shows the arguments, or the entries that lack some.
    support: full
  idempotent:
    description: Running it twice changes nothing the second time.
    support: full
options:
  args:
    description:
      - The arguments, all that this module is to add. Those of an earlier call that are missing here are
        taken away.
      - Either a dictionary, with no value for arguments without one, or a list of words.
      - Blanks, quotes and characters that mean something to a shell are refused.
      - An empty one is the same as O(state=absent), and does not need a boot loader.
    type: raw
    default: {}
  acknowledge_risk:
    description:
      - Allows arguments that give up protection. These are C(iommu=off), C(intel_iommu=off), C(amd_iommu=off)
        and C(init_on_alloc=0). What each costs is a warning then.
      - Without an IOMMU a device of VFIO and virtual functions do not work, so while there are any, the first
        three are refused all the same.
    type: bool
    default: false
  state:
    description: V(absent) takes away all arguments that this module added.
    type: str
    choices: [present, absent]
    default: present
seealso:
  - name: Tuning
    description: What is tuned, to which values, and why.
    link: https://github.com/podnet/datapath/tree/main/docs/tuning.md
"""

EXAMPLES = r"""
- name: Take the IOMMU out of the way of the host's own drivers
  podnet.datapath.boot_args:
    args:
      iommu: pt
  become: true
  register: boot

- name: Reboot where it takes effect only then
  ansible.builtin.reboot:
  become: true
  when: boot.reboot_required

- name: The talk's arguments; no DMA protection, and memory is not cleared
  podnet.datapath.boot_args:
    args: [iommu=off, init_on_alloc=0, init_on_free=0]
    acknowledge_risk: true
  become: true

- name: Take all of it away again
  podnet.datapath.boot_args:
    state: absent
  become: true
"""

RETURN = r"""
reboot_required:
  description: Whether the running kernel differs from what is asked for, by RV(missing) or RV(stale).
  returned: success
  type: bool
missing:
  description: Arguments that the running kernel lacks, or has with another value after them.
  returned: success
  type: list
  elements: str
  sample: [iommu=pt]
stale:
  description: Arguments that were taken away since the last boot and that the running kernel still has.
  returned: success
  type: list
  elements: str
args:
  description: The arguments asked for, as they stand on the command line.
  returned: success
  type: list
  elements: str
  sample: [iommu=pt]
changes:
  description: What was, or in check mode would be, changed, each with C(name), C(before) and C(after).
  returned: success
  type: list
  elements: dict
bootloader:
  description: The boot loader, V(grub), V(grubby), V(systemd-boot) or V(none).
  returned: success
  type: str
boot_id:
  description: The kernel's identifier of this boot. Another one after a reboot proves that there was one.
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
        result, warnings = apply.run(module.params, module.check_mode, module.run_command)
    except plan.Problem as problem:
        module.fail_json(msg=str(problem))
    for warning in warnings:
        module.warn(warning)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
