# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The programs' maps, read and written. Private to this collection.

A plan fills the bank that does not hold; one store into ``config`` turns over.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
from collections.abc import Mapping

from .._kernel import bpf
from .._kernel.bpf import BpfError
from .._rollback import journal
from .layout import ARRAYS, CONFIG, HASHES, INDEX, LAYOUT, REASONS, SIZES
from .plan import Plan
from .snapshot import Snapshot


def wait_for_programs() -> None:
    """Return once every program that runs now has ended.

    The kernel does so before an update of a map of maps returns: maybe_wait_bpf_programs() in
    kernel/bpf/syscall.c, for this very purpose.
    """
    with contextlib.ExitStack() as files:
        inner = bpf.map_create(bpf.BPF_MAP_TYPE_ARRAY, 4, 4, 1)
        files.callback(os.close, inner)
        outer = bpf.map_create(bpf.BPF_MAP_TYPE_ARRAY_OF_MAPS, 4, 4, 1, inner)
        files.callback(os.close, outer)
        bpf.map_update_one(outer, bytes(4), INDEX.pack(inner))


def kept_at(pin_path: str) -> str:
    """Return the folder that has the former programs and maps while new ones wait for a confirmation."""
    return pin_path.rstrip("/") + "~"


def refuse_unconfirmed(pin_path: str) -> None:
    """Raise BpfError where the maps are new ones that wait for a confirmation.

    What is declared for them would be missing in the former ones, should these come back. Raises ``Problem``
    where the journal cannot be read.
    """
    if not journal.pending(journal.read()):  # Whoever confirmed may have been killed before he tidied up.
        return
    numbers = []
    for folder in (pin_path, kept_at(pin_path)):
        try:
            with bpf.closing(bpf.obj_get(os.path.join(folder, "maps", "layout"))) as fd:
                numbers.append(bpf.map_info(fd).id)
        except FileNotFoundError:
            return
    if numbers[0] != numbers[1]:
        raise BpfError(
            f"pin_path: new programs at '{pin_path}', and their maps, wait for a confirmation: run this"
            " again when they are confirmed or taken back"
        )


class Maps:
    """Descriptors of all maps that are written here."""

    def __init__(self, fds: Mapping[str, int]) -> None:
        self.fds = fds

    @classmethod
    def pinned(cls, pin_path: str, files: contextlib.ExitStack) -> Maps:
        """Open the pinned maps, for as long as ``files``.

        Raises BpfError, naming all, where some are not there or of another layout.
        """
        fds = {}
        wrong = []
        for name, sizes in {**SIZES, "layout": (4, 4)}.items():
            path = os.path.join(pin_path, "maps", name)
            try:
                fds[name] = bpf.obj_get(path)
            except OSError as e:
                raise BpfError(
                    f"pin_path: there is no map at '{path}' ({e.strerror}); load the programs first"
                    " (bpf_attach), and mind that 'ip netns exec' hides /sys/fs/bpf"
                ) from e
            files.callback(os.close, fds[name])
            layout = bpf.map_info(fds[name]).layout
            if (layout.key_size, layout.value_size) != sizes:
                wrong.append(
                    f"'{path}' has keys of {layout.key_size} and values of {layout.value_size} bytes, this"
                    f" version {sizes[0]} and {sizes[1]}"
                )
            elif name == "layout" and layout.max_entries != LAYOUT:
                wrong.append(f"the maps have layout {layout.max_entries}, this version {LAYOUT}")
        if wrong:
            raise BpfError(f"pin_path: {'; '.join(wrong)}: load this version's programs (bpf_attach)")
        return cls(fds)

    def read(self) -> Snapshot:
        """Return all that the maps hold."""
        snapshot = Snapshot(
            {name: bpf.map_read(self.fds[name]) for name in HASHES},
            {name: bpf.array_read(self.fds[name]) for name in ARRAYS},
            {name: bpf.map_info(self.fds[name]).layout.max_entries for name in SIZES},
        )
        raw = bpf.map_lookup(self.fds["config"], bytes(4), CONFIG.size)
        snapshot.generation, snapshot.features = CONFIG.unpack(raw)
        return snapshot

    def apply(self, changes: Plan) -> None:
        """Write a plan. Whoever dies on the way leaves the bank that holds as it is."""
        # Programs may still read the idle bank since it last held.
        wait_for_programs()
        if "metrics" in self.fds and changes.fresh_slots:
            size = REASONS * 8 * bpf.possible_cpus()
            bpf.map_update(self.fds["metrics"], {INDEX.pack(s): bytes(size) for s in changes.fresh_slots})
        for name, keys in changes.delete.items():
            bpf.map_delete(self.fds[name], keys)
        # What others point to comes first.
        for name in sorted(changes.update, key=lambda name: name not in ("backends", "rulesets")):
            bpf.map_update(self.fds[name], changes.update[name])
        with contextlib.closing(mmap.mmap(self.fds["config"], mmap.PAGESIZE)) as page:
            word = ctypes.c_uint64.from_buffer(page)
            word.value = int.from_bytes(CONFIG.pack(*changes.config), "little")
            del word
        if any(changes.gone.values()):
            wait_for_programs()
            for name, keys in changes.gone.items():
                bpf.map_delete(self.fds[name], keys)
