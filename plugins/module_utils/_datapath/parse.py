# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What one owner declares, turned into objects, with all that is wrong. Private to this collection."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from typing import Any

from .model import (
    DIRECTIONS,
    EGRESS,
    INGRESS,
    PROTOCOLS,
    Address,
    Backend,
    CidrSelector,
    Declaration,
    Expression,
    HostSelector,
    Masquerade,
    Network,
    Pod,
    PodSelector,
    Policy,
    Ports,
    Rule,
    Selector,
    Service,
)

PEERS = {"ingress": "from", "egress": "to"}

WITH_PORTS = (6, 17, 132)
WITH_TYPES = (1, 58)
SERVICE_PROTOCOLS = ("tcp", "udp")

RATE_UNITS = {"bit": 1, "kbit": 10**3, "mbit": 10**6, "gbit": 10**9}
# A packet of 64 KiB takes half a second at this rate; fq drops what is to leave ten seconds ahead.
MIN_RATE, MAX_RATE = 10**6, 10**12  # bit/s

MAX_WEIGHT = 100


class Problems(list[str]):
    """What is wrong so far, each with the place it was found at."""

    def say(self, where: str, what: str) -> None:
        self.append(f"{where}: {what}")


def parse_address(text: str) -> Address:
    """Return an address that packets can be routed to; a prefix length is ignored.

    Raises ValueError saying what is wrong.
    """
    try:
        address = ipaddress.ip_interface(text).ip
    except ValueError:
        raise ValueError(f"'{text}' is no IPv4 or IPv6 address") from None
    if address.is_multicast or address.is_unspecified or address.is_loopback or address.is_link_local:
        raise ValueError(f"'{text}' is no address that packets are routed to")
    return address


def parse_network(text: str) -> Network:
    """Return a network; raise ValueError saying what is wrong."""
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        try:
            meant = ipaddress.ip_network(text, strict=False)
        except ValueError:
            raise ValueError(f"'{text}' is no IPv4 or IPv6 network") from None
        raise ValueError(f"'{text}' has bits set after its prefix; give {meant}") from None


