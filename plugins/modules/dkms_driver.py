#!/usr/bin/python
# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: dkms_driver
short_description: Build a kernel module from its source with DKMS, load it, and have it loaded at boot
version_added: 0.1.0
author: podnet.datapath contributors (@podnet)
description:
  - Brings one version of one kernel module onto a node. Its source lies in C(/usr/src/<name>-<version>), DKMS
    builds and installs it for the running kernel and for the kernels to come,
    C(/etc/modules-load.d/podnet-<name>.conf) has it loaded at boot, and it is loaded now.
  - A build takes place apart. If it fails, nothing has changed and the former module stays usable. If a later
    step fails, what was before is put back.
  - A loaded module of another source is replaced as O(reload) says. Where it stays, the result says so in
    RV(reload_required).
  - Takes the place of what M(podnet.datapath.kernel_module) installed for the kernel.
  - Owns the DKMS package O(name). Other versions of it, and their sources, are removed once the wanted one is
    in place.
  - A kernel that another version was installed for gets the new one as well, where its headers are there.
attributes:
  check_mode:
    description: Can run in check mode and returns what it would change.
    support: full
  diff_mode:
    description: Shows the state before and after, and each source file that differs.
    support: full
  idempotent:
    description: Running it twice changes nothing the second time.
    support: full
requirements:
  - dkms 2.8 or later, gcc, make and the headers of the kernel, for a build
  - kmod
options:
  name:
    description: Name of the DKMS package and of the module in it.
    type: str
    required: true
  version:
    description:
      - Version of the package, as C(PACKAGE_VERSION) in C(dkms.conf) has it. Required with O(state=present).
    type: str
  files:
    description:
      - The whole source, as text by relative path, C(dkms.conf) among it. Required with O(state=present).
      - Files that are not named here are removed from the source folder. Those that begin with C(#!) become
        executable.
      - The source must have C(MODULE_VERSION), so that the kernel can tell one build from another.
    type: dict
  kernel:
    description:
      - Release of the kernel to build for. The running one if left out.
      - For another kernel than the running one, the module is built and installed, but not loaded.
    type: str
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
  signing_key:
    description:
      - Private key on the node that DKMS signs every build with, also those for later kernels (PEM).
      - Written to C(/etc/dkms/framework.conf.d/podnet.conf), which holds for all packages of DKMS 3.0 or
        later.
    type: path
  signing_certificate:
    description: Its certificate on the node (X.509, PEM or DER). Required with O(signing_key).
    type: path
  state:
    description:
      - With V(absent), the module is unloaded and every version of it is removed from DKMS, with its source,
        and what M(podnet.datapath.kernel_module) installed. This is refused while something uses the module.
    type: str
    choices: [present, absent]
    default: present
seealso:
  - module: podnet.datapath.node_info
"""

EXAMPLES = r"""
- name: Build and load a driver whose source lies in the role's files/
  podnet.datapath.dkms_driver:
    name: meta
    version: 0.1.0
    files: "{{ dict(names | zip(query('ansible.builtin.file', *names, rstrip=false))) }}"
  vars:
    names: [dkms.conf, Kbuild, device.c]
  become: true
  register: driver

- name: An older module is still in use
  ansible.builtin.debug:
    msg: Reboot the node, or remove its Pods and run again
  when: driver.reload_required

- name: Have it built before the node boots a new kernel
  podnet.datapath.dkms_driver:
    name: meta
    version: 0.1.0
    files: "{{ driver_files }}"
    kernel: 6.1.0-57-amd64
  become: true

- name: Take the driver away
  podnet.datapath.dkms_driver:
    name: meta
    state: absent
  become: true
"""

RETURN = r"""
changes:
  description: The steps that were taken, or that would be taken in check mode, each with its reason.
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
  description: The installed module's checksum of its source. In check mode, of the one installed before.
  returned: success with O(state=present)
  type: str
  sample: 5D6F8C2B1E0A4D7F9B3C21A
kernel:
  description: Release of the kernel that the module is for.
  returned: success
  type: str
  sample: 6.1.0-56-amd64
built:
  description: Whether the module was built in this run.
  returned: success
  type: bool
loaded:
  description: Whether the module is loaded.
  returned: success
  type: bool
reload_required:
  description: Whether an older module stays loaded because something uses it.
  returned: success
  type: bool
log:
  description: Everything that the failed command said, such as the whole log of the build.
  returned: when a command failed and the message has only the end of it
  type: str
"""

import os

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.podnet.datapath.plugins.module_utils._core.plan import Problem
from ansible_collections.podnet.datapath.plugins.module_utils._kmod import dkms, loading
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
        if not module.check_mode:
            journal.refuse_pending()
        driver = dkms.Driver(params["name"])
        if params["state"] == "absent":
            result = dkms.absent(driver, kernel, module.check_mode)
        else:
            signing = None
            if params["signing_key"]:
                signing = dkms.signing(params["signing_key"], params["signing_certificate"])
            desired = dkms.Desired(
                params["name"], params["version"], kernel, params["files"], params["reload"], signing
            )
            result = dkms.present(driver, desired, module.check_mode)
    except (loading.ModuleError, Problem, OSError) as error:
        log = getattr(error, "log", "")
        module.fail_json(msg=str(error), **({"log": log} if log else {}))
    if not module._diff:
        del result["diff"]
    for warning in driver.warnings:
        module.warn(warning)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
