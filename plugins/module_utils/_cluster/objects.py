# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the datapath depends on of the API's objects, which are too large to keep all of them in memory.

Functions named after a kind reduce an object of that kind. They accept whatever the API accepts, and raise
``AttributeError``, ``KeyError``, ``TypeError`` or ``ValueError`` for anything else.
Source: Kubernetes API, core/v1, networking.k8s.io/v1 and discovery.k8s.io/v1.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

from .._datapath.model import Address, Network

Json = Mapping[str, Any]
T = TypeVar("T")

SERVICE_NAME = "kubernetes.io/service-name"
ZONE = "topology.kubernetes.io/zone"
# kube-proxy ignores services with the first label, and EndpointSlices with the second one.
_PROXY_NAME, _HEADLESS = "service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless"
# The annotation of a mirror Pod has the UID that kubelet gives to its static Pod, and to the CNI plugin.
_MIRROR = "kubernetes.io/config.mirror"
# seconds, default and maximum of sessionAffinityConfig.clientIP.timeoutSeconds
_AFFINITY_TIMEOUT, _MAX_AFFINITY_TIMEOUT = 10800, 86400
MAX_PORT = 65535


class PodFacts(NamedTuple):
    """A Pod with a network namespace of its own. ``ports`` are named: protocol, name and number.

    The addresses of a Pod that is ``terminating`` may be those of another one already.
    """

    namespace: str
    name: str
    uid: str
    node: str
    addresses: tuple[Address, ...]
    labels: Mapping[str, str]
    ports: tuple[tuple[str, str, int], ...]
    terminating: bool = False


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


def field(raw: Json, key: str, kind: type[T]) -> T:
    """Return a field of an object, an empty value if it is absent.

    Raises ``AttributeError`` and ``ValueError`` if the object or the field has another type.
    """
    value = raw.get(key)
    if value is None:
        return kind()
    # A bool is an int as well.
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{key}: {value!r} is not a {kind.__name__}")
    return value


def texts(raw: Json, key: str) -> Mapping[str, str]:
    """Return a field that maps texts to texts. Raises ``AttributeError`` and ``ValueError``."""
    found = field(raw, key, dict)
    for name, value in found.items():
        if not isinstance(value, str):
            raise ValueError(f"{key}: {name}: {value!r} is not a str")
    return found


def _port(raw: Json, key: str, minimum: int = 0) -> int:
    number = field(raw, key, int)
    if not minimum <= number <= MAX_PORT:
        raise ValueError(f"{key}: {number} is not a port")
    return number


def _protocol(raw: Json) -> str:
    return (field(raw, "protocol", str) or "TCP").lower()


def _ip(text: str) -> Address | None:
    """Return an address, None if it is invalid. The API accepts leading zeros, which are decimal there."""
    first, colon, last = text.rpartition(":")
    if "." in last:
        last = ".".join(part.lstrip("0") or part[:1] for part in last.split("."))
    try:
        return None if "%" in text else ipaddress.ip_address(f"{first}{colon}{last}")
    except ValueError:
        return None


def parse_address(text: object) -> Address | None:
    """Return an address, None if it is invalid. An IPv4-mapped one is IPv4, as in the API."""
    found = _ip(str(text))
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return mapped or found


def parse_network(text: object) -> Network:
    """Return a network. The API accepts host bits and what ``parse_address`` does. Raises ``ValueError``."""
    first, _slash, length = str(text).partition("/")
    address = _ip(first)
    if address is None or not re.fullmatch("[0-9]{1,9}", length) or int(length) > address.max_prefixlen:
        raise ValueError(f"{text!r} is not a network")
    network = ipaddress.ip_network((address, int(length)), strict=False)
    mapped = network.network_address.ipv4_mapped if isinstance(network, ipaddress.IPv6Network) else None
    return ipaddress.ip_network((mapped, network.prefixlen - 96)) if mapped else network


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
    labels = texts(meta, "labels")
    return share_labels({_shared(key): _shared(value) for key, value in labels.items()})


def uid_of(pod: Json) -> str:
    """Return the UID of a Pod as kubelet passes it to the CNI plugin."""
    meta = pod["metadata"]
    return str(field(meta, "annotations", dict).get(_MIRROR) or meta["uid"])


