# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pods' devices as the kernel has them: read all, make changes. Private to this collection.

pyroute2 encodes and decodes the messages. The sockets are the standard library's: pyroute2 enters a
namespace through a child process, which costs more than all else here, and its request functions differ
from 0.7 to 0.9. A socket opened after setns(2) stays in its namespace and takes requests in batches.

Source: rtnetlink(7), netlink(7), linux/if_link.h, drivers/net/netkit.c, drivers/net/veth.c.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import importlib.util
import itertools
import json
import os
import socket
import struct
import sys
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from . import _bpf, _link_kinds, _netlink, _netns, _pods
from ._link_kinds import ALIAS
from ._netlink import KernelRefusal
from ._pods import (
    SIZES,
    Change,
    Device,
    End,
    Interface,
    Namespace,
    Node,
    NodeRoute,
    Route,
    State,
)

ROUTE_PROTOCOL = 112  # rtm_protocol of every route made here; none of /etc/iproute2/rt_protos
RUN = "/run/podnet"  # what this boot has of ours: a marker for each namespace, each owner's routes

_RTM_NEWLINK, _RTM_DELLINK, _RTM_GETLINK, _RTM_SETLINK = 16, 17, 18, 19
_RTM_NEWADDR, _RTM_DELADDR, _RTM_GETADDR = 20, 21, 22
_RTM_NEWROUTE, _RTM_DELROUTE, _RTM_GETROUTE = 24, 25, 26
_RTM_NEWNEIGH, _RTM_DELNEIGH, _RTM_GETNEIGH = 28, 29, 30
_REQUEST, _ACK, _REPLACE, _DUMP, _EXCL, _CREATE = 0x1, 0x4, 0x100, 0x300, 0x200, 0x400
_DUMP_INTR = 0x10
_ERROR, _DONE = 2, 3
_SOL_NETLINK, _CAP_ACK, _EXT_ACK, _STRICT = 270, 10, 11, 12
_BATCH = 64  # answers to more than this could overflow a default receive buffer
_TABLE_MAIN, _UNICAST, _ONLINK = 254, 1, 4
_SCOPE_UNIVERSE, _SCOPE_LINK = 0, 253
_UP, _PERMANENT, _NODAD, _SKIP_STATS = 0x1, 0x80, 0x02, 8
_NO_ADDRESS_GENERATION = 1  # IN6_ADDR_GEN_MODE_NONE


# Which option a refusal to make a device is about, by the words of the kernel and of the drivers.
_REFUSALS = (
    ("namespace", "netns"),
    ("No such file", "netns"),
    ("name or index", "host_interface, interface"),
    ("exists", "host_interface, interface"),
    ("MAC address", "mode"),
    ("mtu", "mtu"),
    ("program", "programs"),
)


def option_of_refusal(change: Change, words: str) -> str:
    """Return the option that a refused change is about: many make up the making of a device."""
    if change.action == "make_device":
        for part, option in _REFUSALS:
            if part.lower() in words.lower():
                return option
    return change.option


class ApplyError(Exception):
    """A change that failed, told in the words of the options."""


# Messages


@dataclass(frozen=True)
class _Messages:
    """pyroute2's message classes, as far as they are needed."""

    link: Any
    address: Any
    route: Any
    neighbour: Any


@contextlib.contextmanager
def _without_init(name: str) -> Iterator[None]:
    """Import parts of a package in a block without running the package's own ``__init__``.

    pyroute2's loads all of its 130 modules, for which an emulated node takes five seconds; the messages
    need a quarter of that. An import of the package after the block runs its ``__init__`` as ever.
    """
    spec = importlib.util.find_spec(name)
    if name in sys.modules or spec is None or not spec.submodule_search_locations:
        yield
        return
    bare = types.ModuleType(name)
    bare.__path__ = list(spec.submodule_search_locations)
    sys.modules[name] = bare
    try:
        yield
    finally:
        del sys.modules[name]


