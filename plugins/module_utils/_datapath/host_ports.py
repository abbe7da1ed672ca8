# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Host ports of Pods: services of the node's addresses with one backend. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from .cluster import CLUSTER
from .limits import SERVICES, generation, share
from .model import PROTOCOLS, Address, Backend, HostPort, Pod, Service

# Host ports and services that owners declare: what the services of a cluster leave
MAX_DECLARED = generation(SERVICES) - share(SERVICES)

_ANY: Mapping[int, Address] = {4: ipaddress.IPv4Address(0), 6: ipaddress.IPv6Address(0)}
_NAMES = {number: name for name, number in PROTOCOLS.items()}


def parse_host_ports(raw: Iterable[Mapping[str, Any]]) -> tuple[HostPort, ...]:
    """Return host ports as they are stored; they were validated before."""
    return tuple(
        HostPort(
            one["port"],
            one["target"],
            PROTOCOLS[one["protocol"]],
            ipaddress.ip_address(one["address"]) if one.get("address") else None,
        )
        for one in raw
    )


def host_port_services(pods: Iterable[Pod]) -> Iterator[Service]:
    """Yield the services of the host ports of Pods, for each family of a Pod the first address."""
    for pod in pods:
        first = {address.version: address for address in reversed(pod.addresses)}
        for one in pod.host_ports:
            for version, target in sorted(first.items()):
                address = one.address or _ANY[version]
                if address.version == version:
                    backend = Backend(target, one.target)
                    yield Service(
                        f"{pod.shown}:hostPort",
                        pod.owner,
                        address,
                        one.port,
                        one.protocol,
                        (backend,),
                        host_port=True,
                    )


def is_served(service: Service, addresses: Collection[Address]) -> bool:
    """Return whether a service applies on a node with these addresses.

    A host port of another address must not take over connections to it.
    """
    address = service.address
    return not service.host_port or address.is_unspecified or address.is_loopback or address in addresses


def taken_places(
    host_ports: Iterable[HostPort], places: Iterable[tuple[Address, int]], addresses: Collection[Address]
) -> set[tuple[Address, int]]:
    """Return the TCP servers whose connections host ports would take on a node with these addresses."""
    found = set()
    for address, port in places:
        for one in host_ports:
            same = one.address is None or one.address in (address, _ANY[address.version])
            if same and (one.protocol, one.port) == (PROTOCOLS["tcp"], port):
                found.add((address, port))
    return {place for place in found if place[0].is_loopback or place[0] in addresses}


def host_port_problems(
    pods: Sequence[Pod], services: Iterable[Service], addresses: Collection[Address]
) -> list[str]:
    """Return the problems of the host ports of new Pods.

    ``services`` are all other ones, ``addresses`` those of the node.
    """
    problems = []
    used: dict[tuple[int, int, int], list[Service]] = {}
    count = 0
    for service in services:
        used.setdefault(_port_of(service), []).append(service)
        count += service.owner != CLUSTER
    for pod in pods:
        own: dict[tuple[Address, tuple[int, int, int]], Service] = {}
        for service in host_port_services([pod]):
            shown = f"hostPort {service.port}/{_NAMES[service.protocol]} of {pod.shown}"
            if not is_served(service, addresses):
                problems.append(
                    f"{shown}: hostIP {service.address} is not an address of this node that others can reach;"
                    " use one, or omit hostIP"
                )
            for other in used.get(_port_of(service), ()):
                if _overlap(service, other):
                    problems.append(f"{shown}: service {other.name} already has {_where(other)}")
            if own.setdefault((service.address, _port_of(service)), service) is not service:
                problems.append(f"{shown}: it is listed twice for {_where(service)}")
        count += len(own)
        if own and count > MAX_DECLARED:
            problems.append(
                f"hostPort of {pod.shown}: the node would have {count} host ports, which exceed the maximum"
                f" of {MAX_DECLARED}; each address family counts"
            )
        for service in own.values():
            used.setdefault(_port_of(service), []).append(service)
    return list(dict.fromkeys(problems))


def _port_of(service: Service) -> tuple[int, int, int]:
    return service.address.version, service.protocol, service.port


def _overlap(service: Service, other: Service) -> bool:
    """Return whether a host port would take connections of another service, or lose its own to it.

    A service of a single address has precedence over host ports of all addresses, as load balancers on the
    node have the same port as the Pod that implements them.
    """
    return (
        service.address == other.address
        or other.address.is_unspecified
        or (other.host_port and service.address.is_unspecified)
    )


def _where(service: Service) -> str:
    addresses = f"all IPv{service.address.version} addresses of the node"
    return f"{addresses if service.address.is_unspecified else service.address} port {service.port}"
