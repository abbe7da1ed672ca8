# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Back up pinned programs and maps before a change under a checkpoint, and restore them."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from .._core.plan import Problem
from .._datapath.maps import backup_path
from .._kernel import bpf
from .change import execute, remove_all
from .pins import Pins
from .plan import PENDING, Attachment, split_pin_name, steps_between


def back_up(path: str) -> None:
    """Pin the programs and maps once more, in a directory that ``restore`` reads."""
    backup = backup_path(path)
    shutil.rmtree(backup, ignore_errors=True)
    for folder in ("progs", "maps"):
        os.makedirs(os.path.join(backup, folder), 0o700)
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(os.path.join(path, folder)):
                if not name.endswith(PENDING):
                    with bpf.closing(bpf.obj_get(os.path.join(path, folder, name))) as fd:
                        bpf.obj_pin(fd, os.path.join(backup, folder, name))


@dataclass
class _Opened:
    programs: Mapping[str, int]
    maps: Mapping[str, int]


def restore(path: str, former: Mapping[str, tuple[str, str] | None]) -> None:
    """Restore programs, maps and attachments as they were when ``back_up`` ran.

    ``former`` has program and type of each attachment by key, ``None`` for one that did not exist. Maps keep
    their contents, because an older version of this collection may have written them.

    Raises ``OSError`` and ``Problem``.
    """
    pins, backup = Pins(path), Pins(backup_path(path))
    pins.find_unpinned(former)
    if not backup.programs:
        if any(former.values()):
            raise Problem(f"the former programs of '{path}' are no longer in the kernel: run site.yml")
        remove_all(pins)
        return
    attachments = {key: a for key, a in pins.attachments.items() if key not in former}
    for key, value in former.items():
        owner, dummy, name = key.partition("/")
        device, hook = split_pin_name(name)
        number = pins.number_of(device, hook)
        if value and number:  # An attachment disappears with its device.
            program, kind = value
            attachments[key] = Attachment(owner, device, hook, kind, number, program)
    current, desired = pins.state(), replace(backup.state(), attachments=attachments)
    ids = {name: info.id for name, info in pins.maps.items()}
    replaced = [name for name, info in backup.maps.items() if ids.get(name) != info.id]
    with contextlib.ExitStack() as files:

        def opened(folder: str, names: Iterable[str]) -> dict[str, int]:
            found = {name: bpf.obj_get(backup.at(folder, name)) for name in names}
            for fd in found.values():
                files.callback(os.close, fd)
            return found

        obj = _Opened(opened("progs", backup.programs), opened("maps", backup.maps))
        steps = steps_between(current, desired, None, replaced)
        if steps:
            execute(pins, obj, steps, attachments)