def parse_rate(text: str | int) -> int:
    """Return bytes a second; raise ValueError saying what is wrong."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kmg]?bit)", str(text).strip().lower())
    if not match:
        raise ValueError(f"'{text}' is no rate; write it as 100mbit, with one of {', '.join(RATE_UNITS)}")
    rate = round(float(match[1]) * RATE_UNITS[match[2]])
    if not MIN_RATE <= rate <= MAX_RATE:
        raise ValueError(f"'{text}' is out of what can be paced: 1mbit to 1000gbit")
    return rate // 8


def _networks(texts: Iterable[str], where: str, problems: Problems) -> list[Network]:
    found: list[Network] = []
    for text in texts:
        try:
            network = parse_network(text)
        except ValueError as error:
            problems.say(where, str(error))
            continue
        for other in found:
            if network.version == other.version and network.overlaps(other):
                problems.say(where, f"{network} and {other} overlap; give the wider one alone")
        found.append(network)
    return found


# ---------------------------------------------------------------- Pods


def _pod(raw: Mapping[str, Any], owner: str, node: str, where: str, problems: Problems) -> Pod:
    addresses = []
    for text in raw.get("addresses") or ():
        try:
            addresses.append(parse_address(text))
        except ValueError as error:
            problems.say(f"{where}: addresses", str(error))
    rate = 0
    if raw.get("rate"):
        try:
            rate = parse_rate(raw["rate"])
        except ValueError as error:
            problems.say(f"{where}: rate", str(error))
    labels = {key: str(value) for key, value in (raw.get("labels") or {}).items()}
    return Pod(
        raw.get("name") or raw.get("device") or "",
        owner,
        tuple(addresses),
        labels,
        raw.get("node") or node,
        raw.get("device") or "",
        rate,
        bool(raw.get("masquerade")),
        raw.get("anti_spoof") is not False,
    )


# ---------------------------------------------------------------- policies


def _pod_selector(raw: Mapping[str, Any], where: str, problems: Problems) -> PodSelector:
    labels = frozenset((key, str(value)) for key, value in (raw.get("labels") or {}).items())
    expressions = []
    for index, one in enumerate(raw.get("expressions") or ()):
        values = frozenset(str(value) for value in one.get("values") or ())
        if (one["operator"] in ("In", "NotIn")) != bool(values):
            problems.say(
                f"{where}: expressions[{index}]",
                f"values: In and NotIn need some, {one['operator']} is given {len(values)}",
            )
        expressions.append(Expression(one["key"], one["operator"], values))
    names = raw.get("names")
    if names is not None and not names:
        problems.say(f"{where}: names", "the list is empty; leave it out, or name Pods")
    return PodSelector(labels, tuple(expressions), frozenset(names or ()))


def _peer(raw: Mapping[str, Any], where: str, problems: Problems) -> Selector:
    given = {key for key in ("labels", "expressions", "names", "cidr", "host") if raw.get(key) is not None}
    by_pod = given & {"labels", "expressions", "names"}
    if raw.get("host") is False or len(given - by_pod) + bool(by_pod) != 1:
        problems.say(where, "give one of: labels, expressions and names; cidr; host: true")
        return HostSelector()
    if raw.get("except") and "cidr" not in given:
        problems.say(f"{where}: except", "there is no cidr to except from")
    if "host" in given:
        return HostSelector()
    if by_pod:
        return _pod_selector(raw, where, problems)
    networks = _networks([raw["cidr"]], f"{where}: cidr", problems)
    excluded = _networks(raw.get("except") or (), f"{where}: except", problems)
    if not networks:
        return HostSelector()
    network = networks[0]
    for one in excluded:
        if one.version != network.version or not one.subnet_of(network):  # type: ignore[arg-type]
            problems.say(f"{where}: except", f"{one} is no part of {network}")
        elif one == network:
            problems.say(f"{where}: except", f"{one} is all of the cidr, nothing would be left")
    return CidrSelector(network, frozenset(excluded))


def _ports(raw: Mapping[str, Any], where: str, problems: Problems) -> Ports:
    name = str(raw.get("protocol") or "tcp").lower()
    protocol = PROTOCOLS.get(name) or (int(name) if name.isdigit() else 0)
    if not 0 < protocol < 256:
        problems.say(
            f"{where}: protocol", f"'{name}' is none of {', '.join(PROTOCOLS)} and no number below 256"
        )
        return Ports()
    first, last = raw.get("port"), raw.get("end_port")
    kind, code = raw.get("type"), raw.get("code")
    if (first, last) != (None, None) and protocol not in WITH_PORTS:
        problems.say(where, f"port: {name} has no ports")
    elif (kind, code) != (None, None) and protocol not in WITH_TYPES:
        problems.say(where, f"type: {name} has no types; icmp and icmpv6 have")
    elif first is None and last is not None:
        problems.say(where, f"end_port: {last} has no port to begin with")
    elif kind is None and code is not None:
        problems.say(where, f"code: {code} has no type")
    for option, value, limit in (("port", first, 65535), ("type", kind, 255), ("code", code, 255)):
        if value is not None and not 0 <= value <= limit:
            problems.say(f"{where}: {option}", f"{value} is outside 0 to {limit}")
    if first is not None:
        last = first if last is None else last
        if not first <= last <= 65535:
            problems.say(f"{where}: end_port", f"{last} is outside {first} to 65535")
        return Ports(protocol, first, last)
    if kind is not None:
        return Ports(protocol, kind << 8 | (code or 0), kind << 8 | (0xFF if code is None else code))
    return Ports(protocol)


def _policy(raw: Mapping[str, Any], owner: str, where: str, problems: Problems) -> Policy:
    rules = []
    defaults: list[bool | None] = [None, None]
    for word, direction in DIRECTIONS.items():
        if raw.get(word) is None:
            if raw.get(f"{word}_default"):
                problems.say(f"{where}: {word}_default", f"there is no {word}; give it, [] for no rules")
            continue
        defaults[direction] = raw.get(f"{word}_default") == "allow"
        for index, rule in enumerate(raw[word]):
            at = f"{where}: {word}[{index}]"
            peers = [
                _peer(peer, f"{at}.{PEERS[word]}[{number}]", problems)
                for number, peer in enumerate(rule.get(PEERS[word]) or ())
            ]
            for number, peer in enumerate(peers):
                if isinstance(peer, CidrSelector) and peer in peers[:number]:
                    problems.say(f"{at}.{PEERS[word]}[{number}]: cidr", f"{peer.network} is listed twice")
            ports = [
                _ports(one, f"{at}.ports[{number}]", problems)
                for number, one in enumerate(rule.get("ports") or ())
            ]
            rules.append(Rule(direction, rule.get("action") != "deny", tuple(peers), tuple(ports)))
    if defaults == [None, None]:
        problems.say(where, "it has neither ingress nor egress; give one, [] for no rules")
    subject = _pod_selector(raw.get("pods") or {}, f"{where}: pods", problems)
    return Policy(
        raw["name"],
        owner,
        subject,
        tuple(rules),
        (defaults[INGRESS], defaults[EGRESS]),
        bool(raw.get("optional")),
    )


# ---------------------------------------------------------------- services


def _port(value: int, where: str, problems: Problems) -> int:
    if not 0 < value <= 65535:
        problems.say(where, f"port: {value} is outside 1 to 65535")
    return value


def _service(raw: Mapping[str, Any], owner: str, where: str, problems: Problems) -> Service | None:
    protocol = raw.get("protocol") or "tcp"
    if protocol not in SERVICE_PROTOCOLS:
        problems.say(f"{where}: protocol", f"'{protocol}' is none of {', '.join(SERVICE_PROTOCOLS)}")
    try:
        address = parse_address(raw["address"])
    except ValueError as error:
        problems.say(f"{where}: address", str(error))
        return None
    port = _port(raw["port"], where, problems)
    backends: list[Backend] = []
    selected = []
    for index, one in enumerate(raw.get("backends") or ()):
        at = f"{where}: backends[{index}]"
        target = port if one.get("port") is None else _port(one["port"], at, problems)
        weight = 1 if one.get("weight") is None else one["weight"]
        if not 0 <= weight <= MAX_WEIGHT:
            problems.say(at, f"weight: {weight} is outside 0 to {MAX_WEIGHT}")
        by_pod = any(one.get(key) is not None for key in ("labels", "names"))
        if by_pod == (one.get("address") is not None):
            problems.say(at, "give either an address, or labels or names of Pods")
        elif by_pod:
            selected.append((_pod_selector(one, at, problems), target, weight))
        else:
            try:
                backend = Backend(parse_address(one["address"]), target, weight)
            except ValueError as error:
                problems.say(f"{at}: address", str(error))
                continue
            if backend.address.version != address.version:
                problems.say(
                    at, f"{backend.address} is IPv{backend.address.version}, the service IPv{address.version}"
                )
            if any((b.address, b.port) == (backend.address, backend.port) for b in backends):
                problems.say(at, f"{backend.address} port {backend.port} is listed twice")
            backends.append(backend)
    return Service(
        raw["name"],
        owner,
        address,
        port,
        PROTOCOLS.get(protocol, 0),
        tuple(backends),
        tuple(selected),
    )


# ---------------------------------------------------------------- one owner's options


def parse(options: Mapping[str, Any], owner: str) -> tuple[Declaration, list[str]]:
    """Return what one owner declares, and everything that is wrong with it taken by itself."""
    problems = Problems()
    declaration = Declaration()
    node = options.get("node") or ""
    for option in ("endpoints", "remote_pods"):
        for index, raw in enumerate(options.get(option) or ()):
            name = raw.get("name") or raw.get("device") or ""
            declaration.pods.append(_pod(raw, owner, node, f"{option}[{index}] ({name})", problems))
    names: set[str] = set()
    for index, raw in enumerate(options.get("policies") or ()):
        where = f"policies[{index}] ({raw['name']})"
        if raw["name"] in names:
            problems.say(where, "another policy has this name")
        names.add(raw["name"])
        declaration.policies.append(_policy(raw, owner, where, problems))
    names = set()
    for index, raw in enumerate(options.get("services") or ()):
        where = f"services[{index}] ({raw['name']})"
        if raw["name"] in names:
            problems.say(where, "another service has this name")
        names.add(raw["name"])
        service = _service(raw, owner, where, problems)
        if service:
            declaration.services.append(service)
    masquerade = options.get("masquerade") or {}
    addresses: dict[int, Any] = {}
    for version, option in ((4, "ipv4"), (6, "ipv6")):
        if masquerade.get(option):
            try:
                address = parse_address(masquerade[option])
            except ValueError as error:
                problems.say(f"masquerade: {option}", str(error))
                continue
            if address.version != version:
                problems.say(f"masquerade: {option}", f"{address} is IPv{address.version}")
            addresses[version] = address
    excluded = _networks(masquerade.get("except") or (), "masquerade: except", problems)
    declaration.masquerade = Masquerade(addresses.get(4), addresses.get(6), frozenset(excluded))
    return declaration, problems
