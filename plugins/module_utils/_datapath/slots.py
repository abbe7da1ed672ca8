# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Assign the slots of Pods in the maps ``metrics`` and ``pacing``."""

from __future__ import annotations

from collections.abc import Mapping

from .layout import POD_SLOTS
from .model import Declaration
from .store import Record


def assign_slots(own: Declaration, records: Mapping[str, Record], owner: str) -> dict[str, int]:
    """Return the slots of the owner's Pods on this node.

    A Pod keeps its slot. New Pods get the lowest free slots, and none if all slots are used: they have no
    counters of their own, and cannot have a rate. Slot 0 counts packets of no Pod.
    """
    names = [pod.name for pod in own.pods if pod.device]
    current = records[owner].slots if owner in records else {}
    slots = {name: current[name] for name in names if name in current}
    used = {slot for name, record in records.items() if name != owner for slot in record.slots.values()}
    free = sorted({*range(1, POD_SLOTS)} - used - {*slots.values()})
    slots.update(zip((name for name in names if name not in current), free))
    return slots


def all_slots(records: Mapping[str, Record]) -> dict[tuple[str, str], int]:
    """Return the slots of all Pods by owner and name."""
    return {(owner, pod): slot for owner, record in records.items() for pod, slot in record.slots.items()}
