#!/usr/bin/python
# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: bpf_state
short_description: Configure Pods, policies and services in the BPF datapath
version_added: 0.1.0
author: podnet.datapath contributors (@podnet)
description:
  - Brings the maps of the BPF programs to the declared state. All changes of a call take effect at once, no
    packet sees a mix of former and new configuration.
  - The maps are computed from the declarations of all owners, so a policy applies to the Pods of all owners.
    A call never changes the declarations of other owners.
  - All options are validated before anything is written, and one error lists all problems.
  - Changes are rejected while new programs with new maps are pending confirmation
    (O(podnet.datapath.bpf_attach#module:confirm_timeout)), because a rollback to the former maps would lose
    them.
  - Declarations are stored in C(/run/podnet/datapath) for the lifetime of the maps.
extends_documentation_fragment:
  - podnet.datapath.attributes
attributes:
  diff_mode:
    description: Returns this owner's declaration before and after, and the map entries of its addresses.
options:
  pin_path:
    description: Directory in the BPF file system where M(podnet.datapath.bpf_attach) pinned the maps.
    type: path
    default: /sys/fs/bpf/podnet
  owner:
    description: Owner of this declaration. Objects that the owner no longer declares are removed.
    type: str
    default: site
  node:
    description: Name of this node. Policies can refer to a Pod as C(<node>/<name>), for example V(node1/web).
    type: str
    default: ""
  endpoints:
    description: All Pods of this owner on this node.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the Pod. The default is O(endpoints[].device).
        type: str
      addresses:
        description: IPv4 and IPv6 addresses of the Pod. A prefix length is ignored.
        type: list
        elements: str
        required: true
      device:
        description: The host end of the Pod's device.
        type: str
        required: true
      labels:
        description: Labels that policies and services select the Pod by.
        type: dict
        default: {}
      rate:
        description:
          - Maximum rate of the Pod's traffic that leaves the node, for example V(100mbit). The units are
            C(bit), C(kbit), C(mbit) and C(gbit), the range is 1 Mbit/s to 1000 Gbit/s. The default is
            unlimited.
          - Requires the qdisc C(fq) on the uplink, which delays packets until their departure time.
        type: str
      masquerade:
        description: Whether packets from the Pod leave the node with the source addresses in O(masquerade).
        type: bool
        default: false
      anti_spoof:
        description:
          - Whether to drop packets whose source address is not one of the Pod's. V(false) also allows source
            addresses that belong to no Pod, for routers and hosts of virtual machines.
        type: bool
        default: true
  remote_pods:
    description: Pods of other nodes, for policies and services that select them.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the Pod.
        type: str
        required: true
      node:
        description: Node of the Pod.
        type: str
        default: ""
      addresses:
        description: IPv4 and IPv6 addresses of the Pod.
        type: list
        elements: str
        required: true
      labels:
        description: Labels that policies and services select the Pod by.
        type: dict
        default: {}
  policies:
    description:
      - Network policies, with the semantics of Kubernetes' NetworkPolicy.
      - A Pod that no policy selects allows all traffic. If a policy covers a direction of a Pod, traffic in
        that direction is denied unless a rule of some policy allows it. Replies, and ICMP errors about
        allowed traffic, always pass.
      - A deny rule overrides all allow rules. The node itself reaches its Pods unless a rule denies it.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the policy.
        type: str
        required: true
      pods:
        description:
          - Pods that the policy applies to. A Pod is selected if it matches all given conditions. The default
            is all Pods.
        type: dict
        suboptions:
          labels:
            description: Labels that the Pod must have.
            type: dict
          expressions:
            description: Conditions on labels, like C(matchExpressions) in Kubernetes.
            type: list
            elements: dict
            suboptions: &expressions
              key:
                description: Label key.
                type: str
                required: true
              operator:
                description: Condition on the label.
                type: str
                required: true
                choices: [In, NotIn, Exists, DoesNotExist]
              values:
                description: Label values for V(In) and V(NotIn).
                type: list
                elements: str
          names:
            description: Pod names, as C(<name>) or C(<node>/<name>).
            type: list
            elements: str
      ingress:
        description:
          - Rules for traffic to the Pods. V([]) allows no traffic. By default the policy does not cover
            ingress.
        type: list
        elements: dict
        suboptions:
          from:
            description:
              - Peers that the rule applies to. By default, and with an empty list, the rule applies to all
                peers.
            type: list
            elements: dict
            suboptions: &peer
              labels:
                description: Pods that have these labels. V({}) selects all Pods.
                type: dict
              expressions:
                description: Pods whose labels match these conditions.
                type: list
                elements: dict
                suboptions: *expressions
              names:
                description: Pods with these names, as C(<name>) or C(<node>/<name>).
                type: list
                elements: str
              cidr:
                description: Addresses in this network, including those of Pods but not those of the node.
                type: str
              except:
                description: Subnets to exclude from the CIDR.
                type: list
                elements: str
              host:
                description: The node on which the Pod runs.
                type: bool
          ports: &ports
            description:
              - Protocols and ports, or ICMP types, that the rule applies to. By default, and with an empty
                list, the rule applies to all traffic.
            type: list
            elements: dict
            suboptions:
              protocol:
                description: V(tcp), V(udp), V(sctp), V(icmp), V(icmpv6), or an IP protocol number.
                type: str
                default: tcp
              port:
                description: Destination port. The default is all ports.
                type: int
              end_port:
                description: Last port of a port range.
                type: int
              type:
                description: ICMP type. The default is all types.
                type: int
              code:
                description: ICMP code. The default is all codes.
                type: int
          action: &action
            description: Whether to allow or deny matching traffic.
            type: str
            choices: [allow, deny]
            default: allow
      egress:
        description:
          - Rules for traffic from the Pods. V([]) allows no traffic. By default the policy does not cover
            egress.
        type: list
        elements: dict
        suboptions:
          to:
            description:
              - Peers that the rule applies to. By default, and with an empty list, the rule applies to all
                peers. For traffic to a service, the peer is the backend.
            type: list
            elements: dict
            suboptions: *peer
          ports: *ports
          action: *action
      ingress_default:
        description:
          - Action for ingress traffic that no rule of any policy matches.
          - V(deny) in one policy overrides V(allow) in others.
          - The default is V(deny), as in Kubernetes.
        type: str
        choices: [allow, deny]
      egress_default:
        description: Like O(policies[].ingress_default), for egress traffic.
        type: str
        choices: [allow, deny]
      optional:
        description: Whether selectors may match no Pod. With V(false), such a selector is an error.
        type: bool
        default: false
  services:
    description: Virtual addresses. Each connection is assigned to one backend for its lifetime.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the service.
        type: str
        required: true
      address:
        description: Virtual IP address. No interface may have it.
        type: str
        required: true
      port:
        description: Port of the service.
        type: int
        required: true
      protocol:
        description: Protocol of the service.
        type: str
        choices: [tcp, udp]
        default: tcp
      backends:
        description: Backends of the service.
        type: list
        elements: dict
        required: true
        suboptions:
          address:
            description: Address of a backend, of the same address family as the service.
            type: str
          labels:
            description: Pods that have these labels, on all nodes.
            type: dict
          names:
            description: Pods with these names.
            type: list
            elements: str
          port:
            description: Port of the backend. The default is the port of the service.
            type: int
          weight:
            description:
              - Share of new connections relative to the other backends, 0 to 100.
              - V(0) drains the backend. It gets no new connections and keeps its existing ones.
            type: int
            default: 1
  masquerade:
    description: Source addresses of masqueraded Pods. Translated connections use ports 61000 to 65535.
    type: dict
    suboptions:
      ipv4:
        description: External IPv4 address of the node.
        type: str
      ipv6:
        description: External IPv6 address of the node.
        type: str
      except:
        description: Destination networks that are not masqueraded, usually the networks of all Pods.
        type: list
        elements: str
"""

EXAMPLES = r"""
- name: Configure two Pods, a policy and a service
  podnet.datapath.bpf_state:
    # Pods of this owner that are not listed are removed
    endpoints:
      - {name: web, addresses: [10.31.1.11, "fd31:1::11"], device: pn0123456789ab, labels: {app: web}}
      - {name: db, addresses: [10.31.1.12, "fd31:1::12"], device: pnba9876543210, rate: 1gbit,
         labels: {app: db}}
    policies:
      - name: allow web to db
        pods: {labels: {app: db}}
        ingress:
          - from: [{labels: {app: web}}]
            ports: [{protocol: tcp, port: 5432}]
    services:
      - name: db
        address: 10.96.0.10
        port: 5432
        backends: [{labels: {app: db}}]

- name: Deny one network and allow all other ingress traffic
  podnet.datapath.bpf_state:
    endpoints:
      - {name: web, addresses: [10.31.1.11], device: pn0123456789ab, labels: {app: web}}
    policies:
      - name: deny guests
        pods: {labels: {app: web}}
        ingress:
          - from: [{cidr: 192.168.100.0/24}]
            action: deny
        ingress_default: allow
"""

RETURN = r"""
updated:
  description: Addresses whose map entries were written, of all owners. In check mode, the planned ones.
  returned: success
  type: list
  elements: str
  sample: [10.31.1.11, "fd31:1::11"]
deleted:
  description: Addresses whose map entries were deleted. In check mode, the planned ones.
  returned: success
  type: list
  elements: str
  sample: [10.31.1.13]
differences:
  description: Number of map entries that differed from the declared state, by kind.
  returned: success
  type: dict
  sample: {endpoints: 2, policy: 4}
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.podnet.datapath.plugins.module_utils._core.plan import Problem
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.apply import run
from ansible_collections.podnet.datapath.plugins.module_utils._kernel.bpf import (
    DEFAULT_OWNER,
    DEFAULT_PIN_PATH,
    BpfError,
)

STRINGS = {"type": "list", "elements": "str"}
POD_SELECTOR = {
    "labels": {"type": "dict"},
    "expressions": {
        "type": "list",
        "elements": "dict",
        "options": {
            "key": {"type": "str", "required": True, "no_log": False},
            "operator": {
                "type": "str",
                "required": True,
                "choices": ["In", "NotIn", "Exists", "DoesNotExist"],
            },
            "values": STRINGS,
        },
    },
    "names": STRINGS,
}
PEERS = {
    "type": "list",
    "elements": "dict",
    "options": {**POD_SELECTOR, "cidr": {"type": "str"}, "except": STRINGS, "host": {"type": "bool"}},
}
RULE = {
    "ports": {
        "type": "list",
        "elements": "dict",
        "options": {
            "protocol": {"type": "str", "default": "tcp"},
            **{name: {"type": "int"} for name in ("port", "end_port", "type", "code")},
        },
    },
    "action": {"type": "str", "choices": ["allow", "deny"], "default": "allow"},
}
DEFAULT = {"type": "str", "choices": ["allow", "deny"]}
POD = {"addresses": {**STRINGS, "required": True}, "labels": {"type": "dict", "default": {}}}


def list_of(options: dict[str, Any], **more: object) -> dict[str, Any]:
    """Return the argument spec of a list of dictionaries with these options."""
    return {"type": "list", "elements": "dict", "options": options, **more}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "pin_path": {"type": "path", "default": DEFAULT_PIN_PATH},
            "owner": {"type": "str", "default": DEFAULT_OWNER},
            "node": {"type": "str", "default": ""},
            "endpoints": list_of(
                {
                    **POD,
                    "name": {"type": "str"},
                    "device": {"type": "str", "required": True},
                    "rate": {"type": "str"},
                    "masquerade": {"type": "bool", "default": False},
                    "anti_spoof": {"type": "bool", "default": True},
                },
                required=True,
            ),
            "remote_pods": list_of(
                {
                    **POD,
                    "name": {"type": "str", "required": True},
                    "node": {"type": "str", "default": ""},
                },
                default=[],
            ),
            "policies": list_of(
                {
                    "name": {"type": "str", "required": True},
                    "pods": {"type": "dict", "options": POD_SELECTOR},
                    "ingress": list_of({"from": PEERS, **RULE}),
                    "egress": list_of({"to": PEERS, **RULE}),
                    "ingress_default": DEFAULT,
                    "egress_default": DEFAULT,
                    "optional": {"type": "bool", "default": False},
                },
                default=[],
            ),
            "services": list_of(
                {
                    "name": {"type": "str", "required": True},
                    "address": {"type": "str", "required": True},
                    "port": {"type": "int", "required": True},
                    "protocol": {"type": "str", "choices": ["tcp", "udp"], "default": "tcp"},
                    "backends": list_of(
                        {
                            "address": {"type": "str"},
                            "labels": {"type": "dict"},
                            "names": STRINGS,
                            "port": {"type": "int"},
                            "weight": {"type": "int", "default": 1},
                        },
                        required=True,
                    ),
                },
                default=[],
            ),
            "masquerade": {
                "type": "dict",
                "options": {"ipv4": {"type": "str"}, "ipv6": {"type": "str"}, "except": STRINGS},
            },
        },
        supports_check_mode=True,
    )
    p = module.params
    declared = {name: p[name] for name in ("node", "remote_pods", "policies", "services", "masquerade")}
    try:
        outcome = run(p["pin_path"], p["owner"], p["endpoints"], module.check_mode, **declared)
    except (BpfError, Problem, OSError) as e:
        module.fail_json(msg=str(e))
    module.exit_json(
        changed=outcome.changed,
        updated=[str(a) for a in outcome.updated],
        deleted=[str(a) for a in outcome.deleted],
        differences=outcome.differences,
        diff={"before": outcome.before, "after": outcome.after},
    )


if __name__ == "__main__":
    main()
