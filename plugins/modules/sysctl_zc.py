#!/usr/bin/python
# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: sysctl_zc
short_description: Set sysctls and the TCP window scale, now and at boot
version_added: 0.1.0
author: podnet.datapath contributors (@podnet)
description:
  - Brings all given sysctls to the requested values in one call, verifies them by reading back, and stores
    them for the next boot in one C(sysctl.d) file.
  - Computes C(net.ipv4.tcp_rmem) and C(net.ipv4.tcp_wmem) from a requested TCP window scale.
  - Unknown and read-only sysctls are rejected before anything changes. If the kernel later rejects or clamps
    a value, all former values are restored and the module fails.
  - With O(pods), the module also sets sysctls in the network namespaces of running Pods. A namespace gets its
    values at creation, so later changes on the node do not affect it.
  - The module probes the running kernel to find out which sysctls are per network namespace and which values
    a new namespace has.
  - Sysctls of the node are those in the C(/proc/sys) of the module's process. Sysctls that are per network
    namespace are set in the namespace in which the module runs.
extends_documentation_fragment:
  - podnet.datapath.attributes
  - podnet.datapath.tuning
attributes:
  check_mode:
    details:
      - Values that the kernel clamps are only detected when they are written.
  diff_mode:
    description: Returns the running values that change, and the file.
requirements:
  - pyroute2 >= 0.7.2 (C(python3-pyroute2) on Debian)
options:
  sysctls:
    description:
      - Values by sysctl name. Names use dots or slashes as separators, as in sysctl.d(5).
      - If an interface name contains a dot, write C(net.ipv4.conf.eth0/100.forwarding) or
        C(net/ipv4/conf/eth0.100/forwarding).
      - Write values of several numbers as a string separated by whitespace. V(true) means 1, V(false) means
        0.
      - The values are written in an order in which C(conf.all) and C(conf.default) do not override values of
        single interfaces. Values that the kernel changes along are restored by a revert, too.
      - Values are compared as the kernel reads them, for example V(80,81) and V(80-81).
    type: dict
    default: {}
  window_scale:
    description:
      - TCP window scale for the kernel to announce in new connections, V(0) to V(14). With V(12), the receive
        window is a multiple of 4096 bytes, which TCP zero-copy requires.
      - Sets the maximum (last number) of C(net.ipv4.tcp_rmem) to the smallest value that results in this
        scale, unless the current value does so already. Raises the maximum of C(net.ipv4.tcp_wmem) to the
        same value. The other numbers are not changed. Sets C(net.ipv4.tcp_window_scaling) to 1.
      - Does not change C(net.core.rmem_max), because other programs rely on it. If its value alone results in
        a larger scale, the module fails unless O(sysctls) sets it.
      - Values in O(sysctls) take precedence. The module fails if they result in another scale.
    type: int
  pods:
    description:
      - Running Pods in whose network namespaces O(window_scale) and O(pods.sysctls) are set, too.
      - Namespaces are found by their names in C(/run/netns) and C(/run/docker/netns), and by the processes in
        them.
      - These values do not persist across a reboot or a restart of the Pod. RV(new_pod_defaults) lists the
        values that a new Pod does not get by itself.
    type: dict
    suboptions:
      select:
        description:
          - V(managed) selects the namespaces that M(podnet.datapath.meta_device) created.
          - V(all) selects all namespaces that have an interface besides the loopback device and belong to the
            node's user namespace. This excludes services with C(PrivateNetwork=) and rootless containers.
          - V(named) selects the namespaces in O(pods.names).
        type: str
        choices: [managed, all, named]
        default: managed
      names:
        description: Names in C(/run/netns) or paths of network namespaces, for O(pods.select=named).
        type: list
        elements: str
        default: []
      except:
        description:
          - Names or paths of namespaces to exclude, for example of Pods that set the same sysctls in their
            specification. Namespaces that do not exist are ignored.
        type: list
        elements: str
        default: []
      sysctls:
        description:
          - Values by sysctl name, for each selected namespace. If the running kernel has one value of a
            sysctl for the whole node, O(sysctls) must set the same value. For example,
            C(net.core.optmem_max) is per namespace in Linux 6.12 but not in 6.1, and can be given in both
            options.
        type: dict
        default: {}
  file:
    description:
      - File that stores the values for the next boot. It contains exactly the sysctls of this call, including
        those for O(window_scale). The default name sorts after the files of packages.
      - An existing file that this module did not write is not overwritten.
      - The module warns if a sysctl belongs to a kernel module that is loaded after the file is read.
      - With an empty string, nothing is stored for the next boot.
    type: str
    default: /etc/sysctl.d/zz-podnet.conf
  acknowledge_risk:
    description:
      - Allow changes with effects that a revert does not undo. These are C(disable_ipv6) of an interface with
        IPv6 addresses or routes of its own, C(addr_gen_mode) and C(stable_secret), and values that the kernel
        does not take back, such as V(1) for C(kernel.unprivileged_bpf_disabled).
    type: bool
    default: false
  state:
    description:
      - V(present) sets the values and writes O(file).
      - V(absent) removes O(file) and ignores the other options. The running values remain until the next
        boot.
    type: str
    choices: [present, absent]
    default: present
