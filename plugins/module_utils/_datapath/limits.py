# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What fits into the maps of the programs, and which objects of a cluster are left out if they do not.

Whoever may create an object in one namespace must not keep the objects of others out of the maps. Two
generations share each map, so that half of it is always free for the next one. A quarter of a generation
remains for what owners declare, and for Pods that are added before policies change again.
"""

from __future__ import annotations

from collections.abc import Mapping

from .._core.plan import Problem

# max_entries of the maps
SERVICES, SOURCES, TABLES, BACKENDS = 8192, 65536, 8192, 65536
CIDRS, POLICY, RULESETS = 65536, 262144, 4096

Costs = Mapping[str, int]  # by the name of an object: namespace/name


class Full(Problem):
    """A map is full. The objects that fit are found by computing all maps again."""


def generation(entries: int) -> int:
    """Return how many entries of a map one generation may have."""
    return entries // 2


def share(entries: int) -> int:
    """Return how many entries of a map the objects of a cluster may have."""
    return generation(entries) * 3 // 4


def left_out(costs: Costs, excess: int) -> list[str]:
    """Return objects whose costs exceed ``excess``: the largest ones of the namespaces that cost the most."""
    by_namespace: dict[str, list[tuple[int, str]]] = {}
    for name, cost in costs.items():
        if cost:
            by_namespace.setdefault(name.partition("/")[0], []).append((cost, name))
    sums = {namespace: sum(cost for cost, _name in some) for namespace, some in by_namespace.items()}
    for some in by_namespace.values():
        some.sort(reverse=True)
    chosen: list[str] = []
    while excess > 0 and sums:
        namespace = max(sums, key=lambda one: (sums[one], one))
        cost, name = by_namespace[namespace].pop(0)
        chosen.append(name)
        excess -= cost
        sums[namespace] -= cost
        if not by_namespace[namespace]:
            del sums[namespace]
    return chosen
