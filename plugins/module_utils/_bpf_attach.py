# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs pinned and attached as declared. Private to this collection.

What is ours is pinned below one folder of a BPF file system, and nothing else is ever touched::

    progs/<program>                   the programs, all of one object
    maps/<map>                        their maps
    links/<owner>/<device>-<hook>     each attachment: the bpf_link (tcx, netkit), or, where the hook
                                      has no links (clsact, meta), the program that was put there
    links/<owner>/<device>-qdisc<N>   a clsact qdisc that was made for the device with index N

``plan`` compares two states and says what to change; check mode, diff and ``apply`` share its answer.
A name that ends in ``~`` is a replacement under way; a run that was killed leaves it to the next one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import struct
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol
from urllib.parse import quote, unquote

from ansible_collections.podnet.datapath.plugins.module_utils import (
    _bpf,
    _bpf_state,
    _datapath_command,
    _datapath_maps,
    _libbpf,
    _link_kinds,
    _netlink,
)
from ansible_collections.podnet.datapath.plugins.module_utils._bpf import (
    DEFAULT_OWNER,
    BpfError,
    Layout,
    ProgramInfo,
)
from ansible_collections.podnet.datapath.plugins.module_utils._datapath_store import Store
from ansible_collections.podnet.datapath.plugins.module_utils._plan import replace_file

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

_PENDING = "~"

# What is around the steps of a change: gets the folder of pins, and the changes.
Guard = Callable[[str, "Sequence[Change]"], "contextlib.AbstractContextManager[None]"]


# ---------------------------------------------------------------- devices and hooks


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
    minor = TC_H_MIN_INGRESS if _clsact_point(hook) == _libbpf.TC_INGRESS else TC_H_MIN_EGRESS
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


def _is_inward(hook: str) -> bool:
    """Tell whether packets at this hook come into the host through the device."""
    return hook in ("from_pod", "ingress")


def _clsact_point(hook: str) -> int:
    return _libbpf.TC_INGRESS if _is_inward(hook) else _libbpf.TC_EGRESS


def _link_attach_type(kind: str, hook: str) -> int:
    if kind == "netkit":
        return _bpf.BPF_NETKIT_PEER if _is_inward(hook) else _bpf.BPF_NETKIT_PRIMARY
    return _bpf.BPF_TCX_INGRESS if _is_inward(hook) else _bpf.BPF_TCX_EGRESS


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


# ---------------------------------------------------------------- state and plan


@dataclass(frozen=True)
class Attachment:
    """A program at a hook of a device."""

    owner: str
    device: str
    hook: str
    type: str
    ifindex: int
    program: str

    @property
    def on_uplink(self) -> bool:
        """Tell whether the node's own traffic may pass here: Pods' devices have hooks of their own."""
        return self.hook in ("ingress", "egress")

    @property
    def key(self) -> str:
        """Name of the pin, below links/."""
        return f"{self.owner}/{pin_name(self.device, self.hook)}"

    def __str__(self) -> str:
        return f"{self.program} at {self.device} {self.hook} ({self.type})"


@dataclass(frozen=True)
class State:
    """What is, or shall be, pinned and attached.

    An attachment's ``program`` ends in ``~`` where a killed run left its replacement, and is empty
    where what runs is not pinned at all.
    """

    programs: Mapping[str, str] = field(default_factory=dict)  # name: tag
    rodata: bytes = b""
    maps: Mapping[str, Layout] = field(default_factory=dict)
    attachments: Mapping[str, Attachment] = field(default_factory=dict)


@dataclass(frozen=True)
class Change:
    """One thing to do. ``before`` and ``after`` are what the diff shows; empty: it is not there."""

    kind: str  # map, program, attachment
    name: str
    before: str = ""
    after: str = ""

    @property
    def action(self) -> str:
        """Return create, replace or remove."""
        return "create" if not self.before else "replace" if self.after else "remove"


