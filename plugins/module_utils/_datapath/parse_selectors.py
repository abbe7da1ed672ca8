# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Parse selectors of Pods and peers in a declaration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .model import CidrSelector, Expression, HostSelector, PodSelector, Selector
from .values import Problems, parse_networks


def parse_pod_selector(raw: Mapping[str, Any], option: str, problems: Problems) -> PodSelector:
    """Return a selector of Pods by labels, expressions and names."""
    labels = frozenset((key, str(value)) for key, value in (raw.get("labels") or {}).items())
    expressions = []
    for index, one in enumerate(raw.get("expressions") or ()):
        values = frozenset(str(value) for value in one.get("values") or ())
        if (one["operator"] in ("In", "NotIn")) != bool(values):
            rule = "must not be empty" if not values else "must be empty"
            problems.add(f"{option}: expressions[{index}]", f"values: {rule} for operator {one['operator']}")
        expressions.append(Expression(one["key"], one["operator"], values))
    names = raw.get("names")
    if names is not None and not names:
        problems.add(f"{option}: names", "the list is empty; remove the option or add names of Pods")
    return PodSelector(labels, tuple(expressions), frozenset(names or ()))


def parse_peer(raw: Mapping[str, Any], option: str, problems: Problems) -> Selector:
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
