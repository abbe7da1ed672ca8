# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Find the selectors that match a Pod or an address. All addresses with the same ones have one identity.

With identities, the policy of a packet is one exact lookup by subject, peer and direction. A Pod's identity
is in its endpoint; any other address has that of the longest matching prefix in ``cidrs4`` or ``cidrs6``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .._core.plan import Problem
from .model import Address, CidrSelector, HostSelector, Network, Pod, PodSelector, Policy, Selector

WORLD, HOST, FIRST = 0, 1, 2  # enum identity of identity.h, and the first one that is not reserved
NO_IDENTITY = 0xFFFFFFFF  # never assigned
ANY = 0x7FFFFFFF  # stands for all peers without an entry
MAX = 1 << 24  # IDENTITY_MAX: assigned numbers are lower

Key = frozenset[int]  # indexes of the selectors that match
WORLD_KEY: Key = frozenset()
HOST_KEY: Key = frozenset({0})

_MAX_CACHED = 4096


class _PodMatcher:
    """Finds the selectors that match a Pod, without trying each selector on each Pod."""

    def __init__(self, selectors: Mapping[PodSelector, int]) -> None:
        self._by_label: dict[tuple[str, str], list[tuple[PodSelector, int]]] = {}
        self._by_name: dict[str, list[tuple[PodSelector, int]]] = {}
        self._others: list[tuple[PodSelector, int]] = []
        self._cached: dict[frozenset[tuple[str, str]], Key] = {}
        self._uses = Counter(item for selector in selectors for item in selector.labels)
        for selector, index in selectors.items():
            self._add(selector, index)

    def _add(self, selector: PodSelector, index: int) -> None:
        if selector.names:
            for name in selector.names:
                self._by_name.setdefault(name, []).append((selector, index))
        elif selector.labels:
            rarest = min(selector.labels, key=lambda item: (self._uses[item], item))
            self._by_label.setdefault(rarest, []).append((selector, index))
        else:
            self._others.append((selector, index))

    def change(self, removed: Mapping[PodSelector, int], added: Mapping[PodSelector, int]) -> None:
        """Remove and add selectors without names."""
        self._cached.clear()
        for one in removed.items():
            for item in one[0].labels:
                if one in self._by_label.get(item, ()):
                    self._by_label[item].remove(one)
            if one in self._others:
                self._others.remove(one)
        for selector, index in added.items():
            self._add(selector, index)

    def matching(self, pod: Pod) -> Key:
        """Return the indexes of the matching selectors; Pods with the same labels share the object."""
        labels = frozenset(pod.labels.items())
        found = self._cached.get(labels)
        if found is None:
            candidates = [one for item in labels for one in self._by_label.get(item, ())]
            candidates += self._others
            found = frozenset(index for selector, index in candidates if selector.matches(pod))
            if len(self._cached) >= _MAX_CACHED:
                self._cached.clear()
            self._cached[labels] = found
        if not self._by_name:
            return found
        named = [one for name in (pod.name, f"{pod.node}/{pod.name}") for one in self._by_name.get(name, ())]
        return found.union(index for selector, index in named if selector.matches(pod))


@dataclass(frozen=True)
class _Enclosing:
    """An enclosing prefix: its last address, the selectors that match in it, and its flags."""

    version: int
    last: int
    key: Key = WORLD_KEY
    flags: int = 0


def _resolve_prefixes(
    selectors: Mapping[CidrSelector, int], flags: Mapping[Network, int]
) -> dict[Network, tuple[Key, int]]:
    """Return matching selectors and flags by prefix.

    Prefixes are nested or disjoint, so one pass in their order visits each after all prefixes that contain
    it. A prefix with the values of its enclosing prefix is omitted.
    """
    included: dict[Network, set[int]] = {}
    excluded: dict[Network, set[int]] = {}
    for selector, index in selectors.items():
        included.setdefault(selector.network, set()).add(index)
        for network in selector.excluded:
            excluded.setdefault(network, set()).add(index)
    networks = sorted(
        {*included, *excluded, *flags}, key=lambda one: (one.version, int(one.network_address), one.prefixlen)
    )
    prefixes: dict[Network, tuple[Key, int]] = {}
    stack: list[_Enclosing] = []
    for network in networks:
        first = int(network.network_address)
        while stack and (stack[-1].version != network.version or stack[-1].last < first):
            stack.pop()
        outer = stack[-1] if stack else _Enclosing(network.version, 0)
        key = outer.key
        if network in included or network in excluded:
            key = frozenset((key | included.get(network, set())) - excluded.get(network, set()))
        inner = _Enclosing(
            network.version, int(network.broadcast_address), key, outer.flags | flags.get(network, 0)
        )
        stack.append(inner)
        if (key, inner.flags) != (outer.key, outer.flags):
            prefixes[network] = (key, inner.flags)
    return prefixes


