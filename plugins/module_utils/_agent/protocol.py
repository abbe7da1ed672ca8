# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests of the CNI plugin, and results and errors in the format of the CNI specification. Pure.

A request has the plugin's environment variables as ``NAME=value``, each ended by a NUL, an empty string, and
the plugin's standard input. The response has the plugin's exit status in decimal, a newline, and what the
plugin writes to standard output.

Source: Container Network Interface Specification 1.1.0, sections 2, 4 and 5.
"""

from __future__ import annotations

import ipaddress
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .._pods.parse import interface_problem

COMMANDS = ("ADD", "DEL", "CHECK", "GC", "STATUS")
VERSIONS = ("0.4.0", "1.0.0", "1.1.0")
MAX_REQUEST = 1 << 20  # bytes
_MAX_MESSAGE = 1000  # characters, as messages contain values of the request

# Error codes of the specification, and own ones
INCOMPATIBLE_VERSION, UNSUPPORTED_FIELD, UNKNOWN_CONTAINER, INVALID_ENVIRONMENT = 1, 2, 3, 4
IO_FAILURE, DECODING_FAILURE, INVALID_CONFIG, TRY_AGAIN = 5, 6, 7, 11
NOT_AVAILABLE = 50
FAILED, DIFFERS = 100, 101

_CONTAINER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,254}\Z")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,254}\Z")


class CniError(Exception):
    """An error that the plugin reports to the runtime."""

    def __init__(self, code: int, message: str, details: str = "") -> None:
        super().__init__(message if len(message) <= _MAX_MESSAGE else f"{message[:_MAX_MESSAGE]}...")
        self.code, self.details = code, details


@dataclass(frozen=True)
class Request:
    """A validated request.

    ``pod`` is ``namespace/name`` if the runtime belongs to Kubernetes, else empty; ``uid`` is empty if the
    runtime does not pass it. ADD has rates in bit/s, 0 for none, and ``host_ports`` as the datapath declares
    them. ``valid`` are the attachments (container ID, interface) that GC keeps. ``is_abandoned`` returns
    whether the plugin was killed.
    """

    command: str
    version: str
    network: str
    config: Mapping[str, Any]
    variables: Mapping[str, str]
    container: str = ""
    interface: str = ""
    netns: str = ""
    pod: str = ""
    uid: str = ""
    egress_rate: int = 0
    ingress_rate: int = 0
    host_ports: Sequence[Mapping[str, Any]] = ()
    previous: Mapping[str, Any] | None = None
    valid: frozenset[tuple[str, str]] = field(default_factory=frozenset)
    is_abandoned: Callable[[], bool] = field(default=lambda: False, compare=False)

    @property
    def ipam(self) -> dict[str, Any]:
        """Return the configuration of the IPAM plugin, empty if there is none."""
        return dict(self.config.get("ipam") or {})

    @property
    def shown(self) -> str:
        """Return the name of the Pod for messages."""
        return self.pod or self.container


def split_request(raw: bytes) -> tuple[dict[str, str], bytes]:
    """Return the variables and the standard input of a request. Raises ``CniError``."""
    head, found, body = raw.partition(b"\0\0")
    if raw.startswith(b"\0"):
        head, found, body = b"", b"\0", raw[1:]
    if not found:
        raise CniError(IO_FAILURE, "the request of the plugin is truncated")
    variables = {}
    for line in head.split(b"\0") if head else ():
        name, equals, value = line.decode(errors="backslashreplace").partition("=")
        if not equals or not name.startswith("CNI_"):
            raise CniError(IO_FAILURE, f"the request of the plugin has an invalid variable: {name!r}")
        try:
            line.decode()
        except UnicodeDecodeError:
            raise CniError(INVALID_ENVIRONMENT, f"{name}: {value} is not valid UTF-8") from None
        variables[name] = value
    return variables, body


def parse_request(raw: bytes) -> Request:
    """Return a request. Raises ``CniError``."""
    variables, body = split_request(raw)
    command = variables.get("CNI_COMMAND", "")
    if command not in COMMANDS:
        raise CniError(
            INVALID_ENVIRONMENT,
            f"CNI_COMMAND: {command!r} is not supported; use one of {', '.join(COMMANDS)}",
        )
    try:
        config = json.loads(body.decode())
    except (ValueError, RecursionError) as error:
        raise CniError(DECODING_FAILURE, f"the network configuration is not valid JSON: {error}") from None
    if not isinstance(config, dict):
        raise CniError(DECODING_FAILURE, "the network configuration is not a JSON object")
    version = config.get("cniVersion")
    if version not in VERSIONS:
        raise CniError(
            INCOMPATIBLE_VERSION,
            f"cniVersion: {version!r} is not supported; use one of {', '.join(VERSIONS)}",
        )
    if command in ("GC", "STATUS") and version != "1.1.0":
        raise CniError(
            INVALID_ENVIRONMENT, f"CNI_COMMAND: {command} requires cniVersion 1.1.0, not {version}"
        )
    _check_config(config)
    container, interface, netns = _target(command, variables)
    arguments = _arguments(variables.get("CNI_ARGS", ""))
    namespace, name = arguments.get("K8S_POD_NAMESPACE", ""), arguments.get("K8S_POD_NAME", "")
    # Only for ADD, as DEL must succeed after an ADD that has rejected them.
    runtime = _object(config, "runtimeConfig") if command == "ADD" else {}
    bandwidth = _without_case(_object(runtime, "bandwidth", "runtimeConfig."))
    return Request(
        command=command,
        version=version,
        network=config["name"],
        config=config,
        variables=variables,
        container=container,
        interface=interface,
        netns=netns,
        pod=f"{namespace}/{name}" if namespace and name else "",
        uid=arguments.get("K8S_POD_UID", ""),
        egress_rate=_rate(bandwidth, "egressRate"),
        ingress_rate=_rate(bandwidth, "ingressRate"),
        host_ports=_host_ports(runtime),
        previous=config.get("prevResult"),
        valid=_valid(config) if command == "GC" else frozenset(),
    )


def _object(config: Mapping[str, Any], key: str, prefix: str = "") -> dict[str, Any]:
    value = config.get(key)
    if value is not None and not isinstance(value, dict):
        raise CniError(INVALID_CONFIG, f"{prefix}{key}: must be an object, not {type(value).__name__}")
    return dict(value or {})


def _without_case(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return an object with keys in lower case: containerd writes HostPort, which plugins in Go accept."""
    return {key.lower(): value for key, value in raw.items()}


