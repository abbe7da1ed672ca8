# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Translate Service and EndpointSlice objects, with the endpoints that kube-proxy would choose.

Source: Kubernetes, pkg/proxy/topology.go (CategorizeEndpoints), pkg/proxy/endpointslicecache.go and
pkg/proxy/conntrack/cleanup.go.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from .._datapath.limits import BACKENDS, SERVICES, SOURCES, TABLES, left_out, share
from .._datapath.model import PROTOCOLS, Address, Backend, Network, Service
from .objects import Endpoint, OwnNode, ServiceFacts, ServicePort, SliceFacts, is_special, parse_network
from .policies import OWNER, Unenforced

_ANY_ADDRESS: dict[int, Address] = {4: ipaddress.IPv4Address(0), 6: ipaddress.IPv6Address(0)}
_PROTOCOLS = ("tcp", "udp", "sctp")


class _Chosen(NamedTuple):
    """The endpoints for clients by the traffic policies Cluster and Local; other serving ones drain."""

    cluster: tuple[Backend, ...]
    local: tuple[Backend, ...]


class HealthCheck(NamedTuple):
    """What load balancers learn from a health port: how many endpoints a service has on this node."""

    namespace: str
    name: str
    uid: str
    endpoints: int


class Size(NamedTuple):
    """The most that a service takes of the maps: frontends, networks of clients, Maglev tables, backends."""

    frontends: int = 0
    sources: int = 0
    tables: int = 0
    backends: int = 0


SUPPORTED = Size(share(SERVICES), share(SOURCES), share(TABLES), share(BACKENDS))


def size_of(service: ServiceFacts, slices: Sequence[SliceFacts], node: OwnNode) -> Size:
    """Return the size of a service, without translating it: it may have more than fits into memory."""
    ports = {(port.name, port.protocol) for port in service.ports}
    count, node_ports = len(service.ports), sum(bool(port.node_port) for port in service.ports)
    others = {*service.external_addresses, *service.ingress}
    has_local = service.internal_local or service.external_local
    size = Size()
    for version in (one.version for one in service.cluster_addresses):
        of_family = [one for one in slices if one.version == version]
        on_host = any(each.address in node.addresses for one in of_family for each in one.endpoints)
        frontends = count * (1 + sum(one.version == version for one in others)) + node_ports
        backends = sum(len(ports & one.ports.keys()) * len(one.endpoints) for one in of_family)
        restricted = count * sum(one.version == version for one in service.ingress)
        size = Size(
            size.frontends + frontends,
            size.sources + restricted * len(service.source_ranges),
            size.tables + count * (1 + has_local + on_host) * bool(of_family),
            size.backends + backends,
        )
    return size


def choose_services(sizes: Mapping[str, Size], limits: Size) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """Return the services that get no frontends, and those that get no backends, each with the reason."""
    chosen: tuple[dict[str, str], dict[str, str]] = ({}, {})
    remaining = dict(sizes)
    for kind, shown, without in (
        ("frontends", "addresses and ports", chosen[0]),
        ("sources", "source ranges of its addresses and ports", chosen[0]),
        ("tables", "ports with endpoints", chosen[1]),
        ("backends", "endpoints", chosen[1]),
    ):
        costs = {name: getattr(size, kind) for name, size in remaining.items()}
        limit = getattr(limits, kind)
        for name in left_out(costs, sum(costs.values()) - limit):
            effect = "its connections are refused" if without is chosen[1] else "it is not translated"
            without[name] = (
                f"it has {costs[name]} {shown}, and the services of the cluster have more than the supported"
                f" {limit}: {effect}"
            )
            del remaining[name]
    return chosen


