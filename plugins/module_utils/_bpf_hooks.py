# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Devices, their hooks for BPF programs, and what is at them. Private to this collection.

Source: linux/pkt_cls.h, linux/rtnetlink.h, tc-bpf(8).
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

from ansible_collections.podnet.datapath.plugins.module_utils import _bpf, _libbpf, _link_kinds, _netlink
from ansible_collections.podnet.datapath.plugins.module_utils._bpf import BpfError

HOOKS = ("from_pod", "to_pod", "ingress", "egress")
TYPES = ("auto", "meta", "netkit", "tcx", "clsact")

# Our place among a device's clsact filters: after those that classify early, before catch-alls.
CLSACT_PRIORITY, CLSACT_HANDLE = 100, 1

# linux/pkt_sched.h, linux/pkt_cls.h, linux/rtnetlink.h
IFLA_LINK = 5
RTM_GETQDISC, RTM_GETTFILTER = 38, 46
TC_H_CLSACT, TC_H_INGRESS = 0xFFFF0000, 0xFFFFFFF1
TC_H_MIN_INGRESS, TC_H_MIN_EGRESS = 0xFFF2, 0xFFF3
TCA_KIND, TCA_OPTIONS = 1, 2
TCA_BPF_NAME, TCA_BPF_ID = 7, 11

# The attributes of a meta device for the program at each hook.
META_PROGRAM = {"to_pod": _link_kinds.META["PROG_FD"], "from_pod": _link_kinds.META["PEER_PROG_FD"]}
META_PROGRAM_ID = {"to_pod": _link_kinds.META["PROG_ID"], "from_pod": _link_kinds.META["PEER_PROG_ID"]}


@dataclass(frozen=True)
class Device:
    """A network device of this namespace. ``primary`` is of the kinds meta and netkit: the host's end.

    ``peer`` is the index of a pair's other end, in that end's namespace; ``program_ids`` are meta's, by hook.
    """

    name: str
    ifindex: int
    kind: str = ""
    primary: bool = True
    peer: int = 0
    program_ids: Mapping[str, int] = field(default_factory=dict)


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
    request = _netlink.IFINFO.pack(0, 0, 0, 0, 0)
    devices = {}
    for answer in _netlink.exchange(_netlink.RTM_GETLINK, _netlink.NLM_F_DUMP, request):
        ifindex = _netlink.IFINFO.unpack_from(answer)[2]
        found = _netlink.attributes(answer[_netlink.IFINFO.size :])
        name = _netlink.text(found[_netlink.IFLA_IFNAME])
        info = _netlink.attributes(found.get(_netlink.IFLA_LINKINFO, b""))
        data = _netlink.attributes(info.get(_netlink.IFLA_INFO_DATA, b""))
        kind = _netlink.text(info.get(_netlink.IFLA_INFO_KIND, b""))
        is_pair = kind in ("meta", "netkit")
        programs = META_PROGRAM_ID if kind == "meta" else {}
        devices[name] = Device(
            name,
            ifindex,
            kind,
            data.get(_link_kinds.PRIMARY, b"\1")[0] != 0 if is_pair else True,
            _number(found.get(IFLA_LINK, b"")),
            {hook: _number(data.get(number, b"")) for hook, number in programs.items()},
        )
    return devices


def read_filters(ifindex: int, hook: str) -> list[Filter]:
    """Return the filters at one clsact hook of a device; none where it has no clsact qdisc."""
    minor = TC_H_MIN_INGRESS if clsact_point(hook) == _libbpf.TC_INGRESS else TC_H_MIN_EGRESS
    # struct tcmsg: family, index, handle, parent, info
    request = struct.pack("=BxxxiIII", 0, ifindex, 0, TC_H_CLSACT | minor, 0)
    try:
        answers = _netlink.exchange(RTM_GETTFILTER, _netlink.NLM_F_DUMP, request)
    except _netlink.KernelRefusal as refusal:
        if refusal.errno != errno.EINVAL:
            raise
        return []  # the device has no such qdisc
    filters = []
    for answer in answers:
        handle, _parent, info = struct.unpack_from("=III", answer, 8)
        found = _netlink.attributes(answer[20:])
        options = _netlink.attributes(found.get(TCA_OPTIONS, b""))
        if handle:  # the kernel also lists each priority by itself, without a handle
            filters.append(
                Filter(
                    info >> 16,
                    handle,
                    _netlink.text(found.get(TCA_KIND, b"")),
                    _number(options.get(TCA_BPF_ID, b"")),
                    _netlink.text(options.get(TCA_BPF_NAME, b"")),
                )
            )
    return filters


