# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read the REST API of a node's Cilium agent: release, settings in effect, endpoints.

The API is HTTP over a Unix socket. Source: api/v1/openapi.yaml of Cilium 1.15 to 1.20.
"""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .._core.plan import Problem
from .settings import BIG, IPS

SOCKET = "/var/run/cilium/cilium.sock"
TIMEOUT = 10.0  # seconds for one request
POLL = 1.0
NAMESPACE = "k8s:io.kubernetes.pod.namespace="
MAX_BYTES = 64 * 1024 * 1024

Json = dict[str, Any]


class AgentError(Problem):
    """The agent does not answer, or not as its API describes."""


class _Connection(http.client.HTTPConnection):
    """An HTTP connection over a Unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def get(path: str, resource: str, timeout: float = TIMEOUT) -> Any:
    """Return a resource of the agent's API; raises ``AgentError``."""
    connection = _Connection(path, timeout)
    try:
        connection.request("GET", f"/v1/{resource}", headers={"Accept": "application/json"})
        answer = connection.getresponse()
        body = answer.read(MAX_BYTES)
        if answer.status != http.client.OK:
            text = body[:200].decode(errors="replace").strip()
            raise AgentError(
                f"the Cilium agent at {path}: GET /v1/{resource}: HTTP {answer.status} {text}: check its log"
            )
        return json.loads(body)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise AgentError(
            f"the Cilium agent at {path}: GET /v1/{resource}: {error or type(error).__name__}: check that it"
            " runs on this node and that the module runs as root, or set cilium_socket"
        ) from None
    finally:
        connection.close()


def read(path: str, timeout: float = TIMEOUT) -> Json:
    """Return what an agent reports, as ``parse`` describes; raises ``AgentError``."""
    health, config, endpoints = (get(path, name, timeout) for name in ("healthz", "config", "endpoint"))
    return parse(health, config, endpoints)


def parse(health: Any, config: Any, endpoints: Any) -> Json:
    """Return release, state, settings and endpoints from the answers of the API; raises ``AgentError``.

    ``cluster`` has the keys of the ConfigMap that are the same on all nodes, as far as the agent reports
    them. Settings that a release does not report are missing.
    """
    try:
        options = config["status"].get("daemonConfigurationMap") or {}
        cilium = health.get("cilium") or {}
        return {
            "version": str(cilium.get("msg") or "").partition(" ")[0].partition("-")[0],
            "state": str(cilium.get("state") or ""),
            "message": str(cilium.get("msg") or ""),
            "settings": _settings(health, config["status"], options),
            "cluster": _cluster(health, options),
            "devices": list((health.get("kube-proxy-replacement") or {}).get("devices") or []),
            "endpoints": [found for one in endpoints for found in [_endpoint(one)] if found],
        }
    except (AttributeError, KeyError, TypeError, IndexError) as error:
        raise AgentError(
            f"the Cilium agent's answer is not of the API of 1.15 to 1.20: {error!r}: check its release"
        ) from None


def _settings(health: Json, status: Json, options: Json) -> dict[str, str]:
    families = [ip for ip in IPS if _has_big_tcp(health.get(f"{ip}-big-tcp") or {})]
    bandwidth = health.get("bandwidth-manager") or {}
    mode = health.get("datapath-mode") or status.get("datapathMode") or options.get("DatapathMode")
    bbr = bandwidth.get("enabled") and bandwidth.get("congestionControl") == "bbr"
    return {
        "host_routing": _host_routing(health, options),
        "device_mode": str(mode or "veth"),
        "big_tcp": "enabled" if len(families) == len(IPS) else families[0] if families else "disabled",
        "bbr": "enabled" if bbr else "disabled",
    }


def _has_big_tcp(status: Json) -> bool:
    """Return whether a family has BIG TCP: a device may prevent it although it is reported as enabled."""
    return bool(status.get("enabled")) and int(status.get("maxGSO") or 0) > BIG


def _host_routing(health: Json, options: Json) -> str:
    mode = (health.get("routing") or {}).get("intra-host-routing-mode")
    if mode:
        return "bpf" if mode == "BPF" else "legacy"
    unsafe = options.get("UnsafeDaemonConfigOption") or {}
    # 1.15 reports it only among its options.
    legacy = options.get("EnableHostLegacyRouting", unsafe.get("EnableHostLegacyRouting", True))
    return "legacy" if legacy else "bpf"


def _cluster(health: Json, options: Json) -> dict[str, str]:
    routing = (health.get("routing") or {}).get("inter-host-routing-mode") or options.get("RoutingMode")
    replacement = (health.get("kube-proxy-replacement") or {}).get("mode")
    found = {
        "routing-mode": str(routing or "").lower(),
        "kube-proxy-replacement": str(replacement in ("True", "Strict")).lower() if replacement else "",
        "enable-ipv4": str(options["EnableIPv4"]).lower() if "EnableIPv4" in options else "",
        "enable-ipv6": str(options["EnableIPv6"]).lower() if "EnableIPv6" in options else "",
    }
    return {key: value for key, value in found.items() if value}


def _endpoint(one: Json) -> Json | None:
    """Return an endpoint of a Pod with its device in the host's namespace; None for the agent's own."""
    status = one.get("status") or {}
    names = status.get("external-identifiers") or {}
    network = status.get("networking") or {}
    namespace, _separator, name = str(names.get("pod-name") or "").partition("/")
    if not name:
        namespace, name = str(names.get("k8s-namespace") or ""), str(names.get("k8s-pod-name") or "")
    # 1.20 reports no names, but the attachment of the plugin.
    if not name and not names.get("cni-attachment-id"):
        return None
    if not namespace:
        namespace = _namespace((status.get("identity") or {}).get("labels") or [])
    return {
        "id": int(one["id"]),
        "namespace": namespace,
        "name": name,
        "state": str(status.get("state") or ""),
        "device": str(network.get("interface-name") or ""),
        "container_device": str(network.get("container-interface-name") or ""),
        "addresses": [
            address
            for pair in network.get("addressing") or []
            for address in (pair.get("ipv4"), pair.get("ipv6"))
            if address
        ],
    }


def _namespace(labels: Iterable[str]) -> str:
    """Return the namespace of a Pod from the labels of its identity; empty if they do not contain it."""
    found = (label[len(NAMESPACE) :] for label in labels if label.startswith(NAMESPACE))
    return next(found, "")


def differences(found: Mapping[str, Any], expected: Mapping[str, str]) -> list[str]:
    """Return the settings with another value than expected, and the agent's state if it is not Ok."""
    settings = found["settings"]
    result = [
        f"{name} is {settings.get(name)} instead of {value}"
        for name, value in expected.items()
        if settings.get(name) != value
    ]
    # A warning does not concern the datapath, such as one about unreachable peers.
    if found["state"] not in ("Ok", "Warning"):
        result.append(f"the agent's state is {found['state'] or 'unknown'}: {found['message']}")
    return result


def wait(
    path: str,
    expected: Mapping[str, str],
    timeout: float,
    sleep: Callable[[float], None] = time.sleep,
) -> Json:
    """Wait until the agent answers, and has the expected settings if there are any.

    Raises ``AgentError`` after ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            found = read(path)
            missing = differences(found, expected) if expected else []
            if not missing:
                return found
            reason = "; ".join(missing)
        except AgentError as error:
            reason = str(error)
        if time.monotonic() >= deadline:
            if not expected:
                raise AgentError(reason)
            raise AgentError(
                f"the Cilium agent does not have the expected settings after {timeout:g} s: {reason}: check"
                " its log, or set a longer cilium_timeout"
            )
        sleep(POLL)
