# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Parse policies of a declaration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .model import (
    DIRECTIONS,
    EGRESS,
    INGRESS,
    PROTOCOLS,
    CidrSelector,
    HostSelector,
    Policy,
    Ports,
    Rule,
    Selector,
)
from .parse_pods import parse_pod_selector
from .values import Problems, parse_networks, parse_number

PEER_OPTIONS = {"ingress": "from", "egress": "to"}
PROTOCOLS_WITH_PORTS = (6, 17, 132)
PROTOCOLS_WITH_TYPES = (1, 58)


def parse_policies(options: Mapping[str, Any], owner: str, problems: Problems) -> list[Policy]:
    """Return the policies; their names must be unique."""
    policies: list[Policy] = []
    names: set[str] = set()
    for index, raw in enumerate(options.get("policies") or ()):
        option = f"policies[{index}] ({raw['name']})"
        if raw["name"] in names:
            problems.add(option, "another policy has the same name")
        names.add(raw["name"])
        policies.append(_policy(raw, owner, option, problems))
    return policies


def _policy(raw: Mapping[str, Any], owner: str, option: str, problems: Problems) -> Policy:
    rules: list[Rule] = []
    defaults: list[bool | None] = [None, None]
    for name, direction in DIRECTIONS.items():
        if raw.get(name) is None:
            if raw.get(f"{name}_default"):
                problems.add(f"{option}: {name}_default", f"it requires {name}; use [] for no rules")
            continue
        defaults[direction] = raw.get(f"{name}_default") == "allow"
        rules += [
            _rule(rule, name, f"{option}: {name}[{index}]", problems) for index, rule in enumerate(raw[name])
        ]
    if defaults == [None, None]:
        problems.add(option, "ingress or egress is required; use [] for no rules")
    return Policy(
        name=raw["name"],
        owner=owner,
        subject=parse_pod_selector(raw.get("pods") or {}, f"{option}: pods", problems),
        rules=tuple(rules),
        defaults=(defaults[INGRESS], defaults[EGRESS]),
        optional=bool(raw.get("optional")),
    )


def _rule(raw: Mapping[str, Any], direction: str, option: str, problems: Problems) -> Rule:
    peers_option = f"{option}.{PEER_OPTIONS[direction]}"
    peers = [
        _peer(peer, f"{peers_option}[{number}]", problems)
        for number, peer in enumerate(raw.get(PEER_OPTIONS[direction]) or ())
    ]
    ports = [
        _ports(one, f"{option}.ports[{number}]", problems)
        for number, one in enumerate(raw.get("ports") or ())
    ]
    return Rule(DIRECTIONS[direction], raw.get("action") != "deny", tuple(peers), tuple(ports))


def _peer(raw: Mapping[str, Any], option: str, problems: Problems) -> Selector:
    """Return the selector of a rule's peer: Pods, a CIDR or the node."""
    given = {key for key in ("labels", "expressions", "names", "cidr", "host") if raw.get(key) is not None}
    by_pod = given & {"labels", "expressions", "names"}
    if raw.get("host") is False or len(given - by_pod) + bool(by_pod) != 1:
        problems.add(option, "set exactly one of: labels, expressions and names; cidr; host: true")
        return HostSelector()
    if raw.get("except") and "cidr" not in given:
        problems.add(f"{option}: except", "it requires cidr")
    if "host" in given:
        return HostSelector()
    if by_pod:
        return parse_pod_selector(raw, option, problems)
    return _cidr(raw, option, problems)


def _cidr(raw: Mapping[str, Any], option: str, problems: Problems) -> Selector:
    networks = parse_networks([raw["cidr"]], f"{option}: cidr", problems)
    excluded = parse_networks(raw.get("except") or (), f"{option}: except", problems)
    if not networks:
        return HostSelector()
    network = networks[0]
    for one in excluded:
        if one.version != network.version or not one.subnet_of(network):  # type: ignore[arg-type]
            problems.add(f"{option}: except", f"{one} is not a subnet of {network}")
        elif one == network:
            problems.add(f"{option}: except", f"{one} excludes the complete cidr")
    return CidrSelector(network, frozenset(excluded))


def _ports(raw: Mapping[str, Any], option: str, problems: Problems) -> Ports:
    name = str(raw.get("protocol") or "tcp").lower()
    protocol = PROTOCOLS.get(name) or (int(name) if name.isdecimal() else 0)
    if not 0 < protocol < 256:
        problems.add(f"{option}: protocol", f"'{name}' is not one of {', '.join(PROTOCOLS)}, or 1 to 255")
        return Ports()
    first, last, kind, code = (
        parse_number(raw.get(key), f"{option}: {key}", limit, problems)
        for key, limit in (("port", 65535), ("end_port", 65535), ("type", 255), ("code", 255))
    )
    if (first, last) != (None, None) and protocol not in PROTOCOLS_WITH_PORTS:
        problems.add(option, f"port: protocol {name} has no ports")
    elif (kind, code) != (None, None) and protocol not in PROTOCOLS_WITH_TYPES:
        problems.add(option, f"type: protocol {name} has no types; use it with icmp and icmpv6")
    elif first is None and last is not None:
        problems.add(option, f"end_port: {last} requires port")
    elif kind is None and code is not None:
        problems.add(option, f"code: {code} requires type")
    if first is not None:
        last = first if last is None else last
        if not first <= last <= 65535:
            problems.add(f"{option}: end_port", f"{last} is outside of {first} to 65535")
        return Ports(protocol, first, last)
    if kind is not None:
        return Ports(protocol, kind << 8 | (code or 0), kind << 8 | (0xFF if code is None else code))
    return Ports(protocol)
