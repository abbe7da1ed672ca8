# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pods' devices as the kernel has them. Private to this collection.

Source: rtnetlink(7), linux/if_link.h, drivers/net/netkit.c, drivers/net/veth.c.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from .._core import ssh_origin
from .._kernel import link_kinds
from .._kernel import netns as _netns
from .._kernel.link_kinds import ALIAS
from .._kernel.rtnl import (
    PERMANENT,
    RTM_GETADDR,
    RTM_GETLINK,
    RTM_GETNEIGH,
    RTM_GETROUTE,
    SCOPE_LINK,
    SKIP_STATS,
    TABLE_MAIN,
    UP,
    Rtnl,
    message_types,
)
from . import model
from .model import SIZES, Device, End, Interface, Namespace, Node, NodeRoute, Route, State
from .record import made_namespaces, recorded_routes

ROUTE_PROTOCOL = 112  # rtm_protocol of every route made here; none of /etc/iproute2/rt_protos


@dataclass(frozen=True)
class Snapshot:
    """What is there: an owner's state, all else that could collide with it, and the recorded host routes."""

    state: State
    node: Node
    recorded: frozenset[Route]
    indexes: Mapping[str, int]
    inside: Mapping[str, _Inside]


def _links(rtnl: Rtnl) -> list[Any]:
    message = message_types().link()
    message["attrs"] = [("IFLA_EXT_MASK", SKIP_STATS)]
    return rtnl.dump(message, RTM_GETLINK)


def _route_messages(rtnl: Rtnl) -> list[Any]:
    found = []
    for family in (socket.AF_INET, socket.AF_INET6):
        message = message_types().route()
        message["family"], message["table"] = family, TABLE_MAIN
        found += rtnl.dump(message, RTM_GETROUTE)
    return found


def _addresses(rtnl: Rtnl, index: int = 0) -> list[Any]:
    message = message_types().address()
    message["index"] = index
    return rtnl.dump(message, RTM_GETADDR)


def _neighbours(rtnl: Rtnl) -> dict[int, frozenset[tuple[str, str]]]:
    """Return the permanent neighbours of each interface."""
    found: dict[int, set[tuple[str, str]]] = {}
    for one in rtnl.dump(message_types().neighbour(), RTM_GETNEIGH):
        if one["state"] & PERMANENT and one["family"] in (socket.AF_INET, socket.AF_INET6):
            mac = one.get_attr("NDA_LLADDR")
            if mac:
                found.setdefault(one["ifindex"], set()).add((one.get_attr("NDA_DST"), mac))
    return {index: frozenset(pairs) for index, pairs in found.items()}


def _destination(message: Any) -> str:
    any_address = "0.0.0.0" if message["family"] == socket.AF_INET else "::"
    return f"{message.get_attr('RTA_DST') or any_address}/{message['dst_len']}"


def _metric(message: Any, name: str) -> int:
    metrics = message.get_attr("RTA_METRICS")
    return (metrics.get_attr(f"RTAX_{name}") or 0) if metrics else 0


def _node_routes(messages: Iterable[Any], names: Mapping[int, str]) -> tuple[NodeRoute, ...]:
    return tuple(
        NodeRoute(
            Route(_destination(m), m.get_attr("RTA_GATEWAY") or "", names.get(m.get_attr("RTA_OIF"), "")),
            m.get_attr("RTA_PRIORITY") or 0,
            _metric(m, "MTU"),
        )
        for m in messages
    )


def _own_routes(messages: Iterable[Any]) -> dict[int, frozenset[Route]]:
    """Return the routes that bear this collection's protocol, by interface."""
    found: dict[int, set[Route]] = {}
    for one in messages:
        if one["proto"] == ROUTE_PROTOCOL:
            gateway = one.get_attr("RTA_GATEWAY") or ""
            route = Route(_destination(one), gateway, advmss=_metric(one, "ADVMSS"))
            found.setdefault(one.get_attr("RTA_OIF"), set()).add(route)
    return {index: frozenset(routes) for index, routes in found.items()}


def _kind(link: Any) -> str:
    info = link.get_attr("IFLA_LINKINFO")
    return (info.get_attr("IFLA_INFO_KIND") or "") if info else ""


def _interface(link: Any) -> Interface:
    alias = link.get_attr("IFLA_IFALIAS") or ""
    owner, slash, pod = alias[len(ALIAS) :].partition("/") if alias.startswith(ALIAS) else ("", "", "")
    if not slash or not pod:
        owner = pod = ""
    return Interface(link["index"], link.get_attr("IFLA_LINK") or 0, _kind(link), owner, pod)


def _settings(link: Any, layer2: bool) -> dict[str, object]:
    settings: dict[str, object] = {"mtu": link.get_attr("IFLA_MTU"), "up": bool(link["flags"] & UP)}
    if layer2:
        settings["mac"] = link.get_attr("IFLA_ADDRESS")
    for size in SIZES:
        value = link.get_attr(f"IFLA_{size.upper()}")
        if value is not None:
            settings[size] = value
    return settings


def _driver_settings(link: Any) -> tuple[str, dict[str, object]]:
    """Return mode and driver settings of the host's end of a pair."""
    kind = _kind(link)
    if kind == "veth":
        return "l2", {}
    data = link.get_attr("IFLA_LINKINFO").get_attr("IFLA_INFO_DATA")

    def value(name: str) -> Any:
        return data.get_attr(f"IFLA_{kind.upper()}_{name}") if data else None

    policies = {number: name for name, number in link_kinds.POLICIES.items()}
    settings: dict[str, object] = {
        "policy": policies.get(value("POLICY"), value("POLICY")),
        "peer_policy": policies.get(value("PEER_POLICY"), value("PEER_POLICY")),
    }
    if kind == "meta":
        settings["to_pod"] = value("PROG_ID") or model.NO_PROGRAM
        settings["from_pod"] = value("PEER_PROG_ID") or model.NO_PROGRAM
    return ("l2" if value("MODE") == link_kinds.MODES["l2"] else "l3"), settings


