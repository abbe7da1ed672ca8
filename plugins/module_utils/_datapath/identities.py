# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Count the identities in use, and compute the policy of each pair of subject and peer.

A subject is an identity of this node's Pods. When an identity gets its first use, or loses its last one, only
its own pairs change.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from .cluster import CLUSTER
from .identity import ANY, HOST, HOST_KEY, WORLD, Key, Numbers, Selection, selectors_of
from .image import PolicyKey
from .layout import DENY, ENFORCE, encode_ruleset
from .limits import CIDRS, POLICY, RULESETS, Full, generation, left_out, share
from .model import CidrSelector, Network, Pod, PodSelector, Policy, Selector
from .policy import PolicySet, Rules, Ruleset


def object_of(policy: Policy) -> str:
    """Return the name of the object of the cluster that a policy is a part of."""
    return policy.name.partition(" ")[0]


def _peers_of(policy: Policy) -> Iterator[Selector]:
    return (peer for rule in policy.rules for peer in rule.peers)


@dataclass(frozen=True)
class PolicyChange:
    """Changed policies, and the selectors that no policy has any more, with their indexes, or are new."""

    removed: Sequence[Policy]
    added: Sequence[Policy]
    obsolete: Mapping[PodSelector, int]
    new: Sequence[PodSelector]

    def affects(self, key: Key, pod: Pod) -> bool:
        """Return whether a Pod with selectors gets another identity."""
        return not key.isdisjoint(self.obsolete.values()) or any(one.matches(pod) for one in self.new)


