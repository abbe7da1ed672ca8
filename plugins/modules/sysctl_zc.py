#!/usr/bin/python
# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: sysctl_zc
short_description: Set a batch of sysctls, running and at boot, and the TCP window scale
version_added: 0.1.0
author: podnet.datapath contributors (@podnet)
description:
  - Brings all given sysctls to their values in one call, reads them back, and keeps them for the next boot in
    one file of C(sysctl.d).
  - Solves C(net.ipv4.tcp_rmem) and C(net.ipv4.tcp_wmem) for a wanted TCP window scale.
  - Unknown and read-only keys are refused before the first change. Where the kernel refuses a value midway,
    or makes it another one, everything written before has its former value again, and the module fails.
  - Does the same in the network namespaces of Pods that already run, if O(pods) is given. Such a namespace
    took its values when it was made, so what is set on the node later does not reach it.
  - Which keys a network namespace has for itself, and what it begins with, is looked up in the running
    kernel.
  - Writes below C(/proc/sys) as this process sees it. Keys that each network namespace has for itself are
    those of the namespace that the module runs in.
attributes:
  check_mode:
    description: Can run in check mode and tells what would change. What the kernel clamps, only a run shows.
    support: full
  diff_mode:
    description: Shows the running values that change, and the file.
    support: full
  idempotent:
    description: Running it twice changes nothing the second time.
    support: full
options:
  sysctls:
    description:
      - Values by key. A key is written with dots or with slashes, as in sysctl.d(5).
      - Where the name of an interface has a dot, write C(net.ipv4.conf.eth0/100.forwarding) or
        C(net/ipv4/conf/eth0.100/forwarding).
      - Values of several numbers are strings; blanks between them do not matter. V(true) is 1, V(false) is 0.
      - Keys are written in an order in which C(conf.all) and C(conf.default) do not undo what is asked for an
        interface.
    type: dict
    default: {}
  window_scale:
    description:
      - The TCP window scale that the kernel is to announce for new connections, V(0) to V(14). V(12) keeps
        the receive window a multiple of 4096 bytes, as TCP zero-copy needs it.
      - Chooses the last number of C(net.ipv4.tcp_rmem), the smallest that gives the scale unless the present
        one gives it as well, and raises that of C(net.ipv4.tcp_wmem) to it. The other numbers stay. Sets
        C(net.ipv4.tcp_window_scaling) to 1.
      - C(net.core.rmem_max) is left alone, since other programs rely on it. Where it is so large that it
        alone gives a larger scale, the module fails unless O(sysctls) sets it.
      - Keys given in O(sysctls) are used as they are; the module fails where they give another scale.
    type: int
  pods:
    description:
      - Has the network namespaces of running Pods tuned as well, by O(window_scale) and O(pods.sysctls).
      - Namespaces are found by their names in C(/run/netns) and C(/run/docker/netns), and by the processes in
        them.
      - Nothing of this persists over a boot. RV(new_pod_defaults) lists the values that a
        Pod that starts later does not have by itself.
    type: dict
    suboptions:
      select:
        description:
          - V(managed) are the namespaces that M(podnet.datapath.meta_device) made.
          - V(all) are those that have an interface besides the loopback and belong to the node's user
            namespace. Neither a service with C(PrivateNetwork=) nor a rootless container is meant.
          - V(named) are those in O(pods.names).
        type: str
        choices: [managed, all, named]
        default: managed
      names:
        description: Names in C(/run/netns), or paths of network namespaces, for O(pods.select=named).
        type: list
        elements: str
        default: []
      except:
        description:
          - Names or paths that are left alone, such as those of Pods that set the same keys in their
            specification. One that does not exist does not matter.
        type: list
        elements: str
        default: []
      sysctls:
        description:
          - Values by key, for each of these namespaces. A key that holds for the whole node in this kernel
            must have the same value in O(sysctls); so C(net.core.optmem_max), which each namespace has
            for itself in Linux 6.12 but not in 6.1, may be given in both.
        type: dict
        default: {}
  file:
    description:
      - Where the values are kept for the next boot. It holds exactly the keys of this call, those for
        O(window_scale) included. The default sorts after what packages install.
      - A file that this module did not write is not overwritten.
      - An empty string keeps nothing for the next boot.
    type: str
    default: /etc/sysctl.d/zz-podnet.conf
  state:
    description:
      - V(present) sets the values and writes O(file).
      - V(absent) removes O(file). The running values stay until the next boot, and the other options do not
        matter.
    type: str
    choices: [present, absent]
    default: present