def plan(current: State, desired: State, owner: str | None, renewed: Collection[str] = ()) -> list[Change]:
    """Return what leads from ``current`` to ``desired``.

    ``desired.attachments`` are all of this owner's; those of other owners stay, with new programs
    where the programs change. Without ``owner`` they are everybody's. ``renewed`` are maps that are made
    anew whatever their layout.
    Raises BpfError where another owner's attachment would lose its program.
    """
    changes = []
    for name in sorted({*current.maps, *desired.maps}):
        before, after = current.maps.get(name), desired.maps.get(name)
        if before != after or name in renewed:
            changes.append(Change("map", name, _layout_text(before), _layout_text(after)))

    reload = (
        current.programs != desired.programs
        or current.rodata != desired.rodata
        or any(change.after for change in changes)
    )
    for name in sorted({*current.programs, *desired.programs}):
        if reload:
            changes.append(
                Change(
                    "program",
                    name,
                    _program_text(current.programs.get(name), current.rodata),
                    _program_text(desired.programs.get(name), desired.rodata),
                )
            )

    others = {
        key: replace(a, program=a.program.rstrip(_PENDING))
        for key, a in current.attachments.items()
        if owner is not None and a.owner != owner
    }
    orphans = [str(a) for a in others.values() if a.program and a.program not in desired.programs]
    if orphans:
        raise BpfError(
            f"object: it lacks programs that others have attached: {', '.join(orphans)}; detach those first"
        )
    wanted = {**others, **desired.attachments}
    for key in sorted({*current.attachments, *wanted}):
        was, shall = current.attachments.get(key), wanted.get(key)
        if was != shall or (reload and shall and shall.program):
            changes.append(Change("attachment", key, str(was or ""), str(shall or "")))
    return changes


def _layout_text(layout: Layout | None) -> str:
    if layout is None:
        return ""
    return (
        f"type {layout.type}, key {layout.key_size} B, value {layout.value_size} B,"
        f" {layout.max_entries} entries, flags {layout.flags:#x}"
    )


def _program_text(tag: str | None, rodata: bytes) -> str:
    return "" if tag is None else f"tag {tag or 'of other maps'}, rodata {rodata.hex()}"


def pin_name(device: str, hook: str) -> str:
    """Return an attachment's file name. The BPF file system knows no names with dots."""
    return f"{quote(device, safe='').replace('.', '%2E')}-{hook}"


def split_pin_name(name: str) -> tuple[str, str]:
    """Return device and hook of an attachment's file name."""
    device, _dash, hook = name.rpartition("-")
    return unquote(device), hook


# ---------------------------------------------------------------- reading what is