class Identities:
    """The identities of this generation, and the entries of the map ``policy``.

    ``entries`` are all entries, ``changes`` those that changed since they were taken, None for removed ones.
    ``problems`` has a problem for each policy of an owner with too many port ranges, ``unenforced`` for each
    policy of the cluster: what these concern is denied. Entries are computed by ``build``, and from then on
    for each change. Raises ``Full`` if a change exceeds a map.
    """

    def __init__(
        self, policies: Sequence[Policy], flags: Mapping[Network, int], former: Iterable[int]
    ) -> None:
        """``flags`` are those of ``Selection``, ``former`` those of ``Numbers``."""
        self.selection = Selection(policies, flags)
        self.numbers = Numbers(former)
        self.entries: dict[PolicyKey, bytes] = {}
        self.changes: dict[PolicyKey, bytes | None] = {}
        self.problems: list[str] = []
        self.unenforced: list[str] = []
        self._policies: dict[int, list[Policy]] = {}  # by the selector of their subject
        for policy in policies:
            self._policies.setdefault(self.selection.indexes[policy.subject], []).append(policy)
        self._subject_selectors = frozenset(self._policies)
        self._selectors = Counter(one for policy in policies for one in {*selectors_of(policy)})
        self._uses = Counter({WORLD: 1, HOST: 1})
        self._subjects: Counter[int] = Counter()
        self._members: dict[int, set[int]] = {index: {HOST} for index in HOST_KEY}  # by selector
        self._policy_sets: dict[Key, PolicySet] = {}
        self._selected: dict[Key, set[int]] = {}  # subjects by their policies
        self._selecting_of: dict[int, Key] = {}  # policies by subject
        self._interested: dict[int, set[Key]] = {}  # policies of subjects, by the selector of a peer
        self._encoded: dict[Ruleset, bytes] = {}
        self._obsolete: Mapping[PodSelector, int] = {}
        self._built = self._sealed = False

    # All identities

    def excess_prefixes(self) -> list[str]:
        """Return policies of the cluster with too many address blocks."""
        found: list[str] = []
        for version in (4, 6):
            excess = sum(one.version == version for one in self.selection.prefixes) - share(CIDRS)
            if excess <= 0:
                continue
            costs: Counter[str] = Counter()
            for policy in self._of_cluster():
                costs[object_of(policy)] += sum(
                    1 + len(peer.excluded)
                    for peer in _peers_of(policy)
                    if isinstance(peer, CidrSelector) and peer.network.version == version
                )
            found += left_out(costs, excess)
        return found

    def excess_pairs(self) -> list[str]:
        """Return policies of the cluster with too many pairs; call it before ``build``."""
        count = sum(
            len(subjects)
            * sum(len(self._peers_of(one)) for one in self._policy_set(selecting).rules.values())
            for selecting, subjects in self._selected.items()
        )
        excess = count - share(POLICY)
        if excess <= 0:
            return []
        costs: Counter[str] = Counter()
        for policy in self._of_cluster():
            members = (self._members.get(self.selection.indexes[one], ()) for one in _peers_of(policy))
            costs[object_of(policy)] += len(self._subjects_of_policy(policy)) * len(set().union(*members))
        return left_out(costs, excess)

    def excess_rulesets(self) -> list[str]:
        """Return policies of the cluster with too many lists of ports; call it after ``build``."""
        excess = len(self._encoded) - share(RULESETS)
        if excess <= 0:
            return []
        by_subject: dict[int, set[bytes]] = {}
        for (subject, _peer, _direction), ruleset in self.entries.items():
            by_subject.setdefault(subject, set()).add(ruleset)
        costs: Counter[str] = Counter()
        for policy in self._of_cluster():
            if policy.rules:
                found = (by_subject.get(one, ()) for one in self._subjects_of_policy(policy))
                costs[object_of(policy)] += len(set().union(*found))
        return left_out(costs, excess)

    def _of_cluster(self) -> Iterator[Policy]:
        return (one for some in self._policies.values() for one in some if one.owner == CLUSTER)

    def _subjects_of_policy(self, policy: Policy) -> set[int]:
        index = self.selection.indexes[policy.subject]
        return set().union(*(some for selecting, some in self._selected.items() if index in selecting))

    def build(self) -> None:
        """Compute the entries of all identities."""
        self._built = True
        for selecting, subjects in self._selected.items():
            for direction, rules in self._policy_set(selecting).rules.items():
                peers = self._peers_of(rules)
                for subject in subjects:
                    self._add_entries(subject, peers, direction, rules)

    def seal(self) -> None:
        """End ``build``: identities get only new numbers from now on, and too many entries raise ``Full``."""
        self.numbers.seal()
        self._sealed = True

    # Policies

    def plan_change(self, removed: Sequence[Policy], added: Sequence[Policy]) -> PolicyChange | None:
        """Return what changed policies change; None if that is not known without computing everything.

        The prefixes of networks stay, and nothing may be left out now.
        """
        if self.problems or self.unenforced:
            return None
        uses = self._selectors.copy()
        uses.subtract(one for policy in removed for one in {*selectors_of(policy)})
        uses.update(one for policy in added for one in {*selectors_of(policy)})
        obsolete = [one for one in uses if uses[one] <= 0]
        new = [one for one in uses if one not in self.selection.indexes]
        found = [one for one in (*obsolete, *new) if isinstance(one, PodSelector) and not one.names]
        if len(found) != len(obsolete) + len(new):
            return None
        return PolicyChange(
            removed,
            added,
            {one: self.selection.indexes[one] for one in found if one not in new},
            [one for one in found if one in new],
        )

    def begin_change(self, change: PolicyChange) -> None:
        """Change policies, and remove the pairs of their subjects.

        Then all Pods that ``change`` affects acquire and release their identities. ``end_change`` is the end.
        """
        self._remove_subjects_of({policy.subject for policy in (*change.removed, *change.added)})
        self._obsolete = change.obsolete
        self._selectors.subtract(one for policy in change.removed for one in {*selectors_of(policy)})
        self._selectors.update(one for policy in change.added for one in {*selectors_of(policy)})
        self._selectors = +self._selectors
        before = {**self.selection.indexes}
        self.selection.change(change.obsolete, change.new)
        for policy in change.removed:
            index = before[policy.subject]
            self._policies[index].remove(policy)
            if not self._policies[index]:
                del self._policies[index]
        for policy in change.added:
            self._policies.setdefault(self.selection.indexes[policy.subject], []).append(policy)
        self._subject_selectors = frozenset(self._policies)

    def end_change(self) -> None:
        """Add the pairs of the subjects of changed policies. Raises ``Full`` if the maps have no room."""
        for index in self._obsolete.values():
            self._members.pop(index, None)
            self._interested.pop(index, None)
        for number, count in self._subjects.items():
            if count and number not in self._selecting_of:
                self._add_subject(number, self.numbers.keys[number])
        if (
            self.problems
            or self.unenforced
            or len(self.entries) > share(POLICY)
            or len(self._encoded) > share(RULESETS)
        ):
            raise Full("policies: the maps have no room for all policies")

    def _remove_subjects_of(self, selectors: Iterable[Selector]) -> None:
        """Remove the pairs of all subjects that one of these selectors matches."""
        indexes = {self.selection.indexes[one] for one in selectors if one in self.selection.indexes}
        for number, count in [*self._subjects.items()]:
            if count and not indexes.isdisjoint(self.numbers.keys[number]):
                self._remove_subject(number)
        for selecting in [one for one in self._policy_sets if not indexes.isdisjoint(one)]:
            del self._policy_sets[selecting]

    # Single identities

    def acquire(self, key: Key, subject: bool) -> int:
        """Return the number of an identity for one more use, by a Pod of this node if it is a ``subject``."""
        number = self.numbers.find(key)
        if number is None:
            number = self.numbers.assign(key)
        self._uses[number] += 1
        if self._uses[number] == 1:
            self._add_peer(number, key)
        if subject:
            self._subjects[number] += 1
            if self._subjects[number] == 1:
                self._add_subject(number, key)
        return number

    def release(self, number: int, subject: bool) -> None:
        """Undo ``acquire``."""
        key = self.numbers.keys[number]
        if subject:
            self._subjects[number] -= 1
            if not self._subjects[number]:
                self._remove_subject(number)
        self._uses[number] -= 1
        if not self._uses[number]:
            self._remove_peer(number, key)
            self.numbers.release(number)

    def enforce(self, number: int) -> int:
        """Return enum endpoint_enforce of a Pod of this node."""
        bits = 0
        for direction, rules in self._policy_set(self._selecting(self.numbers.keys[number])).rules.items():
            if not rules.others.allow:
                bits |= ENFORCE[direction] | DENY[direction]
            elif rules.others.ranges or rules.denies:
                bits |= ENFORCE[direction]
        return bits

    def take_changes(self) -> dict[PolicyKey, bytes | None]:
        """Return the changes of entries since the last call."""
        changes, self.changes = self.changes, {}
        return changes

    # Subjects

    def _selecting(self, key: Key) -> Key:
        """Return the selectors of subjects that select an identity."""
        return key & self._subject_selectors

    def _policy_set(self, selecting: Key) -> PolicySet:
        if selecting not in self._policy_sets:
            policies = [policy for index in sorted(selecting) for policy in self._policies[index]]
            self._policy_sets[selecting] = PolicySet(policies, self.selection.indexes)
        return self._policy_sets[selecting]

    def _add_subject(self, number: int, key: Key) -> None:
        selecting = self._selecting(key)
        rules = self._policy_set(selecting).rules
        if not rules:
            return
        self._selected.setdefault(selecting, set()).add(number)
        self._selecting_of[number] = selecting
        for direction, one in rules.items():
            for index in one.selectors:
                self._interested.setdefault(index, set()).add(selecting)
            if self._built:
                self._add_entries(number, self._peers_of(one), direction, one)

    def _add_entries(self, subject: int, peers: Iterable[int], direction: int, rules: Rules) -> None:
        if rules.others.ranges:
            self._set(subject, ANY, direction, rules.others)
        for peer in peers:
            self._add_pair(subject, peer, direction, rules)

    def _remove_subject(self, number: int) -> None:
        selecting = self._selecting_of.pop(number, None)
        if selecting is None:
            return
        rules = self._policy_set(selecting).rules
        for direction, one in rules.items():
            for peer in (ANY, *self._peers_of(one)):
                self._remove((number, peer, direction))
        self._selected[selecting].discard(number)
        if not self._selected[selecting]:
            del self._selected[selecting], self._policy_sets[selecting]
            for index in {index for one in rules.values() for index in one.selectors}:
                self._interested[index].discard(selecting)

    def _peers_of(self, rules: Rules) -> set[int]:
        return set().union(*(self._members.get(index, ()) for index in rules.selectors))

    # Peers

    def _add_peer(self, number: int, key: Key) -> None:
        for index in key:
            self._members.setdefault(index, set()).add(number)
        if self._built:
            for subject, direction, rules in self._subjects_of(key):
                self._add_pair(subject, number, direction, rules)

    def _remove_peer(self, number: int, key: Key) -> None:
        for index in key:
            self._members[index].discard(number)
        for subject, direction, _rules in self._subjects_of(key):
            self._remove((subject, number, direction))

    def _subjects_of(self, key: Key) -> Iterator[tuple[int, int, Rules]]:
        """Yield subjects with rules for a peer, by direction."""
        for selecting in set().union(*(self._interested.get(index, ()) for index in key)):
            for direction, rules in self._policy_set(selecting).rules.items():
                if not rules.selectors.isdisjoint(key):
                    for subject in self._selected[selecting]:
                        yield subject, direction, rules

    # Entries

    def _add_pair(self, subject: int, peer: int, direction: int, rules: Rules) -> None:
        ruleset = rules.ruleset(self.numbers.keys[peer])
        if ruleset != rules.others:
            self._set(subject, peer, direction, ruleset)

    def _set(self, subject: int, peer: int, direction: int, ruleset: Ruleset) -> None:
        key = (subject, peer, direction)
        self.entries[key] = self.changes[key] = self._encode(ruleset, subject)
        full = len(self.entries) > generation(POLICY) or len(self._encoded) > generation(RULESETS)
        if full and self._sealed:
            raise Full("policies: the maps of policies are full")

    def _remove(self, key: PolicyKey) -> None:
        if self.entries.pop(key, None) is not None:
            self.changes[key] = None

    def _encode(self, ruleset: Ruleset, subject: int) -> bytes:
        if ruleset not in self._encoded:
            try:
                self._encoded[ruleset] = encode_ruleset(ruleset)
            except ValueError as error:
                self._encoded[ruleset] = encode_ruleset(Ruleset(False))
                policies = self._policy_set(self._selecting(self.numbers.keys[subject])).policies
                names = ", ".join(sorted({policy.name for policy in policies}))
                # A policy of the cluster must not make the calls of an owner fail.
                cluster = any(policy.owner == CLUSTER for policy in policies)
                (self.unenforced if cluster else self.problems).append(
                    f"policies ({names}): {error}; merge some of them"
                )
        return self._encoded[ruleset]
