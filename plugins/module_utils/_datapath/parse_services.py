# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Parse services of a declaration."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any

from .model import PROTOCOLS, Address, Backend, Service
from .parse_pods import parse_pod_selector
from .values import Problems, parse_address, parse_number

SERVICE_PROTOCOLS = ("tcp", "udp", "sctp")
MAX_WEIGHT = 100
MAX_AFFINITY = 86400  # seconds, as in Kubernetes


def parse_services(options: Mapping[str, Any], owner: str, problems: Problems) -> list[Service]:
    """Return the services with a valid address; their names must be unique."""
    services = []
    names: set[str] = set()
    for index, raw in enumerate(options.get("services") or ()):
        option = f"services[{index}] ({raw['name']})"
        if raw["name"] in names:
            problems.add(option, "another service has the same name")
        names.add(raw["name"])
        service = _service(raw, owner, option, problems)
        if service:
            services.append(service)
    return services


def _service(raw: Mapping[str, Any], owner: str, option: str, problems: Problems) -> Service | None:
    protocol = str(raw.get("protocol") or "tcp").lower()
    if protocol not in SERVICE_PROTOCOLS:
        problems.add(
            f"{option}: protocol",
            f"'{protocol}' is not one of {', '.join(SERVICE_PROTOCOLS)}, the protocols that are translated",
        )
    try:
        address = _address(raw["address"])
    except ValueError as error:
        problems.add(f"{option}: address", str(error))
        return None
    affinity = parse_number(raw.get("affinity") or 0, f"{option}: affinity", MAX_AFFINITY, problems)
    port = _port(raw["port"], option, problems)
    backends: list[Backend] = []
    selected = []
    for index, one in enumerate(raw.get("backends") or ()):
        at = f"{option}: backends[{index}]"
        target = port if one.get("port") is None else _port(one["port"], at, problems)
        weight = 1 if one.get("weight") is None else one["weight"]
        if not 0 <= weight <= MAX_WEIGHT:
            problems.add(at, f"weight: {weight} is outside of 0 to {MAX_WEIGHT}")
        if protocol == "sctp" and target != port:
            problems.add(
                at, f"port: {target} is not the port {port} of the service, as SCTP requires; omit it"
            )
        by_pod = any(one.get(key) is not None for key in ("labels", "names"))
        if by_pod == (one.get("address") is not None):
            problems.add(at, "set either address, or labels or names of Pods")
        elif by_pod:
            selected.append((parse_pod_selector(one, at, problems), target, weight))
        else:
            try:
                backend = Backend(parse_address(one["address"]), target, weight)
            except ValueError as error:
                problems.add(f"{at}: address", str(error))
                continue
            if backend.address.version != address.version:
                problems.add(
                    at,
                    f"{backend.address} is an IPv{backend.address.version} address, but the service has an"
                    f" IPv{address.version} address",
                )
            same = [b for b in backends if (b.address, b.port) == (backend.address, backend.port)]
            if same and same[0] != backend:
                problems.add(
                    at,
                    f"{backend.address} port {backend.port} is listed twice, with weights {same[0].weight}"
                    f" and {backend.weight}",
                )
            backends += [] if same else [backend]
    return Service(
        name=raw["name"],
        owner=owner,
        address=address,
        port=port,
        protocol=PROTOCOLS.get(protocol, 0),
        backends=tuple(backends),
        selected=tuple(selected),
        affinity=affinity or 0,
    )


def _address(text: str) -> Address:
    """Return a unicast address, or the unspecified address, which stands for all addresses of the node."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return parse_address(text)
    return address if address.is_unspecified else parse_address(text)


def _port(value: object, option: str, problems: Problems) -> int:
    number = parse_number(value, f"{option}: port", 65535, problems)
    if number == 0:
        problems.add(f"{option}: port", "0 is not a port")
    return number or 0