def pod(item: Json, own_node: str = "") -> PodFacts | None:
    """Reduce a Pod. A Pod of another node is known as soon as it has addresses.

    Pods on the host's network, and those that have ended and given their addresses up, are ignored.
    """
    meta, spec, status = item["metadata"], field(item, "spec", dict), field(item, "status", dict)
    if spec.get("hostNetwork") or status.get("phase") in ("Succeeded", "Failed"):
        return None
    given = [one.get("ip") for one in field(status, "podIPs", list)] or [status.get("podIP")]
    addresses = _addresses(one for one in given if one)
    node = field(spec, "nodeName", str)
    if not addresses and (not node or node != own_node):
        return None
    # Only init containers that are restarted run beside the others, so that connections reach them.
    containers = [
        *field(spec, "containers", list),
        *(one for one in field(spec, "initContainers", list) if one.get("restartPolicy") == "Always"),
    ]
    ports: dict[tuple[str, str], int] = {}
    for port in (port for container in containers for port in field(container, "ports", list)):
        name, number = field(port, "name", str), _port(port, "containerPort", 1)
        if name:
            ports.setdefault((_protocol(port), _shared(name)), number)
    return PodFacts(
        _shared(meta["namespace"]),
        meta["name"],
        uid_of(item),
        _shared(node),
        addresses,
        _labels(meta),
        tuple((protocol, name, number) for (protocol, name), number in sorted(ports.items())),
        meta.get("deletionTimestamp") is not None,
    )


def namespace(item: Json) -> Mapping[str, str]:
    """Reduce a Namespace to its labels."""
    return _labels(item["metadata"])


def network_policy(item: Json) -> PolicyFacts:
    """Reduce a NetworkPolicy, also an invalid one: without it, its Pods would not be isolated."""
    meta, spec = item["metadata"], item.get("spec")
    return PolicyFacts(meta["namespace"], meta["name"], str(meta.get("uid")), {} if spec is None else spec)


def node(item: Json) -> OwnNode:
    """Reduce a Node."""
    found = field(field(item, "status", dict), "addresses", list)
    zone = texts(item["metadata"], "labels").get(ZONE, "")
    return OwnNode(frozenset(_addresses(one.get("address") for one in found)), zone)


def service(item: Json) -> ServiceFacts | None:
    """Reduce a Service. Headless ones and those with an external name have no address."""
    meta, spec = item["metadata"], field(item, "spec", dict)
    if _PROXY_NAME in field(meta, "labels", dict) or spec.get("type") == "ExternalName":
        return None
    own = _addresses(field(spec, "clusterIPs", list) or [spec.get("clusterIP")])
    if not own:
        return None
    kind, external = spec.get("type") or "ClusterIP", _addresses(field(spec, "externalIPs", list))
    found = field(field(field(item, "status", dict), "loadBalancer", dict), "ingress", list)
    is_external = kind in ("NodePort", "LoadBalancer") or bool(external)
    external_local = is_external and spec.get("externalTrafficPolicy") == "Local"
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
        tuple(map(str, field(spec, "loadBalancerSourceRanges", list))),
        tuple(
            ServicePort(
                field(one, "name", str), _protocol(one), _port(one, "port", 1), _port(one, "nodePort")
            )
            for one in field(spec, "ports", list)
        ),
        _affinity(spec) if spec.get("sessionAffinity") == "ClientIP" else 0,
        spec.get("internalTrafficPolicy") == "Local",
        external_local,
        field(meta, "creationTimestamp", str),
        _port(spec, "healthCheckNodePort") if kind == "LoadBalancer" and external_local else 0,
    )


def _affinity(spec: Json) -> int:
    client = field(field(spec, "sessionAffinityConfig", dict), "clientIP", dict)
    seconds = field(client, "timeoutSeconds", int) or _AFFINITY_TIMEOUT
    if not 0 < seconds <= _MAX_AFFINITY_TIMEOUT:
        raise ValueError(f"timeoutSeconds: {seconds} exceeds the maximum of {_MAX_AFFINITY_TIMEOUT}")
    return seconds


def endpoint_slice(item: Json) -> SliceFacts | None:
    """Reduce an EndpointSlice of a service."""
    meta = item["metadata"]
    labels = texts(meta, "labels")
    version = {"IPv4": 4, "IPv6": 6}.get(field(item, "addressType", str))
    if not version or not labels.get(SERVICE_NAME) or _HEADLESS in labels:
        return None
    endpoints = []
    for one in field(item, "endpoints", list):
        # kube-proxy uses only the first address.
        address = parse_address((field(one, "addresses", list) or [None])[0])
        # The API rejects special addresses: an endpoint must not lead clients to themselves or to their node.
        if address is None or address.version != version or is_special(address):
            continue
        conditions, hints = field(one, "conditions", dict), field(one, "hints", dict)
        endpoints.append(
            Endpoint(
                address,
                _shared(field(one, "nodeName", str)),
                conditions.get("ready") in (None, True),
                conditions.get("serving") in (None, True),
                conditions.get("terminating") is True,
                frozenset(_shared(zone["name"]) for zone in field(hints, "forZones", list)),
                frozenset(_shared(node["name"]) for node in field(hints, "forNodes", list)),
            )
        )
    return SliceFacts(
        f"{meta['namespace']}/{labels[SERVICE_NAME]}",
        version,
        {
            (field(port, "name", str), _protocol(port)): _port(port, "port")
            for port in field(item, "ports", list)
            if port.get("port")
        },
        tuple(endpoints),
    )
