# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Assign security identities: one number for all addresses that the same selectors match.

With identities, the policy of a packet is one exact lookup by subject, peer and direction. A Pod's identity
is in its endpoint; any other address has that of the longest matching prefix in ``cidrs4`` or ``cidrs6``.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from .model import Address, CidrSelector, HostSelector, Network, Pod, PodSelector, Policy, Selector

WORLD, HOST, FIRST = 0, 1, 2  # enum identity of identity.h, and the first one that is not reserved

PodSelectors = frozenset[PodSelector]
CidrSelectors = frozenset[CidrSelector]


@dataclass
class Identities:
    """The identities for one set of policies and Pods.

    ``cidrs`` has identity and flags (enum cidr_flag) by prefix, ``members`` the identities of peers that a
    selector matches, ``selectors`` the Pod selectors that match an identity. ``subjects`` are the identities
    of this node's Pods, ``peers`` those that packets come from or are sent to.
    """

    addresses: dict[Address, int] = field(default_factory=dict)
    devices: dict[str, int] = field(default_factory=dict)
    cidrs: dict[Network, tuple[int, int]] = field(default_factory=dict)
    members: dict[Selector, set[int]] = field(default_factory=dict)
    selectors: dict[int, PodSelectors] = field(default_factory=dict)
    peers: set[int] = field(default_factory=lambda: {WORLD, HOST})
    subjects: set[int] = field(default_factory=set)


class _PodMatcher:
    """Finds the selectors that match a Pod, without trying each selector on each Pod."""

    def __init__(self, selectors: Iterable[PodSelector]) -> None:
        self._by_label: dict[tuple[str, str], list[PodSelector]] = {}
        self._by_name: dict[str, list[PodSelector]] = {}
        self._others: list[PodSelector] = []
        for selector in selectors:
            if selector.labels:
                self._by_label.setdefault(min(selector.labels), []).append(selector)
            elif selector.names:
                for name in selector.names:
                    self._by_name.setdefault(name, []).append(selector)
            else:
                self._others.append(selector)

    def matching(self, pod: Pod) -> PodSelectors:
        candidates = list(self._others)
        for item in pod.labels.items():
            candidates += self._by_label.get(item, ())
        for name in (pod.name, f"{pod.node}/{pod.name}"):
            candidates += self._by_name.get(name, ())
        return frozenset(selector for selector in candidates if selector.matches(pod))


@dataclass(frozen=True)
class _Enclosing:
    """An enclosing prefix: its last address, the selectors that match in it, and its flags."""

    version: int
    last: int
    selectors: CidrSelectors = frozenset()
    flags: int = 0


def _resolve_cidrs(
    selectors: Iterable[CidrSelector], flags: Mapping[Network, int], addresses: Iterable[Address]
) -> tuple[dict[Network, tuple[CidrSelectors, int]], dict[Address, CidrSelectors]]:
    """Return matching selectors and flags by prefix, and matching selectors by address.

    Prefixes are nested or disjoint, so one pass in their order visits each after all prefixes that contain
    it. A prefix with the values of its enclosing prefix is omitted.
    """
    included: dict[Network, set[CidrSelector]] = {}
    excluded: dict[Network, set[CidrSelector]] = {}
    for selector in selectors:
        included.setdefault(selector.network, set()).add(selector)
        for network in selector.excluded:
            excluded.setdefault(network, set()).add(selector)
    items: list[tuple[int, int, int, Network | Address]] = [
        (network.version, int(network.network_address), network.prefixlen, network)
        for network in {*included, *excluded, *flags}
    ]
    items += [(address.version, int(address), address.max_prefixlen + 1, address) for address in addresses]
    items.sort(key=lambda item: item[:3])
    prefixes: dict[Network, tuple[CidrSelectors, int]] = {}
    matched: dict[Address, CidrSelectors] = {}
    stack: list[_Enclosing] = []
    for version, first, dummy, item in items:
        while stack and (stack[-1].version != version or stack[-1].last < first):
            stack.pop()
        outer = stack[-1] if stack else _Enclosing(version, 0)
        if isinstance(item, (ipaddress.IPv4Address, ipaddress.IPv6Address)):
            matched[item] = outer.selectors
            continue
        matching = outer.selectors
        if item in included or item in excluded:
            matching = frozenset((matching | included.get(item, set())) - excluded.get(item, set()))
        inner = _Enclosing(version, int(item.broadcast_address), matching, outer.flags | flags.get(item, 0))
        stack.append(inner)
        if (matching, inner.flags) != (outer.selectors, outer.flags):
            prefixes[item] = (matching, inner.flags)
    return prefixes, matched


class _Assignment:
    """Assigns numbers to sets of selectors, in the order of the calls."""

    def __init__(self, pod_selectors: Iterable[PodSelector], cidr_selectors: Iterable[CidrSelector]) -> None:
        self.identities = Identities()
        self.identities.members[HostSelector()] = {HOST}
        selectors: tuple[Selector, ...] = (*pod_selectors, *cidr_selectors)
        for selector in selectors:
            self.identities.members[selector] = set()
        self._numbers: dict[tuple[PodSelectors, CidrSelectors], int] = {(frozenset(), frozenset()): WORLD}

    def number(self, pod_selectors: PodSelectors, cidr_selectors: CidrSelectors) -> int:
        number = self._numbers.get((pod_selectors, cidr_selectors))
        if number is None:
            number = FIRST + len(self._numbers) - 1
            self._numbers[pod_selectors, cidr_selectors] = number
        self.identities.selectors[number] = pod_selectors
        return number

    def peer(self, pod_selectors: PodSelectors, cidr_selectors: CidrSelectors) -> int:
        """Return the number, as one that packets come from or are sent to."""
        number = self.number(pod_selectors, cidr_selectors)
        if number not in self.identities.peers:
            self.identities.peers.add(number)
            selectors: tuple[Selector, ...] = (*pod_selectors, *cidr_selectors)
            for selector in selectors:
                self.identities.members[selector].add(number)
        return number


def assign_identities(
    pods: Sequence[Pod],
    policies: Sequence[Policy],
    flags: Mapping[Network, int] | None = None,
) -> Identities:
    """Return the identities that ``policies`` distinguish. The same input results in the same numbers.

    ``flags`` (enum cidr_flag) are by network, and apply to the networks in it.

    The programs give the identity HOST to the node itself, by the kernel's routes.
    """
    pod_selectors: dict[PodSelector, None] = {}
    cidr_selectors: dict[CidrSelector, None] = {}
    for policy in policies:
        pod_selectors[policy.subject] = None
        for rule in policy.rules:
            for peer in rule.peers:
                if isinstance(peer, PodSelector):
                    pod_selectors[peer] = None
                elif isinstance(peer, CidrSelector):
                    cidr_selectors[peer] = None
    assignment = _Assignment(pod_selectors, cidr_selectors)
    identities = assignment.identities
    prefixes, matched = _resolve_cidrs(
        cidr_selectors, flags or {}, (address for pod in pods for address in pod.addresses)
    )
    matcher = _PodMatcher(pod_selectors)
    for pod in pods:
        matching = matcher.matching(pod)
        for address in pod.addresses:
            identities.addresses[address] = assignment.peer(matching, matched[address])
            if pod.device:
                identities.subjects.add(identities.addresses[address])
        if pod.device:
            identities.devices[pod.device] = assignment.number(matching, frozenset())
            identities.subjects.add(identities.devices[pod.device])
    for network, (selectors, bits) in prefixes.items():
        identities.cidrs[network] = (assignment.peer(frozenset(), selectors), bits)
    return identities
