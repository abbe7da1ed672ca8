# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read network devices and the programs at their hooks, and set the programs of meta devices.

Sources: linux/pkt_cls.h, linux/rtnetlink.h, tc-bpf(8).
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

from .._core.plan import Problem
from .._datapath import stale_sockets
from .._kernel import bpf, libbpf, link_kinds, netlink
from .._kernel.messages import traffic_control_type
from .._kernel.rtnl import RTM_NEWLINK, UP, Rtnl

HOOKS = ("from_pod", "to_pod", "ingress", "egress")
# Hooks of a cgroup's sockets
SOCKET_HOOKS = {
    "connect4": bpf.BPF_CGROUP_INET4_CONNECT,
    "connect6": bpf.BPF_CGROUP_INET6_CONNECT,
    "sendmsg4": bpf.BPF_CGROUP_UDP4_SENDMSG,
    "sendmsg6": bpf.BPF_CGROUP_UDP6_SENDMSG,
    "recvmsg4": bpf.BPF_CGROUP_UDP4_RECVMSG,
    "recvmsg6": bpf.BPF_CGROUP_UDP6_RECVMSG,
    "getpeer4": bpf.BPF_CGROUP_INET4_GETPEERNAME,
    "getpeer6": bpf.BPF_CGROUP_INET6_GETPEERNAME,
}
SOCKET_PROGRAMS = {hook: f"sock_{hook}" for hook in SOCKET_HOOKS}
UNATTACHED = frozenset({stale_sockets.PROGRAM})  # programs that have no hook
LINK_TYPES = ("cgroup", "netkit", "tcx")  # types whose attachment is a link
TYPES = ("auto", "meta", "netkit", "tcx", "clsact")

# Priority and handle of managed clsact filters: after filters that classify early, before catch-alls.
CLSACT_PRIORITY, CLSACT_HANDLE = 100, 1

# linux/if_arp.h, linux/pkt_sched.h, linux/pkt_cls.h, linux/rtnetlink.h
ARPHRD_ETHER, ARPHRD_LOOPBACK = 1, 772
RTM_GETTFILTER = 46
TC_H_CLSACT = 0xFFFF0000
TC_H_MIN_INGRESS, TC_H_MIN_EGRESS = 0xFFF2, 0xFFF3

# The attributes of a meta device for the program at each hook.
META_PROGRAM = {"to_pod": "PROG_FD", "from_pod": "PEER_PROG_FD"}
META_PROGRAM_ID = {"to_pod": link_kinds.META["PROG_ID"], "from_pod": link_kinds.META["PEER_PROG_ID"]}


@dataclass(frozen=True)
class Device:
    """A network device of this namespace. ``primary`` is false for the peer of a meta or netkit pair.

    ``peer`` is the ifindex of the pair's other end, in that end's namespace. ``program_ids`` has the programs
    of a meta device by hook. ``managed`` is true for the host's end of a Pod's device of this collection.
    """

    name: str
    ifindex: int
    kind: str = ""
    primary: bool = True
    peer: int = 0
    program_ids: Mapping[str, int] = field(default_factory=dict)
    managed: bool = False
    has_ethernet_header: bool = True


@dataclass(frozen=True)
class Filter:
    """A clsact filter."""

    priority: int
    handle: int
    kind: str
    program_id: int = 0
    name: str = ""


def read_devices() -> dict[str, Device]:
    """Return all devices of this network namespace by name."""
    devices = {}
    for link in netlink.links():
        programs = META_PROGRAM_ID if link.kind == "meta" else {}
        devices[link.name] = Device(
            link.name,
            link.index,
            link.kind,
            link.primary,
            link.link,
            {hook: netlink.number(link.data.get(number, b"")) for hook, number in programs.items()},
            link.alias.startswith(link_kinds.ALIAS),
            link.hardware in (ARPHRD_ETHER, ARPHRD_LOOPBACK),
        )
    return devices


