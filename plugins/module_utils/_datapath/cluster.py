# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pods, policies and services that the API of a Kubernetes cluster declares, beside those of the owners.

A Pod of this node is an endpoint that a CNI ADD has declared. Its labels are those of the API's Pod with the
same name and UID.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from .model import Address, Declaration, Pod, PodSelector, Policy, Service

_T = TypeVar("_T", Policy, Service)

CLUSTER = "kubernetes"  # the owner of what the API declares
# A key that no label has
_UNKNOWN = ("@unknown", "")
# Denies all traffic of Pods whose labels are unknown, except from the node.
UNKNOWN_PODS = Policy(
    "Pods unknown to the API",
    CLUSTER,
    PodSelector(frozenset({_UNKNOWN})),
    defaults=(False, False),
    optional=True,
    exclusive=True,
)


@dataclass
class Cluster:
    """What the API declares: Pods by ``namespace/name``, policies and services by name.

    Objects of one name belong together: a service with several addresses is one ``Service`` for each.
    """

    pods: dict[str, Pod] = field(default_factory=dict)
    policies: dict[str, tuple[Policy, ...]] = field(default_factory=dict)
    services: dict[str, tuple[Service, ...]] = field(default_factory=dict)


@dataclass
class ClusterChanges:
    """Changed and added objects by name; None for deleted ones."""

    pods: dict[str, Pod | None] = field(default_factory=dict)
    policies: dict[str, tuple[Policy, ...] | None] = field(default_factory=dict)
    services: dict[str, tuple[Service, ...] | None] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.pods or self.policies or self.services)

    def reversed(self, cluster: Cluster) -> ClusterChanges:
        """Return the changes that restore ``cluster`` as it is now."""
        return ClusterChanges(
            {name: cluster.pods.get(name) for name in self.pods},
            {name: cluster.policies.get(name) for name in self.policies},
            {name: cluster.services.get(name) for name in self.services},
        )

    def apply(self, cluster: Cluster) -> None:
        """Change ``cluster``. A changed Pod becomes the last one: the last Pod of an address has it."""
        for kind in ("pods", "policies", "services"):
            objects = getattr(cluster, kind)
            for name, one in getattr(self, kind).items():
                if one is None or kind == "pods":
                    objects.pop(name, None)
                if one is not None:
                    objects[name] = one


def by_name(objects: Iterable[_T]) -> dict[str, tuple[_T, ...]]:
    """Return the objects by name."""
    found: dict[str, list[_T]] = {}
    for one in objects:
        found.setdefault(one.name, []).append(one)
    return {name: tuple(ones) for name, ones in found.items()}


def changes_between(before: Cluster, after: Cluster) -> ClusterChanges:
    """Return what differs. Objects that are the same in memory are not compared."""
    changes = ClusterChanges()
    for kind in ("pods", "policies", "services"):
        old, new, changed = getattr(before, kind), getattr(after, kind), getattr(changes, kind)
        for name in old:
            if name not in new:
                changed[name] = None
        for name, one in new.items():
            known = old.get(name)
            if known is not one and known != one:
                changed[name] = one
    return changes


def labelled(pod: Pod, cluster: Cluster | None) -> Pod:
    """Return a Pod of this node with the labels that the API declares, or the one of unknown Pods."""
    if not pod.in_cluster:
        return pod
    found = cluster.pods.get(pod.display_name) if cluster else None
    if found is None or not pod.uid or found.uid != pod.uid:
        return replace(pod, labels=dict((_UNKNOWN,)))
    return replace(pod, labels=found.labels)


def add_cluster(declaration: Declaration, cluster: Cluster | None) -> None:
    """Add what the API declares to that of all owners, which take precedence.

    A Pod has the address that another Pod still declares until the API deletes it: the last one counts.
    """
    declaration.pods = [labelled(pod, cluster) for pod in declaration.pods]
    if cluster or any(pod.in_cluster for pod in declaration.pods):
        declaration.policies = [*declaration.policies, UNKNOWN_PODS]
    if cluster is None:
        return
    holders = Holders(declaration.pods, cluster.pods.values())
    remote = []
    for pod in cluster.pods.values():
        addresses = tuple(address for address in pod.addresses if holders.get(address) is pod)
        if addresses:
            remote.append(pod if addresses == pod.addresses else replace(pod, addresses=addresses))
    declaration.pods = [*remote, *declaration.pods]
    declaration.policies = [
        *declaration.policies,
        *(policy for name in sorted(cluster.policies) for policy in cluster.policies[name]),
    ]
    services, declaration.unenforced = cluster_services(declaration.services, cluster.services)
    declaration.services = [*declaration.services, *services]


class Holders:
    """Which Pod has an address: one that an owner declares, else the last one of the API."""

    def __init__(self, declared: Iterable[Pod], pods: Iterable[Pod]) -> None:
        self.declared = {address: pod for pod in declared for address in pod.addresses}
        self._pods: dict[Address, Pod] = {}
        self._earlier: dict[Address, list[Pod]] = {}
        for pod in pods:
            self.add(pod)

    def get(self, address: Address) -> Pod | None:
        """Return the Pod that has an address."""
        return self.declared.get(address) or self._pods.get(address)

    def items(self) -> Iterator[tuple[Address, Pod]]:
        """Yield all addresses, each with the Pod that has it."""
        yield from self.declared.items()
        yield from ((address, pod) for address, pod in self._pods.items() if address not in self.declared)

    def add(self, pod: Pod) -> None:
        """Add a Pod of the API."""
        for address in pod.addresses:
            if address in self._pods:
                self._earlier.setdefault(address, []).append(self._pods[address])
            self._pods[address] = pod

    def remove(self, pod: Pod) -> None:
        """Remove a Pod of the API; an earlier one gets its addresses."""
        for address in pod.addresses:
            earlier = self._earlier.get(address, [])
            if self._pods.get(address) is not pod:
                earlier[:] = [one for one in earlier if one is not pod]
            elif earlier:
                self._pods[address] = earlier.pop()
            else:
                del self._pods[address]
            if not earlier:
                self._earlier.pop(address, None)


def cluster_services(
    declared: Sequence[Service], services: Mapping[str, Sequence[Service]]
) -> tuple[list[Service], list[str]]:
    """Return the services of the API that conflict with no other one, and a problem for each that does."""
    names: dict[tuple[Address, int, int], str] = {}
    for service in declared:
        names.setdefault((service.address, service.port, service.protocol), service.name)
    added, problems = [], []
    for name in sorted(services):
        for service in services[name]:
            key = (service.address, service.port, service.protocol)
            if key in names:
                problems.append(
                    f"services ({name}): service {names[key]} already has {service.address} port"
                    f" {service.port}"
                )
            else:
                names[key] = name
                added.append(service)
    return added, problems
