# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The semantics of NetworkPolicy v1, evaluated directly on the API's objects for one packet.

Written from the API's documentation, and independent of the collection's code.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]


@dataclass
class Cluster:
    """Objects of the API; ``node`` are the addresses of the node that enforces the policies."""

    namespaces: Mapping[str, Mapping[str, str]]
    pods: Sequence[Json]
    policies: Sequence[Json]
    node: Sequence[str]


def pod_with(cluster: Cluster, address: str) -> Json | None:
    """Return the Pod that has an address, None for others and for Pods on the host's network.

    A Pod that terminates keeps its addresses in the API when another one has got them.
    """
    found = None
    for pod in cluster.pods:
        given = [one["ip"] for one in pod["status"].get("podIPs", [])]
        ended = pod["status"].get("phase") in ("Succeeded", "Failed")
        if address in given and not ended and not pod["spec"].get("hostNetwork"):
            if "deletionTimestamp" not in pod["metadata"]:
                return pod
            found = pod
    return found


def selects(selector: Json, labels: Mapping[str, str]) -> bool:
    """Return whether a label selector matches labels."""
    for key, value in (selector.get("matchLabels") or {}).items():
        if labels.get(key) != value:
            return False
    for one in selector.get("matchExpressions") or []:
        key, values = one["key"], one.get("values") or []
        if one["operator"] == "In" and not (key in labels and labels[key] in values):
            return False
        if one["operator"] == "NotIn" and key in labels and labels[key] in values:
            return False
        if one["operator"] == "Exists" and key not in labels:
            return False
        if one["operator"] == "DoesNotExist" and key in labels:
            return False
    return True


def in_block(block: Json, address: str) -> bool:
    """Return whether an ipBlock contains an address."""
    value = ipaddress.ip_address(address)
    return value in ipaddress.ip_network(block["cidr"]) and not any(
        value in ipaddress.ip_network(one) for one in block.get("except") or []
    )


def peer_matches(cluster: Cluster, policy: Json, peer: Json, address: str) -> bool:
    """Return whether an element of ``from`` or ``to`` matches an address."""
    if "ipBlock" in peer:
        # A node has several addresses, which are the same for its Pods.
        others = cluster.node if address in cluster.node else [address]
        return any(in_block(peer["ipBlock"], one) for one in others)
    pod = pod_with(cluster, address)
    if pod is None:
        return False
    meta = pod["metadata"]
    if "namespaceSelector" in peer:
        if not selects(peer["namespaceSelector"], cluster.namespaces[meta["namespace"]]):
            return False
    elif meta["namespace"] != policy["metadata"]["namespace"]:
        return False
    return selects(peer.get("podSelector") or {}, meta["labels"])


def port_matches(one: Json, receiver: Json | None, protocol: str, port: int) -> bool:
    """Return whether an element of ``ports`` matches a packet to a port of a receiver."""
    if protocol != one.get("protocol", "TCP"):
        return False
    wanted = one.get("port")
    if wanted is None:
        return True
    if isinstance(wanted, str):
        if receiver is None:
            return False
        spec = receiver["spec"]
        running = [
            *spec["containers"],
            *(c for c in spec.get("initContainers", []) if c.get("restartPolicy") == "Always"),
        ]
        for container in running:
            for named in container.get("ports", []):
                if named.get("name") == wanted and named.get("protocol", "TCP") == protocol:
                    return bool(named["containerPort"] == port)
        return False
    return bool(wanted <= port <= one.get("endPort", wanted))


def allows(cluster: Cluster, subject: str, peer: str, direction: str, protocol: str, port: int) -> bool:
    """Return whether the policies of the Pod at ``subject`` allow a packet from or to ``peer``."""
    pod = pod_with(cluster, subject)
    assert pod
    if direction == "ingress" and peer in cluster.node:
        return True
    isolated = False
    for policy in cluster.policies:
        meta, spec = pod["metadata"], policy["spec"]
        if policy["metadata"]["namespace"] != meta["namespace"]:
            continue
        if not selects(spec["podSelector"], meta["labels"]):
            continue
        types = spec.get("policyTypes")
        if types is None:
            types = ["Ingress", "Egress"] if spec.get("egress") else ["Ingress"]
        if direction.capitalize() not in types:
            continue
        isolated = True
        receiver = pod if direction == "ingress" else pod_with(cluster, peer)
        for rule in spec.get(direction) or []:
            peers = rule.get("from" if direction == "ingress" else "to") or []
            ports = rule.get("ports") or []
            if peers and not any(peer_matches(cluster, policy, one, peer) for one in peers):
                continue
            if not ports or any(port_matches(one, receiver, protocol, port) for one in ports):
                return True
    return not isolated
