# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compile a declaration to an image of the maps of this node."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from .cluster import CLUSTER
from .identity import WORLD, Identities, assign_identities
from .image import Device, Endpoint, Frontend, Image
from .layout import (
    CIDR_NO_MASQUERADE,
    CIDR_STACK_NAT,
    DENY,
    ENFORCE,
    FEATURE_EXTERNAL,
    FEATURE_MASQUERADE,
    FEATURE_NODE_PORTS,
    FEATURE_SERVICES,
    FEATURE_STACK_NAT,
    POD_ANY_SOURCE,
    POD_L2,
    POD_MASQUERADE,
    POD_META,
    POD_NETKIT,
    digest_of,
    encode_backend,
    encode_cidr,
    encode_ruleset,
    encode_service,
    family_of,
    number_of,
)
from .masquerade import encode_node
from .model import Backend, Declaration, Masquerade, Pod, Policy, Service
from .node import Interface, Node
from .policy import Resolved, Ruleset, resolve


@dataclass
class Compiled:
    """An image, and problems of policies with too many port ranges: of owners, and of the cluster.

    What the latter concern is denied.
    """

    image: Image
    problems: list[str]
    unenforced: list[str]


def compile_image(declaration: Declaration, node: Node, slots: Mapping[tuple[str, str], int]) -> Compiled:
    """Return the image of a declaration.

    ``slots`` are the slots of Pods in the map ``metrics``, by owner and name.
    """
    policies = local_policies(declaration.policies, declaration.pods)
    masquerades = any(pod.masquerade for pod in declaration.pods if pod.device in node.interfaces)
    flags = dict.fromkeys(declaration.stack_services, CIDR_STACK_NAT)
    for network in declaration.masquerade.excluded if masquerades else ():
        flags[network] = flags.get(network, 0) | CIDR_NO_MASQUERADE
    identities = assign_identities(declaration.pods, policies, flags)
    resolved = resolve(policies, identities)
    image = Image()
    compiled = Compiled(image, [], [*declaration.unenforced])
    _compile_policy(compiled, resolved, policies, identities)
    _compile_pods(image, declaration.pods, node.interfaces, slots, _Lookup(identities, resolved, image))
    for network, value in identities.cidrs.items():
        image.cidrs[encode_cidr(network)] = value
    _compile_services(image, declaration.services, node)
    external = _has_external(declaration.services)
    masquerade = declaration.masquerade if masquerades else Masquerade()
    if external:  # Connections from the wire to backends of other nodes have this node's address.
        masquerade = replace(
            masquerade,
            ipv4=masquerade.ipv4 or node.sources.ipv4,
            ipv6=masquerade.ipv6 or node.sources.ipv6,
        )
    if image.pods or external:
        image.node = encode_node(masquerade.ipv4, masquerade.ipv6, node.masquerade_ports)
    image.features = (
        FEATURE_SERVICES * bool(image.services)
        | FEATURE_NODE_PORTS * bool(image.node_addresses)
        | FEATURE_EXTERNAL * external
        | FEATURE_MASQUERADE * masquerades
        | FEATURE_STACK_NAT * bool(declaration.stack_services)
    )
    return compiled


def local_policies(policies: Iterable[Policy], pods: Iterable[Pod]) -> list[Policy]:
    """Return the policies that select a Pod of this node; other nodes enforce the others."""
    local = [pod for pod in pods if pod.device]
    by_label: dict[tuple[str, str], list[Pod]] = {}
    for pod in local:
        for item in pod.labels.items():
            by_label.setdefault(item, []).append(pod)
    selecting = []
    for policy in policies:
        candidates = local
        if policy.subject.labels:
            candidates = by_label.get(min(policy.subject.labels), [])
        if any(policy.subject.matches(pod) for pod in candidates):
            selecting.append(policy)
    return selecting


