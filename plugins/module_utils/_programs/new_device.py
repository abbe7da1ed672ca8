# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Attach pinned programs to one new device of a Pod without reading other attachments."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping

from .._core.plan import Problem
from .._kernel import bpf
from .change import Applier, unlink
from .hooks import Device
from .pins import Pins
from .plan import PENDING, Attachment, pin_name


def attach(pin_path: str, owner: str, device: Device, programs: Mapping[str, str]) -> None:
    """Attach pinned programs, given by hook, to a device that has none.

    Raises ``Problem``; then no program is attached. ``attach.present`` finds and replaces these attachments.
    """
    pins = Pins(pin_path, {device.name: device})
    with contextlib.ExitStack() as files:
        applier = Applier(pins, files)
        hook = ""
        try:
            with applier.transaction:
                for hook, program in programs.items():
                    # The kernel waits for an RCU grace period when it attaches to tcx, 10 to 20 ms each.
                    kind = device.kind if device.kind in ("meta", "netkit") else "clsact"
                    attachment = Attachment(owner, device.name, hook, kind, device.ifindex, program)
                    descriptor = files.enter_context(bpf.closing(bpf.obj_get(pins.at("progs", program))))
                    applier.change(None, attachment, descriptor)
        except OSError as error:
            raise Problem(
                f"{device.name}, hook {hook}: cannot attach the program: {error.strerror}; load the programs"
                " with the role podnet.datapath.bpf_datapath"
            ) from error


def attached(pin_path: str) -> set[tuple[str, str, str]]:
    """Return device, hook and program of all attachments of pinned programs."""
    return {
        (one.device, one.hook, one.program.rstrip(PENDING))
        for one in Pins(pin_path).attachments.values()
        if one.ifindex
    }


def forget(pin_path: str, owner: str, device: str) -> None:
    """Remove the pins of a deleted device, which the kernel has detached its programs from."""
    folder = os.path.join(pin_path, "links", owner)
    prefix = pin_name(device, "")
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(folder):
            if name.removesuffix(PENDING).startswith(prefix):
                unlink(os.path.join(folder, name))
