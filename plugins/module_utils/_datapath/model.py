# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pods, policies and services as people declare them. Private to this collection.

The words and their meaning are those of Kubernetes' NetworkPolicy where it has them.
"""

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
class Pod:
    """A Pod of this node (``device``: the host's end) or, without a device, of another one."""

    name: str
    owner: str
    addresses: tuple[Address, ...]
    labels: Mapping[str, str] = field(default_factory=dict)
    node: str = ""
    device: str = ""
    rate: int = 0  # bytes a second; 0: as fast as it goes
    masquerade: bool = False
    anti_spoof: bool = True


@dataclass(frozen=True)
class Expression:
    """A condition on one label, as Kubernetes' matchExpressions."""

    key: str
    operator: str
    values: frozenset[str] = frozenset()

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Tell whether a Pod with these labels satisfies it."""
        if self.operator == "Exists":
            return self.key in labels
        if self.operator == "DoesNotExist":
            return self.key not in labels
        return (labels.get(self.key) in self.values) == (self.operator == "In")


@dataclass(frozen=True)
class PodSelector:
    """Pods by labels, expressions and names; all that is given must match."""

    labels: frozenset[tuple[str, str]] = frozenset()
    expressions: tuple[Expression, ...] = ()
    names: frozenset[str] = frozenset()

    def matches(self, pod: Pod) -> bool:
        """Tell whether the selector means this Pod; a name may have its node before it."""
        return (
            self.labels <= pod.labels.items()
            and all(expression.holds(pod.labels) for expression in self.expressions)
            and (not self.names or pod.name in self.names or f"{pod.node}/{pod.name}" in self.names)
        )


@dataclass(frozen=True)
class CidrSelector:
    """Addresses of a network but those of some of its parts."""

    network: Network
    excluded: frozenset[Network] = frozenset()

    def matches(self, address: Address) -> bool:
        """Tell whether the selector means this address."""
        return address in self.network and not any(address in network for network in self.excluded)


@dataclass(frozen=True)
class HostSelector:
    """The node that a Pod runs on."""


Selector = Union[PodSelector, CidrSelector, HostSelector]


@dataclass(frozen=True, order=True)
class Ports:
    """A range of a protocol's ports, or of ICMP's type and code (type * 256 + code); 0: every protocol."""

    protocol: int = 0
    first: int = 0
    last: int = 0xFFFF


@dataclass(frozen=True)
class Rule:
    """Whom a Pod may, or may not, talk to. No peers: anybody. No ports: everything."""

    direction: int
    allow: bool = True
    peers: tuple[Selector, ...] = ()
    ports: tuple[Ports, ...] = ()


@dataclass(frozen=True)
class Policy:
    """Rules for the Pods that ``subject`` selects.

    ``defaults`` says by direction what becomes of what no rule names: allow, deny, or None where the
    policy says nothing of that direction. Selectors of an ``optional`` policy may match no Pod (yet).
    """

    name: str
    owner: str
    subject: PodSelector
    rules: tuple[Rule, ...] = ()
    defaults: tuple[bool | None, bool | None] = (None, None)
    optional: bool = False


@dataclass(frozen=True)
class Backend:
    """Where connections to a service go, in proportion to ``weight``."""

    address: Address
    port: int
    weight: int = 1


@dataclass(frozen=True)
class Service:
    """A virtual address and port, and those behind it: backends, or Pods by selector, port and weight."""

    name: str
    owner: str
    address: Address
    port: int
    protocol: int
    backends: tuple[Backend, ...] = ()
    selected: tuple[tuple[PodSelector, int, int], ...] = ()


@dataclass(frozen=True)
class Masquerade:
    """The node's addresses that Pods' packets leave with, but to ``excluded``."""

    ipv4: ipaddress.IPv4Address | None = None
    ipv6: ipaddress.IPv6Address | None = None
    excluded: frozenset[Network] = frozenset()


@dataclass
class Declaration:
    """What one owner, or after ``union`` all of them, declare for a node."""

    pods: list[Pod] = field(default_factory=list)
    policies: list[Policy] = field(default_factory=list)
    services: list[Service] = field(default_factory=list)
    masquerade: Masquerade = Masquerade()