@functools.cache
def _messages() -> _Messages:
    """Import pyroute2's messages and teach it the kinds meta and netkit."""
    with _without_init("pyroute2"):
        from pyroute2.netlink import nla
        from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
        from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg, ifinfveth
        from pyroute2.netlink.rtnl.ndmsg import ndmsg
        from pyroute2.netlink.rtnl.rtmsg import rtmsg

    _link_kinds.register(ifinfmsg, nla, ifinfveth)

    class link(ifinfmsg):  # type: ignore[misc]
        """A link with the attributes needed here, some of which pyroute2's own table lacks."""

        nla_map = (
            (1, "IFLA_ADDRESS", "l2addr"),
            (3, "IFLA_IFNAME", "asciiz"),
            (4, "IFLA_MTU", "uint32"),
            (5, "IFLA_LINK", "uint32"),
            (18, "IFLA_LINKINFO", "ifinfo"),
            (20, "IFLA_IFALIAS", "asciiz"),
            (26, "IFLA_AF_SPEC", "families"),
            (28, "IFLA_NET_NS_FD", "uint32"),
            (29, "IFLA_EXT_MASK", "uint32"),
            (41, "IFLA_GSO_MAX_SIZE", "uint32"),
            (58, "IFLA_GRO_MAX_SIZE", "uint32"),
            (63, "IFLA_GSO_IPV4_MAX_SIZE", "uint32"),
            (64, "IFLA_GRO_IPV4_MAX_SIZE", "uint32"),
        )

        class families(nla):  # type: ignore[misc]
            nla_map = ((10, "AF_INET6", "inet6"),)

            class inet6(nla):  # type: ignore[misc]
                nla_map = ((8, "IFLA_INET6_ADDR_GEN_MODE", "uint8"),)

    return _Messages(link, ifaddrmsg, rtmsg, ndmsg)


def _nested(*attributes: tuple[str, Any]) -> dict[str, Any]:
    return {"attrs": list(attributes)}


# Sockets


class Rtnl:
    """A socket of rtnetlink in one network namespace; ``path`` is None for the own one."""

    def __init__(self, path: str | None = None) -> None:
        with _netns.entered(path) if path else contextlib.nullcontext():
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.bind((0, 0))
        for option in (_CAP_ACK, _EXT_ACK, _STRICT):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)
        self._sequence = 0

    def __enter__(self) -> Rtnl:
        return self

    def __exit__(self, *_unused: object) -> None:
        self._socket.close()

    def _encode(self, message: Any, kind: int, flags: int) -> bytes:
        self._sequence += 1
        header = message["header"]
        header["type"], header["flags"], header["sequence_number"] = kind, flags | _REQUEST, self._sequence
        message.encode()
        data = bytes(message.data)
        return data + bytes(-len(data) % 4)

    def _answers(self) -> Iterator[tuple[int, int, int, bytes]]:
        """Yield type, flags, sequence number and the bytes of each message, header included, without end."""
        while True:
            data = self._socket.recv(1 << 20)
            while len(data) >= 16:
                length, kind, flags, sequence = struct.unpack_from("=IHHI", data)
                yield kind, flags, sequence, data[:length]
                data = data[(length + 3) & ~3 :]

    def send(self, requests: Sequence[tuple[Any, int, int]]) -> list[KernelRefusal | None]:
        """Send requests (message, type, flags) in order; return the kernel's answer to each.

        The kernel goes on with the next request after one that it refused.
        """
        results: list[KernelRefusal | None] = []
        for start in range(0, len(requests), _BATCH):
            batch = requests[start : start + _BATCH]
            first = self._sequence + 1
            self._socket.send(b"".join(self._encode(m, kind, flags | _ACK) for m, kind, flags in batch))
            answers: dict[int, KernelRefusal | None] = {}
            for kind, _flags, sequence, answer in self._answers():
                if kind == _ERROR and sequence >= first:
                    answers[sequence] = _netlink.refusal(kind, answer[16:])
                if len(answers) == len(batch):
                    break
            results += [answers[sequence] for sequence in sorted(answers)]
        return results

    def request(self, message: Any, kind: int, flags: int = 0) -> None:
        """Send one request; raise ``KernelRefusal`` where the kernel refuses it."""
        (refusal,) = self.send([(message, kind, flags)])
        if refusal is not None:
            raise refusal

    def dump(self, message: Any, kind: int) -> list[Any]:
        """Return everything that matches ``message``, decoded; once more when it changed meanwhile."""
        for _attempt in range(10):
            self._socket.send(self._encode(message, kind, _DUMP))
            found: list[Any] = []
            interrupted = False
            for got, flags, sequence, answer in self._answers():
                if sequence != self._sequence:
                    continue
                interrupted = interrupted or bool(flags & _DUMP_INTR)
                if got in (_ERROR, _DONE):
                    refusal = _netlink.refusal(got, answer[16:])
                    if refusal and refusal.errno != errno.ENOENT:  # a table that has never had a route
                        raise refusal
                    break
                one = type(message)(answer)
                one.decode()
                found.append(one)
            if not interrupted:
                return found
        return found

    def index_of(self, name: str) -> int:
        """Return the index of an interface; raise ``KernelRefusal`` where there is none."""
        message = _messages().link()
        message["attrs"] = [("IFLA_IFNAME", name), ("IFLA_EXT_MASK", _SKIP_STATS)]
        self._socket.send(self._encode(message, _RTM_GETLINK, 0))
        for kind, _flags, sequence, answer in self._answers():
            if sequence == self._sequence:
                refusal = _netlink.refusal(kind, answer[16:]) if kind == _ERROR else None
                if refusal:
                    raise refusal
                return int(struct.unpack_from("=i", answer, 20)[0])
        raise AssertionError  # the answers have no end


