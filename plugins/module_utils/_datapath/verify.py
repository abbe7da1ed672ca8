# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compare the maps, structs and constants of a compiled object with those of this collection.

An object of another version may have structs of the same size with another order of members, so its programs
would misread the values that this collection writes.
"""

from __future__ import annotations

from collections.abc import Iterator

from .._core.plan import Problem
from .._kernel.btf import Btf
from .._kernel.libbpf import BpfObject
from . import layout
from .layout import Record

MAX_SHOWN = 8  # differences in a message
LAYOUT_MAP = "layout"  # other objects do not have it


def check(obj: BpfObject) -> None:
    """Raise ``Problem`` with the differences, if there are any. Objects without the datapath's maps pass."""
    if LAYOUT_MAP not in obj.map_types:
        return
    differences = list(_maps(obj)) + list(_structs(obj.btf)) + list(_enums(obj.btf))
    if differences:
        more = len(differences) - MAX_SHOWN
        tail = [f"and {more} more differences"] if more > 0 else []
        raise Problem(
            f"object: '{obj.path}' and this collection are of different versions: "
            + "; ".join(differences[:MAX_SHOWN] + tail)
            + "; recompile the object with the role bpf_datapath of this collection"
        )


def _maps(obj: BpfObject) -> Iterator[str]:
    btf, types, layouts = obj.btf, obj.map_types, obj.layouts
    for name, (key, value) in layout.MAPS.items():
        if name not in types:
            yield f"map {name}: missing in the object"
            continue
        if types[name][0]:  # else the map of a section, whose key is an index
            yield from _record(f"map {name}", "key", btf, types[name][0], key)
        yield from _record(f"map {name}", "value", btf, types[name][1], value)
    for name, entries in layout.ENTRIES.items():
        actual = layouts[name].max_entries if name in layouts else entries
        if actual != entries:
            what = "layout number" if name == LAYOUT_MAP else f"map {name}: max_entries"
            yield f"{what} is {actual} in the object and {entries} in this collection"


def _structs(btf: Btf) -> Iterator[str]:
    for name, record in layout.STRUCTS.items():
        number = btf.struct_id(name)
        if number:
            yield from _record(f"struct {name}", "struct", btf, number, record)
        else:
            yield f"struct {name}: missing in the object"


def _record(where: str, part: str, btf: Btf, number: int, record: Record) -> Iterator[str]:
    fields = btf.fields(number)
    for name, own in record.fields.items():
        if not name:  # a scalar
            continue
        field = fields.get(name)
        if field is None:
            yield f"{where}: field `{name}` of the {part} is missing in the object"
        elif field.offset != own.offset:
            yield (
                f"{where}: field `{name}` is at offset {field.offset} in the object and at {own.offset}"
                " in this collection"
            )
        # A member of bytes is declared without the size of its elements.
        elif field.size * field.count != own.size * own.count or own.size not in (1, field.size):
            yield (
                f"{where}: field `{name}` has {field.count} * {field.size} bytes in the object and"
                f" {own.count} * {own.size} in this collection"
            )
    size = btf.size(number)
    if size != record.size:
        yield f"{where}: the {part} has {size} bytes in the object and {record.size} in this collection"


def _enums(btf: Btf) -> Iterator[str]:
    for name, constants in layout.ENUMS.items():
        actual = btf.enum(name)
        if not actual:
            yield f"enum {name}: missing in the object"
            continue
        for constant, value in constants.items():
            if actual.get(constant) != value:
                found = actual.get(constant, "missing")
                yield f"enum {name}: {constant} is {found} in the object and {value} in this collection"
    reasons = btf.enum("reason")
    for constant in layout.INBOUND_REASONS:
        if constant not in reasons:
            yield f"enum reason: {constant} is missing in the object"
    if reasons.get("REASON_MAX", 0) > layout.REASONS:
        yield f"enum reason: its {reasons['REASON_MAX']} values exceed the {layout.REASONS} counters"
