# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compute Maglev lookup tables: the hash of a flow is an index, the entry its backend.

All nodes compute the same table. When a backend is added or removed, few entries of other backends change.
Source: Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, 3.4.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping


def maglev_table(weights: Mapping[str, int], size: int) -> list[str]:
    """Return ``size`` (a prime) entries, each backend in proportion to its weight (above 0).

    Each backend has a permutation of the entries that only depends on its name. In rounds, each backend gets
    the next free entry of its permutation; one with a lower weight than the highest skips rounds.
    """
    entries = [""] * size
    names = sorted(weights)  # The table does not depend on the order of the backends.
    positions, skips = [], []
    for name in names:
        digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
        positions.append(int.from_bytes(digest[:4], "big") % size)
        skips.append(int.from_bytes(digest[4:], "big") % (size - 1) + 1)
    highest = max(weights.values())
    credits = [0] * len(names)
    free = size
    while True:
        for index, name in enumerate(names):
            credits[index] += weights[name]
            if credits[index] < highest:
                continue
            credits[index] -= highest
            position, skip = positions[index], skips[index]
            while entries[position]:
                position = (position + skip) % size
            entries[position] = name
            positions[index] = position
            free -= 1
            if not free:
                return entries
