# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Parse Pods and Pod selectors of a declaration, and validate Pods against the devices of this node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .host_ports import parse_host_ports
from .layout import POD_SLOTS
from .model import Expression, Pod, PodSelector
from .node import Node
from .values import Problems, parse_address, parse_rate


def parse_pods(options: Mapping[str, Any], owner: str, problems: Problems) -> list[Pod]:
    """Return the Pods of this node (``endpoints``) and of other nodes (``remote_pods``)."""
    node, in_cluster = options.get("node") or "", bool(options.get("in_cluster"))
    return [
        _pod(
            raw,
            owner,
            node,
            in_cluster and option == "endpoints",
            f"{option}[{index}] ({raw.get('name') or raw.get('device') or ''})",
            problems,
        )
        for option in ("endpoints", "remote_pods")
        for index, raw in enumerate(options.get(option) or ())
    ]


def _pod(
    raw: Mapping[str, Any], owner: str, node: str, in_cluster: bool, option: str, problems: Problems
) -> Pod:
    addresses = []
    for text in raw.get("addresses") or ():
        try:
            addresses.append(parse_address(text))
        except ValueError as error:
            problems.add(f"{option}: addresses", str(error))
    rate = 0
    if raw.get("rate"):
        try:
            rate = parse_rate(raw["rate"])
        except ValueError as error:
            problems.add(f"{option}: rate", str(error))
    return Pod(
        name=raw.get("name") or raw.get("device") or "",
        owner=owner,
        addresses=tuple(addresses),
        labels={key: str(value) for key, value in (raw.get("labels") or {}).items()},
        node=raw.get("node") or node,
        device=raw.get("device") or "",
        rate=rate,
        masquerade=bool(raw.get("masquerade")),
        anti_spoof=raw.get("anti_spoof") is not False,
        display_name=raw.get("display_name") or "",
        uid=raw.get("uid") or "",
        in_cluster=in_cluster,
        host_ports=parse_host_ports(raw.get("host_ports") or ()),
        netns_cookie=raw.get("netns_cookie") or 0,
    )


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


def endpoint_problems(pods: Sequence[Pod], node: Node, slots: Mapping[str, int]) -> Iterator[str]:
    """Yield the problems of Pods with a device; ``slots`` are the assigned ones by name."""
    local = [pod for pod in pods if pod.device]
    missing = sorted({pod.device for pod in local} - node.interfaces.keys())
    if missing:
        yield (
            f"endpoints: devices that do not exist in this network namespace: {', '.join(missing)}; use the"
            " host end of the Pod's device"
        )
    limited = [pod.name for pod in local if pod.rate]
    for option in ("device", "name"):
        counts = Counter(getattr(pod, option) for pod in local)
        for value, count in counts.items():
            if count > 1:
                yield f"endpoints: {count} Pods have the {option} {value}"
    for name in limited:
        if name not in slots:
            yield (
                f"endpoints ({name}): rate: all {POD_SLOTS - 1} slots for rates are used; remove the rate, or"
                " other Pods"
            )
