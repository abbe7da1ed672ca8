#!/usr/bin/python
# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: dkms_driver
short_description: Build a kernel module with DKMS, and load it now and at boot
version_added: 0.1.0
author: podnet.datapath contributors (@podnet)
description:
  - Installs one version of a kernel module from source. The source is placed in
    C(/usr/src/<name>-<version>). DKMS builds and installs it for the running kernel and for later kernels.
    C(/etc/modules-load.d/podnet-<name>.conf) loads it at boot, and it is also loaded immediately.
  - The build does not touch the installed version. If the build fails, nothing has changed. If a later step
    fails, the former state is restored.
  - A loaded module that was built from different source is replaced according to O(reload). If it cannot be
    replaced, RV(reload_required) is V(true).
  - Replaces a module that M(podnet.datapath.kernel_module) installed for the kernel.
  - Owns the DKMS package O(name). Other versions of the package and their sources are removed after the
    requested version is installed. Kernels that had another version get the requested one if their headers
    are installed.
extends_documentation_fragment:
  - podnet.datapath.attributes
attributes:
  diff_mode:
    description: Returns the state before and after, and the differences of each source file.
requirements:
  - pyroute2 >= 0.7.2 (C(python3-pyroute2) on Debian)
  - dkms 2.8 or later, gcc, make and the headers of the kernel, to build
  - kmod
options:
  name:
    description: Name of the DKMS package and of its kernel module.
    type: str
    required: true
  version:
    description:
      - Version of the package, the C(PACKAGE_VERSION) in C(dkms.conf). Required if O(state=present).
    type: str
  files:
    description:
      - The complete source, including C(dkms.conf), as file contents by relative path. Required if
        O(state=present).
      - Files that are not listed are removed from the source directory. Files that begin with C(#!) become
        executable.
      - The source must define C(MODULE_VERSION), because the kernel then exposes the C(srcversion) by which
        builds are compared.
    type: dict
  kernel:
    description:
      - Kernel release to build for. The default is the running kernel.
      - For any other kernel, the module is built and installed, but not loaded.
    type: str
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
  signing_key:
    description:
      - Path of the private key (PEM) on the node that DKMS signs all builds with, including those for later
        kernels.
      - The key is configured in C(/etc/dkms/framework.conf.d/podnet.conf), which with DKMS 3.0 or later
        applies to all DKMS packages.
    type: path
  signing_certificate:
    description: Path of the certificate (X.509, PEM or DER) on the node. Required if O(signing_key) is set.
    type: path
  state:
    description:
      - V(absent) unloads the module, removes all of its versions and sources from DKMS, and removes files
        that M(podnet.datapath.kernel_module) installed. Rejected while the module is in use.
    type: str
    choices: [present, absent]
    default: present
seealso:
  - module: podnet.datapath.kernel_module
  - module: podnet.datapath.node_info
"""

EXAMPLES = r"""
- name: Build and load a driver from the files of a role
  podnet.datapath.dkms_driver:
    name: meta
    version: 0.1.0
    files: "{{ dict(names | zip(query('ansible.builtin.file', *names, rstrip=false))) }}"
  vars:
    names: [dkms.conf, Kbuild, device.c]
  become: true
  register: driver

- name: Report that the former driver is still in use
  ansible.builtin.debug:
    msg: Reboot the node, or remove its Pods and run the play again
  when: driver.reload_required

- name: Build for an installed kernel before booting it
  podnet.datapath.dkms_driver:
    name: meta
    version: 0.1.0
    files: "{{ driver_files }}"
    kernel: 6.1.0-57-amd64
  become: true

- name: Unload and remove the driver
  podnet.datapath.dkms_driver:
    name: meta
    state: absent
  become: true
"""

RETURN = r"""
changes:
  description: The steps, in check mode the planned ones, each with its reason.
  returned: success
  type: list
  elements: str
  sample: ["deploy: the source differs: device.c"]
version:
  description: Version of the module.
  returned: success with O(state=present)
  type: str
  sample: 0.1.0
srcversion:
  description: The C(srcversion) of the installed module. In check mode, of the module installed before.
  returned: success with O(state=present)
  type: str
  sample: 5D6F8C2B1E0A4D7F9B3C21A
kernel:
  description: Kernel release that the module is for.
  returned: success
  type: str
  sample: 6.1.0-56-amd64
built:
  description: Whether this call built the module.
  returned: success
  type: bool
loaded:
  description: Whether the module is loaded.
  returned: success
  type: bool
reload_required:
  description: Whether a module built from different source stays loaded because it is in use.
  returned: success
  type: bool
log:
  description: Complete output of the failed command, for example the build log.
  returned: failure, if the message contains only the end of the output
  type: str
"""

import os

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.podnet.datapath.plugins.module_utils._core.plan import Problem
from ansible_collections.podnet.datapath.plugins.module_utils._kernel.messages import require_pyroute2
from ansible_collections.podnet.datapath.plugins.module_utils._kmod import dkms, dkms_plan, loading
from ansible_collections.podnet.datapath.plugins.module_utils._rollback import journal


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "version": {"type": "str"},
            "files": {"type": "dict"},
            "kernel": {"type": "str"},
            "reload": {"type": "str", "choices": list(loading.RELOADS), "default": "idle"},
            "signing_key": {"type": "path", "no_log": False},
            "signing_certificate": {"type": "path"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        required_together=[("signing_key", "signing_certificate")],
        required_if=[("state", "present", ["version", "files"])],
        supports_check_mode=True,
    )
    params = module.params
    kernel = params["kernel"] or os.uname().release
    try:
        require_pyroute2()
        if not module.check_mode:
            journal.refuse_pending()
        driver = dkms.DkmsModule(params["name"])
        if params["state"] == "absent":
            result = dkms.absent(driver, kernel, module.check_mode)
        else:
            signing = None
            if params["signing_key"]:
                signing = dkms.signing(params["signing_key"], params["signing_certificate"])
            desired = dkms_plan.Desired(
                params["name"], params["version"], kernel, params["files"], params["reload"], signing
            )
            result = dkms.present(driver, desired, module.check_mode)
    except (Problem, OSError) as error:
        log = getattr(error, "log", "")
        module.fail_json(msg=str(error), **({"log": log} if log else {}))
    if not module._diff:  # A diff may contain whole source files.
        result.diff = []
    result.exit(module)


if __name__ == "__main__":
    main()