@dataclass(frozen=True)
class _Inside:
    """What was read in one namespace; ``ends`` are pairs' ends by own index and peer's index."""

    namespace: Namespace
    ends: Mapping[tuple[int, int], tuple[str, End]]


def _read_namespace(path: str, owner: str, layer2: Mapping[tuple[int, int], bool]) -> _Inside:
    """Read a namespace; ``layer2`` names the owner's ends by own index and peer's index."""
    try:
        if not _netns.is_namespace(path):
            return _Inside(Namespace("other"), {})
    except OSError:
        return _Inside(Namespace("absent"), {})
    ends: dict[tuple[int, int], tuple[str, End]] = {}
    with Rtnl(path) as rtnl:
        links = _links(rtnl)
        routes = _route_messages(rtnl)
        own_routes = _own_routes(routes)
        loopback = any(link["index"] == 1 and link["flags"] & UP for link in links)
        for link in links:
            found = _interface(link)
            if (found.index, found.peer) not in layer2:
                continue
            l2 = layer2[found.index, found.peer]
            addresses = frozenset(
                f"{one.get_attr('IFA_LOCAL') or one.get_attr('IFA_ADDRESS')}/{one['prefixlen']}"
                for one in _addresses(rtnl, found.index)
                if not (one["family"] == socket.AF_INET6 and one["scope"] == SCOPE_LINK)
            )
            ends[found.index, found.peer] = (
                link.get_attr("IFLA_IFNAME"),
                End(
                    {**_settings(link, l2), "loopback": loopback},
                    addresses,
                    _neighbours(rtnl).get(found.index, frozenset()) if l2 else frozenset(),
                    own_routes.get(found.index, frozenset()),
                ),
            )
    names = {link["index"]: link.get_attr("IFLA_IFNAME") for link in links}
    interfaces = {}
    for link in links:
        found = _interface(link)
        ours = (found.index, found.peer) in ends
        # Whatever alias a Pod gives its own end says nothing.
        interfaces[names[found.index]] = replace(found, owner=owner if ours else "", pod="")
    return _Inside(Namespace("live", interfaces, _node_routes(routes, names)), ends)


def read(owner: str, namespaces: Iterable[str], known: Mapping[str, _Inside] | None = None) -> Snapshot:
    """Read what ``owner`` has on this node, and all that its desired state could collide with.

    ``namespaces`` are the paths that the desired state names; those that this owner made are read too.
    Those in ``known`` are taken from there: reading a namespace is the greater part of the work.
    """
    made = made_namespaces()
    with Rtnl() as rtnl:
        links = _links(rtnl)
        routes = _route_messages(rtnl)
        neighbours = _neighbours(rtnl)
        local = frozenset(
            one.get_attr("IFA_LOCAL") or one.get_attr("IFA_ADDRESS") for one in _addresses(rtnl)
        )
    names = {link["index"]: link.get_attr("IFLA_IFNAME") for link in links}
    own = [link for link in links if _interface(link).owner == owner]
    modes = {link["index"]: _driver_settings(link) for link in own}
    wanted_ends = {(_interface(link).peer, link["index"]): modes[link["index"]][0] == "l2" for link in own}
    paths = {*namespaces, *(path for path, whose in made.items() if whose == owner)}
    inside = {
        path: (known or {}).get(path) or _read_namespace(path, owner, wanted_ends) for path in sorted(paths)
    }
    own_routes = _own_routes(routes)

    devices: dict[str, Device] = {}
    for link in own:
        interface = _interface(link)
        mode, driver_settings = modes[interface.index]
        netns, inner_name, inner, found = "", "", End(), False
        for path, one in inside.items():
            if (interface.peer, interface.index) in one.ends:
                netns = path
                inner_name, inner = one.ends[interface.peer, interface.index]
                found = True
                break
        host = End(
            _settings(link, mode == "l2"),
            frozenset(),
            neighbours.get(interface.index, frozenset()) if mode == "l2" else frozenset(),
            own_routes.get(interface.index, frozenset()),
        )
        # A second device with the same alias gets a key that no Pod can have, so it is removed.
        key = interface.pod if interface.pod not in devices else f"{interface.pod} ({names[interface.index]})"
        devices[key] = Device(
            interface.pod, interface.kind, mode, netns, inner_name, names[interface.index],
            driver_settings, host, inner, found,
        )  # fmt: skip

    node = Node(
        interfaces={names[link["index"]]: _interface(link) for link in links},
        addresses=local,
        routes=_node_routes(routes, names),
        namespaces={path: one.namespace for path, one in inside.items()},
        made_namespaces=made,
        supported_sizes=frozenset(
            size for size in SIZES if any(link.get_attr(f"IFLA_{size.upper()}") is not None for link in links)
        ),
        sizes={names[link["index"]]: _settings(link, False) for link in links if not _interface(link).owner},
        controller=ssh_origin.address(),
    )
    recorded = recorded_routes(owner)
    present = {one.route for one in node.routes}
    live = frozenset(
        path for path, whose in made.items() if whose == owner and inside[path].namespace.state == "live"
    )
    state = State(devices, live, recorded & present)
    return Snapshot(state, node, recorded, {names[index]: index for index in names}, inside)
