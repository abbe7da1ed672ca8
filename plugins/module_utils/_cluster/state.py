# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Pods, policies and services of the cluster, kept up to date by changes of the API's objects."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from .._datapath.model import Address, Pod, Policy, Service
from . import objects, policies, services
from .policies import Unenforced

# The path of each kind in the API
KINDS = {
    "nodes": "/api/v1/nodes",  # only this node
    "namespaces": "/api/v1/namespaces",
    "pods": "/api/v1/pods",
    "networkpolicies": "/apis/networking.k8s.io/v1/networkpolicies",
    "services": "/api/v1/services",
    "endpointslices": "/apis/discovery.k8s.io/v1/endpointslices",
}
REDUCE: Mapping[str, Callable[..., Any]] = {
    "nodes": objects.node,
    "namespaces": objects.namespace,
    "pods": objects.pod,
    "networkpolicies": objects.network_policy,
    "services": objects.service,
    "endpointslices": objects.endpoint_slice,
}

NAMES = {
    "nodes": "Node",
    "namespaces": "Namespace",
    "pods": "Pod",
    "networkpolicies": "NetworkPolicy",
    "services": "Service",
    "endpointslices": "EndpointSlice",
}

API_SERVICE = "default/kubernetes"  # whose endpoints are the API servers
MANY_PODS = 200  # changes of Pods after which all are compared, as those of a namespace with new labels
T = TypeVar("T")
# The names of policies and services of the datapath begin with those of their objects.
_OBJECT = re.compile(r"(policies|services) \(([^/)]+)/([^:) ]+).*?\)+: (.*)", re.DOTALL)
# Reduced objects by key, None for an object that no longer exists, and Unenforced for an invalid one
Changes = Mapping[str, Any]


def reduce(kind: str, item: objects.Json, own_node: str = "") -> Any:
    """Reduce an object; return ``Unenforced`` for an invalid one, which must not affect others."""
    try:
        return objects.pod(item, own_node) if kind == "pods" else REDUCE[kind](item)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        meta = item["metadata"]
        namespace, name, uid = (str(meta.get(key) or "") for key in ("namespace", "name", "uid"))
        return Unenforced(NAMES[kind], namespace, name, uid, f"it is invalid ({error!r}); it is ignored")


@dataclass
class Update:
    """What changed: everything, or only Pods, None for those that no longer exist."""

    everything: bool = False
    pods: dict[str, Pod | None] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return self.everything or bool(self.pods)


