#!/usr/bin/python
# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: kernel_module
short_description: Install a prebuilt kernel module, and load it now and at boot
version_added: 0.1.0
author: podnet.datapath contributors (@podnet)
description:
  - Copies a kernel module from the controller to C(/lib/modules/<kernel>/updates/podnet), configures loading
    at boot in C(/etc/modules-load.d/podnet-<name>.conf), and loads it. The node needs neither compiler nor
    kernel headers.
  - Before any change, the module verifies the SHA-256 of the copy, compares its C(vermagic) with that of
    the kernel's own modules, and checks its signature against O(certificate).
  - Replaces a version of the kernel module that DKMS installed. M(podnet.datapath.dkms_driver) does the
    reverse; with O(podnet.datapath.dkms_driver#module:state=absent) it removes both.
  - A loaded module that was built from different source is replaced according to O(reload). If a step fails,
    the former state is restored.
  - Applies to one kernel release only. Run it again after the node boots another kernel.
extends_documentation_fragment:
  - podnet.datapath.attributes
attributes:
  action:
    description: Has an action plugin, which reads O(src) and O(certificate) on the controller.
    support: full
requirements:
  - pyroute2 >= 0.7.2 (C(python3-pyroute2) on Debian)
  - kmod
options:
  name:
    description: Name of the kernel module.
    type: str
    required: true
  src:
    description: Directory on the controller where M(podnet.datapath.kernel_module_build) stored the module.
    type: path
    required: true
  kernel:
    description:
      - Kernel release that the module is for. The default is the running kernel.
      - For any other kernel, the module is installed, but not loaded.
    type: str
  certificate:
    description:
      - Path of a certificate (X.509, PEM or DER) on the controller. The module must be signed with its key.
    type: path
  reload:
    description:
      - How to replace a loaded module that was built from different source. Unloading a module removes all of
        its devices.
      - V(idle) replaces it only if it has no devices. Otherwise the new module is loaded at the next boot.
      - V(managed) also removes devices that M(podnet.datapath.meta_device) created. Run that module
        afterwards to create them again. If any other device of the module exists, V(managed) behaves like
        V(idle).
    type: str
    choices: [idle, managed]
    default: idle
  content:
    description: The kernel module in base64. Set by the action plugin from O(src).
    type: str
  sha256:
    description: SHA-256 of the kernel module. Set by the action plugin.
    type: str
  serial:
    description: Serial number of O(certificate). Set by the action plugin.
    type: str
seealso:
  - module: podnet.datapath.kernel_module_build
  - module: podnet.datapath.dkms_driver
"""

EXAMPLES = r"""
- name: Install and load the driver that was built for this kernel
  podnet.datapath.kernel_module:
    name: meta
    src: "/var/cache/modules/meta-{{ source_digest }}-{{ ansible_facts['kernel'] }}"
  become: true
"""

RETURN = r"""
changes:
  description: The steps, in check mode the planned ones, each with its reason.
  returned: success
  type: list
  elements: str
version:
  description: Version of the module.
  returned: success
  type: str
  sample: 0.1.0
srcversion:
  description: The C(srcversion) of the module.
  returned: success
  type: str
signer:
  description: Signer of the module; empty if the module is unsigned.
  returned: success
  type: str
kernel:
  description: Kernel release that the module is for.
  returned: success
  type: str
  sample: 6.1.0-56-amd64
loaded:
  description: Whether the module is loaded.
  returned: success
  type: bool
reload_required:
  description: Whether a module built from different source stays loaded because it is in use.
  returned: success
  type: bool
log:
  description: Complete output of the failed command.
  returned: failure, if the message contains only the end of the output
  type: str
"""

import base64
import hashlib
import os

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.podnet.datapath.plugins.module_utils._core.plan import Problem
from ansible_collections.podnet.datapath.plugins.module_utils._kernel.messages import require_pyroute2
from ansible_collections.podnet.datapath.plugins.module_utils._kmod import delivery, loading
from ansible_collections.podnet.datapath.plugins.module_utils._rollback import journal


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "src": {"type": "path", "required": True},
            "kernel": {"type": "str"},
            "certificate": {"type": "path"},
            "reload": {"type": "str", "choices": list(loading.RELOADS), "default": "idle"},
            # Set by the action plugin.
            "content": {"type": "str"},
            "sha256": {"type": "str"},
            "serial": {"type": "str"},
        },
        supports_check_mode=True,
    )
    params = module.params
    content = base64.b64decode(params["content"] or "")
    if hashlib.sha256(content).hexdigest() != params["sha256"]:
        module.fail_json(
            msg="src: the copy on the node does not match the SHA-256; nothing changed, run the task again"
        )
    desired = delivery.Desired(
        params["name"],
        params["kernel"] or os.uname().release,
        content,
        params["reload"],
        params["serial"] or "",
    )
    installer = delivery.Installer(params["name"])
    try:
        require_pyroute2()
        if not module.check_mode:
            journal.refuse_pending()
        result = delivery.deliver(installer, desired, module.check_mode)
    except (Problem, OSError) as error:
        log = getattr(error, "log", "")
        module.fail_json(msg=str(error), **({"log": log} if log else {}))
    if not module._diff:  # A diff may contain whole source files.
        result.diff = []
    result.exit(module)


if __name__ == "__main__":
    main()
