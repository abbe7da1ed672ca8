# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compile services to an image."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from .cluster import CLUSTER
from .host_ports import is_served
from .image import Frontend, Image
from .layout import (
    DRAINING_MAX,
    SERVICE_LISTED,
    SERVICE_NODE,
    SERVICE_SOURCES,
    digest_of,
    encode_backend,
    encode_netns,
    encode_service,
    encode_source,
    family_of,
    number_of,
)
from .model import Address, Backend, Service
from .node import Node


class _Compiled(NamedTuple):
    """A service in an image: its key, entry and backends."""

    service: Service  # which keeps its id
    key: tuple[bytes, bytes, int, int]
    frontend: Frontend
    backends: tuple[Mapping[bytes, int], Mapping[bytes, int]]
    has_host_backends: bool  # processes of this node, for hosts on the wire


class ServiceCompiler:
    """Adds services to images; those of the last call, which are the same objects, are not compiled again."""

    def __init__(self) -> None:
        self._known: dict[int, _Compiled] = {}
        self._node: tuple[Collection[Address], bool] = ((), False)

    @property
    def has_host_backends(self) -> bool:
        """Return whether hosts on the wire reach processes of this node by services."""
        return any(one.has_host_backends for one in self._known.values())

    def add(self, image: Image, services: Sequence[Service], node: Node) -> None:
        """Add services and their backends, and what sockets need for ports of the node."""
        if self._node != (node.addresses, node.has_egress):
            self._known, self._node = {}, (node.addresses, node.has_egress)
        found: dict[int, _Compiled] = {}
        for service in services:
            if not is_served(service, node.addresses):
                continue
            one = self._known.get(id(service)) or _compile(service, node)
            found[id(service)] = one
            for digest, weights in zip((one.frontend.digest, one.frontend.external), one.backends):
                if digest:
                    image.backends[digest] = weights
            image.services[one.key] = one.frontend
        self._known = found
        if any(map(_is_of_the_node, services)):
            image.node_addresses = frozenset(
                (address.packed.ljust(16, b"\0"), family_of(address)) for address in node.addresses
            )
            if node.netns_cookie:
                image.node_addresses |= {(encode_netns(node.netns_cookie), 0)}


def _is_of_the_node(service: Service) -> bool:
    """Return whether sockets need to know if an address or a client is that of the node."""
    address = service.address
    return address.is_unspecified or address.is_loopback or service.sources is not None


def _compile(service: Service, node: Node) -> _Compiled:
    weights = external = _weights(service.backends)
    found = _external_backends(service, node)
    if found != service.backends:
        external = _weights(found)
    digest, external_digest = (digest_of(one) if one else b"" for one in (weights, external))
    flags = SERVICE_LISTED * service.listed
    sources = service.sources or ()
    if service.sources is not None:
        flags |= SERVICE_SOURCES
        flags |= SERVICE_NODE * any(address in network for address in node.addresses for network in sources)
    return _Compiled(
        service,
        encode_service(service.address, service.port, service.protocol),
        Frontend(
            *(number_of(service.name), digest, external_digest, service.affinity, flags),
            frozenset(map(encode_source, sources)),
        ),
        (weights, external),
        any(backend.address in node.addresses for backend in found),
    )


def has_external(services: Iterable[Service]) -> bool:
    """Return whether hosts on the wire reach services: those of a cluster, and ports of the node."""
    return any(
        service.owner == CLUSTER or service.address.is_unspecified or service.host_port
        for service in services
    )


def _external_backends(service: Service, node: Node) -> tuple[Backend, ...]:
    """Return the backends for hosts on the wire.

    Processes of this node are such only by addresses for clients outside of the cluster, because translating
    their replies has a cost for all packets to the wire.
    """
    backends = service.backends if service.external is None else service.external
    if node.has_egress and (service.address.is_unspecified or service.listed):
        return tuple(backends)
    return tuple(backend for backend in backends if backend.address not in node.addresses)


def _weights(backends: Sequence[Backend]) -> dict[bytes, int]:
    """Return the backends with their weights; of those with weight 0, which drain, the first ones."""
    assigned = (one for one in backends if one.weight)
    draining = islice((one for one in backends if not one.weight), DRAINING_MAX)
    return {encode_backend(b.address, b.port): b.weight for b in (*assigned, *draining)}
