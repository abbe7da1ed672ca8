# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read and write the pinned maps of the programs."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
from collections.abc import Collection, Mapping, Sequence

from .._core.plan import Problem, TransientProblem
from .._kernel import bpf
from .._rollback import journal
from .layout import ARRAYS, CONFIG, HASHES, INDEX, LAYOUT, REASONS, SIZES
from .snapshot import Snapshot
from .writes import MapWrites


def wait_for_programs() -> None:
    """Wait until all programs that run now have returned.

    The kernel waits for them before an update of a map of maps returns: maybe_wait_bpf_programs() in
    kernel/bpf/syscall.c.
    """
    with contextlib.ExitStack() as files:
        inner = bpf.map_create(bpf.BPF_MAP_TYPE_ARRAY, 4, 4, 1)
        files.callback(os.close, inner)
        outer = bpf.map_create(bpf.BPF_MAP_TYPE_ARRAY_OF_MAPS, 4, 4, 1, inner)
        files.callback(os.close, outer)
        bpf.map_update_one(outer, bytes(4), INDEX.pack(inner))


def backup_path(pin_path: str) -> str:
    """Return the directory with the former programs and maps while new ones are pending confirmation."""
    return pin_path.rstrip("/") + "~"


def require_confirmed(pin_path: str) -> None:
    """Raise ``TransientProblem`` if the maps are new and pending confirmation.

    Raises ``Problem`` if the journal cannot be read.

    A rollback to the former maps would lose declarations for the new ones.
    """
    ids = []
    for folder in (pin_path, backup_path(pin_path)):
        try:
            with bpf.closing(bpf.obj_get(os.path.join(folder, "maps", "layout"))) as fd:
                ids.append(bpf.map_info(fd).id)
        except FileNotFoundError:
            return
    # A killed confirmation may have left a backup.
    if ids[0] != ids[1] and journal.pending(journal.read()):
        raise TransientProblem(
            f"pin_path: the new programs and maps at '{pin_path}' are pending confirmation; repeat this after"
            " they are confirmed or rolled back"
        )


class Maps:
    """File descriptors of the maps that user space writes."""

    def __init__(self, fds: Mapping[str, int]) -> None:
        self.fds = fds

    @classmethod
    def pinned(cls, pin_path: str, files: contextlib.ExitStack) -> Maps:
        """Open the pinned maps until ``files`` is closed.

        Raises ``Problem`` if a map is missing, or for all maps that have another layout.
        """
        fds = {}
        problems = []
        for name, sizes in {**SIZES, "layout": (4, 4)}.items():
            path = os.path.join(pin_path, "maps", name)
            try:
                fds[name] = bpf.obj_get(path)
            except OSError as e:
                raise Problem(
                    f"pin_path: cannot open the map '{path}': {e.strerror}; load the programs first"
                    " (bpf_attach); note that 'ip netns exec' hides /sys/fs/bpf"
                ) from e
            files.callback(os.close, fds[name])
            layout = bpf.map_info(fds[name]).layout
            if (layout.key_size, layout.value_size) != sizes:
                problems.append(
                    f"'{path}' has keys of {layout.key_size} and values of {layout.value_size} bytes"
                    f" instead of {sizes[0]} and {sizes[1]}"
                )
            elif name == "layout" and layout.max_entries != LAYOUT:
                problems.append(f"the maps have layout {layout.max_entries} instead of {LAYOUT}")
        if problems:
            raise Problem(f"pin_path: {'; '.join(problems)}; load the programs of this version (bpf_attach)")
        return cls(fds)

    def read(self, names: Collection[str] = (*HASHES, *ARRAYS)) -> Snapshot:
        """Return the content of maps; others are empty."""
        snapshot = Snapshot(
            {name: bpf.map_read(self.fds[name]) if name in names else {} for name in HASHES},
            {name: bpf.array_read(self.fds[name]) for name in ARRAYS if name in names},
            {name: bpf.map_info(self.fds[name]).layout.max_entries for name in SIZES},
        )
        snapshot.generation, snapshot.features = self.config()
        return snapshot

    def config(self) -> tuple[int, int]:
        """Return the active generation and the features."""
        generation, features = CONFIG.unpack(bpf.map_lookup(self.fds["config"], bytes(4), CONFIG.size))
        return generation, features

    def fill(self, writes: MapWrites) -> None:
        """Fill the inactive buffer."""
        # A program that started in the generation before may still read it.
        wait_for_programs()
        for name, keys in writes.delete.items():
            bpf.map_delete(self.fds[name], keys)
        # Arrays are written before the maps that refer to their elements.
        for name in sorted(writes.update, key=lambda name: name not in ("backends", "rulesets")):
            bpf.map_update(self.fds[name], writes.update[name])

    def apply(self, writes: MapWrites) -> None:
        """Fill the inactive buffer, then commit it. If killed before the commit, packets see no change."""
        self.reset(writes.reset_slots)
        self.fill(writes)
        self.commit(*writes.config)
        if any(writes.delete_after.values()):
            wait_for_programs()
            for name, keys in writes.delete_after.items():
                bpf.map_delete(self.fds[name], keys)

    def next_in_place(self) -> int:
        """Return the next generation with the same active buffer."""
        return (self.config()[0] + 2) & 0xFFFFFFFF

    def reset(self, slots: Sequence[int]) -> None:
        """Set the counters of slots to zero."""
        if "metrics" in self.fds and slots:
            size = REASONS * 8 * bpf.possible_cpus()
            bpf.map_update(self.fds["metrics"], {INDEX.pack(slot): bytes(size) for slot in slots})

    def commit(self, generation: int, features: int) -> None:
        """Store generation and features at once: programs read both as one word."""
        with contextlib.closing(mmap.mmap(self.fds["config"], mmap.PAGESIZE)) as page:
            word = ctypes.c_uint64.from_buffer(page)
            word.value = int.from_bytes(CONFIG.pack(generation, features), "little")
            del word
