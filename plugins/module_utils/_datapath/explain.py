# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Explain which policies apply to a Pod, and which of them allow or deny a packet. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

from .model import (
    DIRECTIONS,
    INGRESS,
    PROTOCOLS,
    Address,
    CidrSelector,
    Declaration,
    HostSelector,
    Pod,
    PodSelector,
    Policy,
    Ports,
    Rule,
    Selector,
)
from .values import parse_address

NODE = "node"  # the peer that stands for this node
_PROTOCOL_NAMES = {number: name for name, number in PROTOCOLS.items()}
_NAMES = {number: name for name, number in DIRECTIONS.items()}


def selecting_policies(policies: Iterable[Policy], pod: Pod, direction: int) -> list[Policy]:
    """Return the policies that decide about packets of a Pod in a direction."""
    selecting = [one for one in policies if one.subject.matches(pod)]
    selecting = [one for one in selecting if one.exclusive] or selecting
    covered = any(one.defaults[direction] is not None for one in selecting)
    return [
        one
        for one in selecting
        if covered
        and (one.defaults[direction] is not None or any(rule.direction == direction for rule in one.rules))
    ]


def find_pods(pods: Iterable[Pod], name: str) -> list[Pod]:
    """Return the Pods of a name, which is ``namespace/name`` in a cluster."""
    return [pod for pod in pods if name in (pod.shown, pod.name)]


def describe_pod(declaration: Declaration, pod: Pod) -> list[str]:
    """Return the policies of a Pod as lines of text."""
    lines = [f"Pod {pod.shown}: {', '.join(map(str, pod.addresses)) or 'no addresses'}"]
    for word, direction in DIRECTIONS.items():
        policies = selecting_policies(declaration.policies, pod, direction)
        default = all(one.defaults[direction] for one in policies if one.defaults[direction] is not None)
        lines.append(f"{word}: {'allowed' if default else 'denied'} {_otherwise(policies)}")
        for policy in policies:
            rules = [one for one in policy.rules if one.direction == direction]
            lines += [f"  {policy.name}: {_rule(rule)}" for rule in rules] or [f"  {policy.name}: no rules"]
    return lines


def _otherwise(policies: Sequence[Policy]) -> str:
    return "if no rule matches" if policies else "because no policy selects the Pod"


def explain(
    declaration: Declaration,
    pod: Pod,
    peer: str,
    direction: int,
    protocol: int,
    port: int,
    node: Collection[Address] = (),
) -> list[str]:
    """Return the verdict for a packet from or to ``peer``, with its reason, for each address of the peer.

    ``peer`` is an address, the name of a Pod, or ``node``, which has the addresses ``node``. Raises
    ``ValueError`` if it is unknown.
    """
    word = _NAMES[direction]
    on = f"{_PROTOCOL_NAMES.get(protocol, protocol)} port {port}" if port else "without a port"
    lines = []
    for address in _peer_addresses(declaration, peer, node):
        verdict = _verdict(declaration, pod, address, direction, protocol, port)
        shown = f"{peer} ({address})" if address and str(address) != peer else peer
        lines.append(f"{word} {'from' if direction == INGRESS else 'to'} {shown}, {on}: {verdict}")
    return lines


def _peer_addresses(
    declaration: Declaration, peer: str, node: Collection[Address]
) -> Sequence[Address | None]:
    """Return the addresses of a peer; None stands for this node."""
    if peer == NODE:
        return [None]
    try:
        address = parse_address(peer)
        return [None if address in node else address]
    except ValueError:
        found = [address for pod in find_pods(declaration.pods, peer) for address in pod.addresses]
    if not found:
        raise ValueError(f"{peer} is not an address, '{NODE}' or the name of a Pod with addresses")
    return found


def _verdict(
    declaration: Declaration, pod: Pod, address: Address | None, direction: int, protocol: int, port: int
) -> str:
    policies = selecting_policies(declaration.policies, pod, direction)
    if not policies:
        return "allowed, because no policy selects the Pod"
    owner = next((one for one in declaration.pods if address in one.addresses), None)

    def matches(peer: Selector) -> bool:
        if isinstance(peer, HostSelector):
            return address is None
        if isinstance(peer, CidrSelector):
            return address is not None and peer.matches(address)
        return owner is not None and peer.matches(owner)

    matching: dict[bool, list[str]] = {True: [], False: []}
    for policy in policies:
        for rule in policy.rules:
            peers = not rule.peers or any(map(matches, rule.peers))
            ports = not rule.ports or any(
                one.protocol == protocol and one.first <= port <= one.last for one in rule.ports
            )
            if rule.direction == direction and peers and ports:
                matching[rule.allow].append(policy.name)
    if matching[False]:
        return f"denied by {_listed(matching[False])}"
    if matching[True]:
        return f"allowed by {_listed(matching[True])}"
    if direction == INGRESS and address is None:
        return "allowed, because the node reaches its Pods"
    denying = [one.name for one in policies if one.defaults[direction] is False]
    if denying:
        return f"denied, because no rule allows it in {_listed(denying)}"
    return f"allowed, because no rule denies it in {_listed(one.name for one in policies)}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))


def _rule(rule: Rule) -> str:
    peers = ", ".join(dict.fromkeys(map(_peer, rule.peers))) or "all"
    word = "from" if rule.direction == INGRESS else "to"
    ports = f", {', '.join(map(_ports, rule.ports))}" if rule.ports else ""
    return f"{'allow' if rule.allow else 'deny'} {word} {peers}{ports}"


def _peer(selector: Selector) -> str:
    if isinstance(selector, HostSelector):
        return "the node"
    if isinstance(selector, CidrSelector):
        excluded = " and ".join(sorted(map(str, selector.excluded)))
        return f"{selector.network}{f' except {excluded}' if excluded else ''}"
    return f"Pods ({' and '.join(_conditions(selector)) or 'all'})"


def _conditions(selector: PodSelector) -> Iterator[str]:
    yield from (f"{key}={value}" for key, value in sorted(selector.labels))
    for one in selector.expressions:
        yield f"{one.key} {one.operator} {'|'.join(sorted(one.values))}".rstrip()
    if selector.names:
        yield f"name {'|'.join(sorted(selector.names))}"


def _ports(ports: Ports) -> str:
    if not ports.protocol:
        return "all ports"
    name = _PROTOCOL_NAMES.get(ports.protocol, str(ports.protocol))
    if (ports.first, ports.last) == (0, 0xFFFF):
        return name
    return f"{name} {ports.first}" + (f"-{ports.last}" if ports.last > ports.first else "")


def parse_port(text: str) -> tuple[int, int]:
    """Return protocol and port of ``tcp/80``. Raises ``ValueError``."""
    name, _slash, number = text.partition("/")
    if name.lower() not in ("tcp", "udp", "sctp") or not number.isdecimal() or not 0 < int(number) < 65536:
        raise ValueError(f"{text!r} is not a port such as tcp/80")
    return PROTOCOLS[name.lower()], int(number)
