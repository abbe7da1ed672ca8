# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Resolve policies to rulesets, one for each pair of identities and direction.

A deny rule of any policy overrides all allow rules. Traffic that no rule matches is denied if a policy that
covers the direction denies by default, and allowed otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from .identity import HOST, Identities
from .model import INGRESS, PodSelector, Policy, Ports, Rule

EVERYTHING = Ports()


class Ruleset(NamedTuple):
    """The verdict for all ports but ``ranges``, which get the opposite; ranges are merged and sorted."""

    allow: bool
    ranges: tuple[Ports, ...] = ()

    def allows(self, protocol: int, port: int) -> bool:
        """Return the verdict for a packet to a port, or of an ICMP type * 256 + code."""
        inside = any(r.protocol == protocol and r.first <= port <= r.last for r in self.ranges)
        return self.allow != inside


@dataclass
class Resolved:
    """Rulesets by subject, peer and direction.

    ``defaults`` has the verdict for all other peers, by subject and direction that a policy covers.
    """

    rulesets: dict[tuple[int, int, int], Ruleset] = field(default_factory=dict)
    defaults: dict[tuple[int, int], bool] = field(default_factory=dict)


def merge_ranges(ranges: Iterable[Ports]) -> list[Ports]:
    """Return the same ports in the fewest ranges, sorted."""
    merged: list[Ports] = []
    for one in sorted(ranges):
        last = merged[-1] if merged else None
        if last and last.protocol == one.protocol and one.first <= last.last + 1:
            merged[-1] = Ports(one.protocol, last.first, max(last.last, one.last))
        else:
            merged.append(one)
    return merged


def subtract_ranges(ranges: Iterable[Ports], holes: Sequence[Ports]) -> list[Ports]:
    """Return the ports of merged ``ranges`` that are not in the merged ``holes``."""
    remaining = []
    for one in ranges:
        first = one.first
        for hole in holes:
            if hole.protocol == one.protocol and first <= hole.last and hole.first <= one.last:
                if first < hole.first:
                    remaining.append(Ports(one.protocol, first, hole.first - 1))
                first = hole.last + 1
        if first <= one.last:
            remaining.append(Ports(one.protocol, first, one.last))
    return remaining


def build_ruleset(allowed: Iterable[Ports], denied: Iterable[Ports], default: bool) -> Ruleset:
    """Return the ruleset for one peer from the ports that all rules for it allow and deny."""
    allows, denies = merge_ranges(allowed), merge_ranges(denied)
    if EVERYTHING in denies:
        return Ruleset(False)
    if default or EVERYTHING in allows:
        return Ruleset(True, tuple(denies))
    return Ruleset(False, tuple(subtract_ranges(allows, denies)))


class _Rules:
    """The rules of all policies that select a subject, in one direction."""

    def __init__(self, rules: Sequence[Rule], identities: Identities) -> None:
        self._all_peers: dict[bool, set[Ports]] = {True: set(), False: set()}
        self._by_peer: dict[int, dict[bool, set[Ports]]] = {}
        for rule in rules:
            ports = rule.ports or (EVERYTHING,)
            if not rule.peers:
                self._all_peers[rule.allow].update(ports)
            for peer in rule.peers:
                for identity in identities.members[peer]:
                    self.add(identity, rule.allow, ports)

    def add(self, identity: int, allow: bool, ports: Iterable[Ports]) -> None:
        self._by_peer.setdefault(identity, {True: set(), False: set()})[allow].update(ports)

    def resolve(self, peers: Iterable[int], default: bool) -> tuple[bool, dict[int, Ruleset]]:
        """Return the default verdict, and the rulesets of peers that differ from it."""
        others = build_ruleset(self._all_peers[True], self._all_peers[False], default)
        known: dict[tuple[frozenset[Ports], frozenset[Ports]], Ruleset] = {}
        rulesets: dict[int, Ruleset] = {}
        for peer, by_verdict in self._by_peer.items():
            rules = (frozenset(by_verdict[True]), frozenset(by_verdict[False]))
            if rules not in known:
                known[rules] = build_ruleset(
                    self._all_peers[True] | rules[0], self._all_peers[False] | rules[1], default
                )
            rulesets[peer] = known[rules]
        if others.ranges:
            for peer in peers:
                rulesets.setdefault(peer, others)
        plain = Ruleset(others.allow)
        return plain.allow, {peer: one for peer, one in rulesets.items() if one != plain}


def resolve(policies: Sequence[Policy], identities: Identities) -> Resolved:
    """Return the rulesets of all subjects, without those that equal the default verdict."""
    resolved = Resolved()
    by_subject: dict[PodSelector, list[Policy]] = {}
    for policy in policies:
        by_subject.setdefault(policy.subject, []).append(policy)
    # Identities that differ only by CIDR selectors have the same policies.
    by_selectors: dict[frozenset[PodSelector], list[int]] = {}
    for identity in sorted(identities.subjects):
        matching = identities.selectors.get(identity, frozenset())
        by_selectors.setdefault(frozenset(one for one in matching if one in by_subject), []).append(identity)
    peers = sorted(identities.peers)
    for selectors, subjects in by_selectors.items():
        selecting = [policy for selector in selectors for policy in by_subject[selector]]
        selecting = [policy for policy in selecting if policy.exclusive] or selecting
        for direction in (0, 1):
            defaults = [p.defaults[direction] for p in selecting if p.defaults[direction] is not None]
            if not defaults:
                continue
            rules = [rule for p in selecting for rule in p.rules if rule.direction == direction]
            peer_rules = _Rules(rules, identities)
            if direction == INGRESS:
                # The kubelet's probes come from the node: it reaches its Pods unless a rule denies it.
                peer_rules.add(HOST, True, (EVERYTHING,))
            default, rulesets = peer_rules.resolve(peers, all(defaults))
            for subject in subjects:
                resolved.defaults[subject, direction] = default
                for peer, one in rulesets.items():
                    resolved.rulesets[subject, peer, direction] = one
    return resolved