def _compile_policy(
    compiled: Compiled, resolved: Resolved, policies: Iterable[Policy], identities: Identities
) -> None:
    encoded: dict[object, bytes] = {}
    for key, ruleset in resolved.rulesets.items():
        if ruleset not in encoded:
            try:
                encoded[ruleset] = encode_ruleset(ruleset)
            except ValueError as error:
                encoded[ruleset] = encode_ruleset(Ruleset(False))
                matching = identities.selectors.get(key[0], frozenset())
                selecting = [policy for policy in policies if policy.subject in matching]
                names = ", ".join(policy.name for policy in selecting)
                cluster = all(policy.owner == CLUSTER for policy in selecting)
                (compiled.unenforced if cluster else compiled.problems).append(
                    f"policies ({names}): {error}; merge some of them"
                )
        compiled.image.policy[key] = encoded[ruleset]


class _Lookup:
    """Looks up an identity's value of enum endpoint_enforce."""

    def __init__(self, identities: Identities, resolved: Resolved, image: Image) -> None:
        self.identities, self._resolved = identities, resolved
        self._subjects = {subject for subject, dummy, dummy in image.policy}

    def enforce(self, identity: int) -> int:
        bits = 0
        for direction in (0, 1):
            default = self._resolved.defaults.get((identity, direction))
            if default is False:
                bits |= ENFORCE[direction] | DENY[direction]
            elif default and identity in self._subjects:
                bits |= ENFORCE[direction]
        return bits


def _compile_pods(
    image: Image,
    pods: Iterable[Pod],
    interfaces: Mapping[str, Interface],
    slots: Mapping[tuple[str, str], int],
    lookup: _Lookup,
) -> None:
    for pod in pods:
        owner, interface = number_of(pod.owner), interfaces.get(pod.device)
        if interface is None:
            for address in pod.addresses:
                identity = lookup.identities.addresses.get(address, WORLD)
                image.endpoints[address.packed] = Endpoint(0, owner, identity, 0, 0, 0)
            continue
        slot = slots.get((pod.owner, pod.name), 0)
        flags = (
            POD_NETKIT * (interface.kind == "netkit")
            | POD_META * (interface.kind == "meta")
            | POD_L2 * interface.has_arp
            | POD_MASQUERADE * pod.masquerade
            | POD_ANY_SOURCE * (not pod.anti_spoof)
        )
        for address in pod.addresses:
            identity = lookup.identities.addresses.get(address, WORLD)
            image.endpoints[address.packed] = Endpoint(
                interface.ifindex, owner, identity, lookup.enforce(identity), slot, flags
            )
        identity = lookup.identities.devices[pod.device]
        image.pods[interface.ifindex] = Device(
            owner, slot, flags, identity, lookup.enforce(identity), interface.mac, pod.rate
        )


def _has_external(services: Iterable[Service]) -> bool:
    """Return whether hosts on the wire reach services: those of a cluster, and node ports."""
    return any(service.owner == CLUSTER or service.address.is_unspecified for service in services)


def _compile_services(image: Image, services: Sequence[Service], node: Node) -> None:
    for service in services:
        digest = _compile_backends(image, service.backends)
        external = _compile_backends(image, _external_backends(service, node))
        key = encode_service(service.address, service.port, service.protocol)
        image.services[key] = Frontend(number_of(service.name), digest, external, service.affinity)
    if any(service.address.is_unspecified for service in services):
        image.node_addresses = frozenset(
            (address.packed.ljust(16, b"\0"), family_of(address)) for address in node.addresses
        )


def _external_backends(service: Service, node: Node) -> list[Backend]:
    """Return the backends for hosts on the wire.

    The node's own processes are none of them: their replies pass no program that would translate them.
    """
    backends = service.backends if service.external is None else service.external
    return [backend for backend in backends if backend.address not in node.addresses]


def _compile_backends(image: Image, backends: Iterable[Backend]) -> bytes:
    """Add the backends that get new connections; return their digest, empty if there are none."""
    weights = {encode_backend(b.address, b.port): b.weight for b in backends if b.weight}
    if not weights:
        return b""
    digest = digest_of(weights)
    image.backends[digest] = weights
    return digest
