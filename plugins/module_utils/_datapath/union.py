# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What all owners declare together, with all that is wrong beside the others'. Private to this collection."""

from __future__ import annotations

from collections.abc import Sequence

from .model import Address, Backend, Declaration, Masquerade, Pod, PodSelector, Service
from .parse import Problems


def union(own: Declaration, others: Sequence[Declaration]) -> tuple[Declaration, list[str]]:
    """Return what holds for the node, and everything that is wrong with ``own`` beside the others'.

    Services' Pods are resolved to their backends. What other owners have is taken as it is: they were
    checked when they declared it, and are not to fail for what somebody else does later.
    """
    problems = Problems()
    every = [*others, own]
    pods = [pod for declaration in every for pod in declaration.pods]
    merged = Declaration(
        pods,
        [policy for declaration in every for policy in declaration.policies],
        [
            _resolved(service, pods, declaration is own, problems)
            for declaration in every
            for service in declaration.services
        ],
        own.masquerade,
    )
    for declaration in others:
        if merged.masquerade == Masquerade():
            merged.masquerade = declaration.masquerade
        elif declaration.masquerade not in (Masquerade(), merged.masquerade):
            problems.say("masquerade", "another owner has declared other addresses; only one can hold")
    _check_addresses(merged, own, problems)
    known = _Known(pods)
    for policy in own.policies:
        if policy.optional:
            continue
        where = f"policies ({policy.name})"
        known.check(policy.subject, f"{where}: pods", problems)
        for rule in policy.rules:
            for peer in rule.peers:
                if isinstance(peer, PodSelector):
                    known.check(peer, where, problems)
    if not (merged.masquerade.ipv4 or merged.masquerade.ipv6):
        for pod in own.pods:
            if pod.masquerade and pod.device:
                where = f"endpoints ({pod.name}): masquerade"
                problems.say(where, "there is no address to leave with; give masquerade.ipv4 or ipv6")
    return merged, problems


def _resolved(service: Service, pods: Sequence[Pod], check: bool, problems: Problems) -> Service:
    found = {(backend.address, backend.port): backend for backend in service.backends}
    for selector, port, weight in service.selected:
        for pod in pods:
            if selector.matches(pod):
                for address in pod.addresses:
                    if address.version == service.address.version:
                        found.setdefault((address, port), Backend(address, port, weight))
    if check and not any(backend.weight for backend in found.values()):
        problems.say(
            f"services ({service.name})",
            f"it has no backend with a weight above 0 among {len(found)}; give one, or remove the service",
        )
    return Service(
        service.name, service.owner, service.address, service.port, service.protocol, tuple(found.values())
    )


def _check_addresses(merged: Declaration, own: Declaration, problems: Problems) -> None:
    taken: dict[Address, Pod] = {}
    for pod in merged.pods:
        for address in pod.addresses:
            other = taken.setdefault(address, pod)
            if other is not pod:
                whose = f" of owner '{other.owner}'" if other.owner != pod.owner else ""
                problems.say("endpoints", f"{address} is given to both {other.name}{whose} and {pod.name}")
    fronts: dict[tuple[Address, int, int], Service] = {}
    for service in merged.services:
        where = f"services ({service.name})"
        first = fronts.setdefault((service.address, service.port, service.protocol), service)
        if first is not service:
            problems.say(where, f"{service.address} port {service.port} is already {first.name}'s")
        if service.address in taken and any(one.name == service.name for one in own.services):
            problems.say(where, f"{service.address} is the address of Pod {taken[service.address].name}")


class _Known:
    """The Pods there are, to tell a selector that means none of them."""

    def __init__(self, pods: Sequence[Pod]) -> None:
        self._pods = pods
        self._names = {name for pod in pods for name in (pod.name, f"{pod.node}/{pod.name}")}
        self._by_label: dict[tuple[str, str], list[Pod]] = {}
        for pod in pods:
            for item in pod.labels.items():
                self._by_label.setdefault(item, []).append(pod)
        self._seen: set[PodSelector] = set()

    def check(self, selector: PodSelector, where: str, problems: Problems) -> None:
        """Add a problem where the selector names what is not there."""
        unknown = sorted(selector.names - self._names)
        if unknown:
            problems.say(where, f"there is no Pod {', '.join(unknown)}")
        if selector in self._seen or not (selector.labels or selector.expressions):
            return
        self._seen.add(selector)
        candidates: Sequence[Pod] = self._pods
        for item in selector.labels:
            candidates = min(candidates, self._by_label.get(item, []), key=len)
        if not unknown and not any(selector.matches(pod) for pod in candidates):
            text = ", ".join(f"{key}={value}" for key, value in sorted(selector.labels))
            conditions = ", ".join(
                f"{e.key} {e.operator} {'|'.join(sorted(e.values))}" for e in selector.expressions
            )
            wanted = ", ".join(filter(None, (text, conditions)))
            problems.say(where, f"no Pod has the labels {wanted}; optional: true lets them come later")
