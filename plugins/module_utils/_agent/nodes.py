# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Address ranges of this node and routes to the Pods of other nodes, from the Node objects of the API.

Nodes that share a link are next hops of each other (host gateway). Source: Kubernetes API, core/v1 Node.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Optional

from .._cluster.objects import field, parse_address, parse_network
from .._core.files import replace_file
from .._core.plan import Problem, listed
from .._kernel.rtnl import NextHop
from .._ops.kubernetes import Api
from .._ops.watch import Watch
from .._pods.model import Route
from .warning_file import Warnings
from .worker import Worker

log = logging.getLogger("podnet-agent")

Lookup = Callable[[str], Optional[NextHop]]


@dataclass(frozen=True)
class NodeRoutes:
    """The ranges of this node, the routes to those of other nodes, and the nodes that have no route."""

    pod_cidrs: Sequence[str] = ()
    routes: frozenset[Route] = frozenset()
    problems: Sequence[str] = ()


class NodeFacts(NamedTuple):
    """What routes depend on of a Node object: its ranges, and the first InternalIP of each family.

    ``problem`` is why the object is invalid.
    """

    cidrs: Sequence[str]
    addresses: Mapping[int, str]
    problem: str = ""


def facts_of(node: Mapping[str, Any]) -> NodeFacts:
    """Return the facts of a Node object; ignore invalid addresses, which the API accepts."""
    found: dict[int, str] = {}
    try:
        spec = field(node, "spec", dict)
        cidrs = field(spec, "podCIDRs", list) or ([spec["podCIDR"]] if spec.get("podCIDR") else [])
        for one in field(field(node, "status", dict), "addresses", list):
            address = parse_address(one.get("address")) if one.get("type") == "InternalIP" else None
            if address:
                found.setdefault(address.version, str(address))
        return NodeFacts([str(parse_network(one)) for one in cidrs], found)
    except (AttributeError, ValueError) as error:
        return NodeFacts([], {}, f"it is invalid: {error}")


def plan(nodes: Mapping[str, NodeFacts], own: str, lookup: Lookup) -> NodeRoutes:
    """Return ranges and routes for the nodes by name; ``lookup`` finds a next hop's interface.

    Pure except for ``lookup``.
    """
    routes: dict[str, Route] = {}
    users: dict[str, str] = {}
    problems: list[str] = []
    for name, node in sorted(nodes.items()):
        if node.problem:
            problems.append(f"node {name}: {node.problem}")
        if name == own:
            continue
        for cidr in node.cidrs:
            network = ipaddress.ip_network(cidr)
            address = node.addresses.get(network.version)
            if not address:
                problems.append(
                    f"node {name}: it has no InternalIP of the family of its range {cidr}; set --node-ip of"
                    " its kubelet"
                )
                continue
            hop = lookup(address)
            if hop is None or hop.gateway:
                where = f"behind {hop.gateway}" if hop else "unreachable"
                problems.append(
                    f"node {name}: its address {address} is {where}, not on a link of this node; provide the"
                    f" route to {cidr} by a routing protocol such as BGP and set cni_routes: none"
                )
                continue
            if cidr in routes:
                problems.append(
                    f"node {name}: its range {cidr} is already that of node {users[cidr]}; correct"
                    " spec.podCIDRs of one of them"
                )
                continue
            users[cidr], routes[cidr] = name, Route(str(network), address, hop.interface)
    ranges = nodes[own].cidrs if own in nodes else []
    return NodeRoutes(ranges, frozenset(routes.values()), problems)


class NodeWatch:
    """Follows the Node objects and keeps the routes of this node up to date."""

    def __init__(
        self, api: Api, own: str, worker: Worker, set_routes: bool, file: str, warnings: Warnings
    ) -> None:
        """``file`` stores the node's ranges, so that a restart does not need the API."""
        self._own, self._worker, self._set_routes, self._file = own, worker, set_routes, file
        self._warnings = warnings
        self._watch = Watch(api, "/api/v1/nodes", facts_of, self._report)
        self._error = ""
        self._lock = threading.Lock()
        self._nodes: dict[str, NodeFacts] | None = None
        self._problems: Sequence[str] = ()
        self.pod_cidrs = self._stored()

    @property
    def problem(self) -> str:
        """Why the node's ranges are not known, empty if they are."""
        if self.pod_cidrs:
            return ""
        if self._error:
            return self._error
        nodes = self._nodes
        if nodes is not None and self._own not in nodes:
            return (
                f"node: the cluster has no Node {self._own} (it has {listed(sorted(nodes)[:10])}): join"
                " this node to the cluster, or set cni_node to the name of its Node object"
            )
        return f"Node {self._own} has no podCIDRs yet (kube-controller-manager --allocate-node-cidrs)"

    def _stored(self) -> Sequence[str]:
        try:
            with open(self._file, encoding="utf-8") as file:
                return [str(ipaddress.ip_network(one)) for one in json.load(file)]
        except (OSError, ValueError, TypeError):
            return ()

    def run(self) -> None:
        """Follow the Node objects forever."""
        for changes in self._watch.follow():
            self.apply(changes)
            self.update()

    def apply(self, changes: Mapping[str, NodeFacts | None]) -> None:
        """Record the nodes that have changed."""
        with self._lock:
            nodes = {**(self._nodes or {}), **changes}
            self._nodes = {name: node for name, node in nodes.items() if node is not None}

    def update(self) -> bool:
        """Set ranges and routes; return whether that succeeded.

        The kernel deletes routes when their interface is set down, so this is repeated periodically.
        """
        with self._lock:
            if self._nodes is None:
                return False
            try:
                found = plan(self._nodes, self._own, self._worker.next_hop)
                if self._set_routes:
                    self._worker.set_routes(found.routes)
                if list(found.pod_cidrs) != list(self.pod_cidrs):
                    self.pod_cidrs = found.pod_cidrs
                    replace_file(self._file, json.dumps(list(found.pod_cidrs)).encode(), 0o600)
            except (Problem, OSError, ValueError) as error:
                log.warning("cannot set the routes to other nodes: %s", error)
                return False
            self._warnings.set("nodes", found.problems)
            for problem in found.problems if found.problems != self._problems else ():
                log.warning("%s", problem)
            self._problems = found.problems
            return True

    def _report(self, error: str) -> None:
        if error and error != self._error:
            log.warning("%s", error)
        self._error = error
