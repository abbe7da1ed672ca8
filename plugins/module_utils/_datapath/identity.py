# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Identities: one number for all addresses that the same selectors match. Private to this collection.

So the programs need no wildcards: a packet's two identities and its direction are one exact look-up.
Pods' identities stand with their addresses, all others' in a table of prefixes, longest match first.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from .model import Address, CidrSelector, HostSelector, Network, Pod, PodSelector, Policy, Selector

WORLD, HOST, FIRST = 0, 1, 2

# What tells identities apart: the selectors that match, of Pods and of networks
Roles = frozenset[PodSelector]
Places = frozenset[CidrSelector]


@dataclass
class Identities:
    """Who is who, for one set of policies and Pods.

    ``members`` are the identities that a selector means as a peer, ``roles`` the Pod selectors that
    match an identity, ``cidrs`` identity and "no masquerading to here" by prefix.
    """

    addresses: dict[Address, int] = field(default_factory=dict)
    devices: dict[str, int] = field(default_factory=dict)
    cidrs: dict[Network, tuple[int, bool]] = field(default_factory=dict)
    members: dict[Selector, set[int]] = field(default_factory=dict)
    roles: dict[int, frozenset[PodSelector]] = field(default_factory=dict)
    peers: set[int] = field(default_factory=lambda: {WORLD, HOST})
    subjects: set[int] = field(default_factory=set)


class _PodMatcher:
    """Which selectors match a Pod, without trying each one on each Pod."""

    def __init__(self, selectors: Iterable[PodSelector]) -> None:
        self._by_label: dict[tuple[str, str], list[PodSelector]] = {}
        self._by_name: dict[str, list[PodSelector]] = {}
        self._rest: list[PodSelector] = []
        for selector in selectors:
            if selector.labels:
                self._by_label.setdefault(min(selector.labels), []).append(selector)
            elif selector.names:
                for name in selector.names:
                    self._by_name.setdefault(name, []).append(selector)
            else:
                self._rest.append(selector)

    def matching(self, pod: Pod) -> Roles:
        candidates = list(self._rest)
        for item in pod.labels.items():
            candidates += self._by_label.get(item, ())
        for name in (pod.name, f"{pod.node}/{pod.name}"):
            candidates += self._by_name.get(name, ())
        return frozenset(selector for selector in candidates if selector.matches(pod))


@dataclass(frozen=True)
class _Around:
    """What holds within a prefix: the selectors that match there, and whether masquerading is off."""

    version: int
    last: int
    places: Places = frozenset()
    plain: bool = False


def _sweep(
    selectors: Iterable[CidrSelector], unmasqueraded: Iterable[Network], addresses: Iterable[Address]
) -> tuple[dict[Network, tuple[Places, bool]], dict[Address, Places]]:
    """Return what holds for each prefix of the selectors, and which selectors match each address.

    Prefixes are nested or disjoint, so one pass in their order sees each after all that contain it.
    What holds for a prefix as for the one around it is left out.
    """
    begins: dict[Network, set[CidrSelector]] = {}
    ends: dict[Network, set[CidrSelector]] = {}
    plain = set(unmasqueraded)
    for selector in selectors:
        begins.setdefault(selector.network, set()).add(selector)
        for network in selector.excluded:
            ends.setdefault(network, set()).add(selector)
    networks = {*begins, *ends, *plain}
    things: list[tuple[int, int, int, Network | Address]] = [
        (network.version, int(network.network_address), network.prefixlen, network) for network in networks
    ]
    things += [(address.version, int(address), address.max_prefixlen + 1, address) for address in addresses]
    things.sort(key=lambda thing: thing[:3])
    prefixes: dict[Network, tuple[Places, bool]] = {}
    matched: dict[Address, Places] = {}
    around: list[_Around] = []
    for version, first, dummy, thing in things:
        while around and (around[-1].version != version or around[-1].last < first):
            around.pop()
        outside = around[-1] if around else _Around(version, 0)
        if isinstance(thing, (ipaddress.IPv4Address, ipaddress.IPv6Address)):
            matched[thing] = outside.places
            continue
        places = outside.places
        if thing in begins or thing in ends:
            places = frozenset((places | begins.get(thing, set())) - ends.get(thing, set()))
        inside = _Around(version, int(thing.broadcast_address), places, outside.plain or thing in plain)
        around.append(inside)
        if (places, inside.plain) != (outside.places, outside.plain):
            prefixes[thing] = (places, inside.plain)
    return prefixes, matched


def classify(
    pods: Sequence[Pod],
    policies: Sequence[Policy],
    host_addresses: Iterable[Address] = (),
    unmasqueraded: Iterable[Network] = (),
) -> Identities:
    """Give out identities, the same for the same input; only what ``policies`` tell apart is told apart.

    The node's own addresses are the identity HOST, and nothing else of theirs counts.
    """
    by_pod: dict[PodSelector, None] = {}
    by_cidr: dict[CidrSelector, None] = {}
    found = Identities()
    for policy in policies:
        by_pod[policy.subject] = None
        for rule in policy.rules:
            for peer in rule.peers:
                if isinstance(peer, PodSelector):
                    by_pod[peer] = None
                elif isinstance(peer, CidrSelector):
                    by_cidr[peer] = None
    found.members[HostSelector()] = {HOST}
    for selector in by_pod:
        found.members[selector] = set()
    for network_selector in by_cidr:
        found.members[network_selector] = set()
    numbers: dict[tuple[Roles, Places], int] = {(frozenset(), frozenset()): WORLD}

    def number(roles: Roles, places: Places) -> int:
        given = numbers.get((roles, places))
        if given is None:
            given = numbers[roles, places] = FIRST + len(numbers) - 1
        found.roles[given] = roles
        return given

    def as_peer(identity: int, roles: Roles, places: Places) -> int:
        if identity not in found.peers:
            found.peers.add(identity)
            for role in roles:
                found.members[role].add(identity)
            for place in places:
                found.members[place].add(identity)
        return identity

    prefixes, matched = _sweep(by_cidr, unmasqueraded, (address for pod in pods for address in pod.addresses))
    matcher = _PodMatcher(by_pod)
    nowhere: Places = frozenset()
    for pod in pods:
        roles = matcher.matching(pod)
        for address in pod.addresses:
            identity = as_peer(number(roles, matched[address]), roles, matched[address])
            found.addresses[address] = identity
            if pod.device:
                found.subjects.add(identity)
        if pod.device:
            found.devices[pod.device] = number(roles, nowhere)
            found.subjects.add(found.devices[pod.device])
    for network, (places, plain) in prefixes.items():
        found.cidrs[network] = (as_peer(number(frozenset(), places), frozenset(), places), plain)
    for address in host_addresses:
        # masquerading is for what leaves the node
        found.cidrs[ipaddress.ip_network(address)] = (HOST, True)
    return found