def _check_config(config: Mapping[str, Any]) -> None:
    name = config.get("name")
    if not isinstance(name, str) or not _NAME.match(name):
        raise CniError(INVALID_CONFIG, f"name: {name!r} is not a valid name of a network")
    ipam = _object(config, "ipam")
    kind = ipam.get("type")
    if ipam and (not isinstance(kind, str) or not _NAME.match(kind)):
        raise CniError(INVALID_CONFIG, f"ipam.type: {kind!r} is not a valid name of a plugin")
    _object(config, "prevResult")


def _target(command: str, variables: Mapping[str, str]) -> tuple[str, str, str]:
    """Return container ID, interface name and path of the namespace, as far as the command needs them."""
    if command in ("GC", "STATUS"):
        return "", "", ""
    container, interface = variables.get("CNI_CONTAINERID", ""), variables.get("CNI_IFNAME", "")
    netns = variables.get("CNI_NETNS", "")
    if not _CONTAINER.match(container):
        raise CniError(INVALID_ENVIRONMENT, f"CNI_CONTAINERID: {container!r} is not a valid container ID")
    problem = interface_problem(interface)
    if problem:
        raise CniError(INVALID_ENVIRONMENT, f"CNI_IFNAME: {interface!r} {problem}")
    if command != "DEL" and not netns:
        raise CniError(INVALID_ENVIRONMENT, f"CNI_NETNS: {command} requires the path of a network namespace")
    if netns and not netns.startswith("/"):
        raise CniError(INVALID_ENVIRONMENT, f"CNI_NETNS: {netns!r} is not an absolute path")
    return container, interface, netns


def uid_in(variables: Mapping[str, str]) -> str:
    """Return the UID of the Pod that a request concerned, empty if the runtime does not pass it."""
    return _arguments(variables.get("CNI_ARGS", "")).get("K8S_POD_UID", "")


def _arguments(text: str) -> dict[str, str]:
    """Return the pairs of CNI_ARGS."""
    pairs = {}
    for part in text.split(";") if text else ():
        key, equals, value = part.partition("=")
        if not equals:
            raise CniError(INVALID_ENVIRONMENT, f"CNI_ARGS: {part!r} has no '='")
        pairs[key] = value
    return pairs


def _rate(bandwidth: Mapping[str, Any], key: str) -> int:
    value = bandwidth.get(key.lower()) or 0
    valid = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not valid or not 0 <= value < math.inf or value != int(value):
        raise CniError(
            INVALID_CONFIG, f"runtimeConfig.bandwidth.{key}: {value!r} is not a number of bits per second"
        )
    return int(value)


