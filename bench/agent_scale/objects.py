# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Objects of a simulated cluster, as they are sent to its API server."""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Iterator
from dataclasses import dataclass

from tests.kubernetes.manifests import Json, endpoint_slice, namespace, pod_of, policy, service

APPS = 10  # Deployments of a namespace
ENDPOINTS = 10  # of each service and family


@dataclass(frozen=True)
class Size:
    """How many objects the cluster has."""

    pods: int = 10_000
    policies: int = 500
    services: int = 1_000
    nodes: int = 100

    @property
    def namespaces(self) -> int:
        return max(1, self.policies // 5)


def namespaces(size: Size) -> Iterator[Json]:
    for number in range(size.namespaces):
        yield namespace(f"n{number}", team=f"t{number % 10}")


def node_of(number: int, size: Size) -> str:
    """Return the node of a Pod."""
    return f"node{number % size.nodes}"


def addresses(number: int, size: Size) -> list[str]:
    """Return the addresses of a Pod."""
    per_node = size.pods // size.nodes * 2 + 10
    packed = number % size.nodes * per_node + number // size.nodes
    return [
        str(ipaddress.IPv4Address((10 << 24) + packed)),
        str(ipaddress.IPv6Address((0xFD << 120) + packed)),
    ]


def pod(number: int, size: Size) -> Json:
    """Return a Pod without addresses. Its number defines node, namespace and Deployment."""
    at = number // size.nodes % size.namespaces
    app = number // size.nodes // size.namespaces % APPS
    labels = {
        "app.kubernetes.io/name": f"a{app}",
        "app.kubernetes.io/part-of": f"p{app % 3}",
        "pod-template-hash": f"{at:04x}{app:04x}",
    }
    return pod_of(f"n{at}", f"a{app}-{number:05x}", node_of(number, size), labels)


def policies(size: Size) -> Iterator[Json]:
    """Yield five policies for each namespace: default deny, peers in it, other namespaces, networks, DNS."""
    http: list[Json] = [{"port": "http"}, {"port": 9000, "endPort": 9010}]
    everyone: Json = {"podSelector": {}}
    for n in range(size.namespaces):
        team = {
            "namespaceSelector": {"matchLabels": {"team": f"t{n % 10}"}},
            "podSelector": {"matchLabels": {"app.kubernetes.io/part-of": "p1"}},
        }
        internet = {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8"]}}
        office = {"ipBlock": {"cidr": f"192.168.{n % 256}.0/24"}}
        dns = [{"protocol": "UDP", "port": 53}]
        for name, app, rules in (
            ("deny", "", {"policyTypes": ["Ingress", "Egress"]}),
            ("peers", "", {"ingress": [{"from": [everyone], "ports": http}], "egress": [{"to": [everyone]}]}),
            ("team", "a1", {"ingress": [{"from": [team], "ports": http}]}),
            ("networks", "a2", {"policyTypes": ["Egress"], "egress": [{"to": [internet, office]}]}),
            ("dns", "", {"policyTypes": ["Egress"], "egress": [{"ports": dns}]}),
        ):
            yield policy(f"n{n}", name, {"app.kubernetes.io/name": app} if app else {}, **rules)


def services(size: Size) -> Iterator[tuple[Json, list[Json]]]:
    """Yield services with their EndpointSlices."""
    for number in range(size.services):
        at, name = f"n{number % size.namespaces}", f"s{number}"
        yield service(at, name), [slice_of(number, family, 0, size) for family in (4, 6)]


def slice_of(number: int, family: int, version: int, size: Size) -> Json:
    """Return an EndpointSlice of a service; versions differ in one endpoint."""
    chance = random.Random(number)
    chosen = [chance.randrange(size.pods) for _index in range(ENDPOINTS)]
    chosen[0] = (chosen[0] + version) % size.pods
    found = list(dict.fromkeys(addresses(one, size)[family == 6] for one in chosen))
    return endpoint_slice(f"n{number % size.namespaces}", f"s{number}", family, found)
