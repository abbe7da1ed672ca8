# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read Pods' devices, and what else is on the node, from the kernel.

Source: rtnetlink(7), linux/if_link.h, drivers/net/netkit.c, drivers/net/veth.c.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .._core import ssh_origin
from .._kernel import link_kinds, netlink
from .._kernel import netns as _netns
from .._kernel.link_kinds import ALIAS
from .._kernel.messages import message_types
from .._kernel.netlink import SKIP_STATS, KernelRefusal, TooManyObjects
from .._kernel.rtnl import (
    PERMANENT,
    RTM_GETADDR,
    RTM_GETLINK,
    RTM_GETNEIGH,
    RTM_GETROUTE,
    SCOPE_LINK,
    TABLE_MAIN,
    UP,
    Rtnl,
)
from . import model
from .model import SIZES, Device, End, Interface, Namespace, Node, NodeRoute, Route, State
from .run_files import created_namespaces, read_host_routes

_POD_LIMIT = 4096  # objects of each kind that are read in a Pod's namespace

ROUTE_PROTOCOL = 112  # rtm_protocol of all managed routes; not used in /etc/iproute2/rt_protos


@dataclass(frozen=True)
class Snapshot:
    """An owner's state and the node around it.

    ``host_routes`` are those that the owner added since the boot, ``indexes`` the interface indexes by name,
    ``namespaces`` what was read in each namespace.
    """

    state: State
    node: Node
    host_routes: frozenset[Route]
    indexes: Mapping[str, int]
    namespaces: Mapping[str, Contents]


def _links(rtnl: Rtnl, limit: int = 0) -> list[Any]:
    message = message_types().link()
    message["attrs"] = [("IFLA_EXT_MASK", SKIP_STATS)]
    return rtnl.dump(message, RTM_GETLINK, limit)


def _route_messages(rtnl: Rtnl, limit: int = 0, managed: int = 0) -> list[Any]:
    """Return the main tables' routes; with ``managed``, only managed ones of the interface of that index."""
    found = []
    for family in (socket.AF_INET, socket.AF_INET6):
        message = message_types().route()
        message["family"], message["table"] = family, TABLE_MAIN
        if managed:
            message["proto"], message["attrs"] = ROUTE_PROTOCOL, [("RTA_OIF", managed)]
        found += rtnl.dump(message, RTM_GETROUTE, limit)
    return found


def _addresses(rtnl: Rtnl, index: int = 0, limit: int = 0) -> list[Any]:
    message = message_types().address()
    message["index"] = index
    return rtnl.dump(message, RTM_GETADDR, limit)


def _neighbours(rtnl: Rtnl, index: int = 0, limit: int = 0) -> dict[int, frozenset[tuple[str, str]]]:
    """Return the permanent neighbour entries of each interface, or of one."""
    message = message_types().neighbour()
    if index:
        message["attrs"] = [("NDA_IFINDEX", index)]
    found: dict[int, set[tuple[str, str]]] = {}
    for one in rtnl.dump(message, RTM_GETNEIGH, limit):
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


def _managed_routes(messages: Iterable[Any]) -> dict[int, frozenset[Route]]:
    """Return the routes with this collection's protocol, by interface index."""
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


def _text(link: Any, name: str) -> str:
    """Return a text attribute; the kernel permits any bytes in names of interfaces."""
    value = link.get_attr(name) or ""
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)


def _interface(link: Any) -> Interface:
    alias = _text(link, "IFLA_IFALIAS")
    owner, slash, pod = alias[len(ALIAS) :].partition("/") if alias.startswith(ALIAS) else ("", "", "")
    if not slash or not pod:
        owner = pod = ""
    group = link.get_attr("IFLA_GROUP") or 0
    return Interface(link["index"], link.get_attr("IFLA_LINK") or 0, _kind(link), owner, pod, group)


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
    """Return mode and driver settings of the host end of a pair."""
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
class Contents:
    """What a namespace contains; ``ends`` are the managed links' name and end by index and peer's index."""

    namespace: Namespace
    ends: Mapping[tuple[int, int], tuple[str, End]]


@dataclass(frozen=True)
class _PodEnd:
    """A Pod's end of a managed device, as the host's end describes it: the Pod cannot change that."""

    index: int
    host_index: int
    layer2: bool