def translate_service(
    service: ServiceFacts, slices: Sequence[SliceFacts], name: str, node: OwnNode
) -> tuple[list[Service], list[Unenforced]]:
    """Return the frontends of a service for the node ``name``, and what cannot be enforced."""
    problems = []
    special = sorted(str(one) for one in (*service.external_addresses, *service.ingress) if is_special(one))
    if special:
        message = f"{', '.join(special)} cannot be an address of a service, so it is not translated"
        problems.append(problem_of(service, message))
    external = tuple(one for one in service.external_addresses if not is_special(one))
    ingress = tuple(one for one in service.ingress if not is_special(one))
    sources: tuple[Network, ...] | None = None
    try:
        sources = _sources(service.source_ranges)
    except ValueError as error:
        shown = ", ".join(map(str, ingress))
        message = f"loadBalancerSourceRanges: {error}, so {shown} is not translated; correct the range"
        problems += [problem_of(service, message)] if ingress else []
        ingress = ()
    others = {**dict.fromkeys(external), **dict.fromkeys(ingress, sources)}
    found: list[Service] = []
    for port in service.ports:
        if port.protocol in _PROTOCOLS:
            for own in service.cluster_addresses:
                found += _frontends(service, port, own, others, slices, name, node)
    return found, problems


def health_checks(
    service: ServiceFacts, slices: Sequence[SliceFacts], name: str
) -> dict[tuple[int, int], HealthCheck]:
    """Return the health checks of a service on the node ``name``, by IP version and port.

    Source: Kubernetes, pkg/proxy/endpointschangetracker.go (LocalReadyEndpoints).
    """
    found: dict[tuple[int, int], HealthCheck] = {}
    for version in (own.version for own in service.cluster_addresses if service.health_port):
        ready = {
            one.address
            for some in slices
            for one in some.endpoints
            if some.version == version and some.ports and one.ready and one.node == name
        }
        check = HealthCheck(service.namespace, service.name, service.uid, len(ready))
        found[version, service.health_port] = check
    return found


def problem_of(service: ServiceFacts, message: str) -> Unenforced:
    """Return a problem of a service."""
    return Unenforced("Service", service.namespace, service.name, service.uid, message)


def _sources(ranges: Iterable[str]) -> tuple[Network, ...] | None:
    """Return the networks of the clients of a load balancer, None for all. Raises ``ValueError``.

    Only 0.0.0.0/0, which kube-proxy takes as no restriction, stands for both families.
    """
    given = {parse_network(one.strip()) for one in ranges}
    if given in (set(), {ipaddress.ip_network("0.0.0.0/0")}):
        return None
    return tuple(sorted(given, key=lambda one: (one.version, one)))


def _frontends(
    service: ServiceFacts,
    port: ServicePort,
    own: Address,
    others: Mapping[Address, tuple[Network, ...] | None],
    slices: Sequence[SliceFacts],
    name: str,
    node: OwnNode,
) -> Iterator[Service]:
    """Yield the frontends of a port in the family of ``own``, an address of the service in the cluster.

    ``others`` are its addresses for clients outside of the cluster, each with the networks of its clients.
    """
    chosen = choose_endpoints(port, slices, own.version, name, node.zone)
    shown = f"{service.namespace}/{service.name}:{port.name or port.port}"
    protocol = PROTOCOLS[port.protocol]
    internal = chosen.local if service.internal_local else chosen.cluster
    yield Service(shown, OWNER, own, port.port, protocol, internal, affinity=service.affinity)
    external = chosen.local if service.external_local else None
    frontends = [(*one, port.port) for one in others.items() if one[0].version == own.version]
    if port.node_port:
        frontends.append((_ANY_ADDRESS[own.version], None, port.node_port))
    for address, sources, number in frontends:
        # Clients in the cluster get the endpoints that an external load balancer could choose: all.
        yield Service(
            *(shown, OWNER, address, number, protocol, chosen.cluster, (), service.affinity, external),
            listed=not address.is_unspecified,
            sources=sources and tuple(one for one in sources if one.version == own.version),
        )


