# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read the current pins, programs, maps and attachments; ``attach`` documents the directory of pins."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable, Iterator, Mapping

from .._core import lock
from .._datapath.store import Store
from .._kernel import bpf, mounts
from .._kernel.bpf import ProgramInfo
from .hooks import HOOKS, SOCKET_HOOKS, Device, is_managed, read_devices, read_filters
from .plan import PENDING, Attachment, State, split_pin_name

_LINK_TYPES = {
    bpf.BPF_LINK_TYPE_CGROUP: "cgroup",
    bpf.BPF_LINK_TYPE_NETKIT: "netkit",
    bpf.BPF_LINK_TYPE_TCX: "tcx",
}


class _Held(threading.local):
    """The locks that this thread holds."""

    paths: frozenset[str] = frozenset()


_held = _Held()


@contextlib.contextmanager
def locked(path: str) -> Iterator[None]:
    """Exclude other processes that attach or replace the programs below ``path``. Raises ``Problem``.

    From reading the attachments to replacing the programs: a device that gets the former programs in between
    would keep them, and its entries would be missing in new maps. A change that fails is rolled back within
    its own block, so a thread may hold the lock already.
    """
    file = f"{Store(path).folder}.lock"
    if file in _held.paths:
        yield
        return
    with lock.locked(file):
        _held.paths |= {file}
        try:
            yield
        finally:
            _held.paths -= {file}


class Pins:
    """The objects pinned below ``path`` and their attachments, as the kernel reports them.

    With ``new_devices``, which have no programs yet, nothing is read.
    """

    def __init__(self, path: str, new_devices: Mapping[str, Device] | None = None) -> None:
        self.path = path
        self.devices = dict(read_devices() if new_devices is None else new_devices)
        self.programs: dict[str, ProgramInfo] = {}
        self.maps: dict[str, bpf.MapInfo] = {}
        self.rodata = b""
        self.attachments: dict[str, Attachment] = {}
        self.program_ids: dict[str, int] = {}  # the attached program by key of attachment
        self.qdiscs: dict[int, str] = {}  # by ifindex: pin that marks a clsact qdisc as managed
        self.pinned_ids: set[int] = set()  # IDs of all programs pinned below path
        if new_devices is None:
            self._read()

    def at(self, *names: str) -> str:
        """Return the path of a pin."""
        return os.path.join(self.path, *names)

    def _names(self, *names: str) -> list[str]:
        try:
            return sorted(os.listdir(self.at(*names)))
        except FileNotFoundError:
            return []

    def number_of(self, device: str, hook: str) -> int:
        """Return the ifindex of a device or the ID of a cgroup, 0 if it does not exist."""
        if hook in SOCKET_HOOKS:
            return mounts.cgroup_id(device)
        return self.devices[device].ifindex if device in self.devices else 0

    def leftovers(self) -> list[str]:
        """Return the paths of pins that a killed run left behind."""
        folders = [("progs",), ("maps",), *(("links", owner) for owner in self._names("links"))]
        return [self.at(*f, n) for f in folders for n in self._names(*f) if n.endswith(PENDING)]

    def _read(self) -> None:
        names: dict[int, str] = {}
        for name in self._names("progs"):
            with bpf.closing(bpf.obj_get(self.at("progs", name))) as fd:
                info = bpf.program_info(fd)
            self.pinned_ids.add(info.id)
            names[info.id] = name
            if not name.endswith(PENDING):
                self.programs[name] = info
        for name in self._names("maps"):
            if name.endswith(PENDING):
                continue
            with bpf.closing(bpf.obj_get(self.at("maps", name))) as fd:
                self.maps[name] = bpf.map_info(fd)
        for program in self.programs.values():
            self.rodata = bpf.rodata_of(program)
            break
        for owner in self._names("links"):
            for name in self._names("links", owner):
                self._read_attachment(owner, name, names)
        self._read_meta(names)

    def _read_attachment(self, owner: str, name: str, names: Mapping[int, str]) -> None:
        device_name, hook = split_pin_name(name)
        with bpf.closing(bpf.obj_get(self.at("links", owner, name))) as fd:
            if bpf.is_link(fd):
                link = bpf.link_info(fd)
                kind = _LINK_TYPES[link.type]
                ifindex, program = link.target, link.program_id
                if (kind, link.attach_type) == ("netkit", bpf.BPF_NETKIT_PEER):
                    # The link has the ifindex of the Pod's end; attachments name the host's end.
                    device = self.devices.get(device_name)
                    ifindex = device.ifindex if device and device.peer == ifindex else 0
            else:
                program = bpf.program_info(fd).id
                self.pinned_ids.add(program)
                device = self.devices.get(device_name)
                ifindex = device.ifindex if device else 0
                kind = "meta" if device and device.kind == "meta" else "clsact"
                if hook.startswith("qdisc"):
                    self.qdiscs[int(hook[len("qdisc") :])] = self.at("links", owner, name)
                    return
        if name.endswith(PENDING):
            return
        # Read the program from the device: at clsact and meta, a pin does not keep it attached.
        if kind == "clsact" and ifindex:
            found = [f for f in read_filters(ifindex, hook) if is_managed(f)]
            program = found[0].program_id if found else 0
        elif kind == "meta":
            program = self.devices[device_name].program_ids[hook]
        attachment = Attachment(owner, device_name, hook, kind, ifindex, names.get(program, ""))
        self.attachments[attachment.key] = attachment
        self.program_ids[attachment.key] = program

    def _read_meta(self, names: Mapping[int, str]) -> None:
        """Add attachments without a pin: ``meta_device`` creates meta devices with pinned programs."""
        known = {(a.device, a.hook) for a in self.attachments.values() if a.type == "meta"}
        for device in self.devices.values():
            for hook, program in device.program_ids.items():
                if program in names and (device.name, hook) not in known:
                    attachment = Attachment("", device.name, hook, "meta", device.ifindex, names[program])
                    self.attachments[attachment.key] = attachment
                    self.program_ids[attachment.key] = program

    def find_unpinned(self, keys: Iterable[str]) -> None:
        """Add the attachments among ``keys`` whose clsact filter a killed run has created but not pinned."""
        for key in keys:
            owner, dummy, name = key.partition("/")
            device_name, hook = split_pin_name(name)
            device = self.devices.get(device_name)
            if key in self.attachments or device is None or hook not in HOOKS:
                continue
            for f in read_filters(device.ifindex, hook):
                if is_managed(f) and f.program_id in self.pinned_ids:
                    self.attachments[key] = Attachment(owner, device_name, hook, "clsact", device.ifindex, "")
                    self.program_ids[key] = f.program_id

    def state(self) -> State:
        """Return the state that ``plan`` compares with."""
        pinned = {info.id for info in self.maps.values()}
        tags = {}
        for name, info in self.programs.items():
            # A program that uses a map other than the pinned one has to be replaced.
            foreign = [i for i in info.map_ids if i not in pinned and not _is_rodata(i)]
            tags[name] = "" if foreign else info.tag
        layouts = {name: info.layout for name, info in self.maps.items()}
        return State(tags, self.rodata, layouts, dict(self.attachments))


def _is_rodata(number: int) -> bool:
    with bpf.closing(bpf.map_get_fd_by_id(number)) as fd:
        return bpf.map_info(fd).name == bpf.RODATA_MAP
