# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the maps of this node are to say, from what is declared. Private to this collection."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .identity import WORLD, Identities, classify
from .layout import (
    CIDR_NO_MASQUERADE,
    DENY,
    ENFORCE,
    FEATURE_MASQUERADE,
    FEATURE_SERVICES,
    POD_ANY_SOURCE,
    POD_L2,
    POD_MASQUERADE,
    POD_NETKIT,
    Device,
    Endpoint,
    Image,
    digest_of,
    encode_backend,
    encode_cidr,
    encode_node,
    encode_ruleset,
    encode_service,
    number_of,
)
from .model import Address, Declaration, Pod, Policy
from .policy import Resolved, resolve

# Ports that masqueraded connections leave from: above what the kernel gives out by default
MASQUERADE_PORTS = (61000, 65535)


@dataclass(frozen=True)
class Interface:
    """A device of this node: what the programs have to know of it."""

    ifindex: int
    kind: str = ""
    mac: bytes = bytes(6)
    has_arp: bool = True


def here(policies: Iterable[Policy], pods: Iterable[Pod]) -> list[Policy]:
    """Return the policies that select a Pod of this node: others' Pods are other nodes' business."""
    local = [pod for pod in pods if pod.device]
    by_label: dict[tuple[str, str], list[Pod]] = {}
    for pod in local:
        for item in pod.labels.items():
            by_label.setdefault(item, []).append(pod)
    found = []
    for policy in policies:
        candidates = local
        if policy.subject.labels:
            candidates = by_label.get(min(policy.subject.labels), [])
        if any(policy.subject.matches(pod) for pod in candidates):
            found.append(policy)
    return found


@dataclass
class Compiled:
    """The image, and what it was resolved from for those who ask."""

    image: Image
    identities: Identities
    resolved: Resolved


def compile_image(
    declared: Declaration,
    interfaces: Mapping[str, Interface],
    slots: Mapping[tuple[str, str], int],
    host_addresses: Iterable[Address] = (),
) -> tuple[Compiled, list[str]]:
    """Return what the maps are to say, and what of the policies does not fit into a ruleset.

    ``slots`` are the Pods' places in the counters, by owner and name.
    """
    problems: list[str] = []
    image = Image()
    local = here(declared.policies, declared.pods)
    masquerades = any(pod.masquerade for pod in declared.pods if pod.device in interfaces)
    identities = classify(
        declared.pods,
        local,
        # without policies and masquerading nobody asks who the node is
        host_addresses if local or masquerades else (),
        declared.masquerade.excluded if masquerades else (),
    )
    resolved = resolve(local, identities)
    encoded: dict[object, bytes] = {}
    for key, ruleset in resolved.rulesets.items():
        if ruleset not in encoded:
            try:
                encoded[ruleset] = encode_ruleset(ruleset)
            except ValueError as error:
                encoded[ruleset] = b""
                problems.append(f"policies ({_about(key[0], local, identities)}): {error}; merge some")
        image.policy[key] = encoded[ruleset]
    about = {subject for subject, dummy, dummy in image.policy}

    def enforce(identity: int) -> int:
        bits = 0
        for direction in (0, 1):
            default = resolved.defaults.get((identity, direction))
            if default is False:
                bits |= ENFORCE[direction] | DENY[direction]
            elif default and identity in about:
                bits |= ENFORCE[direction]
        return bits

    for pod in declared.pods:
        interface = interfaces.get(pod.device)
        flags = 0
        if interface:
            flags = (
                POD_NETKIT * (interface.kind == "netkit")
                | POD_L2 * interface.has_arp
                | POD_MASQUERADE * pod.masquerade
                | POD_ANY_SOURCE * (not pod.anti_spoof)
            )
        owner, slot = number_of(pod.owner), slots.get((pod.owner, pod.name), 0) if interface else 0
        for address in pod.addresses:
            identity = identities.addresses.get(address, WORLD)
            image.endpoints[address.packed] = Endpoint(
                interface.ifindex if interface else 0,
                owner,
                identity,
                enforce(identity) if interface else 0,
                slot,
                flags,
            )
        if interface:
            identity = identities.devices[pod.device]
            image.pods[interface.ifindex] = Device(
                owner, slot, flags, identity, enforce(identity), interface.mac, pod.rate
            )
    for network, (identity, plain) in identities.cidrs.items():
        image.cidrs[encode_cidr(network)] = (identity, CIDR_NO_MASQUERADE * plain)
    for service in declared.services:
        weights = {encode_backend(b.address, b.port): b.weight for b in service.backends if b.weight}
        if not weights:  # its owner is told; the others' are not to suffer for it
            continue
        digest = digest_of(weights)
        image.backends[digest] = weights
        front = encode_service(service.address, service.port, service.protocol)
        image.services[front] = (number_of(service.name), digest)
    if masquerades:
        ipv4, ipv6 = declared.masquerade.ipv4, declared.masquerade.ipv6
        image.node = encode_node(ipv4, ipv6, MASQUERADE_PORTS)
    image.features = FEATURE_SERVICES * bool(image.services) | FEATURE_MASQUERADE * masquerades
    return Compiled(image, identities, resolved), problems


def _about(subject: int, policies: Iterable[Policy], identities: Identities) -> str:
    roles = identities.roles.get(subject, frozenset())
    return ", ".join(policy.name for policy in policies if policy.subject in roles)