class ClusterState:
    """The state of a cluster for one of its nodes.

    Without ``external_addresses``, services have only their addresses in the cluster.
    """

    def __init__(self, own_node: str, external_addresses: bool = True) -> None:
        self._own_node, self._external_addresses = own_node, external_addresses
        self._node = objects.OwnNode()
        self._namespaces: dict[str, Mapping[str, str]] = {}
        self._facts: dict[str, objects.PodFacts] = {}
        self._policies: dict[str, objects.PolicyFacts] = {}
        self._services: dict[str, objects.ServiceFacts] = {}
        self._slices: dict[str, objects.SliceFacts] = {}
        self._slices_of: dict[str, dict[str, objects.SliceFacts]] = {}
        self._in_namespace: dict[str, dict[str, str]] = {}
        self._with_address: dict[Address, tuple[str, ...]] = {}  # keys of Pods
        self._named = policies.NamedPorts()
        self._translated: dict[str, policies.Translation] = {}
        self._sizes: dict[str, services.Size] = {}
        self._frontends: dict[str, tuple[list[Service], list[Unenforced]]] = {}
        self._refused: dict[str, str] = {}  # why services have no backends
        self._invalid: dict[tuple[str, str], Unenforced] = {}
        self._update = Update()
        self.api: set[tuple[Address, int]] = set()  # by which the agent reaches the API
        self.pods: dict[str, Pod] = {}
        self.policies: list[Policy] = []
        self.services: list[Service] = []
        self.health_checks: dict[tuple[int, int], services.HealthCheck] = {}
        self.unenforced: list[Unenforced] = []

    def counts(self) -> dict[str, int]:
        """Return the number of objects by kind."""
        return {"pods": len(self._facts), "policies": len(self._policies), "services": len(self._services)}

    def uid_of(self, key: str) -> str:
        """Return the UID of a Pod that is known with its namespace, empty if it is unknown."""
        pod = self.pods.get(key)
        return pod.uid if pod else ""

    def unenforced_of(self, problem: str) -> Unenforced:
        """Return a problem of the datapath with its object, as far as the object is known."""
        found = _OBJECT.match(problem)
        kind, namespace, name, message = found.groups() if found else ("", "", "", problem)
        known = self._policies if kind == "policies" else self._services
        facts = known.get(f"{namespace}/{name}")
        if facts is None:
            return Unenforced("Datapath", "", "", "", problem)
        kind = "NetworkPolicy" if kind == "policies" else "Service"
        return Unenforced(kind, namespace, name, facts.uid, message)

    def apply(self, kind: str, changes: Changes) -> None:
        """Record changes of one kind; ``take`` returns what they change."""
        invalid = {(kind, key): one for key, one in changes.items() if isinstance(one, Unenforced)}
        for key in changes:
            if self._invalid.pop((kind, key), None) or (kind, key) in invalid:
                self._update.everything = True
        self._invalid.update(invalid)
        getattr(self, f"_apply_{kind}")(
            {key: None if (kind, key) in invalid else one for key, one in changes.items()}
        )

    def differing_policies(self, namespace: str, new: Iterable[objects.PolicyFacts]) -> Changes:
        """Return the changes that make these the NetworkPolicy objects of a namespace."""
        former = {key: one for key, one in self._policies.items() if one.namespace == namespace}
        current = {f"{one.namespace}/{one.name}": one for one in new}
        changes: dict[str, objects.PolicyFacts | None] = {
            key: one for key, one in current.items() if former.get(key) != one
        }
        changes.update(dict.fromkeys(former.keys() - current.keys()))
        return changes

    def take(self) -> Update:
        """Return what changed since the last call, and update policies and services."""
        new_numbers, new_pods = self._named.take_changed()
        if new_numbers or new_pods:
            for key, one in list(self._translated.items()):
                if new_numbers & one.ports or new_pods & one.pod_ports:
                    del self._translated[key]
                    self._update.everything = True
        if len(self._update.pods) > MANY_PODS:
            self._update.everything = True
        if self._update.everything:
            self._translate()
        update, self._update = self._update, Update()
        return update

    # Kinds

    def _apply_nodes(self, changes: Changes) -> None:
        node = changes.get(self._own_node) or objects.OwnNode()
        if self._own_node in changes and node != self._node:
            self._node = node
            self._translated.clear()
            self._sizes.clear()
            self._frontends.clear()
            self._update.everything = True

    def _apply_namespaces(self, changes: Changes) -> None:
        for name, labels in changes.items():
            if labels is None:
                self._namespaces.pop(name, None)
            else:
                self._namespaces[name] = labels
            for key in self._in_namespace.get(name, ()):
                self._set_pod(key)

    def _apply_pods(self, changes: Changes) -> None:
        for key, new in changes.items():
            former = self._facts.pop(key, None)
            if new is not None:
                self._facts[key] = new
            _index(self._in_namespace, key.partition("/")[0], key, None if new is None else key)
            self._named.update(former, new)
            others = self._move_addresses(key, former, new)
            for one in (key, *sorted(others)):
                self._set_pod(one)

    def _move_addresses(
        self, key: str, former: objects.PodFacts | None, new: objects.PodFacts | None
    ) -> set[str]:
        """Record the addresses of a Pod; return the other Pods that have or had the same ones."""
        others: set[str] = set()
        if former and new and former.addresses == new.addresses and former.terminating == new.terminating:
            return others
        own = (key,)
        for address in {*(former.addresses if former else ()), *(new.addresses if new else ())}:
            keys = tuple(one for one in self._with_address.pop(address, ()) if one != key)
            others.update(keys)
            if new and address in new.addresses:
                keys = (*keys, key) if keys else own
            if keys:
                self._with_address[address] = keys
        return others

    def _set_pod(self, key: str) -> None:
        """Update a Pod of the model: without its namespace's labels, no selector may match it."""
        facts = self._facts.get(key)
        if facts and facts.terminating:
            # The others are those of Pods that are not terminating.
            own = (one for one in facts.addresses if self._are_terminating(self._with_address[one]))
            facts = facts._replace(addresses=tuple(own))
        labels = self._namespaces.get(facts.namespace) if facts else None
        pod = policies.model_pod(facts, labels) if facts and labels is not None else None
        before = self.pods.get(key)
        if pod == before:
            return
        if facts and (pod and pod.addresses) != (before and before.addresses):
            self._named.move(facts)
        # The last one of two Pods with the same address has it.
        self.pods.pop(key, None)
        if pod is not None:
            self.pods[key] = pod
        self._update.pods[key] = pod

    def _are_terminating(self, keys: Iterable[str]) -> bool:
        return all(self._facts[key].terminating for key in keys)

    def _apply_networkpolicies(self, changes: Changes) -> None:
        _merge(self._policies, changes)
        for key in changes:
            self._translated.pop(key, None)
        self._update.everything |= bool(changes)

    def _apply_services(self, changes: Changes) -> None:
        _merge(self._services, changes)
        for key in changes:
            self._forget_service(key)
        self._update.everything = True

    def _apply_endpointslices(self, changes: Changes) -> None:
        for key, new in changes.items():
            former = self._slices.pop(key, None)
            if former:
                _index(self._slices_of, former.service, key, None)
                self._forget_service(former.service)
            if new is not None:
                self._slices[key] = new
                _index(self._slices_of, new.service, key, new)
                self._forget_service(new.service)
        self._update.everything = True

    def _forget_service(self, key: str) -> None:
        self._sizes.pop(key, None)
        self._frontends.pop(key, None)

    # Translation

    def _translate(self) -> None:
        for key, policy in self._policies.items():
            if key not in self._translated:
                self._translated[key] = policies.translate_policy(
                    policy, self._named, self.pods, self._node.addresses
                )
        translated = [one for _key, one in sorted(self._translated.items())]
        self.policies = [policy for one in translated for policy in one.policies]
        problems = [problem for one in translated for problem in one.unenforced]
        problems += self._translate_services()
        ordered = [
            (service, self._frontends[key])
            for key, service in sorted(self._services.items())
            if key in self._frontends
        ]
        problems += [problem for _service, (_frontends, some) in ordered for problem in some]
        self.services, conflicts = services.without_conflicts(
            ((service, frontends) for service, (frontends, _problems) in ordered), self.api_servers()
        )
        self.unenforced = [*(one for _key, one in sorted(self._invalid.items())), *problems, *conflicts]
        self.health_checks = {
            place: check
            for key, service in sorted(self._services.items())
            if service.health_port
            for place, check in services.health_checks(
                self._shown(service), self._slices_in(key), self._own_node
            ).items()
        }

    def _translate_services(self) -> list[Unenforced]:
        """Translate the services that fit into the maps; return a problem for each of the others."""
        for key, service in self._services.items():
            if key not in self._sizes:
                self._sizes[key] = services.size_of(self._shown(service), self._slices_in(key), self._node)
        left_out, refused = services.choose_services(self._sizes, services.SUPPORTED)
        for key in (*left_out, *(refused.keys() ^ self._refused.keys())):
            self._frontends.pop(key, None)
        self._refused = {**refused}
        for key, service in self._services.items():
            if key not in self._frontends and key not in left_out:
                slices = () if key in refused else self._slices_in(key)
                self._frontends[key] = services.translate_service(
                    self._shown(service), slices, self._own_node, self._node
                )
        reasons = sorted({**left_out, **refused}.items())
        return [services.problem_of(self._services[key], message) for key, message in reasons]

    def _shown(self, service: objects.ServiceFacts) -> objects.ServiceFacts:
        return service if self._external_addresses else service.internal()

    def _slices_in(self, key: str) -> list[objects.SliceFacts]:
        return [one for _key, one in sorted(self._slices_of.get(key, {}).items())]

    def api_servers(self) -> set[tuple[Address, int]]:
        """Return the addresses and ports by which nodes reach the API."""
        slices = self._slices_of.get(API_SERVICE, {}).values()
        published = {
            (one.address, port) for some in slices for one in some.endpoints for port in some.ports.values()
        }
        return published | self.api


def _index(target: dict[str, dict[str, T]], outer: str, key: str, one: T | None) -> None:
    """Set or delete an element of an inner mapping; keep no empty ones."""
    inner = target.setdefault(outer, {})
    if one is None:
        inner.pop(key, None)
    else:
        inner[key] = one
    if not inner:
        del target[outer]


def _merge(target: dict[str, Any], changes: Changes) -> None:
    for key, one in changes.items():
        if one is None:
            target.pop(key, None)
        else:
            target[key] = one