def _read_namespace(path: str, ends: Sequence[_PodEnd], owner: str) -> Contents:
    """Read a namespace that contains ``ends`` of ``owner``, or may get one.

    The Pod controls what is in its namespace, so no more than necessary is read, and an error concerns only
    this namespace.
    """
    try:
        if not _netns.is_namespace(path):
            return Contents(Namespace("other"), {})
        with Rtnl(path) as rtnl:
            found = [end for end in ends if _exists(rtnl, end.index)]
            return _read_ends(rtnl, found, owner) if found else _read_foreign(rtnl)
    except TooManyObjects:
        reason = f"it has more than {_POD_LIMIT} interfaces, addresses, neighbours or routes"
        return Contents(Namespace("live", unreadable=reason), {})
    except FileNotFoundError:
        return Contents(Namespace("absent"), {})
    except OSError as error:
        return Contents(Namespace("live", unreadable=f"it cannot be read: {error.strerror}"), {})


def _exists(rtnl: Rtnl, index: int) -> bool:
    try:
        rtnl.link(index=index)
    except KernelRefusal:
        return False
    return True


def _read_ends(rtnl: Rtnl, ends: Sequence[_PodEnd], owner: str) -> Contents:
    found = {}
    interfaces = {}
    loopback = bool(rtnl.link(index=1)["flags"] & UP)
    for end in ends:
        link = rtnl.link(index=end.index)
        name = _text(link, "IFLA_IFNAME")
        addresses = frozenset(
            f"{one.get_attr('IFA_LOCAL') or one.get_attr('IFA_ADDRESS')}/{one['prefixlen']}"
            for one in _addresses(rtnl, end.index, _POD_LIMIT)
            if not (one["family"] == socket.AF_INET6 and one["scope"] == SCOPE_LINK)
        )
        neighbours = _neighbours(rtnl, end.index, _POD_LIMIT) if end.layer2 else {}
        routes = _managed_routes(_route_messages(rtnl, _POD_LIMIT, end.index))
        found[end.index, end.host_index] = (
            name,
            End(
                {**_settings(link, end.layer2), "loopback": loopback},
                addresses,
                neighbours.get(end.index, frozenset()),
                routes.get(end.index, frozenset()),
            ),
        )
        interfaces[name] = Interface(end.index, end.host_index, _kind(link), owner, "")
    return Contents(Namespace("live", interfaces), found)


def _read_foreign(rtnl: Rtnl) -> Contents:
    """Read what a new device could conflict with. Pods can set any alias, so it is ignored."""
    links = _links(rtnl, _POD_LIMIT)
    names = {link["index"]: _text(link, "IFLA_IFNAME") for link in links}
    interfaces = {names[link["index"]]: replace(_interface(link), owner="", pod="") for link in links}
    return Contents(Namespace("live", interfaces, _node_routes(_route_messages(rtnl, _POD_LIMIT), names)), {})


@dataclass(frozen=True)
class _Host:
    """What was read in the host's namespace."""

    links: list[Any]
    routes: list[Any]
    neighbours: Mapping[int, frozenset[tuple[str, str]]]
    addresses: frozenset[str]

    @property
    def names(self) -> dict[int, str]:
        """Interface names by index."""
        return {link["index"]: _text(link, "IFLA_IFNAME") for link in self.links}

    def owned_by(self, owner: str) -> list[Any]:
        """Return the links of an owner's devices."""
        return [link for link in self.links if _interface(link).belongs_to(owner)]


def _read_host() -> _Host:
    with Rtnl() as rtnl:
        addresses = frozenset(
            one.get_attr("IFA_LOCAL") or one.get_attr("IFA_ADDRESS") for one in _addresses(rtnl)
        )
        return _Host(_links(rtnl), _route_messages(rtnl), _neighbours(rtnl), addresses)


def _netns_id_of(link: Any) -> int:
    """Return the ID of the namespace of a link's peer, -2 if that is the host's."""
    value = link.get_attr("IFLA_LINK_NETNSID")
    return -2 if value is None else int(value)


def _netns_id(path: str, rtnl: Rtnl) -> int:
    try:
        return netlink.netns_id(path, rtnl)
    except OSError:  # absent, or not a namespace
        return -1


def _devices(host: _Host, owner: str, namespaces: Mapping[str, Contents]) -> dict[str, Device]:
    """Return the owner's devices by Pod, with their ends in ``namespaces``."""
    managed_routes, names = _managed_routes(host.routes), host.names
    devices: dict[str, Device] = {}
    for link in host.owned_by(owner):
        interface = _interface(link)
        mode, driver_settings = _driver_settings(link)
        netns, (inner_name, inner) = next(
            (
                (path, contents.ends[interface.peer, interface.index])
                for path, contents in namespaces.items()
                if (interface.peer, interface.index) in contents.ends
            ),
            ("", ("", End())),
        )
        neighbours = host.neighbours.get(interface.index, frozenset()) if mode == "l2" else frozenset()
        routes = managed_routes.get(interface.index, frozenset())
        # A second device with the same alias, or one without, gets a key that no Pod can have, so it is
        # deleted.
        key = interface.pod
        if not key or key in devices:
            key = f"{key or 'unfinished'} ({names[interface.index]})"
        devices[key] = Device(
            name=interface.pod or key,
            driver=interface.kind,
            mode=mode,
            netns=netns,
            interface=inner_name,
            host_interface=names[interface.index],
            driver_settings=driver_settings,
            host=End(_settings(link, mode == "l2"), frozenset(), neighbours, routes),
            pod=inner,
            complete=bool(netns),
        )
    return devices