class Pins:
    """The folder of pins, and what the kernel says of them and of the devices."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.devices = read_devices()
        self.programs: dict[str, ProgramInfo] = {}
        self.maps: dict[str, _bpf.MapInfo] = {}
        self.rodata = b""
        self.attachments: dict[str, Attachment] = {}
        self.program_ids: dict[str, int] = {}  # by key of attachment: what runs there
        self.qdiscs: dict[int, str] = {}  # ifindex: pin that says the qdisc is ours
        self.ours: set[int] = set()  # ids of all programs that are pinned here
        self._read()

    def at(self, *names: str) -> str:
        """Return the path of a pin."""
        return os.path.join(self.path, *names)

    def _names(self, *names: str) -> list[str]:
        try:
            return sorted(os.listdir(self.at(*names)))
        except FileNotFoundError:
            return []

    def leftovers(self) -> list[str]:
        """Return the paths of pins that a killed run left behind."""
        folders = [("progs",), ("maps",), *(("links", owner) for owner in self._names("links"))]
        return [self.at(*f, n) for f in folders for n in self._names(*f) if n.endswith(_PENDING)]

    def _read(self) -> None:
        names: dict[int, str] = {}
        for name in self._names("progs"):
            with _bpf.closing(_bpf.obj_get(self.at("progs", name))) as fd:
                info = _bpf.program_info(fd)
            self.ours.add(info.id)
            names[info.id] = name
            if not name.endswith(_PENDING):
                self.programs[name] = info
        for name in self._names("maps"):
            if name.endswith(_PENDING):
                continue
            with _bpf.closing(_bpf.obj_get(self.at("maps", name))) as fd:
                self.maps[name] = _bpf.map_info(fd)
        for program in self.programs.values():
            self.rodata = _bpf.rodata_of(program)
            break
        for owner in self._names("links"):
            for name in self._names("links", owner):
                self._read_attachment(owner, name, names)
        self._read_meta(names)

    def _read_attachment(self, owner: str, name: str, names: Mapping[int, str]) -> None:
        device_name, hook = split_pin_name(name)
        with _bpf.closing(_bpf.obj_get(self.at("links", owner, name))) as fd:
            if _bpf.is_link(fd):
                link = _bpf.link_info(fd)
                kind = "netkit" if link.type == _bpf.BPF_LINK_TYPE_NETKIT else "tcx"
                ifindex, program = link.ifindex, link.program_id
                if link.attach_type == _bpf.BPF_NETKIT_PEER:
                    # The link names the Pod's end; we name devices by the host's.
                    device = self.devices.get(device_name)
                    ifindex = device.ifindex if device and device.peer == ifindex else 0
            else:
                program = _bpf.program_info(fd).id
                self.ours.add(program)
                device = self.devices.get(device_name)
                ifindex = device.ifindex if device else 0
                kind = "meta" if device and device.kind == "meta" else "clsact"
                if hook.startswith("qdisc"):
                    self.qdiscs[int(hook[len("qdisc") :])] = self.at("links", owner, name)
                    return
        if name.endswith(_PENDING):
            return
        # What runs there is asked of the device: a pin alone attaches nothing to clsact or meta.
        if kind == "clsact" and ifindex:
            found = [f for f in read_filters(ifindex, hook) if _is_our_place(f)]
            program = found[0].program_id if found else 0
        elif kind == "meta":
            program = self.devices[device_name].program_ids[hook]
        attachment = Attachment(owner, device_name, hook, kind, ifindex, names.get(program, ""))
        self.attachments[attachment.key] = attachment
        self.program_ids[attachment.key] = program

    def _read_meta(self, names: Mapping[int, str]) -> None:
        """Find meta devices that were made with our programs and have no pin of their own."""
        known = {(a.device, a.hook) for a in self.attachments.values() if a.type == "meta"}
        for device in self.devices.values():
            for hook, program in device.program_ids.items():
                if program in names and (device.name, hook) not in known:
                    attachment = Attachment("", device.name, hook, "meta", device.ifindex, names[program])
                    self.attachments[attachment.key] = attachment
                    self.program_ids[attachment.key] = program

    def find_strays(self, keys: Iterable[str]) -> None:
        """Take clsact filters of ours for attachments that a killed run made and did not pin."""
        for key in keys:
            owner, dummy, name = key.partition("/")
            device_name, hook = split_pin_name(name)
            device = self.devices.get(device_name)
            if key in self.attachments or device is None or hook not in HOOKS:
                continue
            for f in read_filters(device.ifindex, hook):
                if _is_our_place(f) and f.program_id in self.ours:
                    self.attachments[key] = Attachment(owner, device_name, hook, "clsact", device.ifindex, "")
                    self.program_ids[key] = f.program_id

    def state(self) -> State:
        """Return the state that ``plan`` compares with."""
        pinned = {info.id for info in self.maps.values()}
        tags = {}
        for name, info in self.programs.items():
            # A program that uses a map that is no longer the pinned one is not what it shall be.
            foreign = [i for i in info.map_ids if i not in pinned and not _is_rodata(i)]
            tags[name] = "" if foreign else info.tag
        layouts = {name: info.layout for name, info in self.maps.items()}
        return State(tags, self.rodata, layouts, dict(self.attachments))


def _is_rodata(number: int) -> bool:
    with _bpf.closing(_bpf.map_get_fd_by_id(number)) as fd:
        return _bpf.map_info(fd).name == _bpf.RODATA_MAP


def _is_our_place(f: Filter) -> bool:
    return f.priority == CLSACT_PRIORITY and f.handle == CLSACT_HANDLE


# ---------------------------------------------------------------- maps that go on


CONNECTIONS = "ct"  # written by programs only; what is lost of it, connections lose


def renewed_maps(current: Mapping[str, Layout], desired: Mapping[str, Layout]) -> set[str]:
    """Return the maps that are made anew: they are not there as they should be.

    Those that are computed from declarations come as a whole, filled from the declarations.
    """
    changed = {name for name, layout in desired.items() if current.get(name) != layout}
    computed = desired.keys() & _COMPUTED
    return changed | computed if changed & computed else changed


_COMPUTED = {*_datapath_maps.SIZES, "layout"}


def connections_problem(current: Mapping[str, Layout], desired: Mapping[str, Layout]) -> str:
    """Say why the connections cannot be taken over; empty where they can."""
    has, wants = current.get(CONNECTIONS), desired.get(CONNECTIONS)
    if has is None or wants is None:
        return ""

    def form(layouts: Mapping[str, Layout], own: Layout) -> tuple[int, int, int]:
        return layouts["layout"].max_entries if "layout" in layouts else 0, own.key_size, own.value_size

    if form(current, has) == form(desired, wants):
        return ""
    return (
        "object: its programs keep connections in another form (layout, key and value size"
        f" {form(desired, wants)}) than those that run ({form(current, has)}): established connections to"
        " services and of masqueraded Pods would break; lose_connections: true replaces them nevertheless"
    )


def copy_connections(source: int, target: int, only_missing: bool = False) -> None:
    """Copy entries from map to map; with ``only_missing`` those that the target's programs do not know."""
    entries = _bpf.map_read(source)
    if not only_missing:
        _bpf.map_update(target, entries)
        return
    known = _bpf.map_read(target)
    for key, value in entries.items():
        if key not in known:
            with contextlib.suppress(FileExistsError):
                _bpf.map_update_one(target, key, value, _bpf.BPF_NOEXIST)


