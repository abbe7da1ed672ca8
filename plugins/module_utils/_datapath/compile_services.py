# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compile services to an image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .cluster import CLUSTER
from .host_ports import is_served
from .image import Frontend, Image
from .layout import (
    SERVICE_LISTED,
    digest_of,
    encode_backend,
    encode_netns,
    encode_service,
    family_of,
    number_of,
)
from .model import Backend, Service
from .node import Node


def compile_services(image: Image, services: Sequence[Service], node: Node) -> None:
    """Add services and their backends, and what sockets need for ports of the node."""
    for service in services:
        if not is_served(service, node.addresses):
            continue
        digest = _compile_backends(image, service.backends)
        external = _compile_backends(image, _external_backends(service, node))
        key = encode_service(service.address, service.port, service.protocol)
        flags = SERVICE_LISTED * service.listed
        image.services[key] = Frontend(number_of(service.name), digest, external, service.affinity, flags)
    if any(service.address.is_unspecified or service.address.is_loopback for service in services):
        image.node_addresses = frozenset(
            (address.packed.ljust(16, b"\0"), family_of(address)) for address in node.addresses
        )
        if node.netns_cookie:
            image.node_addresses |= {(encode_netns(node.netns_cookie), 0)}


def has_external(services: Iterable[Service]) -> bool:
    """Return whether hosts on the wire reach services: those of a cluster, and ports of the node."""
    return any(
        service.owner == CLUSTER or service.address.is_unspecified or service.host_port
        for service in services
    )


def has_host_backends(services: Iterable[Service], node: Node) -> bool:
    """Return whether hosts on the wire reach processes of this node by services."""
    return any(
        backend.address in node.addresses
        for service in services
        for backend in _external_backends(service, node)
    )


def _external_backends(service: Service, node: Node) -> list[Backend]:
    """Return the backends for hosts on the wire.

    Processes of this node are such only by addresses for clients outside of the cluster, because translating
    their replies has a cost for all packets to the wire.
    """
    backends = service.backends if service.external is None else service.external
    if node.has_egress and (service.address.is_unspecified or service.listed):
        return [*backends]
    return [backend for backend in backends if backend.address not in node.addresses]


def _compile_backends(image: Image, backends: Iterable[Backend]) -> bytes:
    """Add the backends that get new connections; return their digest, empty if there are none."""
    weights = {encode_backend(b.address, b.port): b.weight for b in backends if b.weight}
    if not weights:
        return b""
    digest = digest_of(weights)
    image.backends[digest] = weights
    return digest