def _host_ports(runtime: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """Return the port mappings as host ports of an endpoint."""
    value = runtime.get("portMappings")
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise CniError(INVALID_CONFIG, "runtimeConfig.portMappings: must be a list of objects")
    found = []
    for index, one in enumerate(value):
        try:
            found.append(_host_port(_without_case(one)))
        except ValueError as error:
            raise CniError(INVALID_CONFIG, f"runtimeConfig.portMappings[{index}]: {error}") from None
    return tuple(found)


def _host_port(raw: Mapping[str, Any]) -> dict[str, Any]:
    for key in ("hostPort", "containerPort"):
        value = raw.get(key.lower())
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 65535:
            raise ValueError(f"{key}: {value!r} is not a port from 1 to 65535")
    protocol = raw.get("protocol", "tcp")
    if not isinstance(protocol, str) or protocol.lower() not in ("tcp", "udp", "sctp"):
        raise ValueError(f"protocol: {protocol!r} is not one of tcp, udp, sctp")
    port, target = raw["hostport"], raw["containerport"]
    if protocol.lower() == "sctp" and port != target:
        raise ValueError(
            f"hostPort: {port} is not the containerPort {target}, as SCTP requires: its ports cannot be"
            " translated"
        )
    found = {"port": port, "target": target, "protocol": protocol.lower()}
    host_ip = raw.get("hostip")
    if host_ip is None or host_ip == "":
        return found
    try:
        if not isinstance(host_ip, str) or "%" in host_ip:
            raise ValueError
        return {**found, "address": str(ipaddress.ip_address(host_ip))}
    except ValueError:
        raise ValueError(f"hostIP: {host_ip!r} is not an IPv4 or IPv6 address") from None


def _valid(config: Mapping[str, Any]) -> frozenset[tuple[str, str]]:
    value = config.get("cni.dev/valid-attachments")
    if not isinstance(value, list):
        raise CniError(INVALID_CONFIG, "cni.dev/valid-attachments: GC requires a list")
    found = set()
    for one in value:
        if not isinstance(one, dict) or not all(
            isinstance(one.get(key), str) for key in ("containerID", "ifname")
        ):
            raise CniError(
                INVALID_CONFIG, "cni.dev/valid-attachments: each entry requires containerID and ifname"
            )
        found.add((one["containerID"], one["ifname"]))
    return frozenset(found)


def previous_addresses(request: Request) -> set[str] | None:
    """Return the addresses of prevResult, None if the request has no prevResult. Raises ``CniError``."""
    if request.previous is None:
        return None
    entries = request.previous.get("ips") or []
    if not isinstance(entries, list) or not all(
        isinstance(one, dict) and isinstance(one.get("address"), str) for one in entries
    ):
        raise CniError(INVALID_CONFIG, "prevResult.ips: must be a list of objects with an address")
    return {one["address"] for one in entries}


# Responses


def error_response(error: CniError, version: str = VERSIONS[-1]) -> bytes:
    """Return the response for an error."""
    body: dict[str, Any] = {"cniVersion": version, "code": error.code, "msg": str(error)}
    if error.details:
        body["details"] = error.details
    return b"1\n" + json.dumps(body).encode()


def success_response(result: Mapping[str, Any] | None = None) -> bytes:
    """Return the response for a successful command; only ADD has a result."""
    return b"0\n" + (json.dumps(result).encode() if result is not None else b"")


@dataclass(frozen=True)
class Address:
    """An address of a Pod with its prefix length; the gateway may be empty."""

    address: str
    gateway: str = ""


def result_of(
    version: str,
    interfaces: Sequence[Mapping[str, Any]],
    addresses: Sequence[Address],
    routes: Sequence[Mapping[str, Any]],
    dns: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the result of ADD in a version of the specification.

    ``interfaces`` are the host's end and the Pod's end, which has the addresses.
    """
    ips = []
    for one in addresses:
        entry: dict[str, Any] = {"interface": 1, "address": one.address}
        if one.gateway:
            entry["gateway"] = one.gateway
        if version == "0.4.0":
            entry["version"] = "6" if ":" in one.address else "4"
        ips.append(entry)
    shown = [
        {key: value for key, value in interface.items() if key != "mtu" or version == "1.1.0"}
        for interface in interfaces
    ]
    return {"cniVersion": version, "interfaces": shown, "ips": ips, "routes": list(routes), "dns": dict(dns)}
