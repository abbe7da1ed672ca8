# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Convert options to the desired state of Pods, and collect all invalid values. Pure."""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .._kernel import netns
from .model import DEFAULT_ROUTES, GATEWAYS, SIZES, Desired, Device, End, Route, State, down

IPV4_TCP = 40  # bytes of an IPv4 and a TCP header without options
MIN_ADVMSS = 256  # net.ipv4.route.min_adv_mss; the kernel advertises at least that
MAX_SIZE = 8 * 65535  # GSO_MAX_SIZE of linux/netdevice.h, bytes
MIN_MTU, MIN_MTU6, MAX_MTU = 68, 1280, 65535  # RFC 791, RFC 8200, ETH_MAX_MTU; bytes

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?\Z")
_OWNER = re.compile(r"[A-Za-z0-9_-]{1,63}\Z")


def host_interface_of(name: str) -> str:
    """Return the default name of a Pod's host end: 14 characters, the same in every run."""
    return "pn" + hashlib.sha256(name.encode()).hexdigest()[:12]


def mac_of(name: str, end: str) -> str:
    """Return a stable, locally administered MAC address for one end of a Pod's device in L2 mode."""
    digest = hashlib.sha256(f"{end}/{name}".encode()).digest()
    return ":".join(f"{byte:02x}" for byte in b"\x02" + digest[:5])


def interface_problem(name: str) -> str | None:
    """Return why an interface name is invalid (dev_valid_name() of net/core/dev.c), None if it is valid."""
    if not name or len(name.encode()) > 15:
        return "must have 1 to 15 bytes"
    if name in (".", "..", "lo", "all", "default"):
        return "is a reserved name"
    if re.search(r"[\s/:%]", name):
        return "must not contain blanks, '/', ':' or '%'"
    return None


def _address(text: str) -> str:
    """Return an address in canonical form with prefix length; raise ``ValueError`` with the reason."""
    try:
        address = ipaddress.ip_interface(text)
    except ValueError:
        raise ValueError("is not an IP address; write it as 10.0.0.1/32 or fd00::1/128") from None
    if address.ip.is_multicast or address.ip.is_unspecified or address.ip.is_loopback:
        raise ValueError("is not an address that a Pod can have; use a unicast address")
    if address.ip.is_link_local:
        raise ValueError("is link-local; omit it, because the kernel manages link-local addresses")
    return str(address)


def _route(entry: Mapping[str, Any]) -> Route:
    """Return a route of the host in canonical form; raise ``ValueError`` with the reason."""
    try:
        to = ipaddress.ip_network(entry["to"])
    except ValueError as error:
        raise ValueError(f"to: {entry['to']!r} is not a network: {error}") from None
    via, dev = "", entry.get("dev") or ""
    if entry.get("via"):
        try:
            hop = ipaddress.ip_address(entry["via"])
        except ValueError:
            raise ValueError(f"via: {entry['via']!r} is not an IP address") from None
        if hop.version != to.version:
            raise ValueError(f"via: {hop} and to: {to} have different address families")
        via = str(hop)
    if dev and interface_problem(dev):
        raise ValueError(f"dev: {dev!r} {interface_problem(dev)}")
    if not dev:
        raise ValueError(f"dev: missing for {to}")
    return Route(str(to), via, dev)


def _mtu_problem(mtu: int | None, addresses: Iterable[str]) -> str | None:
    if mtu is None:
        return None
    has_ipv6 = any(":" in address for address in addresses)
    minimum = MIN_MTU6 if has_ipv6 else MIN_MTU
    if minimum <= mtu <= MAX_MTU:
        return None
    return f"mtu: {mtu} is outside {minimum} to {MAX_MTU}" + (", IPv6 requires 1280" if has_ipv6 else "")


def _advmss_problem(advmss: int | None, mtu: int | None) -> str | None:
    if advmss is None:
        return None
    maximum = (mtu or MAX_MTU) - IPV4_TCP
    if MIN_ADVMSS <= advmss <= maximum:
        return None
    return (
        f"ipv4_advmss: {advmss} is outside {MIN_ADVMSS} to {maximum}, the MTU minus {IPV4_TCP} bytes of"
        " headers: set the mtu that it is meant for as well"
    )


def device_of(
    pod: Mapping[str, Any],
    options: Mapping[str, Any],
    driver: str,
    programs: Mapping[str, int],
    addresses: Sequence[str],
) -> Device:
    """Return the desired device of a valid Pod; ``programs`` has program IDs by direction."""
    name = pod["name"]
    layer2 = driver == "veth" or options["mode"] == "l2"
    mtu = pod.get("mtu") or options.get("mtu")
    common: dict[str, object] = {"up": True}
    if mtu:
        common["mtu"] = mtu
    common.update({size: options[size] for size in SIZES if options.get(size)})
    driver_settings: dict[str, object] = {}
    if driver != "veth":
        driver_settings = {"policy": options["policy"], "peer_policy": options["policy"]}
    if driver == "meta":
        driver_settings.update(programs)
    host, inner = _ends(name, common, layer2, addresses, options.get("ipv4_advmss") or 0)
    return Device(
        name=name,
        driver=driver,
        mode="l2" if layer2 else "l3",
        netns=netns.path_of(pod.get("netns") or name),
        interface=pod.get("interface") or "eth0",
        host_interface=pod.get("host_interface") or host_interface_of(name),
        driver_settings=driver_settings,
        host=host,
        pod=inner,
    )


