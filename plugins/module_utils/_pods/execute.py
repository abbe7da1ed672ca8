# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Send the steps of a plan for Pods to the kernel.

Source: rtnetlink(7), linux/if_link.h, drivers/net/netkit.c, drivers/net/veth.c.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .._core.plan import Problem
from .._kernel import bpf, link_kinds, netns
from .._kernel.link_kinds import ALIAS
from .._kernel.netlink import (
    IFLA_ADDRESS,
    IFLA_IFALIAS,
    IFLA_IFNAME,
    IFLA_MTU,
    RTM_GETLINK,
    SKIP_STATS,
    KernelRefusal,
    attribute,
    decode_link,
    link_info,
    link_message,
)
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
    RTM_SETNEIGHTBL,
    SCOPE_LINK,
    SCOPE_UNIVERSE,
    TABLE_MAIN,
    UP,
    Rtnl,
)
from .model import NO_PROGRAM, SIZES, Device, Route, creation_group
from .plan import Step
from .read import ROUTE_PROTOCOL
from .run_files import RUN, owner_file, read_host_routes, write_host_routes

_UNICAST, _ONLINK = 1, 4  # RTN_UNICAST, RTNH_F_ONLINK
_NODAD = 0x02  # IFA_F_NODAD
# linux/rtnetlink.h and linux/if_addr.h: struct rtmsg and ifaddrmsg, and their attributes
_ROUTE, _ADDRESS, _NUMBER = struct.Struct("=8BI"), struct.Struct("=4BI"), struct.Struct("=I")
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_METRICS, _RTAX_ADVMSS = 1, 4, 5, 8, 8
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
# linux/if_link.h: attributes of links
_SIZES = {"mtu": IFLA_MTU, **dict(zip(SIZES, (41, 58, 63, 64)))}  # IFLA_GSO_MAX_SIZE and so on
_IFLA_AF_SPEC, _IFLA_GROUP, _IFLA_NET_NS_FD, _IFLA_EXT_MASK = 26, 27, 28, 29
_IFLA_INET6_ADDR_GEN_MODE, _NO_ADDRESS_GENERATION = 8, 1  # IN6_ADDR_GEN_MODE_NONE
_PEER_INFO = 1  # VETH_INFO_PEER, and PEER_INFO of the other kinds
# linux/neighbour.h: struct ndmsg, and its attributes
_NEIGHBOUR = struct.Struct("=B3xiHBB")
_NDA_DST, _NDA_LLADDR = 1, 2
_NEIGHBOUR_TABLES: Mapping[int, str] = {socket.AF_INET: "arp_cache", socket.AF_INET6: "ndisc_cache"}
_NDTA_NAME, _NDTA_PARMS, _NDTPA_IFINDEX, _NDTPA_MCAST_PROBES = 1, 6, 1, 11

# Options by parts of the messages with which the kernel and the drivers reject a new device.
_REFUSALS = (
    ("namespace", "netns"),
    ("No such file", "netns"),
    ("name or index", "host_interface, interface"),
    ("exists", "host_interface, interface"),
    ("MAC address", "mode"),
    ("mtu", "mtu"),
    ("program", "programs"),
)


def rejected_option(step: Step, message: str) -> str:
    """Return the option that caused a rejection: a new device depends on many."""
    if step.action == "create_device":
        for part, option in _REFUSALS:
            if part.lower() in message.lower():
                return option
    return step.option


class PodProblem(Problem):
    """A problem that the contents of one Pod's namespace caused, which the Pod may control."""

    def __init__(self, message: str, pod: str) -> None:
        super().__init__(message)
        self.pod = pod


def depends_on_namespace(step: Step, error: OSError) -> bool:
    """Return whether a step may have failed because of the contents of the Pod's namespace."""
    created = step.action == "create_device" and error.errno in (errno.EEXIST, errno.ENOENT)
    return step.end == "pod" or created


def _program_descriptor(program: int) -> int:
    """Return a file descriptor of a loaded program by its ID, -1 for no program."""
    if program == NO_PROGRAM:
        return -1
    return int(bpf.prog_get_fd_by_id(program))


