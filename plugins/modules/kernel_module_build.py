#!/usr/bin/python
# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: kernel_module_build
short_description: Build a kernel module on a node, and keep it on the controller
version_added: 0.1.0
author: podnet.datapath contributors (@podnet)
description:
  - Builds a module from its source with the headers of a kernel, in a temporary folder. Nothing stays on
    the node.
  - The module is kept on the controller, in the folder O(dest), under the name of its SHA-256. With
    O(signing_key) it is signed there, so the key never leaves the controller.
  - Where O(dest) has a module already, nothing is done.
  - M(podnet.datapath.kernel_module) installs it on all nodes with the same kernel.
attributes:
  check_mode:
    description: Can run in check mode and tells whether a module would be built.
    support: full
  diff_mode:
    description: Changes no node, so there is nothing to show.
    support: none
  idempotent:
    description: Running it twice builds once.
    support: full
  action:
    description: Runs on the controller, and on the node for the build.
    support: full
requirements:
  - on the node gcc, make, binutils and the headers of the kernel
  - on the controller openssl, with O(signing_key)
options:
  name:
    description:
      - Name of the module; the source's Makefile makes C(<name>.ko) with C(KDIR=<build tree of the kernel>).
    type: str
    required: true
  files:
    description:
      - The whole source, as text by relative path. Those that begin with C(#!) become executable.
      - The source must have C(MODULE_VERSION), so that the kernel can tell one build from another.
    type: dict
    required: true
  dest:
    description:
      - Folder on the controller for this module. Its name must tell all that the module depends on
        (source, kernel, key), as what it has is never looked into.
    type: path
    required: true
  kernel:
    description: Release of the kernel to build for. The running one if left out.
    type: str
  signing_key:
    description: Private key to sign with, PEM, on the controller.
    type: path
  signing_certificate:
    description: Its certificate (X.509), PEM or DER, on the controller. Required with O(signing_key).
    type: path
seealso:
  - module: podnet.datapath.kernel_module
  - module: podnet.datapath.dkms_driver
"""

EXAMPLES = r"""
- name: Build once, on the first node
  podnet.datapath.kernel_module_build:
    name: meta
    files: "{{ driver_files }}"
    dest: "/var/cache/modules/meta-{{ source_digest }}-{{ ansible_facts['kernel'] }}"
  run_once: true
"""

RETURN = r"""
path:
  description: Where the module lies on the controller. In check mode, empty if it would be built.
  returned: success
  type: str
sha256:
  description: The module's SHA-256.
  returned: success, and the module is there
  type: str
size:
  description: Its bytes.
  returned: success, and the module is there
  type: int
log:
  description: The whole log of a build that failed.
  returned: when the build failed and the message has only the end of it
  type: str
"""

import base64
import os

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.podnet.datapath.plugins.module_utils._kmod import delivery, loading


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "files": {"type": "dict", "required": True},
            # These are the controller's, and its part of this module looks after them.
            "dest": {"type": "path", "required": True},
            "kernel": {"type": "str"},
            "signing_key": {"type": "path", "no_log": False},
            "signing_certificate": {"type": "path"},
        },
        required_together=[("signing_key", "signing_certificate")],
        supports_check_mode=True,
    )
    if module.check_mode:
        module.exit_json(changed=True, path="")
    kernel = module.params["kernel"] or os.uname().release
    try:
        built = delivery.build(loading.Kmod(module.params["name"]), kernel, module.params["files"])
    except (loading.ModuleError, OSError) as error:
        log = getattr(error, "log", "")
        module.fail_json(msg=str(error), **({"log": log} if log else {}))
    module.exit_json(changed=True, module=base64.b64encode(built).decode())


if __name__ == "__main__":
    main()
