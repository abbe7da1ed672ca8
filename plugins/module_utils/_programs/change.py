# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs put in place and taken away, in steps that can be taken back. Private to this collection."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable

from .._kernel import bpf, libbpf
from .._kernel.bpf import BpfError
from .hooks import (
    CLSACT_HANDLE,
    CLSACT_PRIORITY,
    clsact_point,
    is_our_place,
    link_attach_type,
    read_filters,
    set_meta_program,
)
from .pins import Pins
from .plan import PENDING, Attachment, pin_name


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
            bpf.obj_pin(fd, path + PENDING)
            self.transaction.on_failure(lambda: os.unlink(path + PENDING))
            self.transaction.on_success(lambda: os.rename(path + PENDING, path))
        else:
            bpf.obj_pin(fd, path)
            self.transaction.on_failure(lambda: os.unlink(path))

    def unpin(self, *names: str) -> None:
        """Remove a pin once everything has succeeded."""
        path = self.pins.at(*names)
        self.transaction.on_success(lambda: unlink(path))

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
            link = bpf.link_create(program, a.ifindex, link_attach_type(a.type, a.hook))
            self._keep(link)
            self.transaction.on_failure(lambda: bpf.link_detach(link))
            self.pin(link, "links", *a.key.split("/"))
            return
        if a.type == "meta":
            old = device.program_ids.get(a.hook, 0)
            set_meta_program(device, a.hook, program)
            before = self._keep(bpf.prog_get_fd_by_id(old)) if old else -1
            self.transaction.on_failure(lambda: set_meta_program(device, a.hook, before))
        else:
            if libbpf.clsact_create(a.ifindex):
                self.transaction.on_failure(lambda: libbpf.clsact_destroy(a.ifindex))
                if a.ifindex not in self.pins.qdiscs:
                    self.pin(program, "links", a.owner, pin_name(a.device, f"qdisc{a.ifindex}"))
            # A filter of ours may be there without its pin: resolve() lets nobody else's through.
            there = any(is_our_place(f) for f in read_filters(a.ifindex, a.hook))
            point = clsact_point(a.hook)
            libbpf.clsact_attach(a.ifindex, point, program, CLSACT_PRIORITY, CLSACT_HANDLE, replace=there)
            self.transaction.on_failure(
                lambda: libbpf.clsact_detach(a.ifindex, point, CLSACT_PRIORITY, CLSACT_HANDLE)
            )
        self.pin(program, "links", *a.key.split("/"))

    def _update(self, was: Attachment, shall: Attachment, program: int) -> None:
        old = self._keep(bpf.prog_get_fd_by_id(self.pins.program_ids[was.key]))
        if was.type in ("tcx", "netkit"):
            link = self._keep(bpf.obj_get(self.pins.at("links", *was.key.split("/"))))
            bpf.link_update(link, program)
            self.transaction.on_failure(lambda: bpf.link_update(link, old))
            return
        if was.type == "meta":
            device = self.pins.devices[shall.device]
            set_meta_program(device, shall.hook, program)
            self.transaction.on_failure(lambda: set_meta_program(device, shall.hook, old))
            if not was.owner:  # made with the device, and pinned by nobody
                return
        else:
            point = clsact_point(shall.hook)
            place = (CLSACT_PRIORITY, CLSACT_HANDLE)
            libbpf.clsact_attach(shall.ifindex, point, program, *place, replace=True)
            self.transaction.on_failure(
                lambda: libbpf.clsact_attach(shall.ifindex, point, old, *place, replace=True)
            )
        self.pin(program, "links", *shall.key.split("/"))

    def _detach(self, a: Attachment, unpin: bool) -> None:
        """Detach once everything has succeeded."""
        later = self.transaction.on_success
        attached = a.ifindex and self.pins.program_ids.get(a.key, 0) in self.pins.ours
        if a.type in ("tcx", "netkit") and a.ifindex:
            link = self._keep(bpf.obj_get(self.pins.at("links", *a.key.split("/"))))
            later(lambda: bpf.link_detach(link))
        elif attached and a.type == "meta":
            device = self.pins.devices[a.device]
            later(lambda: set_meta_program(device, a.hook, -1))
        elif attached:
            point = clsact_point(a.hook)
            later(lambda: libbpf.clsact_detach(a.ifindex, point, CLSACT_PRIORITY, CLSACT_HANDLE))
            later(lambda: self._drop_qdisc(a.ifindex))
        if unpin and a.owner:
            self.unpin("links", *a.key.split("/"))

    def _drop_qdisc(self, ifindex: int) -> None:
        """Take away a clsact qdisc that we made, once nobody uses it."""
        record = self.pins.qdiscs.get(ifindex)
        if record and not read_filters(ifindex, "ingress") and not read_filters(ifindex, "egress"):
            libbpf.clsact_destroy(ifindex)
            unlink(record)


def _unless_gone(step: Callable[[], object]) -> None:
    """Take a step that tidies up; a device or pin that went away meanwhile needs none."""
    try:
        step()
    except OSError as e:
        if e.errno not in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
            raise


def unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
