# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Translate NetworkPolicy objects.

Namespaces and named ports are pseudo-labels of Pods, whose keys begin with ``@`` and so cannot be those of
Kubernetes: ``@namespace``, ``@namespace:KEY`` for each label of the namespace, and ``@port:PROTOCOL:NAME``.
What cannot be enforced is left out of the rules, so that it denies traffic.
Source: Kubernetes API, networking.k8s.io/v1 NetworkPolicy; kubernetes.io/docs, "Network Policies".
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from .._datapath.model import (
    EGRESS,
    INGRESS,
    PROTOCOLS,
    Address,
    CidrSelector,
    Expression,
    HostSelector,
    Pod,
    PodSelector,
    Policy,
    Ports,
    Rule,
    Selector,
)
from .objects import MAX_PORT, Json, PodFacts, PolicyFacts, field, parse_network, share_labels, texts

OWNER = "kubernetes"
NAMESPACE = "@namespace"
_PEERS = {INGRESS: "from", EGRESS: "to"}
NamedPort = tuple[str, str]  # protocol and name
_OPERATORS = {"In": True, "NotIn": True, "Exists": False, "DoesNotExist": False}  # whether they have values
_IN_A_NAMESPACE = Expression(NAMESPACE, "Exists")


class Unenforced(NamedTuple):
    """Something of an object that cannot be enforced."""

    kind: str
    namespace: str
    name: str
    uid: str
    message: str


class _Allowed(NamedTuple):
    """A rule: no peers stand for all, no numbers for all ports, and None if it has only named ports."""

    peers: tuple[Selector, ...]
    numbers: tuple[Ports, ...] | None
    names: Sequence[NamedPort]


class _Invalid(Exception):
    """A part of a policy that cannot be enforced."""


def port_label(port: NamedPort) -> str:
    """Return the key of the pseudo-label with the number of a named port."""
    return f"@port:{port[0]}:{port[1]}"


def model_pod(facts: PodFacts, namespace: Mapping[str, str]) -> Pod:
    """Return a Pod with its pseudo-labels; ``namespace`` has the labels of its namespace."""
    labels = dict(facts.labels)
    labels[NAMESPACE] = facts.namespace
    for key, value in namespace.items():
        labels[f"{NAMESPACE}:{key}"] = value
    for protocol, name, number in facts.ports:
        labels[port_label((protocol, name))] = str(number)
    return Pod(
        name=f"{facts.namespace}/{facts.name}",
        owner=OWNER,
        addresses=facts.addresses,
        labels=share_labels(labels),
        node=facts.node,
        uid=facts.uid,
    )