# ---------------------------------------------------------------- what shall be


@dataclass(frozen=True)
class Wish:
    """An attachment as the user writes it."""

    program: str
    device: str
    hook: str
    type: str = "auto"


def resolve(pins: Pins, wishes: Sequence[Wish], programs: Iterable[str], owner: str) -> dict[str, Attachment]:
    """Return the wished attachments by key.

    Raises BpfError, naming all that is wrong, where a device is missing, a hook does not fit, a program
    is not there, two wishes want one place, or someone else's program has the place.
    """
    if not re.fullmatch(r"[\w-]+", owner, re.ASCII):
        raise BpfError(f"owner: '{owner}' has other characters than letters, digits, '_' and '-'")
    known = sorted(programs)
    found: dict[str, Attachment] = {}
    wrong = []
    for wish in wishes:
        where = f"attachments: {wish.device}, hook {wish.hook}"
        device = pins.devices.get(wish.device)
        if wish.program not in known:
            wrong.append(f"{where}: there is no program '{wish.program}'; there are {', '.join(known)}")
        if device is None:
            wrong.append(f"attachments: there is no device '{wish.device}' in this network namespace")
            continue
        try:
            has_tcx = _bpf.has_hook(device.ifindex, _link_attach_type("tcx", wish.hook))
            kind = choose_type(device, wish.hook, wish.type, has_tcx)
        except BpfError as e:
            wrong.append(str(e))
            continue
        attachment = Attachment(owner, wish.device, wish.hook, kind, device.ifindex, wish.program)
        place = [a for a in found.values() if _place(a) == _place(attachment)]
        if place:
            wrong.append(f"{where}: {place[0].program} is to be there already (hook {place[0].hook})")
        wrong.extend(_foreign(pins, device, attachment))
        found[attachment.key] = attachment
    if wrong:
        raise BpfError("; ".join(wrong))
    return found


def _place(a: Attachment) -> tuple[str, bool]:
    return a.device, _is_inward(a.hook)


def _foreign(pins: Pins, device: Device, a: Attachment) -> list[str]:
    """Say who has the place, where it is not us and there is room for one only."""
    where = f"attachments: {a.device}, hook {a.hook}"
    for other in pins.attachments.values():
        if other.owner not in ("", a.owner) and other.ifindex and _place(other) == _place(a):
            return [f"{where}: {other} is attached by owner '{other.owner}'"]
    if a.type == "meta":
        program = device.program_ids.get(a.hook, 0)
        if program and program not in pins.ours:
            return [f"{where}: {_bpf.describe_program(program)} is attached and not ours; detach it first"]
    if a.type == "clsact":
        # Its filters are one list, and the kernel takes egress filters into it without a word.
        if not _is_inward(a.hook) and read_clsact_kind(device.ifindex) == "ingress":
            return [
                f"{where}: the device has an ingress qdisc, which has no egress; use type tcx, or remove it"
                f" (tc qdisc del dev {a.device} ingress)"
            ]
        for f in read_filters(device.ifindex, a.hook):
            if f.priority == CLSACT_PRIORITY and not (_is_our_place(f) and f.program_id in pins.ours):
                who = _bpf.describe_program(f.program_id) if f.program_id else f"a filter of kind {f.kind}"
                return [
                    f"{where}: {who} has clsact priority {f.priority}, handle {f.handle:#x}, and is not ours;"
                    " remove it or give it another priority"
                ]
    return []


# ---------------------------------------------------------------- changing