# Reading


@dataclass(frozen=True)
class Snapshot:
    """What is there: an owner's state, all else that could collide with it, and the recorded host routes."""

    state: State
    node: Node
    recorded: frozenset[Route]
    indexes: Mapping[str, int]
    inside: Mapping[str, _Inside]


def _links(rtnl: Rtnl) -> list[Any]:
    message = _messages().link()
    message["attrs"] = [("IFLA_EXT_MASK", _SKIP_STATS)]
    return rtnl.dump(message, _RTM_GETLINK)


def _route_messages(rtnl: Rtnl) -> list[Any]:
    found = []
    for family in (socket.AF_INET, socket.AF_INET6):
        message = _messages().route()
        message["family"], message["table"] = family, _TABLE_MAIN
        found += rtnl.dump(message, _RTM_GETROUTE)
    return found


def _addresses(rtnl: Rtnl, index: int = 0) -> list[Any]:
    message = _messages().address()
    message["index"] = index
    return rtnl.dump(message, _RTM_GETADDR)


def _neighbours(rtnl: Rtnl) -> dict[int, frozenset[tuple[str, str]]]:
    """Return the permanent neighbours of each interface."""
    found: dict[int, set[tuple[str, str]]] = {}
    for one in rtnl.dump(_messages().neighbour(), _RTM_GETNEIGH):
        if one["state"] & _PERMANENT and one["family"] in (socket.AF_INET, socket.AF_INET6):
            mac = one.get_attr("NDA_LLADDR")
            if mac:
                found.setdefault(one["ifindex"], set()).add((one.get_attr("NDA_DST"), mac))
    return {index: frozenset(pairs) for index, pairs in found.items()}


def _destination(message: Any) -> str:
    any_address = "0.0.0.0" if message["family"] == socket.AF_INET else "::"
    return f"{message.get_attr('RTA_DST') or any_address}/{message['dst_len']}"


def _node_routes(messages: Iterable[Any], names: Mapping[int, str]) -> tuple[NodeRoute, ...]:
    return tuple(
        NodeRoute(
            Route(_destination(m), m.get_attr("RTA_GATEWAY") or "", names.get(m.get_attr("RTA_OIF"), "")),
            m.get_attr("RTA_PRIORITY") or 0,
        )
        for m in messages
    )


def _own_routes(messages: Iterable[Any]) -> dict[int, frozenset[Route]]:
    """Return the routes that bear this collection's protocol, by interface."""
    found: dict[int, set[Route]] = {}
    for one in messages:
        if one["proto"] == ROUTE_PROTOCOL:
            metrics = one.get_attr("RTA_METRICS")
            advmss = (metrics.get_attr("RTAX_ADVMSS") or 0) if metrics else 0
            route = Route(_destination(one), one.get_attr("RTA_GATEWAY") or "", advmss=advmss)
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
    settings: dict[str, object] = {"mtu": link.get_attr("IFLA_MTU"), "up": bool(link["flags"] & _UP)}
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

    policies = {number: name for name, number in _link_kinds.POLICIES.items()}
    settings: dict[str, object] = {
        "policy": policies.get(value("POLICY"), value("POLICY")),
        "peer_policy": policies.get(value("PEER_POLICY"), value("PEER_POLICY")),
    }
    if kind == "meta":
        settings["to_pod"] = value("PROG_ID") or _pods.NO_PROGRAM
        settings["from_pod"] = value("PEER_PROG_ID") or _pods.NO_PROGRAM
    return ("l2" if value("MODE") == _link_kinds.MODES["l2"] else "l3"), settings


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
        loopback = any(link["index"] == 1 and link["flags"] & _UP for link in links)
        for link in links:
            found = _interface(link)
            if (found.index, found.peer) not in layer2:
                continue
            l2 = layer2[found.index, found.peer]
            addresses = frozenset(
                f"{one.get_attr('IFA_LOCAL') or one.get_attr('IFA_ADDRESS')}/{one['prefixlen']}"
                for one in _addresses(rtnl, found.index)
                if not (one["family"] == socket.AF_INET6 and one["scope"] == _SCOPE_LINK)
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
    made = _made_namespaces()
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
    )
    recorded = _recorded_routes(owner)
    present = {one.route for one in node.routes}
    live = frozenset(
        path for path, whose in made.items() if whose == owner and inside[path].namespace.state == "live"
    )
    state = State(devices, live, recorded & present)
    return Snapshot(state, node, recorded, {names[index]: index for index in names}, inside)


