#!/usr/bin/python
# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: kernel_module_build
short_description: Build a kernel module on a node, and store it on the controller
version_added: 0.1.0
author: podnet.datapath contributors (@podnet)
description:
  - Builds a kernel module from source against the headers of a kernel, in a temporary directory. Nothing
    remains on the node.
  - Stores the module on the controller in O(dest), with its SHA-256 as file name. With O(signing_key), the
    module is signed on the controller, so the key never leaves the controller.
  - Does nothing if O(dest) already contains a module.
  - The same source, headers and compiler give the same bytes. With O(agreement), the module is signed and
    stored only after several nodes have built the same, so that a compromised node cannot give its code to
    others.
  - Use M(podnet.datapath.kernel_module) to install the module on all nodes that run the same kernel.
extends_documentation_fragment:
  - podnet.datapath.attributes
attributes:
  diff_mode:
    description: Returns no differences, as no node is changed.
    support: none
  idempotent:
    description: A second run with the same options does not build again.
  action:
    description: Has an action plugin, which signs and stores the module on the controller.
    support: full
requirements:
  - gcc, make, binutils and the headers of the kernel, on the node
  - openssl on the controller, for O(signing_key)
options:
  name:
    description:
      - Name of the module. The Makefile in O(files) must build C(<name>.ko) with the variable C(KDIR) set to
        the build directory of the kernel.
    type: str
    required: true
  files:
    description:
      - The complete source, as file contents by relative path. Files that begin with C(#!) become executable.
      - The source must define C(MODULE_VERSION), because the kernel then exposes the C(srcversion) by which
        builds are compared.
    type: dict
    required: true
  dest:
    description:
      - Directory on the controller for this build. The name must identify everything that the build depends
        on (source, kernel, key), because an existing module is reused without further checks.
    type: path
    required: true
  kernel:
    description: Kernel release to build for. The default is the running kernel.
    type: str
  agreement:
    description:
      - Number of nodes that must build the same module before it is signed and stored in O(dest). Run the
        module on each of them, with its name in O(builder).
      - Builds that wait for others are in C(<dest>.builds). The module fails if two of them differ.
    type: int
    default: 1
  builder:
    description: Name of the node in C(<dest>.builds) and in messages. Required if O(agreement) exceeds V(1).
    type: str
    default: ""
  signing_key:
    description: Path of the private key (PEM) on the controller to sign the module with.
    type: path
  signing_certificate:
    description:
      - Path of the certificate (X.509, PEM or DER) on the controller. Required if O(signing_key) is set.
    type: path
seealso:
  - module: podnet.datapath.kernel_module
  - module: podnet.datapath.dkms_driver
"""

EXAMPLES = r"""
- name: Build the driver on the first node
  podnet.datapath.kernel_module_build:
    name: meta
    files: "{{ driver_files }}"
    dest: "/var/cache/modules/meta-{{ source_digest }}-{{ ansible_facts['kernel'] }}"
  run_once: true
"""

RETURN = r"""
path:
  description:
    - Path of the module on the controller. Empty if other nodes have to build it as well, and in check mode
      if the module would be built.
  returned: success
  type: str
sha256:
  description: SHA-256 of the module.
  returned: success, if the module exists
  type: str
size:
  description: Size of the module in bytes.
  returned: success, if the module exists
  type: int
log:
  description: Complete build log.
  returned: failure, if the message contains only the end of the log
  type: str
"""

import base64
import os

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.podnet.datapath.plugins.module_utils._core.arguments import reject_negative
from ansible_collections.podnet.datapath.plugins.module_utils._kmod import delivery, loading
from ansible_collections.podnet.datapath.plugins.module_utils._kmod.module import Kmod


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "files": {"type": "dict", "required": True},
            # The action plugin uses these on the controller.
            "dest": {"type": "path", "required": True},
            "kernel": {"type": "str"},
            "agreement": {"type": "int", "default": 1},
            "builder": {"type": "str", "default": ""},
            "signing_key": {"type": "path", "no_log": False},
            "signing_certificate": {"type": "path"},
        },
        required_together=[("signing_key", "signing_certificate")],
        supports_check_mode=True,
    )
    reject_negative(module)
    if module.params["agreement"] > 1 and not module.params["builder"]:
        module.fail_json(msg=f"agreement: {module.params['agreement']} requires builder: set it to the node")
    if module.check_mode:
        module.exit_json(changed=True, path="")
    kernel = module.params["kernel"] or os.uname().release
    try:
        built = delivery.build(Kmod(module.params["name"]), kernel, module.params["files"])
    except (loading.ModuleError, OSError) as error:
        log = getattr(error, "log", "")
        module.fail_json(msg=str(error), **({"log": log} if log else {}))
    module.exit_json(changed=True, module=base64.b64encode(built).decode())


if __name__ == "__main__":
    main()
