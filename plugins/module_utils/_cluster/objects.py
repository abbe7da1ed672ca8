# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the datapath depends on of the API's objects, which are too large to keep all of them in memory.

Functions named after a kind reduce an object of that kind. They accept whatever the API accepts: one invalid
object must not stop the watch of all others.
Source: Kubernetes API, core/v1, networking.k8s.io/v1 and discovery.k8s.io/v1.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from .._datapath.model import Address

Json = Mapping[str, Any]

SERVICE_NAME = "kubernetes.io/service-name"
ZONE = "topology.kubernetes.io/zone"
# kube-proxy ignores services and EndpointSlices with these labels, as other programs implement them.
_FOREIGN = frozenset(["service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless"])
# The annotation of a mirror Pod has the UID that kubelet gives to its static Pod, and to the CNI plugin.
_MIRROR = "kubernetes.io/config.mirror"
_AFFINITY_TIMEOUT = 10800  # seconds, the default of sessionAffinityConfig.clientIP.timeoutSeconds


class PodFacts(NamedTuple):
    """A Pod with a network namespace of its own. ``ports`` are named: protocol, name and number."""

    namespace: str
    name: str
    uid: str
    node: str
    addresses: tuple[Address, ...]
    labels: Mapping[str, str]
    ports: tuple[tuple[str, str, int], ...]


class PolicyFacts(NamedTuple):
    """A NetworkPolicy."""

    namespace: str
    name: str
    uid: str
    spec: Json


class ServicePort(NamedTuple):
    """A port of a Service; ``node_port`` is 0 if it has none."""

    name: str
    protocol: str
    port: int
    node_port: int


class ServiceFacts(NamedTuple):
    """A Service with addresses. ``ingress`` are those of its load balancer, ``created`` sorts by its age.

    ``health_port`` is the port by which load balancers find nodes with endpoints, 0 if there is none.
    """

    namespace: str
    name: str
    uid: str
    cluster_addresses: tuple[Address, ...]
    external_addresses: tuple[Address, ...]
    ingress: tuple[Address, ...]
    source_ranges: tuple[str, ...]
    ports: tuple[ServicePort, ...]
    affinity: int
    internal_local: bool
    external_local: bool
    created: str = ""
    health_port: int = 0

    def internal(self) -> ServiceFacts:
        """Return the service without the addresses and ports for clients outside of the cluster."""
        ports = tuple(port._replace(node_port=0) for port in self.ports)
        return self._replace(external_addresses=(), ingress=(), ports=ports, health_port=0)


class Endpoint(NamedTuple):
    """An endpoint of a service."""

    address: Address
    node: str
    ready: bool
    serving: bool
    terminating: bool
    zones: frozenset[str]
    nodes: frozenset[str]


class SliceFacts(NamedTuple):
    """An EndpointSlice. ``ports`` are numbers by name and protocol."""

    service: str
    version: int
    ports: Mapping[tuple[str, str], int]
    endpoints: tuple[Endpoint, ...]


class OwnNode(NamedTuple):
    """The node of the agent."""

    addresses: frozenset[Address] = frozenset()
    zone: str = ""


_SHARED: dict[str, str] = {}
_MAX_SHARED = 100_000


def _shared(text: str) -> str:
    """Return the same object for equal texts, because most Pods have the same labels and nodes as others."""
    if len(_SHARED) > _MAX_SHARED:
        _SHARED.clear()
    return _SHARED.setdefault(text, text)


def parse_address(text: object) -> Address | None:
    """Return an address, None if it is invalid. The API accepts leading zeros, which are decimal there."""
    raw = str(text)
    if "." in raw and ":" not in raw:
        raw = ".".join(part.lstrip("0") or "0" for part in raw.split(".") if part)
    try:
        return ipaddress.ip_address(raw)
    except ValueError:
        return None


def is_special(address: Address) -> bool:
    """Return whether an address has a meaning of its own on each host, so that no service has it."""
    return address.is_unspecified or address.is_loopback or address.is_link_local or address.is_multicast


def _addresses(texts: Iterable[object]) -> tuple[Address, ...]:
    found = (parse_address(text) for text in texts)
    return tuple(dict.fromkeys(one for one in found if one is not None))


_SHARED_LABELS: dict[tuple[tuple[str, str], ...], Mapping[str, str]] = {}


def share_labels(labels: Mapping[str, str]) -> Mapping[str, str]:
    """Return the same object for equal labels, because most Pods have those of others."""
    if len(_SHARED_LABELS) > _MAX_SHARED:
        _SHARED_LABELS.clear()
    return _SHARED_LABELS.setdefault(tuple(labels.items()), labels)


def _labels(meta: Json) -> Mapping[str, str]:
    labels = meta.get("labels") or {}
    return share_labels({_shared(key): _shared(value) for key, value in labels.items()})


def uid_of(pod: Json) -> str:
    """Return the UID of a Pod as kubelet passes it to the CNI plugin."""
    meta = pod["metadata"]
    return str((meta.get("annotations") or {}).get(_MIRROR) or meta["uid"])


