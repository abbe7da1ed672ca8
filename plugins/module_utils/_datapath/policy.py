# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Policies as tables: a ruleset for each pair of identities and direction. Private to this collection.

What a packet meets: a rule that denies wins over those that allow, whichever policy has it; where no
rule names it, a direction that some policy denies by default is denied, else it is allowed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from .identity import HOST, Identities
from .model import INGRESS, PodSelector, Policy, Ports, Rule

EVERYTHING = Ports()


class Ruleset(NamedTuple):
    """``allow`` for all but ``ranges``, which get the opposite; they are merged and in order."""

    allow: bool
    ranges: tuple[Ports, ...] = ()

    def allows(self, protocol: int, port: int) -> bool:
        """Return the verdict for a packet to this port, or of this ICMP type and code."""
        inside = any(r.protocol == protocol and r.first <= port <= r.last for r in self.ranges)
        return self.allow != inside


@dataclass
class Resolved:
    """Policies by identity.

    ``defaults`` has each subject and direction that some policy is about, with the verdict for peers
    that have no entry in ``rulesets`` (subject, peer, direction).
    """

    rulesets: dict[tuple[int, int, int], Ruleset] = field(default_factory=dict)
    defaults: dict[tuple[int, int], bool] = field(default_factory=dict)


def merge(ranges: Iterable[Ports]) -> list[Ports]:
    """Return the same ports in as few ranges as can be."""
    merged: list[Ports] = []
    for one in sorted(ranges):
        last = merged[-1] if merged else None
        if last and last.protocol == one.protocol and one.first <= last.last + 1:
            merged[-1] = Ports(one.protocol, last.first, max(last.last, one.last))
        else:
            merged.append(one)
    return merged


def subtract(ranges: Iterable[Ports], holes: Sequence[Ports]) -> list[Ports]:
    """Return the ports of merged ``ranges`` that are in none of the merged ``holes``."""
    left = []
    for one in ranges:
        first = one.first
        for hole in holes:
            if hole.protocol == one.protocol and first <= hole.last and hole.first <= one.last:
                if first < hole.first:
                    left.append(Ports(one.protocol, first, hole.first - 1))
                first = hole.last + 1
        if first <= one.last:
            left.append(Ports(one.protocol, first, one.last))
    return left


def ruleset(allowed: Iterable[Ports], denied: Iterable[Ports], default: bool) -> Ruleset:
    """Return the ruleset of all rules of a subject for one peer."""
    allows, denies = merge(allowed), merge(denied)
    if EVERYTHING in denies:
        return Ruleset(False)
    if default or EVERYTHING in allows:
        return Ruleset(True, tuple(denies))
    return Ruleset(False, tuple(subtract(allows, denies)))


class _Rules:
    """The rules of all policies that select a subject, in one direction."""

    def __init__(self, rules: Sequence[Rule], identities: Identities) -> None:
        self._everybody: dict[bool, set[Ports]] = {True: set(), False: set()}
        self._by_peer: dict[int, dict[bool, set[Ports]]] = {}
        for rule in rules:
            ports = rule.ports or (EVERYTHING,)
            if not rule.peers:
                self._everybody[rule.allow].update(ports)
            for peer in rule.peers:
                for identity in identities.members[peer]:
                    self.add(identity, rule.allow, ports)

    def add(self, identity: int, allow: bool, ports: Iterable[Ports]) -> None:
        self._by_peer.setdefault(identity, {True: set(), False: set()})[allow].update(ports)

    def resolve(self, peers: Iterable[int], default: bool) -> tuple[bool, dict[int, Ruleset]]:
        """Return the verdict for peers without a ruleset of their own, and the rulesets of the others."""
        everybody = ruleset(self._everybody[True], self._everybody[False], default)
        known: dict[tuple[frozenset[Ports], frozenset[Ports]], Ruleset] = {}
        found: dict[int, Ruleset] = {}
        for peer, by_verdict in self._by_peer.items():
            rules = (frozenset(by_verdict[True]), frozenset(by_verdict[False]))
            if rules not in known:
                known[rules] = ruleset(
                    self._everybody[True] | rules[0], self._everybody[False] | rules[1], default
                )
            found[peer] = known[rules]
        if everybody.ranges:
            for peer in peers:
                found.setdefault(peer, everybody)
        plain = Ruleset(everybody.allow)
        return plain.allow, {peer: one for peer, one in found.items() if one != plain}


def resolve(policies: Sequence[Policy], identities: Identities) -> Resolved:
    """Return the rulesets of all subjects of this node; what the default says already is left out."""
    resolved = Resolved()
    by_subject: dict[PodSelector, list[Policy]] = {}
    for policy in policies:
        by_subject.setdefault(policy.subject, []).append(policy)
    # Identities that differ in their addresses only have the same policies.
    alike: dict[frozenset[PodSelector], list[int]] = {}
    for identity in sorted(identities.subjects):
        roles = identities.roles.get(identity, frozenset())
        alike.setdefault(frozenset(role for role in roles if role in by_subject), []).append(identity)
    peers = sorted(identities.peers)
    for roles, subjects in alike.items():
        selecting = [policy for role in roles for policy in by_subject[role]]
        for direction in (0, 1):
            stated = [p.defaults[direction] for p in selecting if p.defaults[direction] is not None]
            if not stated:
                continue
            rules = [rule for p in selecting for rule in p.rules if rule.direction == direction]
            gathered = _Rules(rules, identities)
            if direction == INGRESS:
                # A node always reaches its own Pods, unless a rule denies it: probes come from there.
                gathered.add(HOST, True, (EVERYTHING,))
            default, rulesets = gathered.resolve(peers, all(stated))
            for subject in subjects:
                resolved.defaults[subject, direction] = default
                for peer, one in rulesets.items():
                    resolved.rulesets[subject, peer, direction] = one
    return resolved
