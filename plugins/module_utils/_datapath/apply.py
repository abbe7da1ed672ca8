# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Change the maps of the programs to the declarations of all owners.

Several owners share the maps, so that policies apply to the Pods of all owners. ``configure`` replaces the
declaration of one owner.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping

from .._core.plan import Problem, Result
from .compile import compile_image
from .describe import describe
from .image import differences
from .maps import Maps
from .merge import merge_records
from .node import read_node
from .pending import require_confirmed
from .plan import Current, DatapathPlan, Desired, plan_declaration, plan_writes
from .slots import all_slots
from .snapshot import decode_image
from .store import Store

__all__ = ["Desired", "configure", "refill"]


def configure(desired: Desired, check: bool = False) -> Result:
    """Replace one owner's declaration and change the maps to the declarations of all owners.

    With ``check``, change nothing. Return updated, deleted and differences, as bpf_state documents them, and
    the diff. Raises ``Problem``, with a line for each problem, before anything is written.
    """
    store = Store(desired.pin_path)
    with contextlib.ExitStack() as files:
        maps, problems = None, list[str]()
        try:
            maps = Maps.pinned(desired.pin_path, files)
            files.enter_context(store.locked())
        except Problem as e:
            problems = [str(e)]
        node = read_node()
        if check:
            node = node.with_planned(desired.planned_devices)
        plan = plan_declaration(Current(node, store.read(), maps.read() if maps else None, problems), desired)
        plan.require_valid()
        if maps and plan and not check:
            require_confirmed(desired.pin_path)
            _apply(plan, maps, store)
    names = {interface.ifindex: name for name, interface in node.interfaces.items()}
    return _result(plan, names)


def _apply(plan: DatapathPlan, maps: Maps, store: Store) -> None:
    """Store the declaration and write the maps; on failure, restore the declaration and raise ``Problem``."""
    # The declaration is stored first, so that the next run completes one that is killed here.
    store.write(plan.owner, plan.after)
    if not plan.writes:
        return
    try:
        maps.apply(plan.writes)
    except OSError as e:
        store.write(plan.owner, plan.before)
        raise Problem(
            f"cannot write the maps: {os.strerror(e.errno or 0)}; the former generation stays active"
        ) from e
    snapshot = maps.read()
    drift = differences(decode_image(snapshot, snapshot.buffer), plan.image)
    if drift:
        entries = ", ".join(f"{count} of {kind}" for kind, count in drift.items())
        raise Problem(
            "the kernel accepted every write, but reading back shows different map entries:"
            f" {entries}; check whether another process writes the maps"
        )


def _result(plan: DatapathPlan, names: Mapping[int, str]) -> Result:
    return Result(
        bool(plan),
        {"updated": plan.updated, "deleted": plan.deleted, "differences": plan.differences},
        diff=[
            {
                "before": describe(plan.current_image, plan.before.options, plan.owner, names),
                "after": describe(plan.image, plan.after.options, plan.owner, names),
            }
        ],
    )


def refill(fds: Mapping[str, int], pin_path: str) -> None:
    """Fill new, empty maps with the declarations of all owners, before any program uses them."""
    records = Store(pin_path).read()
    image, _problems = compile_image(merge_records(records), read_node(), all_slots(records))
    maps = Maps(fds)
    snapshot = maps.read()
    # Connections and cached decisions that outlive the former maps must not match the generation.
    snapshot.generation = time.monotonic_ns() >> 20 & 0xFFFFFFFE
    writes, problems = plan_writes(snapshot, image)
    if problems:
        raise Problem("; ".join(problems))
    if writes:
        maps.apply(writes)
