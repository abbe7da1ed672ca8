# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Merge the policies of a Pod to a ruleset for each peer.

A deny rule of any policy overrides all allow rules. Traffic that no rule matches is denied if a policy that
covers the direction denies by default, and allowed otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from .identity import HOST_KEY, WORLD_KEY, Key
from .model import DIRECTIONS, INGRESS, Policy, Ports, Selector

EVERYTHING = Ports()


class Ruleset(NamedTuple):
    """The verdict for all ports but ``ranges``, which get the opposite; ranges are merged and sorted."""

    allow: bool
    ranges: tuple[Ports, ...] = ()

    def allows(self, protocol: int, port: int) -> bool:
        """Return the verdict for a packet to a port, or of an ICMP type * 256 + code."""
        inside = any(r.protocol == protocol and r.first <= port <= r.last for r in self.ranges)
        return self.allow != inside


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


class Rules:
    """The rules of all policies that select a Pod, in one direction.

    ``others`` is the ruleset of peers that no selector matches. ``selectors`` are the indexes of those that
    make a difference.
    """

    def __init__(self, direction: int, policies: Sequence[Policy], indexes: Mapping[Selector, int]) -> None:
        defaults = [one.defaults[direction] for one in policies if one.defaults[direction] is not None]
        self.covered = bool(defaults)
        self._default = all(defaults)
        self._all_peers: tuple[set[Ports], set[Ports]] = (set(), set())  # denied, allowed
        self._by_selector: dict[int, tuple[set[Ports], set[Ports]]] = {}
        for rule in (rule for policy in policies for rule in policy.rules if rule.direction == direction):
            ports = rule.ports or (EVERYTHING,)
            if not rule.peers:
                self._all_peers[rule.allow].update(ports)
            for peer in rule.peers:
                self._by_selector.setdefault(indexes[peer], (set(), set()))[rule.allow].update(ports)
        if direction == INGRESS:
            # The kubelet's probes come from the node: it reaches its Pods unless a rule denies it.
            for index in HOST_KEY:
                self._by_selector.setdefault(index, (set(), set()))[True].add(EVERYTHING)
        self.selectors = frozenset(self._by_selector)
        self._known: dict[Key, Ruleset] = {}
        self.others = self.ruleset(WORLD_KEY)
        self.denies = any(denied for denied, dummy in self._by_selector.values())

    def ruleset(self, key: Key) -> Ruleset:
        """Return the ruleset of a peer that these selectors match."""
        matching = key & self.selectors
        found = self._known.get(matching)
        if found is None:
            denied, allowed = (
                self._all_peers[verdict].union(*(self._by_selector[one][verdict] for one in matching))
                for verdict in (False, True)
            )
            found = self._known[matching] = build_ruleset(allowed, denied, self._default)
        return found


class PolicySet:
    """All policies that select the same Pods, and their rules by direction that they cover."""

    def __init__(self, policies: Sequence[Policy], indexes: Mapping[Selector, int]) -> None:
        self.policies = [policy for policy in policies if policy.exclusive] or policies
        both = {direction: Rules(direction, self.policies, indexes) for direction in DIRECTIONS.values()}
        self.rules = {direction: rules for direction, rules in both.items() if rules.covered}