"""

EXAMPLES = r"""
- name: Enable forwarding, and announce a window scale of 12
  podnet.datapath.sysctl_zc:
    sysctls:
      net.ipv4.conf.all.forwarding: 1
      net.ipv6.conf.all.forwarding: 1
      net.core.optmem_max: 1048576
    window_scale: 12
  become: true

- name: Set the same values in running Pods
  podnet.datapath.sysctl_zc:
    sysctls:
      net.core.optmem_max: 1048576
    window_scale: 12
    pods:
      select: all
      except: [cni-1f6e3a52-6d0c-4b0e-9b7d-0d6f6f3f5a11]
      sysctls:
        net.core.optmem_max: 1048576
  become: true

- name: Set the values of the talk
  podnet.datapath.sysctl_zc:
    sysctls:
      # 64 MiB is the initial buffer of every new socket; mind nodes with many sockets
      net.ipv4.tcp_rmem: 4096 67108864 134217728
      net.ipv4.tcp_wmem: 4096 67108864 134217728
    window_scale: 12
  become: true

- name: Disable forwarding on an interface with a dot in its name, until the next boot
  podnet.datapath.sysctl_zc:
    sysctls:
      net/ipv4/conf/eth0.100/forwarding: 0
    file: ""
  become: true

- name: Remove the file, and keep the running values
  podnet.datapath.sysctl_zc:
    state: absent
  become: true
"""

RETURN = r"""
changes:
  description: The changes, in check mode the planned ones.
  returned: success
  type: list
  elements: dict
  contains:
    name: {description: Name of the sysctl., type: str}
    before: {description: Former value., type: str}
    after: {description: New value., type: str}
  sample:
    - {name: net.core.optmem_max, before: "20480", after: "1048576"}
values:
  description: All sysctls of this call with their values, including those for O(window_scale).
  returned: success
  type: dict
  sample: {net.ipv4.tcp_rmem: 4096 131072 134217728}
pods:
  description: Result for each Pod's network namespace. In check mode, the planned changes.
  returned: success
  type: list
  elements: dict
  contains:
    netns: {description: "Name or path of the namespace, or a process in it.", type: str}
    changes: {description: As RV(changes)., type: list, elements: dict}
    values: {description: As RV(values)., type: dict}
pods_skipped:
  description: Namespaces that match O(pods.select) but were skipped, each with the reason.
  returned: success
  type: dict
  sample: {process 812 (chronyd): has no interface but the loopback}
new_pod_defaults:
  description:
    - The sysctls in RV(pods) whose value in a new network namespace differs from the requested one, with the
      value in a new namespace. For Pods that are created later, run this module again or use a CNI plugin
      that sets the values.
  returned: success
  type: dict
  sample: {net.core.optmem_max: "131072"}
connections:
  description:
    - TCP connections that announce a window scale other than O(window_scale). A connection keeps its scale
      until it is closed. A socket with its own receive buffer size has a smaller scale.
  returned: success
  type: list
  elements: dict
  contains:
    netns: {description: "As RV(pods[].netns); empty for the node.", type: str}
    scale: {description: Window scale., type: int}
    count: {description: Number of connections., type: int}
    examples: {description: Local and remote addresses of some connections., type: list, elements: str}
other_writers:
  description:
    - Other sources that set the same sysctls to other values, by their names or by others that change them,
      as C(net.ipv4.ip_forward) changes C(net.ipv4.conf.all.forwarding). These are files that are read at
      boot, C(/etc/sysctl.conf), the active profile of TuneD, and cilium-agent if Cilium runs.
    - The module warns about each source that takes effect after O(file).
  returned: success
  type: list
  elements: dict
  contains:
    by: {description: "V(sysctl.d), V(Cilium), V(cilium-agent), or the TuneD profile.", type: str}
    file: {description: Path of the other file; empty if the source is not a file., type: str}
    key: {description: Name of the sysctl., type: str}
    value: {description: Value that the source sets., type: str}
    wins: {description: "Whether the source takes effect after O(file), or O(file) is empty.", type: bool}
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.podnet.datapath.plugins.module_utils._core import plan
from ansible_collections.podnet.datapath.plugins.module_utils._core.arguments import reject_negative
from ansible_collections.podnet.datapath.plugins.module_utils._kernel.messages import require_pyroute2
from ansible_collections.podnet.datapath.plugins.module_utils._sysctl import apply


def main() -> None:
    pods = {
        "select": {"type": "str", "choices": ["managed", "all", "named"], "default": "managed"},
        "names": {"type": "list", "elements": "str", "default": []},
        "except": {"type": "list", "elements": "str", "default": []},
        "sysctls": {"type": "dict", "default": {}},
    }
    module = AnsibleModule(
        argument_spec={
            "sysctls": {"type": "dict", "default": {}},
            "window_scale": {"type": "int"},
            "pods": {"type": "dict", "options": pods},
            "file": {"type": "str", "default": "/etc/sysctl.d/zz-podnet.conf"},
            "acknowledge_risk": {"type": "bool", "default": False},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        supports_check_mode=True,
    )
    reject_negative(module)
    try:
        require_pyroute2()
        result = apply.run(module.params, module.check_mode)
    except (plan.Problem, OSError) as problem:
        module.fail_json(msg=str(problem))
    result.exit(module)


if __name__ == "__main__":
    main()