class Transaction:
    """A block of steps that are taken back where one fails, then those that tidy up."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], object]] = []
        self._finish: list[Callable[[], object]] = []

    def on_failure(self, step: Callable[[], object]) -> None:
        """Take ``step`` if a later one fails; the last one registered comes first."""
        self._undo.append(step)

    def on_success(self, step: Callable[[], object]) -> None:
        """Take ``step`` once everything has succeeded."""
        self._finish.append(step)

    def __enter__(self) -> Transaction:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            try:
                for step in self._finish:
                    _unless_gone(step)
            except OSError as e:
                raise BpfError(f"attached as declared, but what was before is still there: {e}") from e
            return
        for step in reversed(self._undo):
            with contextlib.suppress(OSError):
                step()


class Applier:
    """Brings pins and attachments to a plan's end; on any failure the old state stands."""

    def __init__(self, pins: Pins, files: contextlib.ExitStack) -> None:
        self.pins = pins
        self.transaction = Transaction()
        self._files = files

    def _keep(self, fd: int) -> int:
        self._files.callback(os.close, fd)
        return fd

    def folder(self, *names: str) -> None:
        """Make a folder of pins; take it back on failure."""
        path = self.pins.path
        for name in ("", *names):
            path = os.path.join(path, name) if name else path
            with contextlib.suppress(FileExistsError):
                os.makedirs(path, 0o700)
                self.transaction.on_failure(lambda path=path: os.rmdir(path))  # type: ignore[misc]

    def pin(self, fd: int, *names: str) -> None:
        """Pin under this name; what has it keeps it until everything has succeeded."""
        path = self.pins.at(*names)
        if os.path.lexists(path):
            _bpf.obj_pin(fd, path + _PENDING)
            self.transaction.on_failure(lambda: os.unlink(path + _PENDING))
            self.transaction.on_success(lambda: os.rename(path + _PENDING, path))
        else:
            _bpf.obj_pin(fd, path)
            self.transaction.on_failure(lambda: os.unlink(path))

    def unpin(self, *names: str) -> None:
        """Remove a pin once everything has succeeded."""
        path = self.pins.at(*names)
        self.transaction.on_success(lambda: _unlink(path))

    # Attachments

    def change(self, was: Attachment | None, shall: Attachment | None, program: int) -> None:
        """Attach, replace or detach; ``program`` is the descriptor of what shall run."""
        same_place = (
            was is not None
            and shall is not None
            and was.ifindex == shall.ifindex
            and was.type == shall.type
            and self.pins.program_ids.get(was.key, 0) != 0
        )
        if shall is not None and was is not None and same_place:
            self._update(was, shall, program)
            return
        if shall is not None:
            self._attach(shall, program)
        if was is not None:
            # Where a new attachment takes the name, only the old one's effect is to go.
            self._detach(was, unpin=shall is None)

    def _attach(self, a: Attachment, program: int) -> None:
        device = self.pins.devices[a.device]
        self.folder("links", a.owner)
        if a.type in ("tcx", "netkit"):
            link = _bpf.link_create(program, a.ifindex, _link_attach_type(a.type, a.hook))
            self._keep(link)
            self.transaction.on_failure(lambda: _bpf.link_detach(link))
            self.pin(link, "links", *a.key.split("/"))
            return
        if a.type == "meta":
            old = device.program_ids.get(a.hook, 0)
            set_meta_program(device, a.hook, program)
            before = self._keep(_bpf.prog_get_fd_by_id(old)) if old else -1
            self.transaction.on_failure(lambda: set_meta_program(device, a.hook, before))
        else:
            if _libbpf.clsact_create(a.ifindex):
                self.transaction.on_failure(lambda: _libbpf.clsact_destroy(a.ifindex))
                if a.ifindex not in self.pins.qdiscs:
                    self.pin(program, "links", a.owner, pin_name(a.device, f"qdisc{a.ifindex}"))
            # A filter of ours may be there without its pin: resolve() lets nobody else's through.
            there = any(_is_our_place(f) for f in read_filters(a.ifindex, a.hook))
            point = _clsact_point(a.hook)
            _libbpf.clsact_attach(a.ifindex, point, program, CLSACT_PRIORITY, CLSACT_HANDLE, replace=there)
            self.transaction.on_failure(
                lambda: _libbpf.clsact_detach(a.ifindex, point, CLSACT_PRIORITY, CLSACT_HANDLE)
            )
        self.pin(program, "links", *a.key.split("/"))

    def _update(self, was: Attachment, shall: Attachment, program: int) -> None:
        old = self._keep(_bpf.prog_get_fd_by_id(self.pins.program_ids[was.key]))
        if was.type in ("tcx", "netkit"):
            link = self._keep(_bpf.obj_get(self.pins.at("links", *was.key.split("/"))))
            _bpf.link_update(link, program)
            self.transaction.on_failure(lambda: _bpf.link_update(link, old))
            return
        if was.type == "meta":
            device = self.pins.devices[shall.device]
            set_meta_program(device, shall.hook, program)
            self.transaction.on_failure(lambda: set_meta_program(device, shall.hook, old))
            if not was.owner:  # made with the device, and pinned by nobody
                return
        else:
            point = _clsact_point(shall.hook)
            place = (CLSACT_PRIORITY, CLSACT_HANDLE)
            _libbpf.clsact_attach(shall.ifindex, point, program, *place, replace=True)
            self.transaction.on_failure(
                lambda: _libbpf.clsact_attach(shall.ifindex, point, old, *place, replace=True)
            )
        self.pin(program, "links", *shall.key.split("/"))

    def _detach(self, a: Attachment, unpin: bool) -> None:
        """Detach once everything has succeeded."""
        later = self.transaction.on_success
        attached = a.ifindex and self.pins.program_ids.get(a.key, 0) in self.pins.ours
        if a.type in ("tcx", "netkit") and a.ifindex:
            link = self._keep(_bpf.obj_get(self.pins.at("links", *a.key.split("/"))))
            later(lambda: _bpf.link_detach(link))
        elif attached and a.type == "meta":
            device = self.pins.devices[a.device]
            later(lambda: set_meta_program(device, a.hook, -1))
        elif attached:
            point = _clsact_point(a.hook)
            later(lambda: _libbpf.clsact_detach(a.ifindex, point, CLSACT_PRIORITY, CLSACT_HANDLE))
            later(lambda: self._drop_qdisc(a.ifindex))
        if unpin and a.owner:
            self.unpin("links", *a.key.split("/"))

    def _drop_qdisc(self, ifindex: int) -> None:
        """Take away a clsact qdisc that we made, once nobody uses it."""
        record = self.pins.qdiscs.get(ifindex)
        if record and not read_filters(ifindex, "ingress") and not read_filters(ifindex, "egress"):
            _libbpf.clsact_destroy(ifindex)
            _unlink(record)