def pod(item: Json, own_node: str = "") -> PodFacts | None:
    """Reduce a Pod. A Pod of another node is known as soon as it has addresses.

    Pods on the host's network, and those that have ended and given their addresses up, are ignored.
    """
    meta, spec, status = item["metadata"], item.get("spec") or {}, item.get("status") or {}
    if spec.get("hostNetwork") or status.get("phase") in ("Succeeded", "Failed"):
        return None
    given = [one.get("ip") for one in status.get("podIPs") or ()] or [status.get("podIP")]
    addresses = _addresses(one for one in given if one)
    node = str(spec.get("nodeName") or "")
    if not addresses and (not node or node != own_node):
        return None
    # Only init containers that are restarted run beside the others, so that connections reach them.
    containers = [
        *(spec.get("containers") or ()),
        *(one for one in spec.get("initContainers") or () if one.get("restartPolicy") == "Always"),
    ]
    ports: dict[tuple[str, str], int] = {}
    for port in (port for container in containers for port in container.get("ports") or ()):
        if port.get("name"):
            key = (str(port.get("protocol") or "TCP").lower(), _shared(str(port["name"])))
            ports.setdefault(key, int(port["containerPort"]))
    return PodFacts(
        _shared(meta["namespace"]),
        meta["name"],
        uid_of(item),
        _shared(node),
        addresses,
        _labels(meta),
        tuple((protocol, name, number) for (protocol, name), number in sorted(ports.items())),
    )


def namespace(item: Json) -> Mapping[str, str]:
    """Reduce a Namespace to its labels."""
    return _labels(item["metadata"])


def network_policy(item: Json) -> PolicyFacts:
    """Reduce a NetworkPolicy."""
    meta = item["metadata"]
    return PolicyFacts(meta["namespace"], meta["name"], meta["uid"], item.get("spec") or {})


def node(item: Json) -> OwnNode:
    """Reduce a Node."""
    found = (item.get("status") or {}).get("addresses") or ()
    labels = item["metadata"].get("labels") or {}
    return OwnNode(frozenset(_addresses(one.get("address") for one in found)), str(labels.get(ZONE) or ""))


def service(item: Json) -> ServiceFacts | None:
    """Reduce a Service. Headless ones and those with an external name have no address."""
    meta, spec = item["metadata"], item.get("spec") or {}
    if _FOREIGN & (meta.get("labels") or {}).keys() or spec.get("type") == "ExternalName":
        return None
    own = _addresses(spec.get("clusterIPs") or [spec.get("clusterIP")])
    if not own:
        return None
    kind, external = spec.get("type") or "ClusterIP", _addresses(spec.get("externalIPs") or ())
    found = ((item.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
    is_external = kind in ("NodePort", "LoadBalancer") or bool(external)
    external_local = is_external and spec.get("externalTrafficPolicy") == "Local"
    client = (spec.get("sessionAffinityConfig") or {}).get("clientIP") or {}
    return ServiceFacts(
        meta["namespace"],
        meta["name"],
        meta["uid"],
        own,
        external,
        # A load balancer of the mode Proxy translates the address itself.
        _addresses(one["ip"] for one in found if one.get("ip") and one.get("ipMode") in (None, "VIP"))
        if kind == "LoadBalancer"
        else (),
        tuple(map(str, spec.get("loadBalancerSourceRanges") or ())),
        tuple(
            ServicePort(
                str(one.get("name") or ""),
                str(one.get("protocol") or "TCP").lower(),
                int(one["port"]),
                int(one.get("nodePort") or 0),
            )
            for one in spec.get("ports") or ()
        ),
        int(client.get("timeoutSeconds") or _AFFINITY_TIMEOUT)
        if spec.get("sessionAffinity") == "ClientIP"
        else 0,
        spec.get("internalTrafficPolicy") == "Local",
        external_local,
        str(meta.get("creationTimestamp") or ""),
        int(spec.get("healthCheckNodePort") or 0) if kind == "LoadBalancer" and external_local else 0,
    )


def endpoint_slice(item: Json) -> SliceFacts | None:
    """Reduce an EndpointSlice of a service."""
    meta = item["metadata"]
    labels = meta.get("labels") or {}
    version = {"IPv4": 4, "IPv6": 6}.get(str(item.get("addressType")))
    if not version or not labels.get(SERVICE_NAME) or _FOREIGN & labels.keys():
        return None
    endpoints = []
    for one in item.get("endpoints") or ():
        # kube-proxy uses only the first address.
        address = parse_address((one.get("addresses") or [None])[0])
        # The API rejects special addresses: an endpoint must not lead clients to themselves or to their node.
        if address is None or address.version != version or is_special(address):
            continue
        conditions, hints = one.get("conditions") or {}, one.get("hints") or {}
        endpoints.append(
            Endpoint(
                address,
                _shared(str(one.get("nodeName") or "")),
                conditions.get("ready") is not False,
                conditions.get("serving") is not False,
                conditions.get("terminating") is True,
                frozenset(_shared(zone["name"]) for zone in hints.get("forZones") or ()),
                frozenset(_shared(node["name"]) for node in hints.get("forNodes") or ()),
            )
        )
    return SliceFacts(
        f"{meta['namespace']}/{labels[SERVICE_NAME]}",
        version,
        {
            (str(port.get("name") or ""), str(port.get("protocol") or "TCP").lower()): int(port["port"])
            for port in item.get("ports") or ()
            if port.get("port")
        },
        tuple(endpoints),
    )
