# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Changes of Pods' devices, sent to the kernel. Private to this collection.

Source: rtnetlink(7), linux/if_link.h, drivers/net/netkit.c, drivers/net/veth.c.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .._core.plan import Problem
from .._kernel import bpf, link_kinds, netns
from .._kernel.link_kinds import ALIAS
from .._kernel.netlink import KernelRefusal
from .._kernel.rtnl import (
    CREATE,
    EXCL,
    PERMANENT,
    REPLACE,
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_DELNEIGH,
    RTM_DELROUTE,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWNEIGH,
    RTM_NEWROUTE,
    RTM_SETLINK,
    SCOPE_LINK,
    SCOPE_UNIVERSE,
    TABLE_MAIN,
    UP,
    Rtnl,
    message_types,
    nested,
)
from . import model
from .model import SIZES, Change, Route
from .read import ROUTE_PROTOCOL
from .record import RUN, marker_of, record_routes, recorded_routes

_UNICAST, _ONLINK = 1, 4  # RTN_UNICAST, RTNH_F_ONLINK
_NODAD = 0x02  # IFA_F_NODAD
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


class ApplyError(Problem):
    """A change that failed, told in the words of the options."""


def _program_descriptor(program: int) -> int:
    """Return a file descriptor of a loaded program by its id; -1 stands for none."""
    if program == model.NO_PROGRAM:
        return -1
    return int(bpf.prog_get_fd_by_id(program))