class Selection:
    """The selectors of policies by index, and the prefixes that they distinguish.

    ``flags`` (enum cidr_flag) are by network, and apply to the networks in it. The index of ``HostSelector``
    is that of ``HOST_KEY``.
    """

    def __init__(self, policies: Sequence[Policy], flags: Mapping[Network, int]) -> None:
        self.indexes: dict[Selector, int] = {HostSelector(): 0}
        for policy in policies:
            for selector in selectors_of(policy):
                self.indexes.setdefault(selector, len(self.indexes))
        self._next = len(self.indexes)
        self._pods = _PodMatcher(
            {one: index for one, index in self.indexes.items() if isinstance(one, PodSelector)}
        )
        self.prefixes = _resolve_prefixes(
            {one: index for one, index in self.indexes.items() if isinstance(one, CidrSelector)}, flags
        )
        # Selectors by prefix length, longest first, and by the first bits of the address
        self._cidrs: dict[int, list[tuple[int, dict[int, Key]]]] = {4: [], 6: []}
        lengths = {(one.version, one.max_prefixlen - one.prefixlen) for one in self.prefixes}
        for version, shift in sorted(lengths):
            table = {
                int(one.network_address) >> shift: key
                for one, (key, dummy) in self.prefixes.items()
                if one.version == version and one.max_prefixlen - one.prefixlen == shift
            }
            self._cidrs[version].append((shift, table))

    def change(self, removed: Iterable[PodSelector], added: Iterable[PodSelector]) -> None:
        """Remove and add selectors of Pods, without names."""
        before = {one: self.indexes.pop(one) for one in removed}
        first = self._next
        after = {one: first + number for number, one in enumerate(added)}
        self._next += len(after)
        for one, index in after.items():
            self.indexes[one] = index
        self._pods.change(before, after)

    def of_pod(self, pod: Pod) -> Key:
        """Return the selectors of Pods that match a Pod."""
        return self._pods.matching(pod)

    def of_address(self, address: Address) -> Key:
        """Return the selectors of networks that match an address."""
        tables = self._cidrs[address.version]
        if tables:
            number = int(address)
            for shift, table in tables:
                key = table.get(number >> shift)
                if key is not None:
                    return key
        return WORLD_KEY


def selectors_of(policy: Policy) -> Iterable[Selector]:
    """Yield the selectors of a policy: of its subjects, and of the peers of its rules."""
    yield policy.subject
    for rule in policy.rules:
        yield from rule.peers


class Numbers:
    """Assigns numbers to identities.

    While the Pods of a generation change, no number is assigned again: cached verdicts and running programs
    may still refer to it. ``former`` are the numbers of the generation before, which identities keep unless
    many numbers have been used.
    """

    def __init__(self, former: Iterable[int] = ()) -> None:
        self.keys: dict[int, Key] = {WORLD: WORLD_KEY, HOST: HOST_KEY}
        self._numbers: dict[Key, int] = {WORLD_KEY: WORLD, HOST_KEY: HOST}
        self._former = {one for one in former if FIRST <= one < MAX}
        if max(self._former, default=FIRST) > MAX // 2:
            self._former = set()
        self._next = FIRST

    def find(self, key: Key) -> int | None:
        """Return the number of an identity, or None."""
        return self._numbers.get(key)

    def prefer(self, key: Key, former: int) -> None:
        """Assign a number of the generation before, unless the identity has one or another one has this."""
        if key not in self._numbers and former in self._former and former not in self.keys:
            self._add(key, former)

    def assign(self, key: Key) -> int:
        """Return a new number for an identity without one."""
        while self._next in self._former or self._next in self.keys:
            self._next += 1
        if self._next >= MAX:
            raise Problem("policies: all numbers of identities were used; repeat the change")
        number, self._next = self._next, self._next + 1
        self._add(key, number)
        return number

    def _add(self, key: Key, number: int) -> None:
        self.keys[number] = key
        self._numbers[key] = number

    def release(self, number: int) -> None:
        """Forget an identity that nothing has any more."""
        del self._numbers[self.keys.pop(number)]

    def seal(self) -> None:
        """Assign only numbers from now on that this and the former generation never had."""
        self._next = max(*self.keys, *self._former, self._next - 1) + 1
        self._former = set()
