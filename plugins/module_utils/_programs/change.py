# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Execute steps of a program plan as one transaction."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from .._core.plan import Problem
from .._datapath.store import Store
from .._kernel import bpf, libbpf
from .hooks import (
    CLSACT_HANDLE,
    CLSACT_PRIORITY,
    LINK_TYPES,
    clsact_point,
    is_managed,
    link_attach_type,
    read_filters,
    set_down,
    set_meta_program,
)
from .pins import Pins
from .plan import PENDING, Attachment, Step, pin_name


class Transaction:
    """Steps that are undone if the block fails, and steps that finish it if it succeeds."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], object]] = []
        self._finish: list[Callable[[], object]] = []

    def on_failure(self, step: Callable[[], object]) -> None:
        """Register ``step`` to be called if the block fails, in reverse order."""
        self._undo.append(step)

    def on_success(self, step: Callable[[], object]) -> None:
        """Register ``step`` to be called after the block has succeeded."""
        self._finish.append(step)

    def __enter__(self) -> Transaction:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            try:
                for step in self._finish:
                    _clean_up(step)
            except OSError as e:
                raise Problem(
                    f"the new programs are attached, but removing the former ones failed: {e}; run this again"
                ) from e
            return
        for step in reversed(self._undo):
            with contextlib.suppress(OSError):
                step()


class Applier:
    """Executes steps in a transaction: on any failure the former state is restored."""

    def __init__(self, pins: Pins, files: contextlib.ExitStack, close: bool = False) -> None:
        """With ``close``, set the device of a Pod down before its programs are detached."""
        self.pins = pins
        self._close = close
        self.transaction = Transaction()
        self._files = files
        self._new_qdiscs: set[int] = set()  # by ifindex: created here, so without other filters

    def _keep(self, fd: int) -> int:
        self._files.callback(os.close, fd)
        return fd

    def folder(self, *names: str) -> None:
        """Create a directory of pins; remove it on failure."""
        path = self.pins.path
        for name in ("", *names):
            path = os.path.join(path, name) if name else path
            with contextlib.suppress(FileExistsError):
                os.makedirs(path, 0o700)
                self.transaction.on_failure(lambda path=path: os.rmdir(path))  # type: ignore[misc]

    def pin(self, fd: int, *names: str) -> None:
        """Pin under this name; an existing pin is replaced once all steps have succeeded."""
        path = self.pins.at(*names)
        if os.path.lexists(path):
            bpf.obj_pin(fd, path + PENDING)
            self.transaction.on_failure(lambda: os.unlink(path + PENDING))
            self.transaction.on_success(lambda: os.rename(path + PENDING, path))
        else:
            bpf.obj_pin(fd, path)
            self.transaction.on_failure(lambda: os.unlink(path))

    def unpin(self, *names: str) -> None:
        """Remove a pin once all steps have succeeded."""
        path = self.pins.at(*names)
        self.transaction.on_success(lambda: unlink(path))

    # Attachments

    def change(self, before: Attachment | None, after: Attachment | None, program: int) -> None:
        """Attach, replace or detach; ``program`` is the descriptor of the program to run."""
        same_place = (
            before is not None
            and after is not None
            and before.ifindex == after.ifindex
            and before.type == after.type
            and self.pins.program_ids.get(before.key, 0) != 0
        )
        if after is not None and before is not None and same_place:
            self._update(before, after, program)
            return
        if after is not None:
            self._attach(after, program)
        if before is not None:
            # A new attachment of the same name keeps the pin.
            self._detach(before, unpin=after is None)

    def _attach(self, a: Attachment, program: int) -> None:
        self.folder("links", a.owner)
        if a.type in LINK_TYPES:
            target = self._keep(os.open(a.device, os.O_RDONLY)) if a.type == "cgroup" else a.ifindex
            link = bpf.link_create(program, target, link_attach_type(a.type, a.hook))
            self._keep(link)
            self.transaction.on_failure(lambda: bpf.link_detach(link))
            self.pin(link, "links", *a.key.split("/"))
            return
        if a.type == "meta":
            device = self.pins.devices[a.device]
            old = device.program_ids.get(a.hook, 0)
            set_meta_program(device, a.hook, program)
            before = self._keep(bpf.prog_get_fd_by_id(old)) if old else -1
            self.transaction.on_failure(lambda: set_meta_program(device, a.hook, before))
        else:
            self._create_qdisc(a, program)
            # A killed run may have left its filter without a pin. resolve() rejects foreign filters.
            there = a.ifindex not in self._new_qdiscs and any(
                is_managed(f) for f in read_filters(a.ifindex, a.hook)
            )
            point = clsact_point(a.hook)
            libbpf.clsact_attach(a.ifindex, point, program, CLSACT_PRIORITY, CLSACT_HANDLE, replace=there)
            self.transaction.on_failure(
                lambda: libbpf.clsact_detach(a.ifindex, point, CLSACT_PRIORITY, CLSACT_HANDLE)
            )
        self.pin(program, "links", *a.key.split("/"))

    def _create_qdisc(self, a: Attachment, program: int) -> None:
        """Create a clsact qdisc unless the device has one; its pin marks it as managed."""
        names = ("links", a.owner, pin_name(a.device, f"qdisc{a.ifindex}"))
        marked = a.ifindex in self.pins.qdiscs or os.path.lexists(self.pins.at(*names))
        if not marked:  # Before the qdisc, which a killed run would leave unmarked.
            bpf.obj_pin(program, self.pins.at(*names))
        if libbpf.clsact_create(a.ifindex):
            self._new_qdiscs.add(a.ifindex)
            self.transaction.on_failure(lambda: unlink(self.pins.at(*names)))
            self.transaction.on_failure(lambda: libbpf.clsact_destroy(a.ifindex))
        elif not marked:
            unlink(self.pins.at(*names))

    def _update(self, before: Attachment, after: Attachment, program: int) -> None:
        old = self._keep(bpf.prog_get_fd_by_id(self.pins.program_ids[before.key]))
        if before.type in LINK_TYPES:
            link = self._keep(bpf.obj_get(self.pins.at("links", *before.key.split("/"))))
            bpf.link_update(link, program)
            self.transaction.on_failure(lambda: bpf.link_update(link, old))
            return
        if before.type == "meta":
            device = self.pins.devices[after.device]
            set_meta_program(device, after.hook, program)
            self.transaction.on_failure(lambda: set_meta_program(device, after.hook, old))
            if not before.owner:  # attached when the device was created, without a pin
                return
        else:
            point = clsact_point(after.hook)
            place = (CLSACT_PRIORITY, CLSACT_HANDLE)
            libbpf.clsact_attach(after.ifindex, point, program, *place, replace=True)
            self.transaction.on_failure(
                lambda: libbpf.clsact_attach(after.ifindex, point, old, *place, replace=True)
            )
        self.pin(program, "links", *after.key.split("/"))

    def _detach(self, a: Attachment, unpin: bool) -> None:
        """Detach once all steps have succeeded."""
        later = self.transaction.on_success
        device = self.pins.devices.get(a.device)
        # Without programs, a veth device would forward all packets.
        if self._close and unpin and a.type in ("tcx", "clsact") and device and device.managed:
            later(lambda: set_down(device))
        attached = a.ifindex and self.pins.program_ids.get(a.key, 0) in self.pins.pinned_ids
        if a.type in LINK_TYPES and a.ifindex:
            link = self._keep(bpf.obj_get(self.pins.at("links", *a.key.split("/"))))
            later(lambda: bpf.link_detach(link))
        elif attached and a.type == "meta":
            meta = self.pins.devices[a.device]
            later(lambda: set_meta_program(meta, a.hook, -1))
        elif attached:
            point = clsact_point(a.hook)
            later(lambda: libbpf.clsact_detach(a.ifindex, point, CLSACT_PRIORITY, CLSACT_HANDLE))
            later(lambda: self._remove_qdisc(a.ifindex))
        if unpin and a.owner:
            self.unpin("links", *a.key.split("/"))

    def _remove_qdisc(self, ifindex: int) -> None:
        """Remove a managed clsact qdisc if it has no filters."""
        record = self.pins.qdiscs.get(ifindex, "")
        if not os.path.lexists(record):
            return
        if all(device.ifindex != ifindex for device in self.pins.devices.values()):
            unlink(record)
        elif not read_filters(ifindex, "ingress") and not read_filters(ifindex, "egress"):
            libbpf.clsact_destroy(ifindex)
            unlink(record)

    def remove_unused_qdiscs(self) -> None:
        """Remove managed clsact qdiscs without filters, which a killed run may leave."""
        for ifindex in self.pins.qdiscs:
            _clean_up(functools.partial(self._remove_qdisc, ifindex))


def _clean_up(step: Callable[[], object]) -> None:
    """Call a step that removes something; ignore an error because the device or pin no longer exists."""
    try:
        step()
    except OSError as e:
        if e.errno not in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
            raise


def unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


class Loaded(Protocol):
    """Descriptors of programs and maps by name."""

    @property
    def programs(self) -> Mapping[str, int]: ...

    @property
    def maps(self) -> Mapping[str, int]: ...


def execute(
    pins: Pins,
    obj: Loaded,
    steps: Sequence[Step],
    desired: Mapping[str, Attachment],
    fill: contextlib.AbstractContextManager[None] | None = None,
    close: bool = False,
) -> None:
    """Execute all steps, or restore everything; raises ``Problem``.

    ``fill`` is entered before the first step, to fill new maps, and left after the last one. With ``close``,
    Pods' devices are set down before their programs are detached.
    """
    for leftover in pins.leftovers():
        unlink(leftover)
    current = pins.attachments
    step = steps[0]
    try:
        with contextlib.ExitStack() as files:
            applier = Applier(pins, files, close)
            with applier.transaction, fill or contextlib.nullcontext():
                applier.folder("progs")
                applier.folder("maps")
                programs = obj.programs
                if all(step.kind != "program" for step in steps):
                    programs = _pinned_programs(pins, files)
                for step in steps:
                    if step.kind == "attachment":
                        before, after = current.get(step.name), desired.get(step.name)
                        if before and step.after and not after:  # Another owner's stays at its hook.
                            after = replace(before, program=before.program.rstrip(PENDING))
                        applier.change(before, after, programs[after.program] if after else -1)
                        continue
                    folder, source = ("maps", obj.maps) if step.kind == "map" else ("progs", obj.programs)
                    if step.after:
                        applier.pin(source[step.name], folder, step.name)
                    else:
                        applier.unpin(folder, step.name)
            applier.remove_unused_qdiscs()
    except OSError as e:
        raise Problem(
            f"{step.kind} {step.name}: cannot {step.action}: {e.strerror}; everything was restored"
        ) from e


def _pinned_programs(pins: Pins, files: contextlib.ExitStack) -> dict[str, int]:
    programs = {}
    for name in pins.programs:
        programs[name] = bpf.obj_get(pins.at("progs", name))
        files.callback(os.close, programs[name])
    return programs


def remove_all(pins: Pins, close: bool = False) -> None:
    """Detach and unpin everything below a directory of pins; ``close`` is that of ``execute``."""
    with contextlib.ExitStack() as files:
        applier = Applier(pins, files, close)
        with applier.transaction:
            for a in pins.attachments.values():
                applier.change(a, None, -1)
        applier.remove_unused_qdiscs()
    for folder, _folders, names in os.walk(pins.path, topdown=False):
        inside = os.path.relpath(folder, pins.path).split(os.sep)[0]
        if inside in ("progs", "maps", "links"):
            for name in names:
                os.unlink(os.path.join(folder, name))
            os.rmdir(folder)
    with contextlib.suppress(OSError):  # Others have pins in the same directory.
        os.rmdir(pins.path)
    Store(pins.path).forget()
