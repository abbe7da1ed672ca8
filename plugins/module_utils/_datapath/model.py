# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pods, policies and services of a declaration, with the semantics of Kubernetes' NetworkPolicy."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Union

Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]
Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]

INGRESS, EGRESS = 0, 1
DIRECTIONS = {"ingress": INGRESS, "egress": EGRESS}
PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132, "icmp": 1, "icmpv6": 58}


@dataclass(frozen=True)
class HostPort:
    """A port of the node that leads to the port ``target`` of a Pod.

    ``address`` is one of the node, or the unspecified address of a family; None: all addresses of the node.
    """

    port: int
    target: int
    protocol: int
    address: Address | None = None


@dataclass(frozen=True)
class Pod:
    """A Pod. ``device`` is the host end of its device, empty for a Pod of another node.

    ``display_name`` is the name for people if ``name`` is not readable, such as ``namespace/name``. ``uid``
    is that of its Kubernetes object, so that a Pod is not mistaken for its predecessor of the same name.
    A Pod of this node that is ``in_cluster`` has the labels that the API declares. ``netns_cookie`` is that
    of its network namespace, 0 if it is unknown.
    """

    name: str
    owner: str
    addresses: tuple[Address, ...]
    labels: Mapping[str, str] = field(default_factory=dict)
    node: str = ""
    device: str = ""
    rate: int = 0  # bytes per second; 0: unlimited
    masquerade: bool = False
    anti_spoof: bool = True
    display_name: str = ""
    uid: str = ""
    in_cluster: bool = False
    host_ports: tuple[HostPort, ...] = ()
    netns_cookie: int = 0

    @property
    def shown(self) -> str:
        """Return the name for messages and reports."""
        return self.display_name or self.name


@dataclass(frozen=True)
class Expression:
    """A condition on one label, like an element of Kubernetes' matchExpressions."""

    key: str
    operator: str
    values: frozenset[str] = frozenset()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Return whether a Pod with these labels meets the condition."""
        if self.operator == "Exists":
            return self.key in labels
        if self.operator == "DoesNotExist":
            return self.key not in labels
        return (labels.get(self.key) in self.values) == (self.operator == "In")


@dataclass(frozen=True)
class PodSelector:
    """Selects Pods by labels, expressions and names; a Pod must match all that are given."""

    labels: frozenset[tuple[str, str]] = frozenset()
    expressions: tuple[Expression, ...] = ()
    names: frozenset[str] = frozenset()

    def matches(self, pod: Pod) -> bool:
        """Return whether the selector matches a Pod. A name may be prefixed by its node: ``node/name``."""
        return (
            self.labels <= pod.labels.items()
            and all(expression.matches(pod.labels) for expression in self.expressions)
            and (not self.names or pod.name in self.names or f"{pod.node}/{pod.name}" in self.names)
        )


@dataclass(frozen=True)
class CidrSelector:
    """Selects the addresses of a network, without the ``excluded`` subnets."""

    network: Network
    excluded: frozenset[Network] = frozenset()

    def matches(self, address: Address) -> bool:
        """Return whether the selector matches an address."""
        return address in self.network and not any(address in network for network in self.excluded)


@dataclass(frozen=True)
class HostSelector:
    """Selects the node that the Pod runs on."""


Selector = Union[PodSelector, CidrSelector, HostSelector]


@dataclass(frozen=True, order=True)
class Ports:
    """A range of ports, or of ICMP type * 256 + code. Protocol 0 stands for all protocols."""

    protocol: int = 0
    first: int = 0
    last: int = 0xFFFF


@dataclass(frozen=True)
class Rule:
    """Allows or denies traffic with ``peers`` (empty: all) on ``ports`` (empty: all)."""

    direction: int
    allow: bool = True
    peers: tuple[Selector, ...] = ()
    ports: tuple[Ports, ...] = ()


@dataclass(frozen=True)
class Policy:
    """Rules for the Pods that ``subject`` selects.

    ``defaults`` is, by direction, whether traffic that no rule matches is allowed; None if the policy does
    not cover the direction. Selectors of an ``optional`` policy may match no Pod. No other policy applies to
    Pods of an ``exclusive`` one.
    """

    name: str
    owner: str
    subject: PodSelector
    rules: tuple[Rule, ...] = ()
    defaults: tuple[bool | None, bool | None] = (None, None)
    optional: bool = False
    exclusive: bool = False


@dataclass(frozen=True)
class Backend:
    """A backend of a service; ``weight`` is its share of new connections relative to the other backends.

    With weight 0 it drains: it keeps its connections and gets no new ones. Of a service with many such
    backends, the maps have the first ones.
    """

    address: Address
    port: int
    weight: int = 1


@dataclass(frozen=True)
class Service:
    """A virtual address and port. ``selected`` has selectors of Pods as backends, with port and weight.

    The unspecified address of a family stands for all addresses of this node (a node port). ``affinity``
    are the seconds that a client keeps its backend, 0 for none. ``external`` are the backends for clients
    outside of the cluster (externalTrafficPolicy); None: ``backends``. A ``host_port`` of a Pod applies to
    addresses of this node only. An address that the service has ``listed`` itself (externalIPs) is that of a
    Pod first. Only clients in the networks ``sources`` may use the service; None: all.
    """

    name: str
    owner: str
    address: Address
    port: int
    protocol: int
    backends: tuple[Backend, ...] = ()
    selected: tuple[tuple[PodSelector, int, int], ...] = ()
    affinity: int = 0
    external: tuple[Backend, ...] | None = None
    host_port: bool = False
    listed: bool = False
    sources: tuple[Network, ...] | None = None


@dataclass(frozen=True)
class Masquerade:
    """Source addresses of masqueraded packets; packets to ``excluded`` networks are not masqueraded."""

    ipv4: ipaddress.IPv4Address | None = None
    ipv6: ipaddress.IPv6Address | None = None
    excluded: frozenset[Network] = frozenset()


@dataclass
class Declaration:
    """What one owner, or after ``merge`` all owners, declare for a node.

    Netfilter translates packets to the networks ``stack_services`` in the node's stack. ``unenforced`` has a
    problem for each object of a cluster that conflicts with another one.
    """

    pods: list[Pod] = field(default_factory=list)
    policies: list[Policy] = field(default_factory=list)
    services: list[Service] = field(default_factory=list)
    masquerade: Masquerade = Masquerade()
    stack_services: frozenset[Network] = frozenset()
    unenforced: list[str] = field(default_factory=list)