def _ends(
    name: str, common: Mapping[str, object], layer2: bool, addresses: Sequence[str], advmss: int
) -> tuple[End, End]:
    """Return the host's end and the Pod's end of a device."""
    macs = {end: mac_of(name, end) for end in ("host", "pod")}
    ips = [ipaddress.ip_interface(address).ip for address in addresses]
    versions = sorted({ip.version for ip in ips})
    host = End(
        settings={**common, **({"mac": macs["host"]} if layer2 else {})},
        neighbours=frozenset((str(ip), macs["pod"]) for ip in ips) if layer2 else frozenset(),
        routes=frozenset(Route(f"{ip}/{ip.max_prefixlen}") for ip in ips),
    )
    pod = End(
        settings={**common, "loopback": True, **({"mac": macs["pod"]} if layer2 else {})},
        addresses=frozenset(addresses),
        neighbours=frozenset((GATEWAYS[v], macs["host"]) for v in versions) if layer2 else frozenset(),
        routes=frozenset(
            Route(DEFAULT_ROUTES[v], GATEWAYS[v] if layer2 else "", advmss=advmss if v == 4 else 0)
            for v in versions
        ),
    )
    return host, pod


@dataclass
class _Parser:
    """Collects problems of one call, and values that two Pods must not share."""

    options: Mapping[str, Any]
    problems: list[str] = field(default_factory=list)
    used: dict[tuple[str, str], str] = field(default_factory=dict)

    def _claim(self, option: str, value: str, pod: str) -> str | None:
        """Return the problem if another Pod uses the value, else record it."""
        if (option, value) in self.used:
            return f"{option}: {value} is already used by {self.used[option, value]}"
        self.used[option, value] = pod
        return None

    def pod(self, label: str, pod: Mapping[str, Any]) -> list[str] | None:
        """Return a Pod's addresses in canonical form, None if the Pod is invalid."""
        name = pod["name"]
        namespace = pod.get("netns") or name
        found: list[str | None] = []
        if not _NAME.match(name):
            found.append(f"name: {name!r} must have at most 63 letters, digits, '-', '_' or '.'")
        if not namespace.startswith("/") and not _NAME.match(namespace):
            found.append(
                f"netns: {namespace!r} must be a name of letters, digits, '-', '_' and '.', or an absolute"
                f" path"
            )
        interfaces = {
            "interface": pod.get("interface") or "eth0",
            "host_interface": pod.get("host_interface") or host_interface_of(name),
        }
        for option, interface in interfaces.items():
            if interface_problem(interface):
                found.append(f"{option}: {interface!r} {interface_problem(interface)}")
        addresses: list[str] = []
        for text in pod.get("addresses") or []:
            try:
                addresses.append(_address(text))
            except ValueError as error:
                found.append(f"addresses: {text!r} {error}")
        mtu = pod.get("mtu") or self.options.get("mtu")
        found.append(_mtu_problem(mtu, addresses))
        found.append(_advmss_problem(self.options.get("ipv4_advmss"), mtu))
        duplicate = self._claim("name", name, label)
        found.append(duplicate)
        if not duplicate:  # the other defaults are derived from the name
            found.append(self._claim("netns", netns.path_of(namespace), label))
            found.append(self._claim("host_interface", interfaces["host_interface"], label))
        ips = [str(ipaddress.ip_interface(address).ip) for address in addresses]
        found += [self._claim("addresses", ip, label) for ip in ips]
        problems = [problem for problem in found if problem]
        self.problems += [f"{label}: {problem}" for problem in problems]
        return None if problems else addresses

    def host_routes(self) -> frozenset[Route]:
        """Return the valid routes of the host."""
        routes: dict[str, Route] = {}
        for index, entry in enumerate(self.options.get("host_routes") or []):
            try:
                route = _route(entry)
            except ValueError as error:
                self.problems.append(f"host_routes[{index}]: {error}")
                continue
            if route.to in routes:
                self.problems.append(f"host_routes[{index}]: to: {route.to} is declared twice")
            routes[route.to] = route
        return frozenset(routes.values())


def parse(
    options: Mapping[str, Any], drivers: Mapping[str, str], programs: Mapping[str, int]
) -> tuple[Desired, list[str]]:
    """Return the desired state and the problems of the options.

    ``drivers`` has the driver for each value of the option ``driver`` (auto among them), ``programs`` the
    program IDs by direction for meta devices. The state omits invalid Pods, so that the others can still be
    checked for conflicts with the node.
    """
    parser = _Parser(options)
    devices: dict[str, Device] = {}
    existing: set[str] = set()
    if not _OWNER.match(options["owner"]):
        parser.problems.append(
            f"owner: {options['owner']!r} must have at most 63 letters, digits, '-' or '_'"
        )
    for size in SIZES:
        if options.get(size) is not None and not 1 <= options[size] <= MAX_SIZE:
            parser.problems.append(f"{size}: {options[size]} is outside 1 to {MAX_SIZE} bytes")
    for index, pod in enumerate(options["pods"]):
        addresses = parser.pod(f"pods[{index}] ({pod['name']})", pod)
        if addresses is None:
            continue
        driver = drivers[pod.get("driver") or options["driver"]]
        device = device_of(pod, options, driver, programs, addresses)
        devices[device.name] = device if options.get("up", True) else down(device)
        if (pod.get("netns") or "").startswith("/"):
            existing.add(device.netns)
    namespaces = frozenset(device.netns for device in devices.values()) - existing
    state = State(devices, namespaces, parser.host_routes())
    return Desired(state, frozenset(existing)), parser.problems