@contextlib.contextmanager
def _driver_attributes(kind: str, settings: Mapping[str, object]) -> Iterator[list[tuple[str, Any]]]:
    """Give the attributes for driver settings; programs are open for the length of the block."""
    prefix = f"IFLA_{kind.upper()}_"
    attributes: list[tuple[str, Any]] = []
    opened: list[int] = []
    try:
        for key, attribute in (("policy", "POLICY"), ("peer_policy", "PEER_POLICY")):
            if key in settings:
                attributes.append((prefix + attribute, link_kinds.POLICIES[str(settings[key])]))
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
        message = message_types().link()
        try:
            message["index"] = self._host.index_of(change.of.host_interface)
            self._host.request(message, RTM_DELLINK)
        except KernelRefusal as refusal:
            if refusal.errno != errno.ENODEV:  # it went with its namespace meanwhile
                raise

    def _make_namespace(self, change: Change) -> None:
        path = str(change.value)
        os.makedirs(f"{RUN}/netns", mode=0o755, exist_ok=True)
        with open(marker_of(path), "w", encoding="utf-8") as marker:
            marker.write(self._owner + "\n")
        try:
            if os.path.exists(path) and not netns.is_namespace(path):
                netns.remove(path)  # the file left of a namespace of ours
            netns.make(path)
        except OSError:
            os.unlink(marker_of(path))
            raise

    def _remove_namespace(self, change: Change) -> None:
        netns.remove(str(change.value))
        with contextlib.suppress(FileNotFoundError):
            os.unlink(marker_of(str(change.value)))

    def _make_device(self, change: Change) -> None:
        device = change.of
        messages = message_types()
        namespace = os.open(device.netns, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with _driver_attributes(device.driver, device.driver_settings) as attributes:
                peer = nested(
                    ("IFLA_IFNAME", device.interface),
                    ("IFLA_NET_NS_FD", namespace),
                    *_end_attributes({k: v for k, v in device.pod.settings.items() if k in ("mtu", "mac")}),
                )
                if device.driver == "veth":
                    data = nested(("VETH_INFO_PEER", peer))
                else:
                    prefix = f"IFLA_{device.driver.upper()}_"
                    data = nested(
                        (prefix + "PEER_INFO", peer),
                        (prefix + "MODE", link_kinds.MODES[device.mode]),
                        *attributes,
                    )
                message = messages.link()
                message["attrs"] = [
                    ("IFLA_IFNAME", device.host_interface),
                    *_end_attributes({k: v for k, v in device.host.settings.items() if k in ("mtu", "mac")}),
                    ("IFLA_LINKINFO", nested(("IFLA_INFO_KIND", device.driver), ("IFLA_INFO_DATA", data))),
                ]
                self._host.request(message, RTM_NEWLINK, CREATE | EXCL)
        finally:
            os.close(namespace)
        # Only now may the device be anybody's: name it, and keep the host's end without a link-local address.
        message = messages.link()
        message["index"] = self._host.index_of(device.host_interface)
        message["attrs"] = [
            ("IFLA_IFALIAS", f"{ALIAS}{self._owner}/{device.name}"),
            (
                "IFLA_AF_SPEC",
                nested(("AF_INET6", nested(("IFLA_INET6_ADDR_GEN_MODE", _NO_ADDRESS_GENERATION)))),
            ),
        ]
        try:
            self._host.request(message, RTM_SETLINK)
        except OSError:
            removal = messages.link()
            removal["index"] = message["index"]
            self._host.request(removal, RTM_DELLINK)
            raise

    def _set_driver(self, change: Change) -> None:
        device = change.of
        with _driver_attributes(device.driver, change.value) as attributes:
            message = message_types().link()
            message["index"] = self._host.index_of(device.host_interface)
            message["attrs"] = [
                (
                    "IFLA_LINKINFO",
                    nested(("IFLA_INFO_KIND", device.driver), ("IFLA_INFO_DATA", nested(*attributes))),
                )
            ]
            self._host.request(message, RTM_NEWLINK)

    # Routes of the host

    def _add_host_route(self, change: Change) -> None:
        # Recorded first: a route that is recorded and missing does no harm, the reverse would stay.
        record_routes(self._owner, recorded_routes(self._owner) | {change.value})
        self._host.request(*self._route(change.value, self._host.index_of(change.value.dev), RTM_NEWROUTE))

    def _remove_host_route(self, change: Change) -> None:
        self._host.request(*self._route(change.value, self._host.index_of(change.value.dev), RTM_DELROUTE))
        record_routes(self._owner, recorded_routes(self._owner) - {change.value})

    # Ends

    @staticmethod
    def _route(route: Route, index: int, kind: int, onlink: bool = False) -> tuple[Any, int, int]:
        message = message_types().route()
        destination, _slash, length = route.to.partition("/")
        message["family"], message["dst_len"] = _family(destination), int(length)
        message["table"], message["proto"], message["type"] = TABLE_MAIN, ROUTE_PROTOCOL, _UNICAST
        direct4 = not route.via and message["family"] == socket.AF_INET
        message["scope"] = SCOPE_LINK if direct4 else SCOPE_UNIVERSE
        message["flags"] = _ONLINK if onlink and route.via else 0
        attributes: list[tuple[str, Any]] = [("RTA_DST", destination)] if int(length) else []
        if route.via:
            attributes.append(("RTA_GATEWAY", route.via))
        if route.advmss:
            attributes.append(("RTA_METRICS", {"attrs": [("RTAX_ADVMSS", route.advmss)]}))
        message["attrs"] = [*attributes, ("RTA_OIF", index)]
        return message, kind, CREATE | EXCL if kind == RTM_NEWROUTE else 0

    @staticmethod
    def _address(text: str, index: int, kind: int) -> tuple[Any, int, int]:
        message = message_types().address()
        address, _slash, length = text.partition("/")
        message["family"], message["prefixlen"], message["index"] = _family(address), int(length), index
        message["attrs"] = [("IFA_LOCAL", address), ("IFA_ADDRESS", address)]
        if message["family"] == socket.AF_INET6:
            message["flags"] = _NODAD
        return message, kind, CREATE | REPLACE if kind == RTM_NEWADDR else 0

    @staticmethod
    def _neighbour(pair: tuple[str, str], index: int, kind: int) -> tuple[Any, int, int]:
        message = message_types().neighbour()
        message["family"], message["ifindex"], message["state"] = _family(pair[0]), index, PERMANENT
        message["attrs"] = [("NDA_DST", pair[0])]
        if kind == RTM_NEWNEIGH:
            message["attrs"].append(("NDA_LLADDR", pair[1]))
        return message, kind, CREATE | REPLACE if kind == RTM_NEWNEIGH else 0

    @staticmethod
    def _set(settings: Mapping[str, object], index: int) -> list[tuple[Any, int, int]]:
        requests = []
        attributes = _end_attributes(settings)
        if attributes or "up" in settings:
            message = message_types().link()
            message["index"], message["attrs"] = index, attributes
            if "up" in settings:
                message["flags"], message["change"] = UP if settings["up"] else 0, UP
            requests.append((message, RTM_SETLINK, 0))
        if "loopback" in settings:
            message = message_types().link()
            message["index"], message["change"] = 1, UP
            message["flags"] = UP if settings["loopback"] else 0
            requests.append((message, RTM_SETLINK, 0))
        return requests

    def _requests(self, change: Change, index: int) -> list[tuple[Any, int, int]]:
        value = change.value
        if change.action == "set":
            return self._set(value, index)
        verb, _underscore, what = change.action.partition("_")
        add = verb == "add"
        if what == "address":
            return [self._address(value, index, RTM_NEWADDR if add else RTM_DELADDR)]
        if what == "neighbour":
            return [self._neighbour(value, index, RTM_NEWNEIGH if add else RTM_DELNEIGH)]
        return [self._route(value, index, RTM_NEWROUTE if add else RTM_DELROUTE, onlink=True)]

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