def belongs_to(link: Any, owner: str) -> bool:
    """Return whether an owner created the device of a link of the host."""
    return _interface(link).belongs_to(owner)


def existing_routes() -> frozenset[Route]:
    """Return the routes of the host's main tables."""
    with Rtnl() as rtnl:
        names = {link["index"]: _text(link, "IFLA_IFNAME") for link in _links(rtnl)}
        return frozenset(one.route for one in _node_routes(_route_messages(rtnl), names))


def owned_links(owner: str) -> dict[str, tuple[str, bool]]:
    """Return the host ends of an owner's devices: their Pod, empty for an unfinished one, and whether they
    are up.
    """
    with Rtnl() as rtnl:
        links = [link for link in _links(rtnl) if belongs_to(link, owner)]
    return {_text(link, "IFLA_IFNAME"): (_interface(link).pod, bool(link["flags"] & UP)) for link in links}


def read_device(owner: str, index: int, netns: str) -> Device:
    """Return one device of ``owner`` by the index of its host end, without reading others.

    Raises ``KernelRefusal`` if it does not exist.
    """
    with Rtnl() as rtnl:
        link = rtnl.link(index=index)
        layer2 = _driver_settings(link)[0] == "l2"
        neighbours = _neighbours(rtnl, index) if layer2 else {}
        host = _Host([link], _route_messages(rtnl, managed=index), neighbours, frozenset())
    end = _PodEnd(_interface(link).peer, index, layer2)
    devices = _devices(host, owner, {netns: _read_namespace(netns, [end], owner)})
    return next(iter(devices.values()))


def read_settings(device: Device, index: int, peer: int) -> Device:
    """Return a device with the current settings of both ends, which have these indexes.

    Raises ``KernelRefusal`` if it does not exist.
    """
    layer2 = device.mode == "l2"
    with Rtnl() as rtnl:
        host = _settings(rtnl.link(index=index), layer2)
    with Rtnl(device.netns) as rtnl:
        pod = _settings(rtnl.link(index=peer), layer2)
    pod["loopback"] = device.pod.settings.get("loopback")
    return replace(device, host=replace(device.host, settings=host), pod=replace(device.pod, settings=pod))


def read(owner: str, namespaces: Iterable[str], known: Mapping[str, Contents] | None = None) -> Snapshot:
    """Read the objects of ``owner``, and everything that its desired state can conflict with.

    Reads the namespaces at the paths ``namespaces`` and those that this owner created. Those in ``known`` are
    not read again, which saves most of the time.
    """
    created = created_namespaces()
    host = _read_host()
    names = host.names
    ends: dict[int, list[_PodEnd]] = {}
    for link in host.owned_by(owner):
        end = _PodEnd(_interface(link).peer, link["index"], _driver_settings(link)[0] == "l2")
        ends.setdefault(_netns_id_of(link), []).append(end)
    paths = {*namespaces, *(path for path, creator in created.items() if creator == owner)}
    with Rtnl() as rtnl:
        found = {
            path: (known or {}).get(path) or _read_namespace(path, ends.get(_netns_id(path, rtnl), ()), owner)
            for path in sorted(paths)
        }
    node = Node(
        interfaces={names[link["index"]]: _interface(link) for link in host.links},
        addresses=host.addresses,
        routes=_node_routes(host.routes, names),
        namespaces={path: contents.namespace for path, contents in found.items()},
        created_namespaces=created,
        supported_sizes=frozenset(
            size
            for size in SIZES
            if any(link.get_attr(f"IFLA_{size.upper()}") is not None for link in host.links)
        ),
        sizes={
            names[link["index"]]: _settings(link, False) for link in host.links if not _interface(link).owner
        },
        controller=ssh_origin.address(),
    )
    host_routes = read_host_routes(owner)
    existing = {one.route for one in node.routes}
    live = frozenset(
        path
        for path, creator in created.items()
        if creator == owner and found[path].namespace.state == "live"
    )
    state = State(_devices(host, owner, found), live, host_routes & existing)
    return Snapshot(state, node, host_routes, {name: index for index, name in names.items()}, found)