def read_clsact_kind(ifindex: int) -> str:
    """Return the kind of the qdisc that holds a device's filters: clsact, ingress, or none."""
    request = struct.pack("=BxxxiIII", 0, ifindex, 0, 0, 0)
    for answer in _netlink.exchange(RTM_GETQDISC, _netlink.NLM_F_DUMP, request):
        index, _handle, parent = struct.unpack_from("=iII", answer, 4)
        if index == ifindex and parent == TC_H_INGRESS:
            return _netlink.text(_netlink.attributes(answer[20:]).get(TCA_KIND, b""))
    return ""


def set_meta_program(device: Device, hook: str, program: int) -> None:
    """Give a meta device's side a program (by descriptor; -1 for none), replacing the one it has."""
    data = _netlink.attribute(META_PROGRAM[hook], struct.pack("=i", program))
    info = _netlink.attribute(_netlink.IFLA_INFO_KIND, b"meta\0")
    info += _netlink.attribute(_netlink.IFLA_INFO_DATA, data)
    request = _netlink.IFINFO.pack(0, 0, device.ifindex, 0, 0)
    request += _netlink.attribute(_netlink.IFLA_LINKINFO, info)
    try:
        _netlink.exchange(_netlink.RTM_NEWLINK, _netlink.NLM_F_ACK, request)
    except _netlink.KernelRefusal as refusal:
        raise OSError(refusal.errno, f"meta refuses the program: {refusal.strerror}") from refusal


def _number(raw: bytes) -> int:
    return int(struct.unpack("=I", raw)[0]) if raw else 0


def is_inward(hook: str) -> bool:
    """Tell whether packets at this hook come into the host through the device."""
    return hook in ("from_pod", "ingress")


def clsact_point(hook: str) -> int:
    return _libbpf.TC_INGRESS if is_inward(hook) else _libbpf.TC_EGRESS


def link_attach_type(kind: str, hook: str) -> int:
    if kind == "netkit":
        return _bpf.BPF_NETKIT_PEER if is_inward(hook) else _bpf.BPF_NETKIT_PRIMARY
    return _bpf.BPF_TCX_INGRESS if is_inward(hook) else _bpf.BPF_TCX_EGRESS


def choose_type(device: Device, hook: str, wanted: str, has_tcx: bool) -> str:
    """Return how a program is attached here; raise BpfError where the hook and the device do not fit."""
    where = f"attachments: {device.name}, hook {hook}"
    if wanted in ("meta", "netkit"):
        if device.kind != wanted:
            raise BpfError(
                f"{where}: type {wanted} needs a device of that kind, this is"
                f" {device.kind or 'a physical device'}; use type auto"
            )
        if hook not in ("from_pod", "to_pod"):
            raise BpfError(f"{where}: {wanted} has the hooks from_pod and to_pod only")
    if wanted == "auto" and device.kind in ("meta", "netkit") and hook in ("from_pod", "to_pod"):
        wanted = device.kind
    if wanted in ("meta", "netkit") and not device.primary:
        raise BpfError(
            f"{where}: this is the Pod's end of the pair; programs are attached through the host's end"
        )
    if wanted == "tcx" and not has_tcx:
        raise BpfError(f"{where}: this kernel has no tcx (Linux 6.6 has); use type auto or clsact")
    if wanted == "auto":
        return "tcx" if has_tcx else "clsact"
    return wanted


def is_our_place(f: Filter) -> bool:
    return f.priority == CLSACT_PRIORITY and f.handle == CLSACT_HANDLE
