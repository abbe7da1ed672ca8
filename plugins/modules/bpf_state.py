#!/usr/bin/python
# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: bpf_state
short_description: Tell the BPF programs of Pods, policies and services
version_added: 0.1.0
author: podnet.datapath contributors (@podnet)
description:
  - Brings the programs' maps to the declared state, at once for packets. No packet meets half of a change.
  - The maps are computed from what all owners declare, so an owner's policies reach the Pods of all.
    A call changes nothing of what other owners declare.
  - Everything declared is checked before anything is written, and all that is wrong is named in one error.
  - Nothing is changed while programs with new maps wait for their confirmation
    (O(podnet.datapath.bpf_attach#module:confirm_timeout)), as it would be missing in the former maps.
  - What an owner declares is kept in C(/run/podnet/datapath) for as long as the maps are there.
attributes:
  check_mode:
    description: Reads the maps and returns what would change.
    support: full
  diff_mode:
    description: Shows what this owner declares before and after, and where the programs find its addresses.
    support: full
  idempotent:
    description: A run that changes nothing writes nothing.
    support: full
options:
  pin_path:
    description: Folder in the BPF file system where M(podnet.datapath.bpf_attach) pinned the programs' maps.
    type: path
    default: /sys/fs/bpf/podnet
  owner:
    description: Whose declaration this is. What this owner no longer declares is removed.
    type: str
    default: site
  node:
    description: Name of this node. Policies may name a Pod with its node before it, as in V(node1/web).
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
        description: IPv4 and IPv6 addresses of the Pod. A prefix length is allowed and ignored.
        type: list
        elements: str
        required: true
      device:
        description: The host's end of the Pod's device.
        type: str
        required: true
      labels:
        description: What policies and services know the Pod by.
        type: dict
        default: {}
      rate:
        description:
          - How fast the Pod may send out of the node, for example V(100mbit). If omitted, as fast as it goes.
          - Needs the qdisc fq at the uplink, which holds packets until their time.
        type: str
      masquerade:
        description: Whether the Pod's packets leave under O(masquerade)'s addresses.
        type: bool
        default: false
      anti_spoof:
        description: Whether the Pod sends from its own addresses only. V(false) is for routers and VM hosts.
        type: bool
        default: true
  remote_pods:
    description: Pods of other nodes. Policies and services know them by name and labels.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the Pod.
        type: str
        required: true
      node:
        description: The Pod's node.
        type: str
        default: ""
      addresses:
        description: Addresses of the Pod.
        type: list
        elements: str
        required: true
      labels:
        description: What policies and services know the Pod by.
        type: dict
        default: {}
  policies:
    description:
      - Who may talk to whom, in the words and with the meaning of Kubernetes' NetworkPolicy.
      - A Pod that no policy selects sends and gets everything. A direction that a policy speaks of is denied
        but for what some policy allows; replies, and ICMP errors about what is allowed, always pass.
      - A rule that denies wins over all that allow. The node itself reaches its Pods unless a rule denies it.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the policy.
        type: str
        required: true
      pods:
        description: The Pods that it is about; all that is given must match. The default is all Pods.
        type: dict
        suboptions: &pods
          labels:
            description: Labels that the Pod must have.
            type: dict
          expressions:
            description: Conditions on labels.
            type: list
            elements: dict
            suboptions: &expressions
              key:
                description: The label.
                type: str
                required: true
              operator:
                description: What must hold for it.
                type: str
                required: true
                choices: [In, NotIn, Exists, DoesNotExist]
              values:
                description: Values for V(In) and V(NotIn).
                type: list
                elements: str
          names:
            description: Names of Pods, each alone or with its node before it.
            type: list
            elements: str
      ingress:
        description: Rules for what the Pods get. V([]) allows nothing; if omitted, nothing is said of it.
        type: list
        elements: dict
        suboptions:
          from:
            description: The other side. If omitted or empty, anybody.
            type: list
            elements: dict
            suboptions: &peer
              labels:
                description: Pods with these labels; V({}) are all Pods.
                type: dict
              expressions:
                description: Pods whose labels satisfy these conditions.
                type: list
                elements: dict
                suboptions: *expressions
              names:
                description: Pods by name.
                type: list
                elements: str
              cidr:
                description: Addresses of a network, Pods' or not. The node's own are not meant.
                type: str
              except:
                description: Parts of the network that are not meant.
                type: list
                elements: str
              host:
                description: The node that the Pod is on.
                type: bool
          ports: &ports
            description: Protocols and ports, or ICMP types. If omitted or empty, everything.
            type: list
            elements: dict
            suboptions:
              protocol:
                description: V(tcp), V(udp), V(sctp), V(icmp), V(icmpv6), or a number.
                type: str
                default: tcp
              port:
                description: Port of the target. If omitted, all.
                type: int
              end_port:
                description: Last port, where they are several.
                type: int
              type:
                description: ICMP type. If omitted, all.
                type: int
              code:
                description: ICMP code. If omitted, all.
                type: int
          action: &action
            description: What becomes of it.
            type: str
            choices: [allow, deny]
            default: allow
      egress:
        description: Rules for what the Pods send. V([]) allows nothing; if omitted, nothing is said of it.
        type: list
        elements: dict
        suboptions:
          to:
            description: The other side; behind a service, the backend. If omitted or empty, anybody.
            type: list
            elements: dict
            suboptions: *peer
          ports: *ports
          action: *action
      ingress_default:
        description:
          - What becomes of what no rule of any policy names.
          - V(deny) of one policy wins over V(allow) of others.
          - The default is V(deny), as in Kubernetes.
        type: str
        choices: [allow, deny]
      egress_default:
        description: The same for what the Pods send.
        type: str
        choices: [allow, deny]
      optional:
        description: Whether its selectors may match no Pod. Otherwise that is an error.
        type: bool
        default: false
  services:
    description: Virtual addresses. A connection goes to one backend and stays there.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the service.
        type: str
        required: true
      address:
        description: The virtual address, which no interface has.
        type: str
        required: true
      port:
        description: The virtual port.
        type: int
        required: true
      protocol:
        description: The protocol.
        type: str
        choices: [tcp, udp]
        default: tcp
      backends:
        description: Where connections go.
        type: list
        elements: dict
        required: true
        suboptions:
          address:
            description: Address of one backend, of the same family as the service's.
            type: str
          labels:
            description: Pods with these labels, on all nodes.
            type: dict
          names:
            description: Pods by name.
            type: list
            elements: str
          port:
            description: Port of the backend. The default is the service's.
            type: int
          weight:
            description:
              - Its share of new connections beside the others', 0 to 100.
              - With V(0) it gets no new ones and keeps those it has until they end.
            type: int
            default: 1
  masquerade:
    description: What Pods that are masqueraded leave the node as. Connections get ports 61000 to 65535.
    type: dict
    suboptions:
      ipv4:
        description: The node's address towards the outside.
        type: str
      ipv6:
        description: The same for IPv6.
        type: str
      except:
        description: Networks that are reached under the Pods' own addresses, usually those of all Pods.
        type: list
        elements: str
"""

EXAMPLES = r"""
- name: Two Pods live on this node
  podnet.datapath.bpf_state:
    # an entry of this owner that is not listed is removed
    endpoints:
      - {name: web, addresses: [10.31.1.11, "fd31:1::11"], device: pn0123456789ab, labels: {app: web}}
      - {name: db, addresses: [10.31.1.12, "fd31:1::12"], device: pnba9876543210, rate: 1gbit,
         labels: {app: db}}
    policies:
      - name: only the web asks the database
        pods: {labels: {app: db}}
        ingress:
          - from: [{labels: {app: web}}]
            ports: [{protocol: tcp, port: 5432}]
    services:
      - name: db
        address: 10.96.0.10
        port: 5432
        backends: [{labels: {app: db}}]
"""

RETURN = r"""
updated:
  description: Addresses whose entry was written, or would be, whoever declares them.
  returned: success
  type: list
  elements: str
  sample: [10.31.1.11, "fd31:1::11"]
deleted:
  description: Addresses whose entry was deleted, or would be.
  returned: success
  type: list
  elements: str
  sample: [10.31.1.13]
differences:
  description: How many entries of the maps were not as declared, by kind.
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

TEXTS = {"type": "list", "elements": "str"}
BY_POD = {
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
            "values": TEXTS,
        },
    },
    "names": TEXTS,
}
PEERS = {
    "type": "list",
    "elements": "dict",
    "options": {**BY_POD, "cidr": {"type": "str"}, "except": TEXTS, "host": {"type": "bool"}},
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
POD = {"addresses": {**TEXTS, "required": True}, "labels": {"type": "dict", "default": {}}}


def some(options: dict[str, Any], **more: object) -> dict[str, Any]:
    return {"type": "list", "elements": "dict", "options": options, **more}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "pin_path": {"type": "path", "default": DEFAULT_PIN_PATH},
            "owner": {"type": "str", "default": DEFAULT_OWNER},
            "node": {"type": "str", "default": ""},
            "endpoints": some(
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
            "remote_pods": some(
                {
                    **POD,
                    "name": {"type": "str", "required": True},
                    "node": {"type": "str", "default": ""},
                },
                default=[],
            ),
            "policies": some(
                {
                    "name": {"type": "str", "required": True},
                    "pods": {"type": "dict", "options": BY_POD},
                    "ingress": some({"from": PEERS, **RULE}),
                    "egress": some({"to": PEERS, **RULE}),
                    "ingress_default": DEFAULT,
                    "egress_default": DEFAULT,
                    "optional": {"type": "bool", "default": False},
                },
                default=[],
            ),
            "services": some(
                {
                    "name": {"type": "str", "required": True},
                    "address": {"type": "str", "required": True},
                    "port": {"type": "int", "required": True},
                    "protocol": {"type": "str", "choices": ["tcp", "udp"], "default": "tcp"},
                    "backends": some(
                        {
                            "address": {"type": "str"},
                            "labels": {"type": "dict"},
                            "names": TEXTS,
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
                "options": {"ipv4": {"type": "str"}, "ipv6": {"type": "str"}, "except": TEXTS},
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
