# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options for policies and services."""

from __future__ import annotations


class ModuleDocFragment:
    """Documentation fragment C(podnet.datapath.policies): policies, services and masquerading."""

    DOCUMENTATION = r"""
options:
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
                description:
                  - Addresses in this network, including those of Pods but not those of the node.
                  - As in Kubernetes, host bits are ignored, and an IPv4-mapped network such as
                    V(::ffff:10.0.0.0/104) is the IPv4 network V(10.0.0.0/8).
                type: str
              except:
                description: Subnets to exclude from the CIDR. They may overlap.
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
                description: V(tcp), V(udp), V(sctp), V(icmp), V(icmpv6) in any case, or a protocol number.
                type: str
                default: tcp
              port:
                description: Destination port. The default is all ports. Names of ports are not supported.
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
        description:
          - Virtual IP address. No interface may have it.
          - V(0.0.0.0) or V(::) stands for all addresses of the node, so that C(port) is a node port.
            Processes of the node reach it on loopback addresses as well, by sockets.
        type: str
        required: true
      port:
        description: Port of the service.
        type: int
        required: true
      protocol:
        description: V(tcp), V(udp) or V(sctp), in any case. With V(sctp), ports are not translated.
        type: str
        default: tcp
      affinity:
        description:
          - Seconds that a client keeps its backend after its last new connection, up to 86400, as Kubernetes'
            session affinity C(ClientIP).
          - V(0) disables session affinity.
        type: int
        default: 0
      backends:
        description:
          - Backends of the service. If there are none, or none has a weight above 0, new connections to the
            service are dropped, and the module warns.
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
              - V(0) drains the backend. It gets no new connections and keeps its existing ones. Of a
                service with more than 64 such backends, further ones keep only TCP connections.
            type: int
            default: 1
  masquerade:
    description:
      - Source addresses of masqueraded Pods.
      - Translated connections use ports outside C(net.ipv4.ip_local_port_range), by default 10000 to 29999.
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
  stack_services:
    description:
      - Networks of services that netfilter translates in the node's stack, for example the service CIDRs of
        a cluster with kube-proxy. Add external IPs and load balancer addresses; node ports and host ports
        need no network. The networks of all owners apply.
      - Pods' packets to these networks pass to the stack, and those of all connections that netfilter may
        translate return by it. They are never masqueraded. All other connections bypass the stack.
      - Policies of the client see the address of the service. The backend's policy sees the client.
      - O(services) in these networks are translated by the programs.
    type: list
    elements: str
    default: []
"""
