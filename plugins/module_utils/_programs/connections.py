# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Maps that new programs replace, and the connections that they take over."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping

from .._datapath import layout as datapath_layout
from .._kernel import bpf
from .._kernel.bpf import Layout

# Only programs write these maps, so entries that are lost cannot be computed again. The other maps refer to
# `connections`, so all are replaced together; a reference is copied after its record.
CONNECTIONS = ("connections", "ct_slots", "ct4", "ct6")
COMPUTED = frozenset({*datapath_layout.SIZES, "layout"})
_SERIAL_MARGIN = 1 << 20  # a multiple of CT_QUOTA of ct.h


def replaced_maps(current: Mapping[str, Layout], desired: Mapping[str, Layout]) -> set[str]:
    """Return the maps to create because they are missing or have another layout."""
    changed = {name for name, layout in desired.items() if current.get(name) != layout}
    for together in (COMPUTED, frozenset(CONNECTIONS)):
        if changed & together:
            changed |= desired.keys() & together
    return changed


def connections_problem(current: Mapping[str, Layout], desired: Mapping[str, Layout]) -> str:
    """Return why the connections cannot be taken over, empty if they can."""

    def form(layouts: Mapping[str, Layout]) -> tuple[int, list[tuple[int, int]]]:
        sizes = [(layouts[name].key_size, layouts[name].value_size) for name in CONNECTIONS]
        return layouts["layout"].max_entries if "layout" in layouts else 0, sizes

    if not current.keys() >= {*CONNECTIONS} <= desired.keys() or form(current) == form(desired):
        return ""
    return (
        "object: its programs store connections in another format (layout version, sizes of keys and values"
        f" {form(desired)}) than the running ones ({form(current)}), so established connections to services"
        " and of masqueraded Pods would break: set allow_connection_loss: true to accept that"
    )


def copy_connections(
    source: Mapping[str, int], target: Mapping[str, int], only_missing: bool = False
) -> None:
    """Copy the entries of all maps; with ``only_missing`` those that the target does not have.

    ``source`` and ``target`` are file descriptors by name. The target's serial numbers continue far beyond
    the source's: until the programs are replaced, both allocate records.
    """
    for name in CONNECTIONS:
        entries = bpf.map_read(source[name])
        if name == "ct_slots":
            if not only_missing:
                bpf.map_update(target[name], {key: _advanced(value) for key, value in entries.items()})
        elif not only_missing:
            bpf.map_update(target[name], entries)
        else:
            known = bpf.map_read(target[name])
            for key, value in entries.items():
                if key not in known:
                    with contextlib.suppress(FileExistsError):
                        bpf.map_update_one(target[name], key, value, bpf.BPF_NOEXIST)


def _advanced(slot: bytes) -> bytes:
    """Return a struct ct_slot, whose first member is the serial number."""
    serial = int.from_bytes(slot[:4], sys.byteorder) + _SERIAL_MARGIN
    return (serial % 2**32).to_bytes(4, sys.byteorder) + slot[4:]
