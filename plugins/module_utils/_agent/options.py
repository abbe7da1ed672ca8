# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Validate the options of the module and the role ``cni``. Pure; also runs on the controller."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from typing import Any

from .._core.plan import Problem
from .._datapath import parse as declarations
from .._pods import parse as devices
from .._sysctl import keys

_NETWORK = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")  # CNI specification 1.1.0, section 1
_CONFLIST = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*\.conflist")
# What all Pods share must be valid for a Pod of both address families.
_POD = {"name": "pod", "addresses": ["192.0.2.1", "2001:db8::1"]}


def problems(values: Mapping[str, Any]) -> list[str]:
    """Return an error for each invalid value; options that are not given are not checked."""
    return [problem for check in (_names, _agent, _pods) for problem in check(values)]


def _names(values: Mapping[str, Any]) -> Iterator[str]:
    network, conflist, ipam = (values.get(name) for name in ("network", "conflist", "ipam"))
    if network is not None and not _NETWORK.fullmatch(network):
        yield (
            f"network: {network!r} must start with a letter or digit, and have only these and '_', '.', '-'"
        )
    if conflist is not None and not _CONFLIST.fullmatch(conflist):
        yield f"conflist: {conflist!r} must be a file name that ends in .conflist, without a directory"
    if ipam is not None and not isinstance(ipam.get("type"), str):
        yield "ipam: type is missing: set it, for example to host-local"


def _agent(values: Mapping[str, Any]) -> Iterator[str]:
    for value in values.get("pod_cidrs") or ():
        try:
            ipaddress.ip_network(value)
        except ValueError as error:
            yield f"pod_cidrs: {value!r} is not a network: {error}"
    for option in ("kubeconfig", "object", "pin_path", "bin_dir", "conf_dir"):
        path = values.get(option)
        if path and not path.startswith("/"):
            yield f"{option}: {path!r} must be an absolute path on the node"
    if values.get("kube_proxy") == "replace" and not values.get("kubeconfig", "unknown"):
        yield "kube_proxy: replace requires kubeconfig, because services are read from the Kubernetes API"
    address, port = values.get("metrics_address"), values.get("metrics_port") or 0
    if address is not None and not _is_address(address):
        yield f"metrics_address: {address!r} is not an IPv4 or IPv6 address"
    if not 0 <= port <= 65535:
        yield f"metrics_port: {port} is outside 0 to 65535"
    try:
        keys.parse(values.get("sysctls") or {})
    except Problem as problem:
        yield from str(problem).splitlines()


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _pods(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the options that all Pods share."""
    defaults = {"owner": "cni", "driver": "veth", "mode": "l3", "policy": "drop"}
    given = {key: value for key, value in values.items() if value is not None and key != "driver"}
    _desired, found = devices.parse({**defaults, **given, "pods": [_POD]}, {"veth": "veth"}, {})
    yield from (problem.removeprefix("pods[0] (pod): ") for problem in found)
    entries = {name: values.get(name) for name in ("masquerade", "stack_services")}
    _declaration, found = declarations.parse(entries, "cni")
    yield from found
