# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The programs' maps brought to what is declared. Private to this collection.

Several owners share the maps. Each brings its own declaration; the maps are computed from all of them, so
that policies reach everybody's Pods, and an owner changes nothing but its own.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import time
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from .._core.plan import Problem, Result
from . import compile as _datapath_compile
from . import interfaces as _datapath_node
from . import layout, parse, plan, union
from . import snapshot as _datapath_snapshot
from .compile import Compiled, Interface
from .layout import Image
from .maps import Maps, refuse_unconfirmed
from .model import Declaration
from .plan import Plan
from .snapshot import Snapshot
from .store import Record, Store, stored

_PLANNED_IFINDEX = 1 << 31  # the kernel's indexes are positive int


def merge(
    records: Mapping[str, Record],
    interfaces: Mapping[str, Interface],
    owner: str | None = None,
    strict: bool = True,
) -> tuple[Declaration, dict[tuple[str, str], int], list[str]]:
    """Return what all owners declare, the Pods' places in the counters, and what is wrong with ``owner``'s.

    ``records[owner].slots`` is brought up to date.
    """
    problems: list[str] = []
    own, others = Declaration(), []
    for name, record in sorted(records.items()):
        declaration, wrong = parse.parse(record.options, name)
        if name == owner:
            own, problems = declaration, wrong
            problems += _device_problems(own, interfaces)
        else:
            others.append(declaration)
    declared, wrong = union.union(own, others) if strict else union.union(Declaration(), [*others, own])
    if owner is not None:
        _give_slots(records, owner, own)
        slotted = records[owner].slots
        problems += [
            f"endpoints ({pod.name}): rate: all {layout.POD_SLOTS - 1} places for rates are taken"
            for pod in own.pods
            if pod.rate and pod.device and pod.name not in slotted
        ]
    slots = {(name, pod): slot for name, record in records.items() for pod, slot in record.slots.items()}
    return declared, slots, problems + wrong


def _device_problems(own: Declaration, interfaces: Mapping[str, Interface]) -> list[str]:
    local = [pod for pod in own.pods if pod.device]
    missing = sorted({pod.device for pod in local} - interfaces.keys())
    problems = []
    if missing:
        problems.append(
            f"endpoints: no such device in this network namespace: {', '.join(missing)};"
            " give the host's end of the Pod's pair"
        )
    rated = [pod.name for pod in local if pod.rate]
    if rated and not _datapath_node.can_pace():
        problems.append(
            f"endpoints ({', '.join(rated[:5])}): rate: no device of this node has the qdisc fq, which holds"
            " packets until their time; give it to the uplink (nic_tuning: qdisc)"
        )
    for option in ("device", "name"):
        counted = Counter(getattr(pod, option) for pod in local)
        problems += [
            f"endpoints: {n} Pods have the {option} {value}" for value, n in counted.items() if n > 1
        ]
    return problems


def _give_slots(records: Mapping[str, Record], owner: str, own: Declaration) -> None:
    """Keep the places of Pods that had one, and give the lowest free ones to those that had none."""
    names = [pod.name for pod in own.pods if pod.device]
    before = records[owner].slots
    slots = {name: before[name] for name in names if name in before}
    taken = {slot for name, record in records.items() if name != owner for slot in record.slots.values()}
    free = sorted({*range(1, layout.POD_SLOTS)} - taken - {*slots.values()})
    slots.update(zip((name for name in names if name not in before), free))
    records[owner].slots = slots


def compiled(
    declared: Declaration, interfaces: Mapping[str, Interface], slots: Mapping[tuple[str, str], int]
) -> tuple[Compiled, list[str]]:
    """Return the tables for this node, with its addresses as they are now, and what does not fit."""
    return _datapath_compile.compile_image(declared, interfaces, slots, _datapath_node.read_addresses())


def refill(fds: Mapping[str, int], pin_path: str) -> None:
    """Fill new, empty maps with what all owners have declared, before any program that reads them runs."""
    records = Store(pin_path).read()
    interfaces = _datapath_node.read_interfaces()
    declared, slots, dummy = merge(records, interfaces)
    tables, dummy = compiled(declared, interfaces, slots)
    maps = Maps(fds)
    snapshot = maps.read()
    # no number that connections or decisions which outlive the old maps could know
    snapshot.generation = time.monotonic_ns() >> 20 & 0xFFFFFFFE
    changes, wrong = plan.plan(snapshot, tables.image)
    if wrong:
        raise Problem("; ".join(wrong))
    if changes:
        maps.apply(changes)


# ---------------------------------------------------------------- for people


_DEFAULTS: Mapping[str, Any] = {"labels": {}, "masquerade": False, "anti_spoof": True, "node": ""}


