# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Maps that new programs replace, and the connections that they take over."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from .._datapath import layout as datapath_layout
from .._kernel import bpf
from .._kernel.bpf import Layout

CONNECTIONS = "ct"  # Only programs write it, so entries that are lost cannot be computed again.
# Maps that are computed from the desired state, and replaced together.
COMPUTED = frozenset({*datapath_layout.SIZES, "layout"})


def replaced_maps(current: Mapping[str, Layout], desired: Mapping[str, Layout]) -> set[str]:
    """Return the maps to create because they are missing or have another layout."""
    changed = {name for name, layout in desired.items() if current.get(name) != layout}
    computed = desired.keys() & COMPUTED
    return changed | computed if changed & computed else changed


def connections_problem(current: Mapping[str, Layout], desired: Mapping[str, Layout]) -> str:
    """Return why the connections cannot be taken over, empty if they can."""
    has, wants = current.get(CONNECTIONS), desired.get(CONNECTIONS)
    if has is None or wants is None:
        return ""

    def form(layouts: Mapping[str, Layout], own: Layout) -> tuple[int, int, int]:
        return layouts["layout"].max_entries if "layout" in layouts else 0, own.key_size, own.value_size

    if form(current, has) == form(desired, wants):
        return ""
    return (
        "object: its programs store connections in another format (layout version, key size, value size"
        f" {form(desired, wants)}) than the running ones ({form(current, has)}), so established connections"
        f" to"
        " services and of masqueraded Pods would break: set allow_connection_loss: true to accept that"
    )


def copy_connections(source: int, target: int, only_missing: bool = False) -> None:
    """Copy all entries of one map to another; with ``only_missing`` those that the target does not have."""
    entries = bpf.map_read(source)
    if not only_missing:
        bpf.map_update(target, entries)
        return
    known = bpf.map_read(target)
    for key, value in entries.items():
        if key not in known:
            with contextlib.suppress(FileExistsError):
                bpf.map_update_one(target, key, value, bpf.BPF_NOEXIST)