# What this boot has of ours


def _made_namespaces() -> dict[str, str]:
    """Return path and owner of the namespaces that this collection made."""
    made = {}
    folder = f"{RUN}/netns"
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(folder):
            with contextlib.suppress(FileNotFoundError), open(f"{folder}/{name}", encoding="utf-8") as marker:
                made[_netns.path_of(name)] = marker.read().strip()
    return made


def _marker(path: str) -> str:
    return f"{RUN}/netns/{os.path.basename(path)}"


def _recorded_routes(owner: str) -> frozenset[Route]:
    try:
        with open(f"{RUN}/routes/{owner}.json", encoding="utf-8") as file:
            return frozenset(Route(*entry) for entry in json.load(file))
    except (FileNotFoundError, ValueError, TypeError):
        return frozenset()


def _record_routes(owner: str, routes: frozenset[Route]) -> None:
    path = f"{RUN}/routes/{owner}.json"
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    with open(path + ".new", "w", encoding="utf-8") as file:
        json.dump(sorted(routes), file)
    os.replace(path + ".new", path)


@contextlib.contextmanager
def locked(wanted: bool = True) -> Iterator[None]:
    """Keep other calls out (a second play, a CNI plugin) for the length of a block, if ``wanted``."""
    if not wanted:
        yield
        return
    os.makedirs(RUN, mode=0o755, exist_ok=True)
    with open(f"{RUN}/lock", "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


# Changing


def _program_descriptor(program: int) -> int:
    """Return a file descriptor of a loaded program by its id; -1 stands for none."""
    if program == _pods.NO_PROGRAM:
        return -1
    return int(_bpf.prog_get_fd_by_id(program))


@contextlib.contextmanager
def _driver_attributes(kind: str, settings: Mapping[str, object]) -> Iterator[list[tuple[str, Any]]]:
    """Give the attributes for driver settings; programs are open for the length of the block."""
    prefix = f"IFLA_{kind.upper()}_"
    attributes: list[tuple[str, Any]] = []
    opened: list[int] = []
    try:
        for key, attribute in (("policy", "POLICY"), ("peer_policy", "PEER_POLICY")):
            if key in settings:
                attributes.append((prefix + attribute, _link_kinds.POLICIES[str(settings[key])]))
        for key, attribute in (("to_pod", "PROG_FD"), ("from_pod", "PEER_PROG_FD")):
            if key in settings:
                opened.append(_program_descriptor(int(str(settings[key]))))
                attributes.append((prefix + attribute, opened[-1]))
        yield attributes
    finally:
        for descriptor in opened:
            if descriptor >= 0:
                os.close(descriptor)


def _end_attributes(settings: Mapping[str, object]) -> list[tuple[str, Any]]:
    names = {"mtu": "IFLA_MTU", "mac": "IFLA_ADDRESS", **{size: f"IFLA_{size.upper()}" for size in SIZES}}
    return [(names[key], settings[key]) for key in names if key in settings]


def _family(text: str) -> int:
    return socket.AF_INET6 if ":" in text else socket.AF_INET


class Changer:
    """Makes changes, in order; those of one end of a Pod go to the kernel together."""

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._host = Rtnl()

    def __enter__(self) -> Changer:
        return self

    def __exit__(self, *_unused: object) -> None:
        self._host.__exit__()

    def apply(self, changes: Sequence[Change]) -> None:
        """Make all changes; raise ``ApplyError`` at the first that fails, leaving those before it made."""

        def together(change: Change) -> tuple[str, str, str]:
            if not change.end:
                return change.action, str(change.value), change.device.name if change.device else ""
            return change.end, change.of.name, ""

        for _key, group in itertools.groupby(changes, together):
            batch = list(group)
            if batch[0].end:
                self._change_end(batch)
            else:
                for change in batch:
                    try:
                        getattr(self, f"_{change.action}")(change)
                    except OSError as error:
                        raise ApplyError(self._tell(change, error)) from error

    @staticmethod
    def _tell(change: Change, error: OSError) -> str:
        who = f"Pod {change.device.name}: " if change.device else ""
        option = option_of_refusal(change, error.strerror or "")
        return f"{who}{option}: the kernel refused this step ({change}): {error.strerror}"

    # Devices and namespaces

    def _remove_device(self, change: Change) -> None:
        message = _messages().link()
        try:
            message["index"] = self._host.index_of(change.of.host_interface)
            self._host.request(message, _RTM_DELLINK)
        except KernelRefusal as refusal:
            if refusal.errno != errno.ENODEV:  # it went with its namespace meanwhile
                raise

    def _make_namespace(self, change: Change) -> None:
        path = str(change.value)
        os.makedirs(f"{RUN}/netns", mode=0o755, exist_ok=True)
        with open(_marker(path), "w", encoding="utf-8") as marker:
            marker.write(self._owner + "\n")
        try:
            if os.path.exists(path) and not _netns.is_namespace(path):
                _netns.remove(path)  # the file left of a namespace of ours
            _netns.make(path)
        except OSError:
            os.unlink(_marker(path))
            raise

    def _remove_namespace(self, change: Change) -> None:
        _netns.remove(str(change.value))
        with contextlib.suppress(FileNotFoundError):
            os.unlink(_marker(str(change.value)))

    def _make_device(self, change: Change) -> None:
        device = change.of
        messages = _messages()
        namespace = os.open(device.netns, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with _driver_attributes(device.driver, device.driver_settings) as attributes:
                peer = _nested(
                    ("IFLA_IFNAME", device.interface),
                    ("IFLA_NET_NS_FD", namespace),
                    *_end_attributes({k: v for k, v in device.pod.settings.items() if k in ("mtu", "mac")}),
                )
                if device.driver == "veth":
                    data = _nested(("VETH_INFO_PEER", peer))
                else:
                    prefix = f"IFLA_{device.driver.upper()}_"
                    data = _nested(
                        (prefix + "PEER_INFO", peer),
                        (prefix + "MODE", _link_kinds.MODES[device.mode]),
                        *attributes,
                    )
                message = messages.link()
                message["attrs"] = [
                    ("IFLA_IFNAME", device.host_interface),
                    *_end_attributes({k: v for k, v in device.host.settings.items() if k in ("mtu", "mac")}),
                    ("IFLA_LINKINFO", _nested(("IFLA_INFO_KIND", device.driver), ("IFLA_INFO_DATA", data))),
                ]
                self._host.request(message, _RTM_NEWLINK, _CREATE | _EXCL)
        finally:
            os.close(namespace)
        # Only now may the device be anybody's: name it, and keep the host's end without a link-local address.
        message = messages.link()
        message["index"] = self._host.index_of(device.host_interface)
        message["attrs"] = [
            ("IFLA_IFALIAS", f"{ALIAS}{self._owner}/{device.name}"),
            (
                "IFLA_AF_SPEC",
                _nested(("AF_INET6", _nested(("IFLA_INET6_ADDR_GEN_MODE", _NO_ADDRESS_GENERATION)))),
            ),
        ]
        try:
            self._host.request(message, _RTM_SETLINK)
        except OSError:
            removal = messages.link()
            removal["index"] = message["index"]
            self._host.request(removal, _RTM_DELLINK)
            raise

    def _set_driver(self, change: Change) -> None:
        device = change.of
        with _driver_attributes(device.driver, change.value) as attributes:
            message = _messages().link()
            message["index"] = self._host.index_of(device.host_interface)
            message["attrs"] = [
                (
                    "IFLA_LINKINFO",
                    _nested(("IFLA_INFO_KIND", device.driver), ("IFLA_INFO_DATA", _nested(*attributes))),
                )
            ]
            self._host.request(message, _RTM_NEWLINK)

    # Routes of the host

    def _add_host_route(self, change: Change) -> None:
        # Recorded first: a route that is recorded and missing does no harm, the reverse would stay.
        _record_routes(self._owner, _recorded_routes(self._owner) | {change.value})
        self._host.request(*self._route(change.value, self._host.index_of(change.value.dev), _RTM_NEWROUTE))

    def _remove_host_route(self, change: Change) -> None:
        self._host.request(*self._route(change.value, self._host.index_of(change.value.dev), _RTM_DELROUTE))
        _record_routes(self._owner, _recorded_routes(self._owner) - {change.value})

    # Ends

    @staticmethod
    def _route(route: Route, index: int, kind: int, onlink: bool = False) -> tuple[Any, int, int]:
        message = _messages().route()
        destination, _slash, length = route.to.partition("/")
        message["family"], message["dst_len"] = _family(destination), int(length)
        message["table"], message["proto"], message["type"] = _TABLE_MAIN, ROUTE_PROTOCOL, _UNICAST
        direct4 = not route.via and message["family"] == socket.AF_INET
        message["scope"] = _SCOPE_LINK if direct4 else _SCOPE_UNIVERSE
        message["flags"] = _ONLINK if onlink and route.via else 0
        attributes: list[tuple[str, Any]] = [("RTA_DST", destination)] if int(length) else []
        if route.via:
            attributes.append(("RTA_GATEWAY", route.via))
        if route.advmss:
            attributes.append(("RTA_METRICS", {"attrs": [("RTAX_ADVMSS", route.advmss)]}))
        message["attrs"] = [*attributes, ("RTA_OIF", index)]
        return message, kind, _CREATE | _EXCL if kind == _RTM_NEWROUTE else 0

    @staticmethod
    def _address(text: str, index: int, kind: int) -> tuple[Any, int, int]:
        message = _messages().address()
        address, _slash, length = text.partition("/")
        message["family"], message["prefixlen"], message["index"] = _family(address), int(length), index
        message["attrs"] = [("IFA_LOCAL", address), ("IFA_ADDRESS", address)]
        if message["family"] == socket.AF_INET6:
            message["flags"] = _NODAD
        return message, kind, _CREATE | _REPLACE if kind == _RTM_NEWADDR else 0

    @staticmethod
    def _neighbour(pair: tuple[str, str], index: int, kind: int) -> tuple[Any, int, int]:
        message = _messages().neighbour()
        message["family"], message["ifindex"], message["state"] = _family(pair[0]), index, _PERMANENT
        message["attrs"] = [("NDA_DST", pair[0])]
        if kind == _RTM_NEWNEIGH:
            message["attrs"].append(("NDA_LLADDR", pair[1]))
        return message, kind, _CREATE | _REPLACE if kind == _RTM_NEWNEIGH else 0

    @staticmethod
    def _set(settings: Mapping[str, object], index: int) -> list[tuple[Any, int, int]]:
        requests = []
        attributes = _end_attributes(settings)
        if attributes or "up" in settings:
            message = _messages().link()
            message["index"], message["attrs"] = index, attributes
            if "up" in settings:
                message["flags"], message["change"] = _UP if settings["up"] else 0, _UP
            requests.append((message, _RTM_SETLINK, 0))
        if "loopback" in settings:
            message = _messages().link()
            message["index"], message["change"] = 1, _UP
            message["flags"] = _UP if settings["loopback"] else 0
            requests.append((message, _RTM_SETLINK, 0))
        return requests

    def _requests(self, change: Change, index: int) -> list[tuple[Any, int, int]]:
        value = change.value
        if change.action == "set":
            return self._set(value, index)
        verb, _underscore, what = change.action.partition("_")
        add = verb == "add"
        if what == "address":
            return [self._address(value, index, _RTM_NEWADDR if add else _RTM_DELADDR)]
        if what == "neighbour":
            return [self._neighbour(value, index, _RTM_NEWNEIGH if add else _RTM_DELNEIGH)]
        return [self._route(value, index, _RTM_NEWROUTE if add else _RTM_DELROUTE, onlink=True)]

    def _change_end(self, changes: Sequence[Change]) -> None:
        """Make the changes of one end of one Pod."""
        device, inside = changes[0].of, changes[0].end == "pod"
        try:
            with Rtnl(device.netns) if inside else contextlib.nullcontext(self._host) as rtnl:
                index = rtnl.index_of(device.interface if inside else device.host_interface)
                requests = [(change, one) for change in changes for one in self._requests(change, index)]
                results = rtnl.send([one for _change, one in requests])
        except OSError as error:
            raise ApplyError(self._tell(changes[0], error)) from error
        # What is gone already needs no removal: the kernel takes routes along with addresses and links.
        gone = (errno.ESRCH, errno.ENOENT, errno.EADDRNOTAVAIL)
        for (change, _request), refusal in zip(requests, results):
            if refusal is not None and not (change.action.startswith("remove_") and refusal.errno in gone):
                raise ApplyError(self._tell(change, refusal)) from refusal