class NamedPorts:
    """The named ports of all Pods: policies have names, and packets have numbers."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, NamedPort], Counter[int]] = {}
        self._numbers_changed: set[NamedPort] = set()
        self._pods_changed: set[NamedPort] = set()

    def update(self, former: PodFacts | None, new: PodFacts | None) -> None:
        """Replace a Pod."""
        if former and new and (former.ports, former.addresses) == (new.ports, new.addresses):
            return
        for pod, change in ((former, -1), (new, 1)):
            for protocol, name, number in pod.ports if pod else ():
                port = (protocol, name)
                self._pods_changed.add(port)
                for namespace in (pod.namespace, "") if pod else ():
                    counts = self._counts.setdefault((namespace, port), Counter())
                    counts[number] += change
                    if counts[number] in (0, change):
                        self._numbers_changed.add(port)
                    if not counts[number]:
                        del counts[number]
                    if not counts:
                        del self._counts[namespace, port]

    def move(self, pod: PodFacts) -> None:
        """Record that a Pod got or lost addresses."""
        self._pods_changed.update((protocol, name) for protocol, name, _number in pod.ports)

    def numbers(self, port: NamedPort, namespace: str = "") -> list[int]:
        """Return the numbers that the Pods of a namespace have for a named port; empty: of all namespaces."""
        return sorted(self._counts.get((namespace, port), ()))

    def take_changed(self) -> tuple[set[NamedPort], set[NamedPort]]:
        """Return which ports have new numbers, and which have new Pods, since the last call."""
        changed = self._numbers_changed, self._pods_changed
        self._numbers_changed, self._pods_changed = set(), set()
        return changed


class Translation(NamedTuple):
    """A translated NetworkPolicy: one policy, and one for each number of a named port in its ingress rules.

    It is valid while the numbers of ``ports`` and the addresses of the Pods with ``pod_ports`` are the same.
    """

    policies: tuple[Policy, ...]
    unenforced: tuple[Unenforced, ...]
    ports: frozenset[NamedPort]
    pod_ports: frozenset[NamedPort]


def translate_policy(
    policy: PolicyFacts, named: NamedPorts, pods: Mapping[str, Pod], own_addresses: Iterable[Address]
) -> Translation:
    """Return the translation for Pods with their named ports, on a node with these addresses."""
    translator = _Translator(policy, named, pods, tuple(own_addresses))
    try:
        policies = tuple(translator.translate())
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        # It must not keep the policies of others from being translated.
        policies = tuple(translator.deny(f"it is invalid ({error!r})"))
    return Translation(
        policies,
        tuple(translator.unenforced),
        frozenset(translator.ports),
        frozenset(translator.pod_ports),
    )


class _Translator:
    """Translates one policy."""

    def __init__(
        self,
        policy: PolicyFacts,
        named: NamedPorts,
        pods: Mapping[str, Pod],
        own_addresses: Sequence[Address],
    ) -> None:
        self._policy, self._named, self._pods, self._own_addresses = policy, named, pods, own_addresses
        self.unenforced: list[Unenforced] = []
        self.ports: set[NamedPort] = set()
        self.pod_ports: set[NamedPort] = set()

    def translate(self) -> list[Policy]:
        policy, spec = self._policy, self._policy.spec
        try:
            subject = _in_namespace(policy.namespace, field(spec, "podSelector", dict))
        except _Invalid as error:
            return self.deny(f"podSelector: {error}")
        types = field(spec, "policyTypes", list) or ["Ingress", *(["Egress"] if spec.get("egress") else ())]
        if not {"Ingress", "Egress"}.issuperset(types):
            return self.deny(f"policyTypes: {types} has unknown ones")
        ingress, egress = (False if one in types else None for one in ("Ingress", "Egress"))
        rules: list[Rule] = []
        by_number: dict[tuple[NamedPort, int], list[Rule]] = {}
        if ingress is False:
            for peers, numbers, names in self._rules(INGRESS, field(spec, "ingress", list)):
                rules += [Rule(INGRESS, True, peers, numbers)] if numbers is not None else []
                for port in names:
                    for number in self._named.numbers(port, policy.namespace):
                        rule = Rule(INGRESS, True, peers, (_number(port, number),))
                        by_number.setdefault((port, number), []).append(rule)
        if egress is False:
            for peers, numbers, names in self._rules(EGRESS, field(spec, "egress", list)):
                rules += [Rule(EGRESS, True, peers, numbers)] if numbers is not None else []
                for port in names:
                    rules += self._egress_rules(port, peers)
        name = f"{policy.namespace}/{policy.name}"
        found = [Policy(name, OWNER, subject, tuple(rules), (ingress, egress), optional=True)]
        for (port, number), some in sorted(by_number.items()):
            labelled = replace(subject, labels=subject.labels | {(port_label(port), str(number))})
            shown = f"{name} ({port[0]} {port[1]} = {number})"
            found.append(Policy(shown, OWNER, labelled, tuple(some), (False, None), optional=True))
        return found

    def deny(self, reason: str) -> list[Policy]:
        """Deny all Pods of the namespace all traffic, because it is unknown which to deny."""
        policy = self._policy
        self._report(f"{reason}; all Pods of the namespace are denied all traffic")
        name, subject = f"{policy.namespace}/{policy.name}", _in_namespace(policy.namespace, {})
        return [Policy(name, OWNER, subject, (), (False, False), optional=True)]

    def _rules(self, direction: int, given: Sequence[Json]) -> Iterator[_Allowed]:
        """Yield the rules of a direction; leave out those whose peers cannot be selected."""
        name = "ingress" if direction == INGRESS else "egress"
        for index, raw in enumerate(given):
            option = f"{name}[{index}].{_PEERS[direction]}"
            peers = self._peers(field(raw, _PEERS[direction], list), option, direction)
            if peers is None:
                continue
            ports = field(raw, "ports", list)
            numbers, names = self._ports(ports, f"{name}[{index}].ports")
            self.ports.update(names)
            yield _Allowed(peers, numbers if numbers or not ports else None, names)

    def _report(self, message: str) -> None:
        policy = self._policy
        self.unenforced.append(
            Unenforced("NetworkPolicy", policy.namespace, policy.name, policy.uid, message)
        )

    # Peers

    def _peers(self, given: Sequence[Json], at: str, direction: int) -> tuple[Selector, ...] | None:
        """Return the selectors of a rule, empty for all peers, and None if no peer can be selected."""
        found: list[Selector] = []
        for index, raw in enumerate(given):
            try:
                found += self._peer(raw, direction)
            except _Invalid as error:
                self._report(f"{at}[{index}]: {error}; this peer is not allowed")
        return None if given and not found else tuple(dict.fromkeys(found))

    def _peer(self, raw: Json, direction: int) -> Iterator[Selector]:
        block, pods, namespaces = (
            None if raw.get(key) is None else field(raw, key, dict)
            for key in ("ipBlock", "podSelector", "namespaceSelector")
        )
        if block is not None:
            if pods is not None or namespaces is not None:
                raise _Invalid("it has ipBlock and another selector")
            selector = _block(block)
            yield selector
            # To the programs, this node is no address: its own rule is one by its addresses for others.
            if direction == EGRESS and any(map(selector.matches, self._own_addresses)):
                yield HostSelector()
        elif namespaces is not None:
            labels, expressions = _conditions(pods or {})
            of_namespace = _conditions(namespaces, f"{NAMESPACE}:")
            yield PodSelector(
                labels | of_namespace[0],
                # Not matched by Pods that are not of the API.
                (*expressions, *of_namespace[1], _IN_A_NAMESPACE),
            )
        elif pods is not None:
            yield _in_namespace(self._policy.namespace, pods)
        else:
            raise _Invalid("it has none of podSelector, namespaceSelector and ipBlock")

    # Ports

    def _ports(self, given: Sequence[Json], at: str) -> tuple[tuple[Ports, ...], list[NamedPort]]:
        """Return port numbers and named ports of a rule."""
        numbers: list[Ports] = []
        names: list[NamedPort] = []
        for index, raw in enumerate(given):
            protocol = "tcp" if raw.get("protocol") is None else field(raw, "protocol", str).lower()
            port, last = raw.get("port"), raw.get("endPort")
            if protocol not in ("tcp", "udp", "sctp"):
                self._report(f"{at}[{index}]: protocol {protocol!r} is unknown; it is not allowed")
            elif last is not None and (port is None or isinstance(port, str)):
                self._report(f"{at}[{index}]: endPort {last} requires a number as port; it is not allowed")
            elif isinstance(port, str):
                names.append((protocol, port))
            elif port is None:
                numbers.append(Ports(PROTOCOLS[protocol]))
            else:
                last = port if last is None else last
                if type(port) is type(last) is int and 0 < port <= last <= MAX_PORT:
                    numbers.append(Ports(PROTOCOLS[protocol], port, last))
                else:
                    self._report(f"{at}[{index}]: {port} to {last} are no ports; they are not allowed")
        return tuple(dict.fromkeys(numbers)), list(dict.fromkeys(names))

    def _egress_rules(self, port: NamedPort, peers: Sequence[Selector]) -> Iterator[Rule]:
        """Yield the rules for a named port of the receiving Pods, by its number there."""
        label = port_label(port)
        pods = [one for one in peers if isinstance(one, PodSelector)] if peers else [PodSelector()]
        for number in self._named.numbers(port):
            ports = (_number(port, number),)
            some: list[Selector] = [replace(one, labels=one.labels | {(label, str(number))}) for one in pods]
            blocks = [one for one in peers if isinstance(one, CidrSelector)]
            some += self._addresses_in(port, number, blocks)
            if some:
                yield Rule(EGRESS, True, tuple(some), ports)

    def _addresses_in(
        self, port: NamedPort, number: int, blocks: Sequence[CidrSelector]
    ) -> Iterator[CidrSelector]:
        """Yield selectors of the Pods in address blocks that have a number for a named port."""
        if not blocks:
            return
        self.pod_ports.add(port)
        label = port_label(port)
        found = [
            address
            for pod in self._pods.values()
            for address in pod.addresses
            if pod.labels.get(label) == str(number) and any(block.matches(address) for block in blocks)
        ]
        for address in sorted(found, key=lambda one: (one.version, int(one))):
            yield CidrSelector(ipaddress.ip_network(address))


def _number(port: NamedPort, number: int) -> Ports:
    return Ports(PROTOCOLS[port[0]], number, number)


def _in_namespace(namespace: str, selector: Json) -> PodSelector:
    labels, expressions = _conditions(selector)
    return PodSelector(labels | {(NAMESPACE, namespace)}, expressions)


def _conditions(
    selector: Json, prefix: str = ""
) -> tuple[frozenset[tuple[str, str]], tuple[Expression, ...]]:
    """Return labels and expressions of a label selector, with the prefix of their keys in the model."""
    labels = frozenset((prefix + key, value) for key, value in texts(selector, "matchLabels").items())
    expressions = []
    for raw in field(selector, "matchExpressions", list):
        key, operator, values = field(raw, "key", str), raw.get("operator"), field(raw, "values", list)
        if operator not in _OPERATORS:
            raise _Invalid(f"operator {operator!r} is unknown")
        if not key or bool(values) != _OPERATORS[operator] or not all(isinstance(one, str) for one in values):
            raise _Invalid(f"key {key!r}, operator {operator} and values {values} do not fit")
        expressions.append(Expression(prefix + key, operator, frozenset(values)))
    return labels, tuple(expressions)


def _block(raw: Json) -> CidrSelector:
    """Return the selector of an ipBlock. Raises ``_Invalid``."""
    try:
        network = parse_network(raw.get("cidr"))
        excluded = frozenset(map(parse_network, field(raw, "except", list)))
    except ValueError as error:
        raise _Invalid(str(error)) from error
    for one in excluded:
        if one.version != network.version or not one.subnet_of(network):  # type: ignore[arg-type]
            raise _Invalid(f"except: {one} is not a subnet of {network}")
    return CidrSelector(network, excluded)