seealso:
  - name: Tuning
    description: What is tuned, to which values, and why.
    link: https://github.com/podnet/datapath/tree/main/docs/tuning.md
"""

EXAMPLES = r"""
- name: Forward, and announce a window scale of 12
  podnet.datapath.sysctl_zc:
    sysctls:
      net.ipv4.conf.all.forwarding: 1
      net.ipv6.conf.all.forwarding: 1
      net.core.optmem_max: 1048576
    window_scale: 12
  become: true

- name: Reach the Pods that run, too
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

- name: The talk's values in full; 64 MiB for every new socket is much on a node with many of them
  podnet.datapath.sysctl_zc:
    sysctls:
      net.ipv4.tcp_rmem: 4096 67108864 134217728
      net.ipv4.tcp_wmem: 4096 67108864 134217728
    window_scale: 12
  become: true

- name: An interface with a dot in its name, until the next boot only
  podnet.datapath.sysctl_zc:
    sysctls:
      net/ipv4/conf/eth0.100/forwarding: 0
    file: ""
  become: true

- name: Keep nothing for the next boot; what runs stays
  podnet.datapath.sysctl_zc:
    state: absent
  become: true
"""

RETURN = r"""
changes:
  description: What was, or in check mode would be, written.
  returned: success
  type: list
  elements: dict
  contains:
    name: {description: The key., type: str}
    before: {description: Its value before., type: str}
    after: {description: Its value after., type: str}
  sample:
    - {name: net.core.optmem_max, before: "20480", after: "1048576"}
values:
  description: Every key of this call with its value, those for O(window_scale) included.
  returned: success
  type: dict
  sample: {net.ipv4.tcp_rmem: 4096 131072 134217728}
pods:
  description: What was, or in check mode would be, done to each Pod's network namespace.
  returned: success
  type: list
  elements: dict
  contains:
    netns: {description: "Its name, its path, or a process in it.", type: str}
    changes: {description: As RV(changes)., type: list, elements: dict}
    values: {description: As RV(values)., type: dict}
pods_skipped:
  description: Namespaces that O(pods.select) would mean, each with the reason why it was left alone.
  returned: success
  type: dict
  sample: {process 812 (chronyd): has no interface but the loopback}
new_pod_defaults:
  description:
    - Keys of RV(pods) that a network namespace made now would begin with other values of, which are given.
      Pods made later need this module again, or a CNI plugin that sets them.
  returned: success
  type: dict
  sample: {net.core.optmem_max: "131072"}
connections:
  description:
    - TCP connections that announce another scale than O(window_scale). A connection keeps the scale that it
      began with, so these have it until they are made anew. A socket with a receive buffer of its own has a
      smaller one.
  returned: success
  type: list
  elements: dict
  contains:
    netns: {description: "As RV(pods[].netns), empty for the node.", type: str}
    scale: {description: "The scale.", type: int}
    count: {description: How many there are., type: int}
    examples: {description: "Local and remote end of some.", type: list, elements: str}
other_writers:
  description:
    - Who else sets the same keys to other values. These are files that are read at boot and
      C(/etc/sysctl.conf), TuneD's active profile, and cilium-agent where Cilium runs.
    - One that comes after O(file), and so undoes it, is a warning as well.
  returned: success
  type: list
  elements: dict
  contains:
    by: {description: "V(sysctl.d), V(Cilium), V(cilium-agent), or TuneD's profile.", type: str}
    file: {description: "The other file, if it is one.", type: str}
    key: {description: The key., type: str}
    value: {description: The value there., type: str}
    wins: {description: "Whether it comes after O(file), or O(file) is empty.", type: bool}
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.podnet.datapath.plugins.module_utils._core import plan
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
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        supports_check_mode=True,
    )
    try:
        result = apply.run(module.params, module.check_mode)
    except plan.Problem as problem:
        module.fail_json(msg=str(problem))
    module.exit_json(**result.as_dict())


if __name__ == "__main__":
    main()