@contextlib.contextmanager
def _driver_attributes(settings: Mapping[str, object]) -> Iterator[bytes]:
    """Yield the attributes for driver settings; programs are open during the block."""
    numbers, attributes = link_kinds.META, b""
    opened: list[int] = []
    try:
        for key, name in (("policy", "POLICY"), ("peer_policy", "PEER_POLICY")):
            if key in settings:
                attributes += _number(numbers[name], link_kinds.POLICIES[str(settings[key])])
        for key, name in (("to_pod", "PROG_FD"), ("from_pod", "PEER_PROG_FD")):
            if key in settings:
                opened.append(_program_descriptor(int(str(settings[key]))))
                attributes += attribute(numbers[name], struct.pack("=i", opened[-1]))
        yield attributes
    finally:
        for descriptor in opened:
            if descriptor >= 0:
                os.close(descriptor)


def _number(kind: int, value: int) -> bytes:
    return attribute(kind, _NUMBER.pack(value))


def _name(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _end_attributes(settings: Mapping[str, Any]) -> bytes:
    found = [_number(kind, settings[key]) for key, kind in _SIZES.items() if key in settings]
    if "mac" in settings:
        found.append(attribute(IFLA_ADDRESS, _mac(settings["mac"])))
    return b"".join(found)


# A Pod is neither a router of the node nor may it redirect the node's packets.
_DISABLED = (
    ("ipv6", "accept_ra"),
    ("ipv6", "accept_redirects"),
    ("ipv6", "autoconf"),
    ("ipv4", "accept_redirects"),
)


def accept_no_routers(interface: str) -> None:
    """Make the host's end of a Pod's device ignore router advertisements and redirects.

    The node's defaults for new interfaces may accept them. Raises ``OSError``.
    """
    for family, key in _DISABLED:
        # open() would take five times as many system calls, of which each ADD has many.
        with contextlib.suppress(FileNotFoundError):
            file = os.open(f"/proc/sys/net/{family}/conf/{interface}/{key}", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(file, b"0")
            finally:
                os.close(file)


def _family(text: str) -> int:
    return socket.AF_INET6 if ":" in text else socket.AF_INET


@dataclass(frozen=True)
class PairLink:
    """Interface indexes of the host's and the Pod's end, and the MTU at which the device was created."""

    index: int
    peer: int
    mtu: int


class Executor:
    """Executes steps in order; sends those of one end of a Pod in one batch."""

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._host = Rtnl()
        self._links: dict[str, PairLink] = {}  # by name of the host end

    def __enter__(self) -> Executor:
        return self

    def __exit__(self, *_unused: object) -> None:
        self._host.__exit__()

    def execute(self, steps: Sequence[Step]) -> None:
        """Execute all steps; raises ``Problem`` at the first that fails, without undoing the former ones."""

        def batch_of(step: Step) -> tuple[str, str, str]:
            if not step.end:
                return step.action, str(step.value), step.device.name if step.device else ""
            return step.end, step.of.name, ""

        for _key, group in itertools.groupby(steps, batch_of):
            batch = list(group)
            if batch[0].end:
                self._change_end(batch)
                continue
            for step in batch:
                try:
                    getattr(self, f"_{step.action}")(step)
                except OSError as error:
                    raise self._problem(step, error) from error

    def link_of(self, device: Device) -> PairLink:
        """Return the link of an existing device. Raises ``KernelRefusal``."""
        name = device.host_interface
        if name not in self._links:
            request = link_message(_name(IFLA_IFNAME, name), _number(_IFLA_EXT_MASK, SKIP_STATS))
            link = decode_link(self._host.get(request, RTM_GETLINK))
            self._links[name] = PairLink(link.index, link.link, link.mtu)
        return self._links[name]

    @staticmethod
    def _problem(step: Step, error: OSError) -> Problem:
        pod = f"Pod {step.device.name}: " if step.device else ""
        option = rejected_option(step, error.strerror or "")
        message = f"{pod}{option}: the kernel rejected this step ({step}): {error.strerror}"
        if step.device and depends_on_namespace(step, error):
            return PodProblem(message, step.device.name)
        return Problem(message)

    # Devices and namespaces

    def _delete_device(self, step: Step) -> None:
        self._links.pop(step.of.host_interface, None)
        try:
            index = self._host.index_of(step.of.host_interface)
            self._host.request(link_message(index=index), RTM_DELLINK)
        except KernelRefusal as refusal:
            if refusal.errno != errno.ENODEV:  # it was deleted with its namespace
                raise

    def _create_namespace(self, step: Step) -> None:
        path = str(step.value)
        os.makedirs(f"{RUN}/netns", mode=0o755, exist_ok=True)
        with open(owner_file(path), "w", encoding="utf-8") as file:
            file.write(self._owner + "\n")
        try:
            if os.path.exists(path) and not netns.is_namespace(path):
                netns.remove(path)  # the stale file of a managed namespace
            netns.make(path)
        except OSError:
            os.unlink(owner_file(path))
            raise

    def _delete_namespace(self, step: Step) -> None:
        netns.remove(str(step.value))
        with contextlib.suppress(FileNotFoundError):
            os.unlink(owner_file(str(step.value)))

    def _create_device(self, step: Step) -> None:
        device = step.of
        namespace = os.open(device.netns, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with _driver_attributes(device.driver_settings) as attributes:
                peer = link_message(
                    _name(IFLA_IFNAME, device.interface),
                    _number(_IFLA_NET_NS_FD, namespace),
                    _end_attributes({k: v for k, v in device.pod.settings.items() if k in ("mtu", "mac")}),
                )
                data = attribute(_PEER_INFO, peer)
                if device.driver != "veth":
                    data += _number(link_kinds.META["MODE"], link_kinds.MODES[device.mode]) + attributes
                message = link_message(
                    _name(IFLA_IFNAME, device.host_interface),
                    _number(_IFLA_GROUP, creation_group(self._owner)),
                    _end_attributes({k: v for k, v in device.host.settings.items() if k in ("mtu", "mac")}),
                    link_info(device.driver, data),
                )
                self._host.request(message, RTM_NEWLINK, CREATE | EXCL)
        finally:
            os.close(namespace)
        # The alias marks the device as managed. The host end needs no link-local address.
        self._links.pop(device.host_interface, None)
        index = self.link_of(device).index
        generation = attribute(_IFLA_INET6_ADDR_GEN_MODE, bytes([_NO_ADDRESS_GENERATION]))
        message = link_message(
            _name(IFLA_IFALIAS, f"{ALIAS}{self._owner}/{device.name}"),
            _number(_IFLA_GROUP, 0),
            attribute(_IFLA_AF_SPEC, attribute(socket.AF_INET6, generation)),
            index=index,
        )
        try:
            self._host.request(message, RTM_SETLINK)
        except OSError:
            self._host.request(link_message(index=index), RTM_DELLINK)
            raise

    def _set_driver(self, step: Step) -> None:
        device = step.of
        with _driver_attributes(step.value) as attributes:
            message = link_message(link_info(device.driver, attributes), index=self.link_of(device).index)
            self._host.request(message, RTM_NEWLINK)

    # Routes of the host

    def _add_host_route(self, step: Step) -> None:
        # Listed first: a listed route that is missing does no harm, an unlisted one would never be deleted.
        write_host_routes(self._owner, read_host_routes(self._owner) | {step.value})
        self._host.request(*self._route(step.value, self._host.index_of(step.value.dev), RTM_NEWROUTE))

    def _delete_host_route(self, step: Step) -> None:
        self._host.request(*self._route(step.value, self._host.index_of(step.value.dev), RTM_DELROUTE))
        write_host_routes(self._owner, read_host_routes(self._owner) - {step.value})

    # Ends

    @staticmethod
    def _route(route: Route, index: int, kind: int, onlink: bool = False) -> tuple[bytes, int, int]:
        destination, _slash, length = route.to.partition("/")
        family = _family(destination)
        scope = SCOPE_LINK if not route.via and family == socket.AF_INET else SCOPE_UNIVERSE
        flags = _ONLINK if onlink and route.via else 0
        message = _ROUTE.pack(family, int(length), 0, 0, TABLE_MAIN, ROUTE_PROTOCOL, scope, _UNICAST, flags)
        if int(length):
            message += attribute(_RTA_DST, socket.inet_pton(family, destination))
        if route.via:
            message += attribute(_RTA_GATEWAY, socket.inet_pton(family, route.via))
        if route.advmss:
            message += attribute(_RTA_METRICS, attribute(_RTAX_ADVMSS, _NUMBER.pack(route.advmss)))
        message += attribute(_RTA_OIF, _NUMBER.pack(index))
        return message, kind, CREATE | EXCL if kind == RTM_NEWROUTE else 0

    @staticmethod
    def _address(text: str, index: int, kind: int) -> tuple[bytes, int, int]:
        address, _slash, length = text.partition("/")
        family = _family(address)
        packed = socket.inet_pton(family, address)
        flags = _NODAD if family == socket.AF_INET6 else 0
        message = _ADDRESS.pack(family, int(length), flags, SCOPE_UNIVERSE, index)
        message += attribute(_IFA_LOCAL, packed) + attribute(_IFA_ADDRESS, packed)
        return message, kind, CREATE | REPLACE if kind == RTM_NEWADDR else 0

    @staticmethod
    def _neighbour(pair: tuple[str, str], index: int, kind: int) -> tuple[bytes, int, int]:
        family = _family(pair[0])
        message = _NEIGHBOUR.pack(family, index, PERMANENT, 0, 0)
        message += attribute(_NDA_DST, socket.inet_pton(family, pair[0]))
        if kind == RTM_NEWNEIGH:
            message += attribute(_NDA_LLADDR, _mac(pair[1]))
        return message, kind, CREATE | REPLACE if kind == RTM_NEWNEIGH else 0

    @staticmethod
    def _resolve_no_others(address: str, index: int) -> tuple[bytes, int, int]:
        """Let the kernel resolve no neighbours on an interface, in the family of ``address``.

        All namespaces share the limit of the kernel's tables, and a process needs no privileges to send to
        any address of a link. Unresolved entries would count for seconds, failed ones are replaced.
        """
        parameters = attribute(_NDTPA_IFINDEX, _NUMBER.pack(index)) + attribute(
            _NDTPA_MCAST_PROBES, _NUMBER.pack(0)
        )
        message = bytes([_family(address), 0, 0, 0])  # struct ndtmsg
        message += _name(_NDTA_NAME, _NEIGHBOUR_TABLES[_family(address)])
        return message + attribute(_NDTA_PARMS, parameters), RTM_SETNEIGHTBL, 0

    @staticmethod
    def _set(settings: Mapping[str, object], index: int) -> list[tuple[bytes, int, int]]:
        requests = []
        attributes = _end_attributes(settings)
        if attributes or "up" in settings:
            change = UP if "up" in settings else 0
            flags = UP if settings.get("up") else 0
            requests.append(
                (link_message(attributes, index=index, flags=flags, change=change), RTM_SETLINK, 0)
            )
        if "loopback" in settings:
            flags = UP if settings["loopback"] else 0
            requests.append((link_message(index=1, flags=flags, change=UP), RTM_SETLINK, 0))
        return requests

    def _requests(self, step: Step, index: int) -> list[tuple[bytes, int, int]]:
        value = step.value
        if step.action == "set":
            return self._set(value, index)
        verb, _underscore, what = step.action.partition("_")
        add = verb == "add"
        if what == "address":
            return [self._address(value, index, RTM_NEWADDR if add else RTM_DELADDR)]
        if what == "neighbour":
            found = [self._neighbour(value, index, RTM_NEWNEIGH if add else RTM_DELNEIGH)]
            return [*found, self._resolve_no_others(value[0], index)] if add and step.end == "pod" else found
        return [self._route(value, index, RTM_NEWROUTE if add else RTM_DELROUTE, onlink=True)]

    def _change_end(self, steps: Sequence[Step]) -> None:
        """Execute the steps of one end of one Pod."""
        device, inside = steps[0].of, steps[0].end == "pod"
        try:
            with Rtnl(device.netns) if inside else contextlib.nullcontext(self._host) as rtnl:
                link = self.link_of(device)
                index = link.peer if inside else link.index  # not by name, which the Pod can change
                if not inside:
                    accept_no_routers(device.host_interface)
                requests = [(step, one) for step in steps for one in self._requests(step, index)]
                results = rtnl.send([one for _step, one in requests])
                if not inside and any(step.action == "set" and "mtu" in step.value for step in steps):
                    accept_no_routers(device.host_interface)  # A larger MTU has enabled IPv6.
        except OSError as error:
            raise self._problem(steps[0], error) from error
        # The kernel deletes routes along with addresses and links.
        missing = (errno.ESRCH, errno.ENOENT, errno.EADDRNOTAVAIL)
        for (step, _request), refusal in zip(requests, results):
            if refusal is not None and not (step.action.startswith("delete_") and refusal.errno in missing):
                raise self._problem(step, refusal) from refusal