def choose_endpoints(
    port: ServicePort, slices: Iterable[SliceFacts], version: int, name: str, zone: str
) -> _Chosen:
    """Return the endpoints of a port that clients on the node ``name`` in ``zone`` use.

    Whatever the reason that an endpoint is not chosen, open connections keep it while it serves. Those that
    terminate come first, as they are the most likely to have any.
    """
    found: dict[tuple[Address, int], Endpoint] = {}
    for one in slices:
        number = one.ports.get((port.name, port.protocol))
        if one.version != version or number is None:
            continue
        for endpoint in one.endpoints:
            # While an endpoint moves between slices, it may be in both.
            former = found.get((endpoint.address, number))
            if former is None or _rank(endpoint) > _rank(former):
                found[endpoint.address, number] = endpoint
    ready = {key: one for key, one in found.items() if one.ready}
    ending = {key: one for key, one in found.items() if not one.ready and one.serving and one.terminating}

    def backends(*candidates: dict[tuple[Address, int], Endpoint]) -> tuple[Backend, ...]:
        """Return the first candidates that are not empty, and the other endpoints that serve."""
        chosen = next(filter(None, candidates), {})
        others = [key for key, one in sorted(found.items()) if one.serving and key not in chosen]
        others.sort(key=lambda key: not found[key].terminating)
        return (*(Backend(*key) for key in sorted(chosen)), *(Backend(*key, weight=0) for key in others))

    def local(some: dict[tuple[Address, int], Endpoint]) -> dict[tuple[Address, int], Endpoint]:
        return {key: one for key, one in some.items() if one.node == name}

    return _Chosen(
        backends(_hinted(ready, name, zone), ending),
        backends(local(ready), local(ending)),
    )


def _rank(endpoint: Endpoint) -> tuple[bool, bool, bool]:
    """Return which endpoint of an address is preferred: its former Pod may be terminating."""
    return not endpoint.terminating, endpoint.ready, endpoint.serving


def _hinted(
    ready: dict[tuple[Address, int], Endpoint], name: str, zone: str
) -> dict[tuple[Address, int], Endpoint]:
    """Return the endpoints that are hinted for the node, else for its zone, else all.

    Hints count only if all endpoints have them, as otherwise the controller is about to change them.
    """
    for hints, own in (("nodes", name), ("zones", zone)):
        if all(getattr(one, hints) for one in ready.values()):
            hinted = {key: one for key, one in ready.items() if own in getattr(one, hints)}
            if hinted:
                return hinted
    return ready


def without_conflicts(
    services: Iterable[tuple[ServiceFacts, Sequence[Service]]], api: Collection[tuple[Address, int]]
) -> tuple[list[Service], list[Unenforced]]:
    """Return the frontends that no other service has, and a problem for each of the others.

    Whoever may create a service may list any address in ``externalIPs``. It must take over neither the
    address of a service in the cluster, nor one of ``api``, by which the agent follows the API, nor what
    another service already has: a load balancer's addresses precede others, then older services do.
    """
    given = [(facts, one, _rank_of(facts, one)) for facts, some in services for one in some]
    given.sort(key=lambda entry: (entry[2], entry[0].created))
    in_cluster: dict[Address, ServiceFacts] = {}
    for facts, _one, _rank in given:
        for address in facts.cluster_addresses:
            in_cluster.setdefault(address, facts)
    found: dict[tuple[Address, int, int], Service] = {}
    problems = []
    for facts, one, rank in given:
        owner = in_cluster.get(one.address, facts)
        if rank > _IN_CLUSTER and owner is not facts:
            message = f"{one.address} is the address of service {owner.namespace}/{owner.name} in the cluster"
        elif rank > _IN_CLUSTER and one.protocol == PROTOCOLS["tcp"] and (one.address, one.port) in api:
            message = f"{one.address} port {one.port} is that of the Kubernetes API"
        else:
            first = found.setdefault((one.address, one.port, one.protocol), one)
            if first is one:
                continue
            message = f"service {first.name} already has {one.address} port {one.port}"
        problems.append(problem_of(facts, message))
    return list(found.values()), problems


_IN_CLUSTER, _LOAD_BALANCER, _LISTED = range(3)


def _rank_of(facts: ServiceFacts, one: Service) -> int:
    """Return the rank of a frontend: the API assigns only cluster addresses and node ports."""
    if one.address in facts.cluster_addresses or one.address.is_unspecified:
        return _IN_CLUSTER
    return _LOAD_BALANCER if one.address in facts.ingress else _LISTED
