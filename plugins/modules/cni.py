#!/usr/bin/python
# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: cni
short_description: Install the node agent and the network configuration of the CNI plugin podnet
version_added: 0.1.0
author: podnet.datapath contributors (@podnet)
description:
  - Installs C(podnet-agent), which attaches the Pods of container runtimes to the datapath, as a systemd
    service with its configuration. Waits until it is ready. Then writes the network configuration that makes
    runtimes use the plugin C(podnet), atomically and as the last step.
  - The agent is restarted only if its code, unit or configuration changed. Running Pods are not affected. If
    the new agent does not start, the former one is restored.
  - After a boot, the agent loads the programs of O(object) and attaches them to O(agent.uplinks) before
    runtimes start Pods. The module keeps a copy of the object, so that a boot does not load programs that
    were rolled back.
  - Network configurations of other CNI plugins are never changed. Runtimes of Kubernetes use the first one by
    name, RV(active).
  - Fails while a checkpoint of the node is pending confirmation.
extends_documentation_fragment:
  - podnet.datapath.attributes
attributes:
  diff_mode:
    description: Returns the files that change. Those of the agent's code and of O(object) are only named.
requirements:
  - systemd
  - pyroute2 >= 0.7.2 (C(python3-pyroute2) on Debian)
  - libbpf.so.1 (C(libbpf1) on Debian)
