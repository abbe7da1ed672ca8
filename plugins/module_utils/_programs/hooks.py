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
from .._kernel import bpf, libbpf, link_kinds, netlink

HOOKS = ("from_pod", "to_pod", "ingress", "egress")
TYPES = ("auto", "meta", "netkit", "tcx", "clsact")

# Priority and handle of managed clsact filters: after filters that classify early, before catch-alls.
CLSACT_PRIORITY, CLSACT_HANDLE = 100, 1

# linux/if_arp.h, linux/pkt_sched.h, linux/pkt_cls.h, linux/rtnetlink.h
ARPHRD_ETHER, ARPHRD_LOOPBACK = 1, 772
IFLA_LINK = 5
_IFF_UP = 1
RTM_GETQDISC, RTM_GETTFILTER = 38, 46
TC_H_CLSACT, TC_H_INGRESS = 0xFFFF0000, 0xFFFFFFF1
TC_H_MIN_INGRESS, TC_H_MIN_EGRESS = 0xFFF2, 0xFFF3
TCA_KIND, TCA_OPTIONS = 1, 2
TCA_BPF_NAME, TCA_BPF_ID = 7, 11

# The attributes of a meta device for the program at each hook.
META_PROGRAM = {"to_pod": link_kinds.META["PROG_FD"], "from_pod": link_kinds.META["PEER_PROG_FD"]}
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
    request = netlink.IFINFO.pack(0, 0, 0, 0, 0)
    devices = {}
    for answer in netlink.exchange(netlink.RTM_GETLINK, netlink.NLM_F_DUMP, request):
        dummy, hardware, ifindex, *dummy = netlink.IFINFO.unpack_from(answer)
        found = netlink.attributes(answer[netlink.IFINFO.size :])
        name = netlink.text(found[netlink.IFLA_IFNAME])
        info = netlink.attributes(found.get(netlink.IFLA_LINKINFO, b""))
        data = netlink.attributes(info.get(netlink.IFLA_INFO_DATA, b""))
        kind = netlink.text(info.get(netlink.IFLA_INFO_KIND, b""))
        is_pair = kind in ("meta", "netkit")
        programs = META_PROGRAM_ID if kind == "meta" else {}
        devices[name] = Device(
            name,
            ifindex,
            kind,
            data.get(link_kinds.PRIMARY, b"\1")[0] != 0 if is_pair else True,
            _number(found.get(IFLA_LINK, b"")),
            {hook: _number(data.get(number, b"")) for hook, number in programs.items()},
            netlink.text(found.get(netlink.IFLA_IFALIAS, b"")).startswith(link_kinds.ALIAS),
            hardware in (ARPHRD_ETHER, ARPHRD_LOOPBACK),
        )
    return devices


def read_filters(ifindex: int, hook: str) -> list[Filter]:
    """Return the filters at one clsact hook of a device; none if it has no clsact qdisc."""
    minor = TC_H_MIN_INGRESS if clsact_point(hook) == libbpf.TC_INGRESS else TC_H_MIN_EGRESS
    # struct tcmsg: family, index, handle, parent, info
    request = struct.pack("=BxxxiIII", 0, ifindex, 0, TC_H_CLSACT | minor, 0)
    try:
        answers = netlink.exchange(RTM_GETTFILTER, netlink.NLM_F_DUMP, request)
    except netlink.KernelRefusal as refusal:
        if refusal.errno != errno.EINVAL:
            raise
        return []  # no clsact qdisc
    filters = []
    for answer in answers:
        handle, _parent, info = struct.unpack_from("=III", answer, 8)
        found = netlink.attributes(answer[20:])
        options = netlink.attributes(found.get(TCA_OPTIONS, b""))
        if handle:  # the dump also has an entry for each priority, with handle 0
            filters.append(
                Filter(
                    info >> 16,
                    handle,
                    netlink.text(found.get(TCA_KIND, b"")),
                    _number(options.get(TCA_BPF_ID, b"")),
                    netlink.text(options.get(TCA_BPF_NAME, b"")),
                )
            )
    return filters


def read_clsact_kind(ifindex: int) -> str:
    """Return the kind of a device's qdisc for filters, ``clsact`` or ``ingress``; empty without one."""
    request = struct.pack("=BxxxiIII", 0, ifindex, 0, 0, 0)
    for answer in netlink.exchange(RTM_GETQDISC, netlink.NLM_F_DUMP, request):
        index, _handle, parent = struct.unpack_from("=iII", answer, 4)
        if index == ifindex and parent == TC_H_INGRESS:
            return netlink.text(netlink.attributes(answer[20:]).get(TCA_KIND, b""))
    return ""


def set_meta_program(device: Device, hook: str, program: int) -> None:
    """Attach a program, given by its file descriptor, at a hook of a meta device; -1 detaches.

    Raises ``OSError`` with the kernel's message.
    """
    data = netlink.attribute(META_PROGRAM[hook], struct.pack("=i", program))
    info = netlink.attribute(netlink.IFLA_INFO_KIND, b"meta\0")
    info += netlink.attribute(netlink.IFLA_INFO_DATA, data)
    request = netlink.IFINFO.pack(0, 0, device.ifindex, 0, 0)
    request += netlink.attribute(netlink.IFLA_LINKINFO, info)
    try:
        netlink.exchange(netlink.RTM_NEWLINK, netlink.NLM_F_ACK, request)
    except netlink.KernelRefusal as refusal:
        raise OSError(refusal.errno, f"meta rejected the program: {refusal.strerror}") from refusal


def set_down(device: Device) -> None:
    """Set a device down; raises ``OSError``."""
    request = netlink.IFINFO.pack(0, 0, device.ifindex, 0, _IFF_UP)
    netlink.exchange(netlink.RTM_NEWLINK, netlink.NLM_F_ACK, request)


def _number(raw: bytes) -> int:
    return int(struct.unpack("=I", raw)[0]) if raw else 0


def is_ingress(hook: str) -> bool:
    """Return whether the host receives the packets at this hook from the device."""
    return hook in ("from_pod", "ingress")


def clsact_point(hook: str) -> int:
    return libbpf.TC_INGRESS if is_ingress(hook) else libbpf.TC_EGRESS


def link_attach_type(kind: str, hook: str) -> int:
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