def _unless_gone(step: Callable[[], object]) -> None:
    """Take a step that tidies up; a device or pin that went away meanwhile needs none."""
    try:
        step()
    except OSError as e:
        if e.errno not in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
            raise


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


# ---------------------------------------------------------------- the way back


def kept_at(path: str) -> str:
    """Return the folder that has the former programs and maps while new ones wait for a confirmation."""
    return path.rstrip("/") + _PENDING


def keep(path: str) -> None:
    """Pin the programs and maps that there are once more, for ``back``."""
    kept = kept_at(path)
    shutil.rmtree(kept, ignore_errors=True)
    for folder in ("progs", "maps"):
        os.makedirs(os.path.join(kept, folder), 0o700)
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(os.path.join(path, folder)):
                if not name.endswith(_PENDING):
                    with _bpf.closing(_bpf.obj_get(os.path.join(path, folder, name))) as fd:
                        _bpf.obj_pin(fd, os.path.join(kept, folder, name))


@dataclass
class _Kept:
    programs: Mapping[str, int]
    maps: Mapping[str, int]


def back(path: str, former: Mapping[str, tuple[str, str] | None]) -> None:
    """Bring programs, maps and the attachments of these keys back to what they were at ``keep``.

    ``former`` has program and type of each attachment, ``None`` for one that there was not.
    Raises OSError and BpfError.
    """
    pins, kept = Pins(path), Pins(kept_at(path))
    pins.find_strays(former)
    if not kept.programs:
        if any(former.values()):
            raise BpfError(f"the former programs of '{path}' are no longer in the kernel: run site.yml")
        _remove(pins)
        return
    attachments = {key: a for key, a in pins.attachments.items() if key not in former}
    for key, there in former.items():
        owner, dummy, name = key.partition("/")
        device, hook = split_pin_name(name)
        if there and device in pins.devices:  # with a device, what was attached to it has gone
            program, kind = there
            attachments[key] = Attachment(owner, device, hook, kind, pins.devices[device].ifindex, program)
    current, desired = pins.state(), replace(kept.state(), attachments=attachments)
    there_now = {name: info.id for name, info in pins.maps.items()}
    renewed = [name for name, info in kept.maps.items() if there_now.get(name) != info.id]
    with contextlib.ExitStack() as files:

        def opened(folder: str, names: Iterable[str]) -> dict[str, int]:
            found = {name: _bpf.obj_get(kept.at(folder, name)) for name in names}
            for fd in found.values():
                files.callback(os.close, fd)
            return found

        obj = _Kept(opened("progs", kept.programs), opened("maps", kept.maps))
        changes = plan(current, desired, None, renewed)
        if changes:
            _apply(pins, files, obj, changes, current.attachments, attachments, False)


