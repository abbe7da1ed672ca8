# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Change the maps of the programs to the declarations of all owners.

Several owners share the maps, so that policies apply to the Pods of all owners. ``configure`` replaces the
declaration of one owner.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from .._core.plan import Problem, Result
from .cluster import Cluster
from .compile import Compiler
from .image import Image, differences
from .layout import number_of
from .maps import Maps, require_confirmed
from .merge import merge_records
from .node import read_node
from .plan import Current, DatapathPlan, Desired, plan_declaration, plan_writes
from .snapshot import Snapshot, decode_image
from .stale_sockets import EndSockets, end_stale_sockets
from .store import Store, all_slots
from .writes import MapWrites

__all__ = ["Desired", "configure", "refill", "require_equal", "write"]

# Options that the diff omits
_DEFAULTS: Mapping[str, Any] = {"labels": {}, "masquerade": False, "anti_spoof": True, "node": ""}


def configure(
    desired: Desired,
    check: bool = False,
    read_cluster: Callable[[], Cluster | None] | None = None,
    end_sockets: EndSockets = end_stale_sockets,
) -> Result:
    """Replace one owner's declaration and change the maps to the declarations of all owners.

    With ``check``, change nothing. Return updated, deleted and differences, as bpf_state documents them, and
    the diff. Raises ``Problem``, with a line for each problem, before anything is written. A caller that has
    the stored objects of the cluster in memory returns them by ``read_cluster``. ``end_sockets`` is called
    with the pin path after UDP services have lost backends.
    """
    store = Store(desired.pin_path)
    with contextlib.ExitStack() as files:
        maps, problems = None, list[str]()
        try:
            maps = Maps.pinned(desired.pin_path, files)
        except Problem as e:
            problems = [str(e)]
        if maps:
            files.enter_context(store.locked())
        node = read_node(desired.pin_path)
        if check:
            node = node.with_planned(desired.planned_devices)
        snapshot = maps.read() if maps else None
        cluster = (read_cluster or store.cluster.read)()
        current = Current(node, store.read(), snapshot, problems, cluster)
        plan = plan_declaration(current, desired)
        del current, snapshot  # Large clusters should be in memory once.
        plan.require_valid()
        if maps and plan and not check:
            require_confirmed(desired.pin_path)
            _apply(plan, maps, store)
    names = {interface.ifindex: name for name, interface in node.interfaces.items()}
    result = _result(plan, names)
    if plan.writes and plan.writes.loses_udp_backends and not check:
        problem = end_sockets(desired.pin_path).problem
        result.warnings += [problem] if problem else []
    return result


def _apply(plan: DatapathPlan, maps: Maps, store: Store) -> None:
    """Store the declaration and write the maps; on failure, restore the declaration and raise ``Problem``."""
    # The declaration is stored first, so that the next run completes one that is killed here.
    store.write(plan.owner, plan.after)
    if not plan.writes:
        return
    try:
        write(maps, plan.writes)
    except Problem:
        store.write(plan.owner, plan.before)
        raise
    require_equal(maps, plan.image)


def write(maps: Maps, writes: MapWrites) -> None:
    """Write the maps. Raises ``Problem``."""
    try:
        maps.apply(writes)
    except OSError as e:
        raise Problem(
            f"cannot write the maps: {os.strerror(e.errno or 0)}; the former generation stays active"
        ) from e


def require_equal(maps: Maps, image: Image) -> Snapshot:
    """Return the maps as they are. Raises ``Problem`` if they have another content than ``image``."""
    snapshot = maps.read()
    drift = differences(decode_image(snapshot, snapshot.buffer), image)
    if drift:
        entries = ", ".join(f"{count} of {kind}" for kind, count in drift.items())
        raise Problem(
            "the kernel accepted every write, but reading back shows different map entries:"
            f" {entries}; check whether another process writes the maps"
        )
    return snapshot


def _result(plan: DatapathPlan, names: Mapping[int, str]) -> Result:
    return Result(
        bool(plan),
        {"updated": plan.updated, "deleted": plan.deleted, "differences": plan.differences},
        list(plan.warnings),
        diff=[
            {
                "before": _describe(plan.current_image, plan.before.options, plan.owner, names),
                "after": _describe(plan.image, plan.after.options, plan.owner, names),
            }
        ],
    )


def _describe(image: Image, options: Mapping[str, Any], owner: str, names: Mapping[int, str]) -> str:
    """Return a line for each endpoint and each declared object; ``names`` are devices by ifindex."""
    number = number_of(owner)
    lines = sorted(
        f"{ipaddress.ip_address(key)} at {_location(e.ifindex, names)}\n"
        for key, e in image.endpoints.items()
        if e.owner == number
    )
    for option in ("endpoints", "remote_pods", "policies", "services"):
        for one in options.get(option) or ():
            shown = {
                key: value
                for key, value in one.items()
                if key not in ("name", "device", "addresses")
                and (key not in _DEFAULTS or value != _DEFAULTS[key])
            }
            if shown:
                name = one.get("name", one.get("device"))
                lines.append(f"{option} {name}: {json.dumps(shown, sort_keys=True)}\n")
    if options.get("masquerade"):
        lines.append(f"masquerade: {json.dumps(options['masquerade'], sort_keys=True)}\n")
    if options.get("stack_services"):
        lines.append(f"stack_services: {', '.join(options['stack_services'])}\n")
    return "".join(lines)


def _location(ifindex: int, names: Mapping[int, str]) -> str:
    if not ifindex:
        return "another node"
    return names.get(ifindex, f"a removed device (ifindex {ifindex})")


def refill(fds: Mapping[str, int], pin_path: str) -> None:
    """Fill new, empty maps with the declarations of all owners, before any program uses them."""
    store = Store(pin_path)
    records = store.read()
    declaration = merge_records(records, store.cluster.read())
    image = Compiler(declaration, read_node(pin_path), all_slots(records)).image
    maps = Maps(fds)
    snapshot = maps.read()
    # Connections and cached decisions that outlive the former maps must not match the generation.
    # The unit of 67 ms keeps generations comparable, which the age of Pods requires, for four years.
    snapshot.generation = time.monotonic_ns() >> 26 & 0xFFFFFFFE
    writes, problems = plan_writes(snapshot, image, since=0)
    if problems:
        raise Problem("; ".join(problems))
    if writes:
        maps.apply(writes)