options:
  state:
    description:
      - V(absent) removes everything that V(present) installed, the network configuration last, because
        runtimes cannot stop Pods without it. It also removes the plugin.
      - V(absent) fails while Pods of the agent run, unless O(force=true).
    type: str
    choices: [present, absent]
    default: present
  force:
    description:
      - Whether O(state=absent) removes the agent while Pods run with it. They lose their network, and can be
        stopped only if the node has a network configuration of another plugin.
    type: bool
    default: false
  agent:
    description: Options of the agent. Required if O(state=present).
    type: dict
    suboptions:
      node:
        description: Name of this node, in Kubernetes that of its Node object.
        type: str
        required: true
      driver:
        description: Driver of the Pods' devices, as in O(podnet.datapath.pods#module:driver).
        type: str
        choices: [auto, meta, netkit, veth]
        default: auto
      trusted_pods:
        description: As O(podnet.datapath.pods#module:trusted_pods).
        type: bool
        default: true
      mode:
        description: As O(podnet.datapath.pods#module:mode).
        type: str
        choices: [l2, l3]
        default: l3
      mtu:
        description: MTU of the Pods in bytes. The default is that of new devices, 1500.
        type: int
      gso_max_size:
        description: As O(podnet.datapath.pods#module:gso_max_size).
        type: int
      gro_max_size:
        description: As O(podnet.datapath.pods#module:gro_max_size).
        type: int
      gso_ipv4_max_size:
        description: As O(podnet.datapath.pods#module:gso_ipv4_max_size).
        type: int
      gro_ipv4_max_size:
        description: As O(podnet.datapath.pods#module:gro_ipv4_max_size).
        type: int
      ipv4_advmss:
        description: As O(podnet.datapath.pods#module:ipv4_advmss).
        type: int
      pin_path:
        description: Directory in the BPF file system where programs and maps are pinned.
        type: path
        default: /sys/fs/bpf/podnet
      uplinks:
        description: >-
          NICs to which the agent attaches C(host_ingress) after a boot, and C(host_egress) if
          O(agent.kube_proxy=replace).
        type: list
        elements: str
        default: []
      hook_type:
        description: Hook of the uplinks.
        type: str
        choices: [auto, tcx, clsact]
        default: auto
      socket_lb:
        description: As O(podnet.datapath.bpf_attach#module:socket_lb), for the agent after a boot.
        type: str
        choices: [auto, required, disabled]
        default: disabled
      cgroup_path:
        description: As O(podnet.datapath.bpf_attach#module:cgroup_path).
        type: path
        default: ""
      sysctls:
        description:
          - Sysctls of the Pods' network namespaces. The agent sets them before a Pod's device is up. Of those
            that are global in the running kernel, Pods use the node's value.
        type: dict
        default: {}
      masquerade:
        description: As O(podnet.datapath.pods#module:masquerade). With an address, all Pods are masqueraded.
        type: dict
        default: {}
        suboptions:
          ipv4:
            description: IPv4 address of the node on its uplink.
            type: str
          ipv6:
            description: IPv6 address of the node on its uplink.
            type: str
          except:
            description: Destination networks without masquerading, usually those of all Pods.
            type: list
            elements: str
      stack_services:
        description:
          - Networks of services that kube-proxy translates, as O(podnet.datapath.pods#module:stack_services).
          - If it is set and O(agent.kube_proxy=keep), the network configuration also has the plugin
            C(portmap), for host ports.
        type: list
        elements: str
        default: []
      pod_cidrs:
        description: Address ranges of this node's Pods. The default is C(spec.podCIDRs) of its Node object.
        type: list
        elements: str
        default: []
      kubeconfig:
        description: Kubeconfig on the node with which the agent reads the Kubernetes API.
        type: path
      routes:
        description:
          - V(kubernetes) adds routes to the Pods of other nodes, from their Node objects, if
            O(agent.kubeconfig) is set. V(none) leaves routes to others, for example to BGP.
        type: str
        choices: [kubernetes, none]
        default: kubernetes
      network_policies:
        description:
          - Whether NetworkPolicy objects are enforced, if O(agent.kubeconfig) is set. Then a Pod whose object
            the API does not know denies all traffic except from the node.
        type: bool
        default: true
      kube_proxy:
        description:
          - V(replace) translates the cluster's services in the datapath, if O(agent.kubeconfig) is set, and
            serves the host ports of Pods, which the network configuration then leaves to C(podnet).
            V(keep) leaves them to kube-proxy, except for packets of Pods to cluster IPs
            if O(agent.network_policies=true), because policies are about the Pods behind a service.
        type: str
        choices: [keep, replace]
        default: keep
      metrics_address:
        description: Address of the agent's endpoint for health and Prometheus metrics.
        type: str
        default: 127.0.0.1
      metrics_port:
        description: TCP port of that endpoint. V(0) disables it.
        type: int
        default: 0
  object:
    description: Object file of the programs on this node. Required if O(state=present).
    type: path
  bin_dir:
    description: Directory of the plugin C(podnet), which must exist there. Runtimes search this directory.
    type: path
    default: /opt/cni/bin
  conf_dir:
    description: Directory in which runtimes look for network configurations.
    type: path
    default: /etc/cni/net.d
  conflist:
    description:
      - File name of the network configuration. If it changes, the former file is removed after the new one
        was written.
      - Choose a name that comes before those of other plugins to take precedence.
    type: str
    default: 10-podnet.conflist
  network:
    description: Name of the network. Changing it while Pods run leaves their addresses assigned.
    type: str
    default: podnet
  ipam:
    description:
      - Configuration of the IPAM plugin, which is in O(bin_dir) or C(/usr/lib/cni). C(host-local) without
        C(ranges) gets those of O(agent.pod_cidrs).
    type: dict
    default: {type: host-local}
seealso:
  - module: podnet.datapath.bpf_attach
  - module: podnet.datapath.pods
"""

EXAMPLES = r"""
- name: Attach the Pods of kubelet to the datapath
  podnet.datapath.cni:
    object: /usr/local/lib/podnet-datapath.o
    agent:
      node: "{{ inventory_hostname }}"
      mtu: 9000
      uplinks: [ens1f0]
      kubeconfig: /etc/kubernetes/podnet-agent.conf
  become: true

- name: Remove agent, plugin and network configuration from a drained node
  podnet.datapath.cni:
    state: absent
  become: true
"""

RETURN = r"""
active:
  description: Name of the network configuration that Kubernetes' runtimes use; empty if there is none.
  returned: success
  type: str
  sample: 10-podnet.conflist
networks:
  description: Names of all network configurations in O(conf_dir). In check mode, the planned ones.
  returned: success
  type: list
  elements: str
  sample: [10-podnet.conflist, 20-bridge.conflist]
pods:
  description: Pods that ran with this plugin before the call, as C(namespace/name) or container ID.
  returned: success
  type: list
  elements: str
  sample: [default/web-0]
foreign_pods:
  description:
    - Pods that ran with another CNI plugin before the call. They keep their devices; delete or drain them to
      attach them to the datapath.
  returned: success
  type: list
  elements: str
  sample: [kube-system/coredns-7db6d8ff4d-8x7wq]
status:
  description: Why the plugin cannot start Pods, as it reports it to runtimes. Empty if it can.
  returned: success
  type: str
  sample: ""
changes:
  description: The changes, in check mode the planned ones.
  returned: success
  type: list
  elements: str
  sample: [create /etc/cni/net.d/10-podnet.conflist]
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.podnet.datapath.plugins.module_utils._agent import install
from ansible_collections.podnet.datapath.plugins.module_utils._core.arguments import reject_negative
from ansible_collections.podnet.datapath.plugins.module_utils._core.command import clean
from ansible_collections.podnet.datapath.plugins.module_utils._core.plan import Problem
from ansible_collections.podnet.datapath.plugins.module_utils._kernel.bpf import DEFAULT_PIN_PATH
from ansible_collections.podnet.datapath.plugins.module_utils._kernel.messages import require_pyroute2
from ansible_collections.podnet.datapath.plugins.module_utils._programs import sockets

_SIZE = {"type": "int"}
_AGENT = {
    "node": {"type": "str", "required": True},
    "driver": {"type": "str", "choices": ["auto", "meta", "netkit", "veth"], "default": "auto"},
    "trusted_pods": {"type": "bool", "default": True},
    "mode": {"type": "str", "choices": ["l2", "l3"], "default": "l3"},
    "mtu": _SIZE,
    "gso_max_size": _SIZE,
    "gro_max_size": _SIZE,
    "gso_ipv4_max_size": _SIZE,
    "gro_ipv4_max_size": _SIZE,
    "ipv4_advmss": _SIZE,
    "pin_path": {"type": "path", "default": DEFAULT_PIN_PATH},
    "uplinks": {"type": "list", "elements": "str", "default": []},
    "hook_type": {"type": "str", "choices": ["auto", "tcx", "clsact"], "default": "auto"},
    "socket_lb": {"type": "str", "choices": list(sockets.MODES), "default": "disabled"},
    "cgroup_path": {"type": "path", "default": ""},
    "sysctls": {"type": "dict", "default": {}},
    "masquerade": {
        "type": "dict",
        "default": {},
        "options": {
            "ipv4": {"type": "str"},
            "ipv6": {"type": "str"},
            "except": {"type": "list", "elements": "str"},
        },
    },
    "stack_services": {"type": "list", "elements": "str", "default": []},
    "pod_cidrs": {"type": "list", "elements": "str", "default": []},
    "kubeconfig": {"type": "path"},
    "routes": {"type": "str", "choices": ["kubernetes", "none"], "default": "kubernetes"},
    "network_policies": {"type": "bool", "default": True},
    "kube_proxy": {"type": "str", "choices": ["keep", "replace"], "default": "keep"},
    "metrics_address": {"type": "str", "default": "127.0.0.1"},
    "metrics_port": {"type": "int", "default": 0},
}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "force": {"type": "bool", "default": False},
            "agent": {"type": "dict", "options": _AGENT},
            "object": {"type": "path"},
            "bin_dir": {"type": "path", "default": "/opt/cni/bin"},
            "conf_dir": {"type": "path", "default": "/etc/cni/net.d"},
            "conflist": {"type": "str", "default": "10-podnet.conflist"},
            "network": {"type": "str", "default": "podnet"},
            "ipam": {"type": "dict", "default": {"type": "host-local"}},
        },
        required_if=[("state", "present", ["agent", "object"])],
        supports_check_mode=True,
    )
    reject_negative(module)
    p = module.params
    command = clean(module.run_command)
    try:
        require_pyroute2()
        if p["state"] == "absent":
            result = install.absent(p["force"], command, module.check_mode)
        else:
            names = ("agent", "bin_dir", "conf_dir", "conflist", "network", "ipam")
            desired = install.desired(p["object"], **{name: p[name] for name in names})
            result = install.present(desired, command, module.check_mode)
    except (Problem, OSError) as error:
        module.fail_json(msg=str(error))
    result.exit(module)


if __name__ == "__main__":
    main()