# ---------------------------------------------------------------- the module


@dataclass
class Outcome:
    """What ``present`` and ``absent`` did, or would do."""

    changes: list[Change] = field(default_factory=list)
    programs: list[dict[str, Any]] = field(default_factory=list)
    attachments: list[dict[str, Any]] = field(default_factory=list)

    @property
    def diff(self) -> dict[str, str]:
        """The changes as Ansible's --diff shows them."""

        def text(side: str) -> str:
            lines = (f"{c.kind} {c.name}: {getattr(c, side)}" for c in self.changes if getattr(c, side))
            return "".join(line + "\n" for line in lines)

        return {"before": text("before"), "after": text("after")}


def parse_rodata(values: Mapping[str, Any]) -> dict[str, int]:
    """Return the values as numbers: templates hand over text, and a switch may come as a boolean."""
    numbers = {}
    for name, value in values.items():
        try:
            numbers[name] = int(value, 0) if isinstance(value, str) else int(value)
        except (TypeError, ValueError):
            raise BpfError(f"rodata: {name}={value!r} is no whole number") from None
    return numbers


def check_pin_path(path: str) -> None:
    """Raise BpfError where ``path`` is in no BPF file system."""
    if not _bpf.is_bpffs(path):
        raise BpfError(
            f"pin_path: '{path}' lies in no BPF file system; mount one (mount -t bpf bpf /sys/fs/bpf), and"
            " mind that 'ip netns exec' hides it behind a /sys of its own"
        )


def present(
    path: str,
    object_path: str,
    rodata: Mapping[str, int],
    wishes: Sequence[Wish],
    owner: str = DEFAULT_OWNER,
    check: bool = False,
    lose_connections: bool = False,
    guard: Guard | None = None,
) -> Outcome:
    """Load, pin and attach as declared; with ``check`` only say what would change.

    What changes is changed inside of ``guard``, which gets all changes.
    Raises BpfError with a remedy, having changed nothing.
    """
    check_pin_path(path)
    with _libbpf.BpfObject(object_path, rodata) as obj:
        return install(path, obj, wishes, owner, check, lose_connections, guard)


def install(
    path: str,
    obj: _libbpf.BpfObject,
    wishes: Sequence[Wish],
    owner: str = DEFAULT_OWNER,
    check: bool = False,
    lose_connections: bool = False,
    guard: Guard | None = None,
) -> Outcome:
    """Do so with an object that is open, and loaded already where its maps are those that are pinned."""
    with contextlib.ExitStack() as files:
        pins = Pins(path)
        attachments = resolve(pins, wishes, list(obj._programs), owner)

        # Loading is how the wanted tags come to be known; until it is pinned it changes nothing.
        layouts, data = obj.layouts, obj.rodata
        pinned_layouts = {name: info.layout for name, info in pins.maps.items()}
        renewed = renewed_maps(pinned_layouts, layouts)
        problem = connections_problem(pinned_layouts, layouts)
        if problem and not lose_connections:
            raise BpfError(problem)
        if not obj.loaded:
            reused = {}
            for name in layouts.keys() - renewed:
                reused[name] = _bpf.obj_get(pins.at("maps", name))
                files.callback(os.close, reused[name])
            obj.load(reused)
        loaded = {name: _bpf.program_info(fd) for name, fd in obj.programs.items()}
        tags = {name: info.tag for name, info in loaded.items()}

        current = pins.state()
        outcome = Outcome(plan(current, State(tags, data, layouts, attachments), owner, renewed))
        if outcome.changes and not check:
            if not pins.maps:  # what was declared for maps that are gone, is gone with them
                Store(path).forget()
            keep = CONNECTIONS in renewed and CONNECTIONS in pins.maps and not problem
            with guard(path, outcome.changes) if guard else contextlib.nullcontext():
                _apply(pins, files, obj, outcome.changes, current.attachments, attachments, keep)
            pins = Pins(path)
            left = plan(pins.state(), State(tags, data, layouts, attachments), owner)
            if left:
                raise BpfError(
                    "attachments: the kernel took every step, yet these are not as declared: "
                    + ", ".join(f"{c.kind} {c.name}" for c in left)
                )
        pinned = pins.programs
        for name, tag in sorted(tags.items()):
            known = name in pinned and (not check or not any(c.kind == "program" for c in outcome.changes))
            number = pinned[name].id if known else None
            outcome.programs.append({"name": name, "tag": tag, "id": number, "path": pins.at("progs", name)})
        for a in attachments.values():
            outcome.attachments.append(
                {"program": a.program, "device": a.device, "hook": a.hook, "type": a.type}
            )
        return outcome


