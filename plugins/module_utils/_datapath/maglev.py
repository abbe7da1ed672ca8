# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Maglev's table: a flow's hash is its index, the entry its backend. Private to this collection.

Every node computes the same table, and where a backend comes or goes, few entries of others change.
Source: Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, 3.4.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping


def table(weights: Mapping[str, int], size: int) -> list[str]:
    """Return ``size`` (a prime) backends, each as often as its weight (above 0) says.

    Each backend has an order of preference for the table's entries, which comes from its name alone.
    By turns each takes its next free one; one with a smaller weight than the largest sits turns out.
    """
    taken = [""] * size
    # By name: the table does not depend on the order of the backends.
    names = sorted(weights)
    places, skips = [], []
    for name in names:
        digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
        places.append(int.from_bytes(digest[:4], "big") % size)
        skips.append(int.from_bytes(digest[4:], "big") % (size - 1) + 1)
    largest = max(weights.values())
    saved = [0] * len(names)
    left = size
    while True:
        for turn, name in enumerate(names):
            saved[turn] += weights[name]
            if saved[turn] < largest:
                continue
            saved[turn] -= largest
            place, skip = places[turn], skips[turn]
            while taken[place]:
                place = (place + skip) % size
            taken[place] = name
            places[turn] = place
            left -= 1
            if not left:
                return taken
