# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Merge the declarations of all owners, and detect conflicts between them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from .cluster import Cluster, add_cluster
from .host_ports import host_port_services
from .model import Address, Backend, Declaration, Masquerade, Pod, PodSelector, Service
from .parse import parse
from .store import Record
from .values import Problems


def merge_records(records: Mapping[str, Record], cluster: Cluster | None) -> Declaration:
    """Return the stored declarations as one; they were validated before they were stored."""
    return merge(Declaration(), parse_records(records), cluster)[0]


def parse_records(records: Mapping[str, Record]) -> list[Declaration]:
    """Return the stored declarations of all owners."""
    return [parse(record.options, owner)[0] for owner, record in sorted(records.items())]


def merge(
    own: Declaration, others: Sequence[Declaration], cluster: Cluster | None = None
) -> tuple[Declaration, list[str]]:
    """Return all declarations as one, and all problems of ``own`` in combination with ``others``.

    Selectors of services are resolved to backends. Problems of ``others`` alone are not reported: they would
    make a call of one owner fail because of another owner.
    """
    problems = Problems()
    declarations = [*others, own]
    pods = [pod for declaration in declarations for pod in declaration.pods]
    merged = Declaration(
        pods,
        [policy for declaration in declarations for policy in declaration.policies],
        [
            *(_with_backends(service, pods) for one in declarations for service in one.services),
            *host_port_services(pods),
        ],
        _masquerade(own, others, problems),
        frozenset(network for declaration in declarations for network in declaration.stack_services),
    )
    _check_addresses(merged, own, problems)
    add_cluster(merged, cluster)
    _check_selectors(merged, own, problems)
    if not (merged.masquerade.ipv4 or merged.masquerade.ipv6):
        for pod in own.pods:
            if pod.masquerade and pod.device:
                problems.add(
                    f"endpoints ({pod.name}): masquerade", "it requires masquerade.ipv4 or masquerade.ipv6"
                )
    return merged, problems


def _masquerade(own: Declaration, others: Sequence[Declaration], problems: Problems) -> Masquerade:
    masquerade = own.masquerade
    for declaration in others:
        if masquerade == Masquerade():
            masquerade = declaration.masquerade
        elif declaration.masquerade not in (Masquerade(), masquerade):
            problems.add(
                "masquerade", "another owner has declared different addresses or networks; use the same"
            )
    return masquerade


def without_backends(services: Iterable[Service], owner: str) -> list[str]:
    """Return a warning for each of the owner's merged services that has no backend for new connections."""
    return [
        f"services ({service.name}): none of its {len(service.backends)} backends has a weight above 0, so"
        " new connections are dropped; add a backend or remove the service"
        for service in services
        if service.owner == owner and not any(backend.weight for backend in service.backends)
    ]


def _with_backends(service: Service, pods: Sequence[Pod]) -> Service:
    backends = {(backend.address, backend.port): backend for backend in service.backends}
    for selector, port, weight in service.selected:
        for pod in pods:
            if selector.matches(pod):
                for address in pod.addresses:
                    if address.version == service.address.version:
                        backends.setdefault((address, port), Backend(address, port, weight))
    return replace(service, backends=tuple(backends.values()), selected=())


def _check_addresses(merged: Declaration, own: Declaration, problems: Problems) -> None:
    """Add a problem for each address of two Pods, of two services, or of a Pod and a service."""
    pods: dict[Address, Pod] = {}
    for pod in merged.pods:
        for address in pod.addresses:
            other = pods.setdefault(address, pod)
            if other is not pod:
                owner = f" of owner '{other.owner}'" if other.owner != pod.owner else ""
                problems.add(
                    "endpoints", f"{address} is assigned to both {other.shown}{owner} and {pod.shown}"
                )
    services: dict[tuple[Address, int, int], Service] = {}
    for service in merged.services:
        option = f"services ({service.name})"
        first = services.setdefault((service.address, service.port, service.protocol), service)
        if first is not service:
            problems.add(option, f"service {first.name} already has {service.address} port {service.port}")
        if service.address in pods and any(one.name == service.name for one in own.services):
            problems.add(option, f"Pod {pods[service.address].name} has the address {service.address}")


def _check_selectors(merged: Declaration, own: Declaration, problems: Problems) -> None:
    """Add a problem for each selector of the owner's policies that matches no Pod."""
    policies = [policy for policy in own.policies if not policy.optional]
    index = _PodIndex(merged.pods if policies else ())
    for policy in policies:
        option = f"policies ({policy.name})"
        for problem in index.problems(policy.subject):
            problems.add(f"{option}: pods", problem)
        for rule in policy.rules:
            for peer in rule.peers:
                if isinstance(peer, PodSelector):
                    for problem in index.problems(peer):
                        problems.add(option, problem)


class _PodIndex:
    """Finds the Pods of a selector without trying all Pods; reports each selector without Pods once."""

    def __init__(self, pods: Sequence[Pod]) -> None:
        self._pods = pods
        self._names = {name for pod in pods for name in (pod.name, f"{pod.node}/{pod.name}")}
        self._by_label: dict[tuple[str, str], list[Pod]] = {}
        for pod in pods:
            for item in pod.labels.items():
                self._by_label.setdefault(item, []).append(pod)
        self._seen: set[PodSelector] = set()

    def problems(self, selector: PodSelector) -> Iterator[str]:
        unknown = sorted(selector.names - self._names)
        if unknown:
            yield f"no Pod has the name {' or '.join(unknown)}"
        if selector in self._seen or not (selector.labels or selector.expressions):
            return
        self._seen.add(selector)
        candidates: Sequence[Pod] = self._pods
        for item in selector.labels:
            candidates = min(candidates, self._by_label.get(item, []), key=len)
        if not unknown and not any(selector.matches(pod) for pod in candidates):
            conditions = [f"{key}={value}" for key, value in sorted(selector.labels)]
            conditions += [f"{e.key} {e.operator} {'|'.join(sorted(e.values))}" for e in selector.expressions]
            yield f"no Pod has the labels {', '.join(conditions)}; add Pods or set optional: true"