def _where(ifindex: int, names: Mapping[int, str]) -> str:
    if not ifindex:
        return "another node"
    return names.get(ifindex, f"a device that is gone (index {ifindex})")


def describe(image: Image, options: Mapping[str, Any], owner: str, names: Mapping[int, str]) -> str:
    """Return what one owner has in the maps, and declares beyond, as text for the diff, one thing a line."""
    number = layout.number_of(owner)
    lines = sorted(
        f"{ipaddress.ip_address(key)} at {_where(e.ifindex, names)}\n"
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
                lines.append(
                    f"{option} {one.get('name', one.get('device'))}: {json.dumps(shown, sort_keys=True)}\n"
                )
    if options.get("masquerade"):
        lines.append(f"masquerade: {json.dumps(options['masquerade'], sort_keys=True)}\n")
    return "".join(lines)


@dataclass(frozen=True)
class Desired:
    """What one owner declares for this node.

    ``options`` has endpoints, remote_pods, policies, services, masquerade and node, as the module bpf_state
    documents them. In check mode, ``planned_devices`` need not exist yet. With ``allow_unmatched``, selectors
    may match no Pod and services may have no backend, as while Pods are created and removed.
    """

    pin_path: str
    owner: str
    options: Mapping[str, Any]
    planned_devices: Collection[str] = ()
    allow_unmatched: bool = False


def configure(desired: Desired, check: bool = False) -> Result:
    """Replace one owner's declaration and bring the maps to the declarations of all owners.

    With ``check``, change nothing. Return updated, deleted and differences, as bpf_state documents them, and
    the diff. Raises ``Problem``, with a line for each problem, before anything is written.
    """
    store = Store(desired.pin_path)
    owner = desired.owner
    problems: list[str] = []
    with contextlib.ExitStack() as files:
        maps = None
        try:
            maps = Maps.pinned(desired.pin_path, files)
            files.enter_context(store.locked())
        except Problem as e:
            problems.append(str(e))
        records = store.read()
        before = records.get(owner, Record())
        after = Record(stored(desired.options), dict(before.slots))
        records[owner] = after
        interfaces = _datapath_node.read_interfaces()
        if check:
            new = sorted(set(desired.planned_devices) - interfaces.keys())
            interfaces.update((name, Interface(_PLANNED_IFINDEX + n)) for n, name in enumerate(new))
        declared, slots, wrong = merge(records, interfaces, owner, not desired.allow_unmatched)
        problems += wrong
        tables, wrong = compiled(declared, interfaces, slots)
        problems += wrong
        changes, snapshot = None, Snapshot()
        if maps:
            snapshot = maps.read()
            changes, wrong = plan.plan(snapshot, tables.image)
            problems += wrong
        if problems or not maps:
            raise Problem("\n".join(dict.fromkeys(problems)))
        result = _result(snapshot, tables.image, changes, before, after, owner, interfaces)
        if not check and result.changed:
            refuse_unconfirmed(desired.pin_path)
            _write(store, owner, before, after, maps, changes, tables.image)
    return result


def _result(
    snapshot: Snapshot,
    wants: Image,
    changes: Plan | None,
    before: Record,
    after: Record,
    owner: str,
    interfaces: Mapping[str, Interface],
) -> Result:
    has = _datapath_snapshot.held(snapshot, snapshot.bank)
    names = {interface.ifindex: name for name, interface in interfaces.items()}
    updated = [key for key, e in wants.endpoints.items() if has.endpoints.get(key) != e]
    deleted = [key for key in has.endpoints if key not in wants.endpoints]
    differences = _datapath_snapshot.differences(has, wants) if changes else {}
    return Result(
        bool(differences) or before.options != after.options,
        {
            "updated": [str(ipaddress.ip_address(key)) for key in updated],
            "deleted": [str(ipaddress.ip_address(key)) for key in deleted],
            "differences": differences,
        },
        diff=[
            {
                "before": describe(has, before.options, owner, names),
                "after": describe(wants, after.options, owner, names),
            }
        ],
    )


def _write(
    store: Store,
    owner: str,
    before: Record,
    after: Record,
    maps: Maps,
    changes: Plan | None,
    wants: Image,
) -> None:
    # First the declaration: whoever comes after a run that died completes it.
    store.write(owner, after)
    if not changes:
        return
    try:
        maps.apply(changes)
    except OSError as e:
        store.write(owner, before)
        raise Problem(
            f"the maps cannot be written: {os.strerror(e.errno or 0)}; what held before holds"
        ) from e
    snapshot = maps.read()
    left = _datapath_snapshot.differences(_datapath_snapshot.held(snapshot, snapshot.bank), wants)
    if left:
        entries = ", ".join(f"{count} of {kind}" for kind, count in left.items())
        raise Problem(f"written, yet not as declared (does something else write the maps?): {entries}")
