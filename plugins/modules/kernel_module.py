#!/usr/bin/python
# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: kernel_module
short_description: Install a kernel module that was built on another node, load it, and have it loaded at boot
version_added: 0.1.0
author: podnet.datapath contributors (@podnet)
description:
  - Copies a module from the controller to C(/lib/modules/<kernel>/updates/podnet), has it loaded at boot by
    C(/etc/modules-load.d/podnet-<name>.conf), and loads it now. The node needs neither compiler nor headers.
  - Before anything is changed, the copy is compared with its SHA-256, its C(vermagic) with that of the
    kernel's own modules, and its signature with O(certificate).
  - Takes the place of what DKMS has of this module. M(podnet.datapath.dkms_driver) takes it back, and with
    O(podnet.datapath.dkms_driver#module:state=absent) removes both.
  - A loaded module of another source is replaced as O(reload) says. If a step fails, what was before is
    put back.
  - The next kernel of the node has no such module until this runs for it.
attributes:
  check_mode:
    description: Can run in check mode and returns what it would change.
    support: full
  diff_mode:
    description: Shows the state before and after.
    support: full
  idempotent:
    description: Running it twice changes nothing the second time.
    support: full
  action:
    description: Reads the module on the controller and hands it to the node.
    support: full
requirements:
  - kmod
options:
  name:
    description: Name of the module.
    type: str
    required: true
  src:
    description: Folder on the controller where M(podnet.datapath.kernel_module_build) keeps the module.
    type: path
    required: true
  kernel:
    description:
      - Release of the kernel that it is for. The running one if left out.
      - For another kernel than the running one, the module is installed, but not loaded.
    type: str
  certificate:
    description: Certificate (X.509) on the controller, PEM or DER, that the module must be signed for.
    type: path
  reload:
    description:
      - What may be done to replace a loaded module of another source. Unloading it takes all its devices
        away.
      - V(idle) replaces it only if there are none, and else leaves the new one for the next boot.
      - V(managed) removes devices that M(podnet.datapath.meta_device) made, which is to be run afterwards to
        make them again. Where there is a device of anybody else, it does as V(idle).
    type: str
    choices: [idle, managed]
    default: idle
  content:
    description: The module as base64. Read from O(src) by the controller's part of this module.
    type: str
  sha256:
    description: The module's SHA-256.
    type: str
  serial:
    description: Serial number of O(certificate).
    type: str
seealso:
  - module: podnet.datapath.kernel_module_build
  - module: podnet.datapath.dkms_driver
"""

EXAMPLES = r"""
- name: Install what was built for this kernel
  podnet.datapath.kernel_module:
    name: meta
    src: "/var/cache/modules/meta-{{ source_digest }}-{{ ansible_facts['kernel'] }}"
  become: true
"""

RETURN = r"""
changes:
  description: The steps that were taken, or that would be taken in check mode, each with its reason.
  returned: success
  type: list
  elements: str
version:
  description: Version of the module.
  returned: success
  type: str
  sample: 0.1.0
srcversion:
  description: The module's checksum of its source.
  returned: success
  type: str
signer:
  description: Who signed the module; empty if nobody.
  returned: success
  type: str
kernel:
  description: Release of the kernel that the module is for.
  returned: success
  type: str
  sample: 6.1.0-56-amd64
loaded:
  description: Whether the module is loaded.
  returned: success
  type: bool
reload_required:
  description: Whether an older module stays loaded.
  returned: success
  type: bool
log:
  description: Everything that the failed command said.
  returned: when a command failed and the message has only the end of it
  type: str
"""

import base64
import hashlib
import os

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.podnet.datapath.plugins.module_utils._core.plan import Problem
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
            # Filled in by the controller's part of this module.
            "content": {"type": "str"},
            "sha256": {"type": "str"},
            "serial": {"type": "str"},
        },
        supports_check_mode=True,
    )
    params = module.params
    content = base64.b64decode(params["content"] or "")
    if hashlib.sha256(content).hexdigest() != params["sha256"]:
        module.fail_json(msg="src: the module came damaged to the node, and nothing was changed: run again")
    desired = delivery.Desired(
        params["name"],
        params["kernel"] or os.uname().release,
        content,
        params["reload"],
        params["serial"] or "",
    )
    installer = delivery.Installer(params["name"])
    try:
        if not module.check_mode:
            journal.refuse_pending()
        result = delivery.deliver(installer, desired, module.check_mode)
    except (loading.ModuleError, Problem, OSError) as error:
        log = getattr(error, "log", "")
        module.fail_json(msg=str(error), **({"log": log} if log else {}))
    if not module._diff:
        del result["diff"]
    for warning in installer.warnings:
        module.warn(warning)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