def read_filters(ifindex: int, hook: str) -> list[Filter]:
    """Return the filters at one clsact hook of a device; none if it has no clsact qdisc."""
    minor = TC_H_MIN_INGRESS if clsact_point(hook) == libbpf.TC_INGRESS else TC_H_MIN_EGRESS
    message = traffic_control_type()()
    message["index"], message["parent"] = ifindex, TC_H_CLSACT | minor
    try:
        with Rtnl() as rtnl:
            answers = rtnl.dump(message, RTM_GETTFILTER)
    except netlink.KernelRefusal as refusal:
        if refusal.errno != errno.EINVAL:
            raise
        return []  # no clsact qdisc
    filters = []
    for answer in answers:
        if answer["handle"]:  # the dump also has an entry for each priority, with handle 0
            kind = answer.get_attr("TCA_KIND")
            options = answer.get_attr("TCA_OPTIONS") if kind == "bpf" else None
            filters.append(
                Filter(
                    answer["info"] >> 16,
                    answer["handle"],
                    kind,
                    (options.get_attr("TCA_BPF_ID") or 0) if options else 0,
                    (options.get_attr("TCA_BPF_NAME") or "") if options else "",
                )
            )
    return filters


def set_meta_program(device: Device, hook: str, program: int) -> None:
    """Attach a program, given by its file descriptor, at a hook of a meta device; -1 detaches.

    Raises ``OSError`` with the kernel's message.
    """
    data = netlink.attribute(link_kinds.META[META_PROGRAM[hook]], struct.pack("=i", program))
    message = netlink.link_message(netlink.link_info("meta", data), index=device.ifindex)
    try:
        with Rtnl() as rtnl:
            rtnl.request(message, RTM_NEWLINK)
    except netlink.KernelRefusal as refusal:
        raise OSError(refusal.errno, f"meta rejected the program: {refusal.strerror}") from refusal


def set_down(device: Device) -> None:
    """Set a device down; raises ``OSError``."""
    with Rtnl() as rtnl:
        rtnl.request(netlink.link_message(index=device.ifindex, change=UP), RTM_NEWLINK)


def is_ingress(hook: str) -> bool:
    """Return whether the host receives the packets at this hook from the device."""
    return hook in ("from_pod", "ingress")


def clsact_point(hook: str) -> int:
    return libbpf.TC_INGRESS if is_ingress(hook) else libbpf.TC_EGRESS


def link_attach_type(kind: str, hook: str) -> int:
    if kind == "cgroup":
        return SOCKET_HOOKS[hook]
    if kind == "netkit":
        return bpf.BPF_NETKIT_PEER if is_ingress(hook) else bpf.BPF_NETKIT_PRIMARY
    return bpf.BPF_TCX_INGRESS if is_ingress(hook) else bpf.BPF_TCX_EGRESS


def choose_type(device: Device, hook: str, requested: str, has_tcx: bool) -> str:
    """Return the attachment type for a hook of a device; ``requested`` may be auto.

    Raises ``Problem`` if device, hook and type do not fit together.
    """
    where = f"attachments: {device.name}, hook {hook}"
    if requested in ("meta", "netkit"):
        if device.kind != requested:
            raise Problem(
                f"{where}: type {requested} requires a {requested} device, but {device.name} is"
                f" {device.kind or 'a physical device'}; use type auto"
            )
        if hook not in ("from_pod", "to_pod"):
            raise Problem(f"{where}: type {requested} supports the hooks from_pod and to_pod only")
    if requested == "auto" and device.kind in ("meta", "netkit") and hook in ("from_pod", "to_pod"):
        requested = device.kind
    if requested in ("meta", "netkit") and not device.primary:
        raise Problem(f"{where}: {device.name} is the Pod's end of the pair; set device to the host end")
    if requested == "tcx" and not has_tcx:
        raise Problem(f"{where}: type tcx requires Linux 6.6; use type auto or clsact")
    if requested == "auto":
        return "tcx" if has_tcx else "clsact"
    return requested


def is_managed(f: Filter) -> bool:
    """Return whether a filter has the priority and handle of managed ones."""
    return f.priority == CLSACT_PRIORITY and f.handle == CLSACT_HANDLE
