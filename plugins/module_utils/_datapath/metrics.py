# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read the packet counters of the map ``metrics``."""

from __future__ import annotations

import os
import struct

from .._kernel import bpf
from .._kernel.btf import Btf
from .layout import REASONS

PREFIX = "REASON_"


def read_reasons(pin_path: str) -> dict[int, str]:
    """Return the names of enum reason by number, as the running programs were compiled."""
    folder = os.path.join(pin_path, "progs")
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
        with bpf.closing(bpf.obj_get(os.path.join(folder, name))) as fd:
            reasons = Btf(bpf.program_btf(fd)).enum("reason")
        return {number: text[len(PREFIX) :] for text, number in reasons.items()}
    return {}


def read_counters(pin_path: str) -> dict[int, dict[str, int]]:
    """Return packets by slot and reason, without zeros."""
    names = read_reasons(pin_path)
    counters: dict[int, dict[str, int]] = {}
    processors = bpf.possible_cpus()
    with bpf.closing(bpf.obj_get(os.path.join(pin_path, "maps", "metrics"))) as fd:
        for slot in range(bpf.map_info(fd).layout.max_entries):
            raw = bpf.map_lookup(fd, struct.pack("=I", slot), 8 * REASONS * processors)
            if not any(raw):
                continue
            values = struct.unpack(f"={REASONS * processors}Q", raw)
            totals = {names.get(n, str(n)): sum(values[n::REASONS]) for n in range(REASONS)}
            counters[slot] = {name: total for name, total in totals.items() if total}
    return counters