class Loaded(Protocol):
    """Descriptors of programs and maps, by name."""

    @property
    def programs(self) -> Mapping[str, int]: ...

    @property
    def maps(self) -> Mapping[str, int]: ...


def _apply(
    pins: Pins,
    files: contextlib.ExitStack,
    obj: Loaded,
    changes: Sequence[Change],
    current: Mapping[str, Attachment],
    desired: Mapping[str, Attachment],
    keep_connections: bool,
) -> None:
    for leftover in pins.leftovers():
        _unlink(leftover)
    reload = any(change.kind == "program" for change in changes)
    applier = Applier(pins, files)
    change = changes[0]
    try:
        with applier.transaction:
            applier.folder("progs")
            applier.folder("maps")
            if reload:
                programs = obj.programs
            else:
                programs = {}
                for name in pins.programs:
                    programs[name] = _bpf.obj_get(pins.at("progs", name))
                    files.callback(os.close, programs[name])
            if any(c.kind == "map" and c.name in _COMPUTED and c.after for c in changes):
                _bpf_state.refill(obj.maps, pins.path)
            if keep_connections:
                old = _bpf.obj_get(pins.at("maps", CONNECTIONS))
                files.callback(os.close, old)
                copy_connections(old, obj.maps[CONNECTIONS])
            for change in changes:
                if change.kind == "attachment":
                    was, shall = current.get(change.name), desired.get(change.name)
                    if was and change.after and not shall:  # another owner's keeps its place
                        shall = replace(was, program=was.program.rstrip(_PENDING))
                    applier.change(was, shall, programs[shall.program] if shall else -1)
                    continue
                folder = change.kind[:4] + "s"  # maps, progs
                if not change.after:
                    applier.unpin(folder, change.name)
                elif change.kind == "map":
                    applier.pin(obj.maps[change.name], folder, change.name)
                else:
                    applier.pin(obj.programs[change.name], folder, change.name)
            if keep_connections:  # those that the former programs saw since
                copy_connections(old, obj.maps[CONNECTIONS], only_missing=True)
    except OSError as e:
        raise BpfError(
            f"{change.kind} {change.name}: cannot {change.action}: {e.strerror}; everything is as it was"
        ) from e


def absent(path: str, check: bool = False, guard: Guard | None = None) -> Outcome:
    """Detach and unpin everything of ours; with ``check`` only say what would change."""
    if not os.path.isdir(path):
        return Outcome()
    check_pin_path(path)
    pins = Pins(path)
    changes = [Change("attachment", key, str(a)) for key, a in sorted(pins.attachments.items())]
    changes += [Change("program", n, _program_text(i.tag, pins.rodata)) for n, i in pins.programs.items()]
    changes += [Change("map", n, _layout_text(i.layout)) for n, i in pins.maps.items()]
    if not check:
        with guard(path, changes) if guard else contextlib.nullcontext():
            _remove(pins)
    return Outcome(changes)


def _remove(pins: Pins) -> None:
    with contextlib.ExitStack() as files:
        applier = Applier(pins, files)
        with applier.transaction:
            for a in pins.attachments.values():
                applier.change(a, None, -1)
    for folder, _folders, names in os.walk(pins.path, topdown=False):
        inside = os.path.relpath(folder, pins.path).split(os.sep)[0]
        if inside in ("progs", "maps", "links"):
            for name in names:
                os.unlink(os.path.join(folder, name))
            os.rmdir(folder)
    with contextlib.suppress(OSError):  # someone else keeps pins beside ours
        os.rmdir(pins.path)
    Store(pins.path).forget()


def install_command(path: str, check: bool = False) -> list[Change]:
    """Leave the command podnet-datapath at ``path``; with ``check`` only say whether that is a change."""
    wanted = _datapath_command.program()
    try:
        with open(path, "rb") as f:
            found = f.read()
    except FileNotFoundError:
        found = b""
    if found == wanted:
        return []
    if found and not found.startswith(b"#!/usr/bin/python3\nPK"):
        raise BpfError(f"command: '{path}' is not ours; move it away, or give another path")
    if not os.path.isdir(os.path.dirname(path)):
        raise BpfError(f"command: there is no folder for '{path}'; make it, or give another path")
    if not check:
        replace_file(path, wanted, 0o755)
    return [Change("command", path, "another version" if found else "", "this version")]
