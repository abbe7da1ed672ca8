# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Objects of a simulated cluster, as the agent passes them to the datapath."""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Iterator
from dataclasses import dataclass

from ansible_collections.podnet.datapath.plugins.module_utils._datapath.model import (
    EGRESS,
    INGRESS,
    Backend,
    CidrSelector,
    Pod,
    PodSelector,
    Policy,
    Ports,
    Rule,
    Service,
)

TCP, UDP = 6, 17
APPS = 10  # Deployments of a namespace


@dataclass(frozen=True)
class Size:
    """How many objects the cluster has."""

    pods: int = 10_000
    policies: int = 500
    services: int = 1_000
    nodes: int = 100

    @property
    def namespaces(self) -> int:
        return self.policies // 5


def pod(number: int, size: Size, **labels: str) -> Pod:
    """Return a Pod. Its number defines node, namespace and Deployment."""
    node, namespace = number % size.nodes, number // size.nodes % size.namespaces
    app = number // size.nodes // size.namespaces % APPS
    packed = 0x0A000000 + node * (size.pods // size.nodes * 2 + 10) + number // size.nodes
    addresses = (ipaddress.IPv4Address(packed), ipaddress.IPv6Address((0xFD << 120) + packed))
    every = {
        "@namespace": f"n{namespace}",
        "@namespace:kubernetes.io/metadata.name": f"n{namespace}",
        "@namespace:team": f"t{namespace % 10}",
        "@port:tcp:http": "8080",
        "app.kubernetes.io/name": f"a{app}",
        "app.kubernetes.io/part-of": f"p{app % 3}",
        "pod-template-hash": f"{namespace:04x}{app:04x}",
        **labels,
    }
    name = f"n{namespace}/a{app}-{number:05x}"
    return Pod(name, "kubernetes", addresses, every, f"node{node}", uid=f"00000000-0000-{number:012x}")


def policies(size: Size) -> Iterator[Policy]:
    """Yield five policies for each namespace: default deny, peers in it, other namespaces, networks, DNS."""

    def select(namespace: int, **labels: str) -> PodSelector:
        return PodSelector(frozenset({("@namespace", f"n{namespace}"), *labels.items()}))

    def app(number: int) -> dict[str, str]:
        return {"app.kubernetes.io/name": f"a{number}"}

    http = (Ports(TCP, 8080, 8080), Ports(TCP, 9000, 9010))
    inside = ipaddress.ip_network("10.0.0.0/8")
    for n in range(size.namespaces):
        every = select(n)
        team = PodSelector(
            frozenset({("@namespace:team", f"t{n % 10}"), ("app.kubernetes.io/part-of", "p1")})
        )
        internet = CidrSelector(ipaddress.ip_network("0.0.0.0/0"), frozenset({inside}))
        office = CidrSelector(ipaddress.ip_network(f"192.168.{n % 256}.0/24"))
        for name, subject, rules, defaults in (
            ("deny", every, (), (False, False)),
            ("peers", every, (Rule(INGRESS, peers=(every,), ports=http), Rule(EGRESS, peers=(every,))), None),
            ("team", select(n, **app(1)), (Rule(INGRESS, peers=(team,), ports=http),), (False, None)),
            ("networks", select(n, **app(2)), (Rule(EGRESS, peers=(internet, office)),), (None, False)),
            ("dns", every, (Rule(EGRESS, ports=(Ports(UDP, 53, 53),)),), (None, False)),
        ):
            yield Policy(f"n{n}/{name}", "kubernetes", subject, tuple(rules), defaults or (False, False))


def services(size: Size) -> Iterator[Service]:
    """Yield services of 10 Pods each."""
    for number in range(size.services):
        chance = random.Random(number)
        backends = tuple(
            Backend(pod(chance.randrange(size.pods), size).addresses[0], 8080) for _index in range(10)
        )
        address = ipaddress.IPv4Address(f"172.30.{number >> 8}.{number & 255}")
        yield Service(f"n{number}/s:http", "kubernetes", address, 80, TCP, backends)
